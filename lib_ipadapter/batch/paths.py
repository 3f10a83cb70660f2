"""Files that a jobs file names: below its own folder, unless the command says otherwise, and of bounded size."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from ..errors import printable
from .problems import PassingFault, RowError

MAX_FILE = 64 << 20  # bytes of a picture, a mask, or a file of embeddings
MAX_FOUND = 64  # files that one pattern may find: as many references as a unit may have
MAX_LOOKED_AT = 100_000  # names that one pattern may look at
REMEMBERED = 4096  # files whose hash is not computed again
WILD = "*?["
# What a disk or a network share says that may be otherwise a moment later, and is no word on the file.
PASSING = {
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EINTR", "EBUSY", "EMFILE", "ENFILE", "ENOMEM", "ENETDOWN",
                 "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH", "ECONNRESET", "ECONNABORTED", "ENOTCONN", "EREMOTEIO",
                 "ENOLCK", "ENODEV", "ENXIO", "ESHUTDOWN")
    if hasattr(errno, name)
}  # fmt: skip


class Files:
    """The files of a jobs file in ``folder``. ``outside``: whether they may lie elsewhere."""

    def __init__(self, folder: Path, outside: bool = False) -> None:
        self.folder, self._outside = folder.resolve(), outside
        self._hashes: OrderedDict[tuple[str, int, int], str] = OrderedDict()

    def find(self, text: str) -> list[str]:
        """What a path or pattern names, sorted, as paths that ``read`` takes. Raises RowError."""
        if not text.strip() or "\0" in text:
            raise RowError("a path is empty: name a file below the jobs file's folder.")
        try:
            return self._found(text)
        except (OSError, ValueError, NotImplementedError, RuntimeError, IndexError) as error:
            raise fault(f"the path or pattern {_shown(text)}", error, "correct it") from None

    def _found(self, text: str) -> list[str]:
        if not any(mark in text for mark in WILD) or (self.folder / text).is_file():
            return [self._placed(self.folder / text, text)]
        if Path(text).is_absolute() and not self._outside:
            raise self._elsewhere(text)
        found: list[str] = []
        for looked_at, path in enumerate(self._matching(text)):
            if looked_at >= MAX_LOOKED_AT:
                raise RowError(f"{_shown(text)} looks at more than {MAX_LOOKED_AT} names: name a smaller folder.")
            if path.is_file():
                found.append(self._placed(path, text))
            if len(found) > MAX_FOUND:
                raise RowError(f"{_shown(text)} finds more than {MAX_FOUND} files: name fewer.")
        if not found:
            raise RowError(f"{_shown(text)} finds no file: correct the pattern, or put the pictures there.")
        return sorted(found)

    def read(self, path: str) -> bytes:
        """The content of a file that ``find`` has found; where it leads is looked at again. Raises RowError, and
        PassingFault."""
        try:
            real = (self.folder / path).resolve()
            if not self._outside and self.folder not in real.parents:
                raise self._elsewhere(path)
            with open(real, "rb") as file:
                data = file.read(MAX_FILE + 1)
        except (OSError, ValueError, RuntimeError) as error:
            raise fault(f"the file {_shown(path)}", error, "put it there again") from None
        if len(data) > MAX_FILE:
            raise RowError(f"the file {_shown(path)} is larger than {MAX_FILE >> 20} MiB: make it smaller.")
        return data

    def sha256(self, path: str) -> str:
        """A file's hash, computed once as long as its size and time stay. Raises RowError."""
        try:
            told = os.stat(self.folder / path, follow_symlinks=False)
        except OSError:
            return hashlib.sha256(self.read(path)).hexdigest()  # says what is wrong
        if stat.S_ISLNK(told.st_mode):
            return hashlib.sha256(self.read(path)).hexdigest()
        key = (path, told.st_size, told.st_mtime_ns)
        if key not in self._hashes:
            self._hashes[key] = hashlib.sha256(self.read(path)).hexdigest()
            if len(self._hashes) > REMEMBERED:
                self._hashes.popitem(last=False)
        return self._hashes[key]

    def _matching(self, text: str) -> Iterator[Path]:
        base = Path(text)
        if base.is_absolute():
            return Path(base.anchor).glob(str(base.relative_to(base.anchor)))
        return self.folder.glob(text)

    def _placed(self, path: Path, text: str) -> str:
        real = path.resolve()
        inside = real == self.folder or self.folder in real.parents
        if not inside and not self._outside:
            raise self._elsewhere(text)
        if not real.is_file():
            raise RowError(f"there is no file {_shown(text)}: correct the path, or put the file there.")
        return str(real.relative_to(self.folder)) if inside else str(real)

    @staticmethod
    def _elsewhere(text: str) -> RowError:
        return RowError(
            f"{_shown(text)} lies outside of the jobs file's folder: put it below that, or add --allow-outside."
        )


def fault(what: str, error: Exception, remedy: str) -> RowError | PassingFault:
    """What is wrong with a path, or with the disk for now."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    if isinstance(error, OSError) and error.errno in PASSING:
        return PassingFault(f"{what} cannot be read now ({why}): see to the disk, and give the same command again.")
    return RowError(f"{what} cannot be read ({why}): {remedy}.")


def _shown(text: str) -> str:
    text = printable(text)
    return text if len(text) <= 200 else f"{text[:199]}…"
