"""Presets: units under a name, references included, as files that a kill at any moment leaves whole.

    <folder>/presets/<hash of the name>.json     one preset or kept generation
    <folder>/pictures/<fingerprint>.png          one reference or mask, however many presets use it
    <folder>/lock                                held while something changes

Readers take no lock. A writer encodes its pictures first, then, alone, publishes them, the document after them, and
at last sweeps what nothing refers to any more.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from ..encode.picture import decode, fingerprint
from ..errors import PictureError
from . import archive as preset_archive
from . import atomic
from . import document as preset_format
from .archive import MAX_ARCHIVE
from .document import (
    MARK,
    MAX_NAME,
    PresetError,
    PresetExists,
    StorageError,
    UnknownPreset,
    already_there,
    checked_document,
    checked_name,
    fingerprints,
    key,
    marks,
    taken_apart,
    tamed_name,
    understood,
    versions,
    with_pictures,
    written,
)

__all__ = [
    "MAX_ARCHIVE", "MAX_NAME", "PresetError", "PresetExists", "StorageError", "Store", "UnknownPreset", "checked_name",
]  # fmt: skip

MIN_PREFIX = 12  # hexadecimal digits of a fingerprint
_LOOSE = 24 * 3600.0  # seconds that a picture stays which no preset refers to
_ABANDONED = 3600.0  # seconds after which an unpublished file is nobody's any more
_SETTLED = 3_000_000_000  # nanoseconds: a file changed later than this may change again without its time showing it
_PNG = (b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82")


@dataclass(frozen=True)
class _Entry:
    """What one file in the folder of presets says of itself. A ``name`` of None: nothing that could be listed."""

    name: str | None
    kept: int | None
    fingerprints: frozenset[str]


class _PictureGone(Exception):
    """A document's picture is not in the store (any more)."""


class Store:
    """The presets in ``folder``. Any number of stores, threads and processes may use the same folder at once.

    A name is what people read: its case and its Unicode form are kept and make no difference. Presets and kept
    generations share one set of names. Methods that take names raise PresetError; those that write raise StorageError
    where the disk does not play along.
    """

    def __init__(self, folder: Path, history: int = 100) -> None:
        """``history``: the number of kept generations, beyond which the oldest goes. Creates nothing yet."""
        self.folder = Path(folder)
        self.history = history
        self._presets = self.folder / "presets"
        self._pictures = self.folder / "pictures"
        self._seen: dict[str, tuple[tuple[int, ...], _Entry]] = {}
        self._swept = False

    # Pictures

    def put_picture(self, image: Image.Image) -> str:
        """Store ``image`` and return its fingerprint. Without a preset that refers to it, it stays for a day."""
        image = decode(image)
        name = fingerprint(image)
        with self._errors(), self._staged({name: lambda: image}) as staged, self._alone() as alone:
            staged.publish()
            self._sweep(alone)
        return name

    def picture(self, fingerprint: str) -> Image.Image | None:
        """The picture with this fingerprint, or with the only one that begins so (12 digits at least), else None."""
        data = self._picture_file(self._completed(fingerprint))
        return data[1] if data else None

    def _completed(self, start: str) -> str:
        """The one stored fingerprint that begins with ``start``, "" if there is none."""
        start = start.strip().lower()
        if not MIN_PREFIX <= len(start) <= 64 or not re.fullmatch("[0-9a-f]+", start):
            return ""
        if len(start) == 64:
            return start
        found = [file.name[:64] for file, _ in _files(self._pictures, ".png") if file.name.startswith(start)]
        return found[0] if len(found) == 1 else ""

    def _picture_file(self, name: str) -> tuple[bytes, Image.Image] | None:
        """The stored file and the picture in it, None if it is not there or no longer what it was."""
        if len(name) != 64:
            return None
        try:
            data = atomic.read(self._pictures / f"{name}.png")
            image = decode(data)
        except (OSError, PictureError):
            return None
        return (data, image) if fingerprint(image) == name else None

    # Reading

    def names(self) -> list[str]:
        """The names of people's presets, sorted without regard to case. Damaged files are left out."""
        with self._errors("read"):
            names = [entry.name for entry in self._entries() if entry.name is not None and entry.kept is None]
        return sorted(names, key=lambda name: (name.casefold(), name))

    def recent(self) -> list[str]:
        """The names of kept generations, newest first."""
        with self._errors("read"):
            kept = [(entry.kept, entry.name) for entry in self._entries() if entry.kept is not None and entry.name]
        return [name for _, name in sorted(kept, reverse=True)]

    def load(self, name: str) -> list[dict[str, Any]]:
        """The units of a preset or kept generation, with RGB images for the pictures."""
        return self._load(name, lambda file: file[1])

    def load_base64(self, name: str) -> list[dict[str, Any]]:
        """The same with PNG files in base64 for the pictures."""
        return self._load(name, lambda file: b64encode(file[0]).decode())

    def _load(self, name: str, form: Callable[[tuple[bytes, Image.Image]], Any]) -> list[dict[str, Any]]:
        name = checked_name(name)
        pictures: dict[str, Any] = {}

        def picture(value: Any, _where: str) -> Any:
            """For one mark of the document."""
            mark = value[len(MARK) :]
            if mark not in pictures:
                file = self._picture_file(mark)
                if file is None:
                    raise _PictureGone
                pictures[mark] = form(file)
            value = pictures[mark]
            return value.copy() if isinstance(value, Image.Image) else value

        raw = self._raw(name)
        while True:
            document = understood(raw, name)
            try:
                return [with_pictures(unit, picture) for unit in document["units"]]
            except _PictureGone:
                before, raw = raw, self._raw(name)
                if raw == before:  # else it was overwritten, and its old pictures swept, while we were reading
                    raise PresetError(
                        f"Preset “{name}” has lost a picture: its file is missing or damaged. Put the folder "
                        f"{self._pictures} back from a backup, or delete the preset."
                    ) from None

    def _file(self, name: str) -> Path:
        return self._presets / f"{key(name)}.json"

    def _raw(self, name: str) -> bytes:
        try:
            return atomic.read(self._file(name))
        except FileNotFoundError:
            raise UnknownPreset(f"There is no preset “{name}”: choose one from the list of presets.") from None
        except OSError as error:
            raise StorageError(f"Preset “{name}” cannot be read ({error}): check the file's permissions.") from error

    def _entries(self, strict: bool = False) -> Iterable[_Entry]:
        """One entry for each file. Files that have not changed are not read again. ``strict``: raises OSError for a
        file that cannot be read, and may refer to anything, instead of leaving it out."""
        seen, now = {}, time.time_ns()
        for file, status in _files(self._presets, ".json"):
            signature = (status.st_mtime_ns, status.st_size, status.st_ino)
            known = self._seen.get(file.name)
            if known is None or known[0] != signature:
                try:
                    entry = _entry(atomic.read(file.path), file.name[: -len(".json")])
                except FileNotFoundError:
                    continue
                except OSError:
                    if strict:
                        raise
                    continue
                known = (signature if now - status.st_mtime_ns > _SETTLED else (), entry)
            seen[file.name] = known
        self._seen = seen
        return [entry for _, entry in seen.values()]

    # Writing

    def save(self, name: str, units: Sequence[object], *, overwrite: bool = False) -> None:
        """Keep ``units`` under ``name``. Raises PresetExists, PresetError and PictureError with the unit's number."""
        name = checked_name(name)
        with self._errors():
            if not overwrite and self._file(name).exists():  # told before the work; asked again when we are alone
                raise already_there([name])
            document, pictures = taken_apart(name, units)
            with self._staged(pictures) as staged, self._alone() as alone:
                staged.publish()
                self._sweep(alone, self._publish([document], overwrite))

    def keep(self, name: str, units: Sequence[object]) -> str:
        """Keep a generation's units in the bounded history; the name it got is returned, "" if nothing is kept.

        What a name must not hold is replaced, and a number is added if the name is taken: a generation is never
        refused for its name.
        """
        if self.history < 1:
            return ""
        with self._errors():
            document, pictures = taken_apart(tamed_name(name), units)
            with self._staged(pictures) as staged, self._alone() as alone:
                staged.publish()
                kept = sorted((e.kept, e.name) for e in self._entries() if e.kept is not None and e.name)
                document["kept"] = kept[-1][0] + 1 if kept else 1
                document["name"] = name = self._free(document["name"])
                self._publish([document], overwrite=False)
                gone = set()
                for _, old in kept[: max(0, len(kept) + 1 - self.history)]:
                    gone |= self._removed(old)
                self._sweep(alone, gone)
        return name

    def rename(self, old: str, new: str, *, overwrite: bool = False) -> None:
        """A kept generation that is renamed becomes a preset, and is kept for good."""
        old, new = checked_name(old), checked_name(new)
        self._raw(old)  # told without a trace in the folder; asked again when we are alone
        with self._errors(), self._alone() as alone:
            document = {**understood(self._raw(old), old), "name": new}
            document.pop("kept", None)
            same = key(old) == key(new)
            gone = self._publish([document], overwrite or same)
            if not same:
                gone |= self._removed(old)  # killed just before this, it is there under both names
            self._sweep(alone, gone)

    def delete(self, name: str) -> None:
        """Its pictures go with it, unless something else refers to them. Damaged presets can be deleted too."""
        name = checked_name(name)
        self._raw(name)
        with self._errors(), self._alone() as alone:
            self._raw(name)
            self._sweep(alone, self._removed(name))

    @contextlib.contextmanager
    def _errors(self, done: str = "written") -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise StorageError(
                f"Another program has been holding the presets in {self.folder} for {atomic.PATIENCE:.0f} seconds: "
                "close other WebUIs that use this folder, and try again."
            ) from error
        except OSError as error:
            raise StorageError(
                f"The presets in {self.folder} cannot be {done} ({error.strerror or error}): make room on the disk "
                "or check the folder's permissions, and try again."
            ) from error

    def _alone(self) -> contextlib.AbstractContextManager[bool]:
        return atomic.one_writer(self.folder / "lock")

    @contextlib.contextmanager
    def _staged(self, pictures: Mapping[str, Callable[[], Image.Image]]) -> Iterator[_Staged]:
        """The pictures that are not stored yet, encoded and written; what is not published is taken back."""
        staged = _Staged(self._pictures, pictures)
        try:
            for name in pictures:
                staged.add(name)
            yield staged
        finally:
            staged.discard()

    def _publish(self, documents: Sequence[dict[str, Any]], overwrite: bool) -> set[str]:
        """Write the documents, all or none; returns the fingerprints that the overwritten ones referred to.

        Raises PresetExists where a name is taken that may not be overwritten.
        """
        paths = [self._file(document["name"]) for document in documents]
        if not overwrite:
            taken = [d["name"] for d, path in zip(documents, paths, strict=True) if path.exists()]
            if taken:
                raise already_there(taken)
        parts: list[Path] = []
        done: list[tuple[Path, bytes | None]] = []
        gone: set[str] = set()
        try:
            for data in map(written, documents):
                parts.append(atomic.stage(self._presets, data))  # noqa: PERF401 (what is staged is known if one fails)
            for part, path in zip(parts, paths, strict=True):
                before = atomic.read(path) if overwrite and path.exists() else None
                if before is None and not overwrite:
                    atomic.publish_new(part, path)
                else:
                    atomic.publish(part, path)
                done.append((path, before))
                self._seen.pop(path.name, None)
                gone |= fingerprints(before or b"")
        except BaseException as error:
            for path, before in reversed(done):
                with contextlib.suppress(OSError):
                    if before is None:
                        atomic.remove(path)
                    else:
                        atomic.publish(atomic.stage(self._presets, before), path)
            if isinstance(error, FileExistsError):
                raise already_there([documents[len(done)]["name"]]) from None
            raise
        finally:
            for part in parts:
                with contextlib.suppress(OSError):
                    atomic.remove(part)
        return gone

    def _removed(self, name: str) -> set[str]:
        """Remove a preset's file; returns the fingerprints that it referred to."""
        path = self._file(name)
        try:
            gone = fingerprints(atomic.read(path))
        except FileNotFoundError:
            return set()
        atomic.remove(path)
        self._seen.pop(path.name, None)
        return gone

    def _free(self, name: str) -> str:
        """``name``, or the first of "name (2)", "name (3)", … that is not taken."""
        candidate, number = name, 1
        while self._file(candidate).exists():
            number += 1
            ending = f" ({number})"
            candidate = name[: MAX_NAME - len(ending)].rstrip() + ending
        return candidate

    def _sweep(self, alone: bool, gone: set[str] | None = None) -> None:
        """Remove the pictures in ``gone``, and what has lain about for long, where nothing refers to them.

        Called by a writer when its document is published. ``alone``: no other writer can be about to refer to them.
        Without ``gone`` only the store's first call does anything, for what killed processes have left.
        """
        if not gone and self._swept:
            return
        self._swept = True
        with contextlib.suppress(OSError):  # what stays, stays till the next time
            used = frozenset().union(*(entry.fingerprints for entry in self._entries(strict=True)))
            now = time.time()
            for file, status in _files(self._pictures, ".png"):
                name, age = file.name[: -len(".png")], now - status.st_mtime
                if len(name) == 64 and name not in used and (age > _LOOSE or (alone and gone and name in gone)):
                    atomic.remove(Path(file.path))
            for folder in (self._pictures, self._presets):
                for file, status in _files(folder, atomic.PART):
                    if now - status.st_mtime > _ABANDONED:
                        atomic.remove(Path(file.path))

    # Export and import

    def export(self, names: Sequence[str] | None = None) -> bytes:
        """Presets as one file, a zip archive of ``presets.json`` and ``pictures/<fingerprint>.png``.

        ``names``: None for all of people's. Raises PresetError where one of them cannot be exported whole.
        """
        chosen = self.names() if names is None else {key(name): name for name in map(checked_name, names)}.values()
        with preset_archive.Writer() as writer:
            for name in chosen:
                writer.add(*self._whole(name))
            return writer.file()

    def _whole(self, name: str) -> tuple[dict[str, Any], dict[str, tuple[bytes, Image.Image]]]:
        """A preset's document, and the files of its pictures with what is in them."""
        pictures: dict[str, tuple[bytes, Image.Image]] = {}

        def form(file: tuple[bytes, Image.Image]) -> str:
            mark = fingerprint(file[1])
            pictures[mark] = file
            return MARK + mark

        units = self._load(name, form)
        return {**understood(self._raw(name), name), "units": units}, pictures

    def import_(self, data: bytes, *, overwrite: bool = False) -> list[str]:
        """Add the presets of an export, all or none of them; returns their names.

        Nothing in the file reaches a path, and sizes are bounded before anything is unpacked. Raises PresetExists
        where names are taken, PresetError for a file that is no export, damaged, too large or incomplete. A process
        that is killed here may leave some of the presets, each of them whole.
        """
        with self._errors():
            archive = preset_archive.Reader(data)
            documents = archive.documents()
            if not overwrite:
                taken = [document["name"] for document in documents if self._file(document["name"]).exists()]
                if taken:
                    raise already_there(taken)
            with self._staged({}) as staged:
                for mark in sorted(set().union(*map(marks, documents))):
                    image = archive.picture(mark)  # every one is checked, also those that are stored already
                    staged.pictures[mark] = partial(archive.picture, mark)
                    staged.add(mark, image)
                with self._alone() as alone:
                    staged.publish()
                    self._sweep(alone, self._publish(documents, overwrite))
        return [document["name"] for document in documents]


class _Staged:
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


def _entry(raw: bytes, stem: str) -> _Entry:
    """What is listed of a file named ``stem``. One from the future is, so that loading can say why not."""
    name = kept = None
    try:
        document = json.loads(raw)
        version, needs = versions(document)
        if needs <= preset_format.VERSION:
            document = checked_document(document, "")
        elif version > 0:
            document["name"] = checked_name(document["name"])
        if key(document["name"]) == stem:
            name, kept = document["name"], document.get("kept")
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, PresetError):
        pass
    return _Entry(name, kept if type(kept) is int else None, frozenset(fingerprints(raw)))


# Files


def _files(folder: Path, ending: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
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
