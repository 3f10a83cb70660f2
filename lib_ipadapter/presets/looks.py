"""Looks in a folder, one file each (encode/look_files.py): a style under a name, for any unit with an adapter that
takes its embeddings.

A file is found by the name in its head, whatever the file is called: one that somebody has put there counts as well.
Of two with one name, the first file counts. Nothing but plain files of the folder itself is looked at, and of each no
more than its head, until it is wanted.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..encode.carriers import MAX_FILE
from ..encode.look_files import AGAIN, MAX_HEADER, Head, as_look, head_of, header_length
from ..errors import IPAdapterError, PictureError, UnitError, printable
from ..names import tamed_name
from ..replace_file import new_file, replace_file
from .document import PresetError, PresetExists, StorageError, checked_name, key

ENDING = ".safetensors"
MAX_LOOKS = 1000
SHOWN = 8  # names in a sentence


@dataclass(frozen=True)
class Look:
    """A look in its file."""

    name: str
    head: Head
    path: Path


class Looks:
    """The looks in ``folder``, for any number of threads and processes. Creates nothing before something is written.

    Letter case and Unicode form make no difference between names. Methods raise PresetError for what is no name or no
    look, and StorageError where the disk does not play along.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[tuple[Path, tuple[int, int]], Look | None] = {}  # by the file and its stamp
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # what is there is looked at, and written, in one step

    def all(self) -> list[Look]:
        """Sorted by name; no more than MAX_LOOKS."""
        found: dict[str, Look] = {}
        for look in self._in_files():
            if len(found) < MAX_LOOKS:
                found.setdefault(key(look.name), look)
        return sorted(found.values(), key=lambda look: (look.name.casefold(), look.name))

    def _in_files(self) -> list[Look]:
        """Each file that is a look, in the order of the files' names."""
        with self._lock:
            there = sorted(self._files())
            self._known = {one: self._known[one] if one in self._known else _read_head(*one) for one in there}
            return [look for look in self._known.values() if look is not None]

    def _files(self) -> Iterator[tuple[Path, tuple[int, int]]]:
        """Each file, with what changes with it."""
        try:
            with os.scandir(self.folder) as entries:
                names = sorted(one.name for one in entries if one.name.endswith(ENDING) and one.name[0] != ".")
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._trouble(error, "read") from error
        for name in names:
            path = self.folder / name
            try:
                about = path.lstat()
            except OSError:
                continue
            if stat.S_ISREG(about.st_mode):
                yield path, (about.st_mtime_ns, about.st_size)

    def find(self, name: str) -> Look:
        """The look of that name. Raises UnknownLook with those that there are."""
        wanted, there = key(checked_name(name, "look")), self.all()
        for look in there:
            if key(look.name) == wanted:
                return look
        raise UnknownLook(name, [look.name for look in there])

    def file(self, name: str) -> bytes:
        """The whole file of a look; the name in it is the one that the look is listed under."""
        look = self.find(name)
        try:
            with look.path.open("rb") as opened:
                file = opened.read(MAX_FILE + 1)
        except FileNotFoundError:  # it has just gone
            raise UnknownLook(name, [one.name for one in self.all()]) from None
        except OSError as error:
            raise self._trouble(error, "read") from error
        if len(file) > MAX_FILE:
            raise PresetError(f"The file of the look “{look.name}” is larger than {MAX_FILE >> 20} MB: delete it.")
        return file if head_of(file).name == look.name else _readable(as_look(file, look.name))

    def save(self, name: str, file: bytes, *, overwrite: bool = False) -> str:
        """Keep a file of embeddings as the look of that ``name``, which is returned as it is kept. Raises PresetExists
        where there is one and it may not be overwritten, PictureError for a file of another kind."""
        from ..encode.stored import read

        name = checked_name(name, "look")
        _check_size(file)
        read(file)
        look = _readable(as_look(file, name))
        with self._writing:
            there = self.all()
            before = next((one for one in there if key(one.name) == key(name)), None)
            if before is not None and not overwrite:
                raise _already_there(before.name)
            if before is None and len(there) >= MAX_LOOKS:
                raise PresetError(f"There are {len(there)} looks, which is all that there may be: delete one first.")
            path = self.folder / file_name(name) if before is None else before.path
            try:
                (replace_file if overwrite else new_file)(path, look)
            except FileExistsError:  # another process was faster
                raise _already_there(name) from None
            except OSError as error:
                raise self._trouble(error, "written") from error
        return name

    def delete(self, name: str) -> None:
        """All files of that name go: the second would be the look then."""
        look = self.find(name)
        with self._writing:
            try:
                for one in self._in_files():
                    if key(one.name) == key(look.name):
                        one.path.unlink(missing_ok=True)
            except OSError as error:
                raise self._trouble(error, "changed") from error

    def _trouble(self, error: OSError, done: str) -> StorageError:
        return StorageError(
            f"{printable(str(self.folder))} cannot be {done} ({error.strerror or error}): check the permissions of the "
            "folder, and the room on its disk."
        )


class UnknownLook(PresetError):
    http_status = 404

    def __init__(self, name: str, there: list[str]) -> None:
        listed = ", ".join(f"“{one}”" for one in there[:SHOWN]) + (" and others" if len(there) > SHOWN else "")
        remedy = f"choose one of {listed}" if there else "keep one first, there is none yet"
        super().__init__(f"There is no look “{name}”: {remedy}.")


def _already_there(name: str) -> PresetExists:
    return PresetExists(f"There is a look “{name}” already: choose another name, or overwrite it.")


def _check_size(file: bytes) -> None:
    if len(file) > MAX_FILE:
        raise PresetError(f"The file is larger than {MAX_FILE >> 20} MB: keep fewer references in one look.")


def _readable(look: bytes) -> bytes:
    """A file that has got a name. Raises IPAdapterError where that has made it one that nobody could read."""
    _check_size(look)
    try:
        header_length(look)
    except PictureError:
        raise PictureError(
            f"The file is a damaged one: with the look's name, its head is larger than {MAX_HEADER >> 10} KB: {AGAIN}."
        ) from None
    return look


def file_name(name: str) -> str:
    """What a look's file is called: the letters and digits of its name, and a mark that no other name has. Equal names
    have one, whatever their case and Unicode form."""
    same = key(name)
    plain = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_ ") else "_" for letter in same)
    mark = hashlib.sha256(same.encode()).hexdigest()[:8]
    return f"{plain.strip()[:60].strip() or 'look'} {mark}{ENDING}"


def _read_head(path: Path, _stamp: tuple[int, int]) -> Look | None:
    """None for a file that is no look, or cannot be read."""
    try:
        with path.open("rb") as opened:
            head = head_of(opened.read(8 + MAX_HEADER))
        return Look(head.name or tamed_name(path.stem), head, path)
    except Exception:  # anybody's file: one that nobody has thought of is no other look's trouble
        return None


def with_files(unit: dict[str, object], looks: Looks) -> dict[str, object]:
    """An API object with the files of looks in the place of their names: they stay in what is kept of it when the looks
    are gone. Raises UnitError for one that is not there."""

    def item(one: object, where: str) -> object:
        if not isinstance(one, dict) or one.get("look") is None:
            return one
        rest = {name: value for name, value in one.items() if name != "look"}
        return {**rest, "image": found(looks, str(one["look"]), where)}

    changed = dict(unit)
    for field in ("images", "negative_images"):
        if isinstance(items := changed.get(field), (list, tuple)):
            changed[field] = [item(one, f"{field}[{i}]: ") for i, one in enumerate(items)]
    if "image" in changed:
        changed["image"] = item(changed["image"], "image: ")
    return changed


def found(looks: Looks, name: str, where: str) -> bytes:
    """The file of a unit's look. Raises UnitError, which begins with ``where``."""
    try:
        return looks.file(name)
    except IPAdapterError as error:
        raise UnitError(f"{where}{error.detail[:1].lower()}{error.detail[1:]}") from None
