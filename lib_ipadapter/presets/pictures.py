"""The folder of kept pictures: one PNG file for each picture, named by its content hash."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from PIL import Image

from ..encode.picture import content_hash, decode
from ..errors import PictureError
from . import atomic

MIN_PREFIX = 12  # hexadecimal digits of a content hash
_PNG = (b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82")


def stored_hash(folder: Path, start: str) -> str:
    """The one stored content hash that begins with ``start``, "" if there is none."""
    start = start.strip().lower()
    if not MIN_PREFIX <= len(start) <= 64 or not re.fullmatch("[0-9a-f]+", start):
        return ""
    if len(start) == 64:
        return start
    found = [file.name[:64] for file, _ in files_in(folder, ".png") if file.name.startswith(start)]
    return found[0] if len(found) == 1 else ""


def read_picture(folder: Path, name: str) -> tuple[bytes, Image.Image] | None:
    """The stored file and the picture in it, None if it is not there or no longer what it was."""
    if len(name) != 64:
        return None
    try:
        data = atomic.read(folder / f"{name}.png")
        image = decode(data)
    except (OSError, PictureError):
        return None
    return (data, image) if content_hash(image) == name else None


class StagedPictures:
    """Pictures on their way into the store: written first, published when the writer is alone."""

    def __init__(self, folder: Path, pictures: Mapping[str, Callable[[], Image.Image]]) -> None:
        self.folder = folder
        self.pictures = dict(pictures)
        self._parts: dict[str, Path] = {}

    def add(self, name: str, image: Image.Image | None = None) -> None:
        """Encode and write the picture ``name``, unless it is stored."""
        if name in self._parts or _is_png(self.folder / f"{name}.png"):
            return
        buffer = io.BytesIO()
        # Photographs hardly become smaller with more effort, only slower.
        (image or self.pictures[name]()).save(buffer, "PNG", compress_level=1)
        self._parts[name] = atomic.stage(self.folder, buffer.getvalue())

    def publish(self) -> None:
        for name in self.pictures:
            path = self.folder / f"{name}.png"
            if _is_png(path):
                with contextlib.suppress(OSError):
                    os.utime(path)  # it is used again: its day begins anew
                continue
            self.add(name)  # where another writer has swept it since
            atomic.publish(self._parts.pop(name), path)

    def discard(self) -> None:
        for part in self._parts.values():
            with contextlib.suppress(OSError):
                atomic.remove(part)


def files_in(folder: Path, ending: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    """The files of ``folder`` with this ending; none if there is no such folder. Raises OSError."""
    try:
        files = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for file in files:
        if file.name.endswith(ending):
            try:
                status = file.stat()
            except FileNotFoundError:  # gone since
                continue
            yield file, status


def _is_png(path: Path) -> bool:
    """Whether a whole PNG file is there, as far as its two ends show."""
    try:
        with open(path, "rb") as file:
            head = file.read(len(_PNG[0]))
            file.seek(-len(_PNG[1]), os.SEEK_END)
            return (head, file.read()) == _PNG
    except OSError:
        return False
