"""Presets in one file, for other machines: a zip archive of ``presets.json`` and ``pictures/<content hash>.png``."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

from PIL import Image

from ..encode.picture import content_hash, decode
from ..encode.sizes import Budget
from ..errors import BudgetError, UnitError
from .document import VERSION, PresetError, check_storable, checked_document, key, to_json

MANIFEST = "presets.json"
PNG = b"\x89PNG\r\n\x1a\n"
# As an archive is written and as it is read: bytes (packed and unpacked), entries, presets, bytes of all presets, bytes
# of one picture's file, pixels of all pictures.
MAX_ARCHIVE = 1 << 30
MAX_ENTRIES = 100_000
MAX_PRESETS = 10_000
MAX_MANIFEST = 64 << 20
MAX_PICTURE_FILE = 320 << 20
MAX_PIXELS = 4_000_000_000


class Writer:
    """An export in the making. Raises PresetError where it grows beyond what an import takes."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._zip = zipfile.ZipFile(self._buffer, "w", zipfile.ZIP_STORED)
        self._documents: list[dict[str, Any]] = []
        self._pictures: set[str] = set()
        self._size, self._pixels = 0, 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_error: object) -> None:
        self._zip.close()

    def add(self, document: dict[str, Any], pictures: dict[str, tuple[bytes, Image.Image]]) -> None:
        """A document and the files of its pictures, {content hash: (PNG file, the picture in it)}."""
        self._documents.append({field: value for field, value in document.items() if field != "kept"})
        for name in sorted(pictures.keys() - self._pictures):
            data, image = pictures[name]
            self._size += len(data)
            self._pixels += image.width * image.height
            if self._size > MAX_ARCHIVE - 2 * MAX_MANIFEST or self._pixels > MAX_PIXELS:
                raise PresetError("The pictures are too large for one file: export fewer presets at once.")
            self._zip.writestr(f"pictures/{name}.png", data)
            self._pictures.add(name)

    def file(self) -> bytes:
        manifest = to_json({"version": VERSION, "presets": self._documents})
        too_many = len(self._documents) > MAX_PRESETS or len(self._pictures) > MAX_ENTRIES // 2
        if too_many or len(manifest) > MAX_MANIFEST:
            raise PresetError("The presets are too many for one file: export fewer of them at once.")
        self._zip.writestr(MANIFEST, manifest, zipfile.ZIP_DEFLATED)
        self._zip.close()
        return self._buffer.getvalue()


class Reader:
    """An export that somebody hands in: nothing in it is believed."""

    def __init__(self, data: bytes) -> None:
        if len(data) > MAX_ARCHIVE:
            raise PresetError(f"The file is larger than {MAX_ARCHIVE >> 30} GiB: import fewer presets at once.")
        # Before zipfile makes an object of every entry. (The four bytes hardly ever occur within a picture.)
        if data.count(b"PK\x01\x02") > MAX_ENTRIES:
            raise PresetError("The file has too many entries: import fewer presets at once.")
        self._left, self._budget = MAX_ARCHIVE, Budget(MAX_PIXELS)
        with self._damage():
            self._zip = zipfile.ZipFile(io.BytesIO(data))
            self._names = frozenset(self._zip.namelist())

    @staticmethod
    @contextlib.contextmanager
    def _damage() -> Iterator[None]:
        try:
            yield
        except PresetError:
            raise
        except BudgetError:
            raise PresetError("The file's pictures are too large together: import fewer presets at once.") from None
        except Exception as error:  # readers raise nearly anything on damaged files
            raise PresetError(
                "The file is no export of presets, or it is damaged: export the presets again and import that file."
            ) from error

    def _read(self, name: str, limit: int) -> bytes:
        """One entry by its exact name. Raises PresetError beyond the bounds, before anything is unpacked."""
        with self._damage():
            info = self._zip.getinfo(name)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("packed in a way whose reader knows no bounds")
            self._left -= info.file_size  # no more than that is ever unpacked
            if info.file_size > limit or self._left < 0:
                raise PresetError("The file unpacks to more than is allowed: import fewer presets at once.")
            with self._zip.open(info) as file:
                return file.read(info.file_size)

    def documents(self) -> list[dict[str, Any]]:
        manifest = self._read(MANIFEST, MAX_MANIFEST)
        with self._damage():
            presets = json.loads(manifest)["presets"]
            if not isinstance(presets, list):
                raise ValueError("presets is no list")
        if len(presets) > MAX_PRESETS:
            raise PresetError(f"The file holds more than {MAX_PRESETS} presets: import fewer at once.")
        documents: dict[str, dict[str, Any]] = {}
        for preset in presets:
            document = checked_document(preset, "of the file")
            document.pop("kept", None)
            if document["version"] <= VERSION:  # of a newer one's fields, this one does not know what they may be
                try:
                    check_storable(document["units"])
                except UnitError as error:
                    raise PresetError(f"Preset “{document['name']}” of the file: {error.detail}") from None
            if documents.setdefault(key(document["name"]), document) is not document:
                raise PresetError(f"The file holds two presets “{document['name']}”: rename one, and export again.")
        return list(documents.values())

    def picture(self, picture_hash: str) -> Image.Image:
        name = f"pictures/{picture_hash}.png"
        if name not in self._names:
            raise PresetError("The file lacks pictures of its presets: export the presets again and import that file.")
        data = self._read(name, MAX_PICTURE_FILE)
        with self._damage():
            if not data.startswith(PNG):
                raise ValueError("no PNG, though exports hold nothing else")
            image = decode(data, self._budget)
            if content_hash(image) != picture_hash:
                raise ValueError("not the picture that it was")
        return image
