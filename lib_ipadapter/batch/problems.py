"""What a person has to put right before a run can go on."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ..errors import IPAdapterError, printable


class BatchError(IPAdapterError):
    """The run cannot begin or go on."""


class NoAnswer(BatchError):
    """A WebUI could not be asked: what it has is not known."""


class RowError(IPAdapterError):
    """One row cannot be done; the others can."""


class PassingFault(BatchError):
    """A disk did not give something that is there: the same may go well later."""


class DiskError(BatchError):
    """A folder that the run writes to does not take what it is given. No row is to blame."""


_FULL = ("has no room left", "make room there")
_CLOSED = ("cannot be written to", "make it writable")
_IN_USE = ("is in use", "close what has its run.sqlite3 open")
_OTHER = ("does not play along", "see to its disk")
# What a disk says, as an error's number, or in words of SQLite and Arrow.
_CODES = {
    errno.ENOSPC: _FULL, errno.EDQUOT: _FULL, errno.EROFS: _CLOSED, errno.EACCES: _CLOSED, errno.EPERM: _CLOSED,
}  # fmt: skip
_WORDS = {
    "disk is full": _FULL,
    "no space left": _FULL,
    "readonly": _CLOSED,
    "read-only": _CLOSED,
    "is locked": _IN_USE,
}
_OF_A_DISK = (*_WORDS, "disk i/o error", "unable to open")


def disk_error(folder: Path, error: Exception) -> DiskError:
    """The sentence on a folder and what its disk says; an error that names a file elsewhere is about that one's."""
    named = getattr(error, "filename", None)
    if isinstance(named, (str, os.PathLike)) and not Path(named).is_relative_to(folder):
        folder = Path(named).parent
    words = str(error).lower()
    by_words = next((told for mark, told in _WORDS.items() if mark in words), _OTHER)
    what, remedy = _CODES.get(getattr(error, "errno", None) or 0, by_words)
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return DiskError(f"the folder {folder} {what} ({why}): {remedy}, and give the same command again.")


def is_of_the_disk(error: sqlite3.Error) -> bool:
    """Whether a disk is at fault, and not what stands in the file."""
    return any(words in str(error).lower() for words in _OF_A_DISK)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What a disk says meanwhile becomes a DiskError that names the folder."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise disk_error(folder, error) from None


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """What a disk says meanwhile becomes a BatchError that names the file."""
    try:
        yield
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise BatchError(f"{path} cannot be read ({why}): put that right, and give the same command again.") from None


def unreadable(error: Exception) -> str:
    """The sentence on a row that nothing foresees."""
    return printable(f"it cannot be read ({type(error).__name__}: {str(error)[:200]}): correct it.")


class BrokenReference(RowError):
    """A row whose reference could not be encoded; ``state``: what has become of that."""

    def __init__(self, sentence: str, state: str) -> None:
        super().__init__(sentence)
        self.state = state
