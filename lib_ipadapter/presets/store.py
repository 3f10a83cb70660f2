"""Presets: units under a name, references included, as files that a kill at any moment leaves whole.

    <folder>/presets/<hash of the name>.json     one preset or kept generation
    <folder>/pictures/<content hash>.png          one reference or mask, however many presets use it
    <folder>/lock                                held while something changes

Readers take no lock. A writer encodes its pictures first, then, alone, publishes them, the document after them, and
at last sweeps what nothing refers to any more.
"""

from __future__ import annotations

import contextlib
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from ..encode.picture import content_hash, decode
from . import archive as preset_archive
from . import atomic
from .archive import MAX_ARCHIVE
from .document import (
    HASH_PREFIX,
    MAX_NAME,
    PresetError,
    PresetExists,
    StorageError,
    UnknownPreset,
    already_there,
    checked_name,
    content_hashes,
    content_hashes_in,
    document_of,
    key,
    tamed_name,
    understood,
    with_pictures,
    written,
)
from .listing import Listing
from .pictures import StagedPictures, files_in, read_picture, stored_hash

__all__ = [
    "MAX_ARCHIVE", "MAX_NAME", "PresetError", "PresetExists", "StorageError", "Store", "UnknownPreset", "checked_name",
]  # fmt: skip

_LOOSE = 24 * 3600.0  # seconds that a picture stays which no preset refers to
_ABANDONED = 3600.0  # seconds after which an unpublished file is nobody's any more


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
        self._listing = Listing(self._presets)
        self._swept = False

    # Pictures

    def put_picture(self, image: Image.Image) -> str:
        """Store ``image`` and return its content hash. Without a preset that refers to it, it stays for a day."""
        image = decode(image)
        name = content_hash(image)
        with self._errors(), self._staged({name: lambda: image}) as staged, self._alone() as alone:
            staged.publish()
            self._sweep(alone)
        return name

    def picture(self, start: str) -> Image.Image | None:
        """The picture with this content hash, or the only one whose hash begins so (12 digits at least), else None."""
        data = self._picture_file(stored_hash(self._pictures, start))
        return data[1] if data else None

    def _picture_file(self, name: str) -> tuple[bytes, Image.Image] | None:
        return read_picture(self._pictures, name)

    # Reading

    def names(self) -> list[str]:
        """The names of people's presets, sorted without regard to case. Damaged files are left out."""
        with self._errors("read"):
            names = [entry.name for entry in self._listing.entries() if entry.name is not None and entry.kept is None]
        return sorted(names, key=lambda name: (name.casefold(), name))

    def recent(self) -> list[str]:
        """The names of kept generations, newest first."""
        with self._errors("read"):
            kept = [
                (entry.kept, entry.name) for entry in self._listing.entries() if entry.kept is not None and entry.name
            ]
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
            """For one content hash of the document."""
            name = value[len(HASH_PREFIX) :]
            if name not in pictures:
                file = self._picture_file(name)
                if file is None:
                    raise _PictureGone
                pictures[name] = form(file)
            value = pictures[name]
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

    # Writing

    def save(self, name: str, units: Sequence[object], *, overwrite: bool = False) -> None:
        """Keep ``units`` under ``name``. Raises PresetExists, PresetError and PictureError with the unit's number."""
        name = checked_name(name)
        with self._errors():
            if not overwrite and self._file(name).exists():  # told before the work; asked again when we are alone
                raise already_there([name])
            document, pictures = document_of(name, units)
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
            document, pictures = document_of(tamed_name(name), units)
            with self._staged(pictures) as staged, self._alone() as alone:
                staged.publish()
                kept = sorted((e.kept, e.name) for e in self._listing.entries() if e.kept is not None and e.name)
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
    def _staged(self, pictures: Mapping[str, Callable[[], Image.Image]]) -> Iterator[StagedPictures]:
        """The pictures that are not stored yet, encoded and written; what is not published is taken back."""
        staged = StagedPictures(self._pictures, pictures)
        try:
            for name in pictures:
                staged.add(name)
            yield staged
        finally:
            staged.discard()

    def _publish(self, documents: Sequence[dict[str, Any]], overwrite: bool) -> set[str]:
        """Write the documents, all or none; returns the content hashes that the overwritten ones referred to.

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
                self._listing.forget(path)
                gone |= content_hashes_in(before or b"")
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
        """Remove a preset's file; returns the content hashes that it referred to."""
        path = self._file(name)
        try:
            gone = content_hashes_in(atomic.read(path))
        except FileNotFoundError:
            return set()
        atomic.remove(path)
        self._listing.forget(path)
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
            used = frozenset().union(*(entry.content_hashes for entry in self._listing.entries(strict=True)))
            now = time.time()
            for file, status in files_in(self._pictures, ".png"):
                name, age = file.name[: -len(".png")], now - status.st_mtime
                if len(name) == 64 and name not in used and (age > _LOOSE or (alone and gone and name in gone)):
                    atomic.remove(Path(file.path))
            for folder in (self._pictures, self._presets):
                for file, status in files_in(folder, atomic.PART):
                    if now - status.st_mtime > _ABANDONED:
                        atomic.remove(Path(file.path))

    # Export and import

    def export(self, names: Sequence[str] | None = None) -> bytes:
        """Presets as one file, a zip archive of ``presets.json`` and ``pictures/<content hash>.png``.

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
            name = content_hash(file[1])
            pictures[name] = file
            return HASH_PREFIX + name

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
                for name in sorted(set().union(*map(content_hashes, documents))):
                    image = archive.picture(name)  # every one is checked, also those that are stored already
                    staged.pictures[name] = partial(archive.picture, name)
                    staged.add(name, image)
                with self._alone() as alone:
                    staged.publish()
                    self._sweep(alone, self._publish(documents, overwrite))
        return [document["name"] for document in documents]
