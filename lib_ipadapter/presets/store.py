"""Presets: units under a name, references included, in a database that a kill at any moment leaves whole.

A writer encodes and writes its pictures first, each by itself; the document that names them follows in one short
transaction, in which pictures that nothing names any more go.
"""

from __future__ import annotations

import sqlite3
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from ..errors import IPAdapterError
from ..names import MAX_NAME, tamed_name
from . import alike, database, pictures, thumbnails
from . import archive as preset_archive
from .archive import MAX_ARCHIVE
from .document import (
    HASH_PREFIX,
    PresetError,
    PresetExists,
    StorageError,
    UnknownPreset,
    already_there,
    checked_name,
    content_hashes,
    document_of,
    key,
    understood,
    with_pictures,
    written,
)

__all__ = [
    "MAX_ARCHIVE", "MAX_NAME", "PresetError", "PresetExists", "StorageError", "Store", "UnknownPreset", "checked_name",
]  # fmt: skip

T = TypeVar("T")
Files = Mapping[str, Callable[[], Image.Image]]  # {content hash: what gives the picture}

KEEP_PATIENCE = 3.0  # seconds that a generation waits to be kept; a person who saves waits longer


class Store:
    """Presets and kept generations in a folder, for any number of threads, pages and processes at once.

    Letter case and Unicode form make no difference between names, kept generations share them with presets, and
    pictures come as RGB images. Methods that take names raise PresetError, and all raise StorageError where the disk
    or the database does not play along.
    """

    def __init__(self, folder: Path, history: int = 100) -> None:
        """``history``: the number of kept generations, beyond which the oldest goes. Creates nothing yet."""
        self.folder = Path(folder)
        self.history = history
        self.database = database.Database(self.folder)

    # Reading

    def picture(self, start: str) -> Image.Image | None:
        """The picture with this content hash, or the only one whose hash begins so (12 digits at least), else None."""
        with self.database.reading() as connection:
            name = connection and pictures.stored_hash(connection, start)
            png = pictures.read(connection, name) if connection and name else None
        return pictures.picture_in(png, name) if name else None

    def names(self) -> list[str]:
        """The names of people's presets, sorted without regard to case."""
        names = self._column("SELECT name FROM presets WHERE kept IS NULL")
        return sorted(names, key=lambda name: (name.casefold(), name))

    def recent(self) -> list[str]:
        """The names of kept generations, newest first."""
        return self._column("SELECT name FROM presets WHERE kept IS NOT NULL ORDER BY kept DESC")

    def _column(self, query: str) -> list[str]:
        with self.database.reading() as connection:
            return [row[0] for row in connection.execute(query)] if connection else []

    def load(self, name: str) -> list[dict[str, Any]]:
        """The units of a preset or kept generation, with RGB images for the pictures; the same one wherever it comes
        again."""
        return self._load(name, lambda _png, image: image)

    def load_base64(self, name: str) -> list[dict[str, Any]]:
        """The same with PNG files in base64 for the pictures."""
        return self._load(name, lambda png, _image: b64encode(png).decode())

    def _load(self, name: str, form: Callable[[bytes, Image.Image], Any]) -> list[dict[str, Any]]:
        document, files = self._whole(name)
        formed = {name: form(*file) for name, file in files.items()}

        def picture(value: str, _where: str) -> Any:
            return formed[value[len(HASH_PREFIX) :]]

        return [with_pictures(unit, picture) for unit in document["units"]]

    def _whole(self, name: str) -> tuple[dict[str, Any], dict[str, tuple[bytes, Image.Image]]]:
        """A preset's document, and {content hash: (PNG file, the picture in it)}, all of one moment."""
        name = checked_name(name)
        with self.database.reading() as connection:
            document = understood(_raw(connection, name), name)
            stored = {one: pictures.read(connection, one) for one in content_hashes(document)} if connection else {}
        files = {}
        for one, png in stored.items():
            image = pictures.picture_in(png, one)
            if png is None or image is None:
                raise PresetError(
                    f"Preset “{name}” has lost a picture: it is missing or damaged. Save a preset with that picture "
                    f"again, put {self.database.path} back from a backup, or delete the preset."
                )
            files[one] = png, image
        return document, files

    # Writing

    def save(self, name: str, units: Sequence[object], *, overwrite: bool = False) -> None:
        """Keep ``units`` under ``name``. Raises PresetExists, PresetError and PictureError with the unit's number."""
        name = checked_name(name)
        if not overwrite:  # told before the work; asked again when we are alone
            self._refuse_taken([name])
        document, files = document_of(name, units)

        def change(connection: sqlite3.Connection) -> None:
            _add(connection, [document], overwrite)
            thumbnails.give_preset(connection, key(name), alike.picture_of(connection, document))

        self._change_with(files, change)

    def keep(self, name: str, units: Sequence[object], made: Image.Image | None = None) -> str:
        """Keep a generation's units in the bounded history; the name it got is returned, "" if nothing is kept.
        ``made``: its first picture, of which a small one is kept.

        What a name must not hold is replaced, and a number is added if the name is taken: a generation is never
        refused for its name. Others who write are not waited for for long.
        """
        if self.history < 1:
            return ""
        document, files = document_of(tamed_name(name), units)
        jpeg = None if made is None else thumbnails.thumbnail(made)

        def change(connection: sqlite3.Connection) -> str:
            [last] = connection.execute("SELECT max(kept) FROM presets").fetchone()
            document["kept"] = (last or 0) + 1
            document["name"] = _free(connection, tamed_name(name))
            _add(connection, [document], overwrite=False)
            thumbnails.give_preset(connection, key(document["name"]), jpeg)
            alike.give_presets(connection, document, jpeg)
            by_age = "SELECT key FROM presets WHERE kept IS NOT NULL ORDER BY kept DESC LIMIT -1 OFFSET ?"
            for [old] in connection.execute(by_age, (self.history,)).fetchall():
                _remove(connection, old)
            return str(document["name"])

        return self._change_with(files, change, KEEP_PATIENCE)

    def rename(self, old: str, new: str, *, overwrite: bool = False) -> None:
        """A kept generation that is renamed becomes a preset, and is kept for good."""
        old, new = checked_name(old), checked_name(new)
        self._known(old)

        def change(connection: sqlite3.Connection) -> None:
            document = {**understood(_raw(connection, old), old), "name": new}
            document.pop("kept", None)
            jpeg = thumbnails.of_preset(connection, key(old))
            _add(connection, [document], overwrite or key(old) == key(new))
            thumbnails.give_preset(connection, key(new), jpeg)
            if key(old) != key(new):
                _remove(connection, key(old))

        self._change(change)

    def delete(self, name: str) -> None:
        """Its pictures go with it, unless something else uses them. Damaged presets can be deleted too."""
        name = checked_name(name)
        self._known(name)

        def change(connection: sqlite3.Connection) -> None:
            _raw(connection, name)
            _remove(connection, key(name))

        self._change(change)

    def _known(self, name: str) -> None:
        """Raises UnknownPreset, before anything is created; asked again when we are alone."""
        with self.database.reading() as connection:
            _raw(connection, name)

    def _refuse_taken(self, names: Sequence[str]) -> None:
        with self.database.reading() as connection:
            if connection and (taken := _taken(connection, names)):
                raise already_there(taken)

    @contextmanager
    def _taken_back(self, names: Iterable[str], patience: float | None = None) -> Iterator[None]:
        """Pictures that the body writes: where it fails, those of them that nothing uses are removed."""
        try:
            yield
        except BaseException:
            with suppress(IPAdapterError):
                if self.database.path.exists():
                    self._change(lambda connection: pictures.let_go(connection, names), patience=patience)
            raise

    def _change_with(self, files: Files, change: Callable[[sqlite3.Connection], T], patience: float | None = None) -> T:
        """``change``, once all of ``files`` are written."""
        with self._taken_back(files, patience):
            for name, image in files.items():
                self._write(name, image, patience)
            return self._change(change, files, patience)

    def _write(self, name: str, image: Callable[[], Image.Image], patience: float | None = None) -> None:
        """Write a picture that is not stored yet, or is damaged."""
        with self.database.reading() as connection:
            if connection and pictures.is_whole(connection, name):
                return
        picture = image()
        png, jpeg = pictures.png_of(picture), thumbnails.thumbnail(picture)
        with self.database.writing(patience) as connection:
            pictures.write(connection, name, png)
            thumbnails.give_picture(connection, name, jpeg)

    def _change(
        self,
        change: Callable[[sqlite3.Connection], T],
        files: Files | None = None,
        patience: float | None = None,
    ) -> T:
        """``change`` in a transaction in which all of ``files`` are stored; what nothing uses any more goes with it."""
        while True:
            with self.database.writing(patience) as connection:
                missing = pictures.missing(connection, files or ())
                if not missing:
                    result = change(connection)
                    pictures.sweep(connection)
                    return result
            for name in missing:  # another writer has removed the last preset that used it
                self._write(name, (files or {})[name], patience)

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

    def import_(self, data: bytes, *, overwrite: bool = False) -> list[str]:
        """Add the presets of an export, all or none of them; returns their names.

        Nothing in the file reaches a path, and sizes are bounded before anything is unpacked. Raises PresetExists
        where names are taken, PresetError for a file that is no export, damaged, too large or incomplete.
        """
        archive = preset_archive.Reader(data)
        documents = archive.documents()
        if not overwrite:
            self._refuse_taken([document["name"] for document in documents])
        names = sorted(set().union(*map(content_hashes, documents)))
        files = {name: partial(archive.picture, name) for name in names}
        with self._taken_back(names):
            for name in names:
                image = archive.picture(name)  # every one is checked, also those that are stored already
                self._write(name, partial(_same, image))
            self._change(lambda connection: _add(connection, documents, overwrite), files)
        return [document["name"] for document in documents]


def _same(image: Image.Image) -> Image.Image:
    return image


def _raw(connection: sqlite3.Connection | None, name: str) -> bytes:
    query = "SELECT document FROM presets WHERE key = ?"
    row = connection.execute(query, (key(name),)).fetchone() if connection else None
    if row is None:
        raise UnknownPreset(f"There is no preset “{name}”: choose one from the list of presets.")
    return bytes(row[0])


def _taken(connection: sqlite3.Connection, names: Sequence[str]) -> list[str]:
    query = "SELECT 1 FROM presets WHERE key = ?"
    return [name for name in names if connection.execute(query, (key(name),)).fetchone()]


def _add(connection: sqlite3.Connection, documents: Sequence[dict[str, Any]], overwrite: bool) -> None:
    """Raises PresetExists where a name is taken that may not be overwritten."""
    if not overwrite and (taken := _taken(connection, [document["name"] for document in documents])):
        raise already_there(taken)
    for document in documents:
        own = key(document["name"])
        _remove(connection, own)
        row = own, document["name"], document.get("kept"), written(document)
        connection.execute("INSERT INTO presets VALUES (?, ?, ?, ?)", row)
        uses = [(own, name) for name in sorted(content_hashes(document))]
        connection.executemany("INSERT INTO uses VALUES (?, ?)", uses)


def _remove(connection: sqlite3.Connection, own: str) -> None:
    used = connection.execute("SELECT content_hash FROM uses WHERE preset = ?", (own,)).fetchall()
    connection.execute("DELETE FROM presets WHERE key = ?", (own,))
    pictures.let_go(connection, (name for [name] in used))


def _free(connection: sqlite3.Connection, name: str) -> str:
    """``name``, or the first of "name (2)", "name (3)", … that is not taken."""
    candidate, number = name, 1
    while _taken(connection, [candidate]):
        number += 1
        ending = f" ({number})"
        candidate = name[: MAX_NAME - len(ending)].rstrip() + ending
    return candidate
