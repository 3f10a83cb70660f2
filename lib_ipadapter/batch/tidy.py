"""What a command that was killed leaves in its folder, taken away by the one that takes the run up: in the end there is
what there is without kills.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .keep import PER_FOLDER, PICTURES, Keep
from .ledger import Ledger
from .pictures import ENDINGS
from .problems import disk_error
from .say import say
from .shards import SHARDS, shard_file

AT_WORK = "at_work"  # in the ledger: "1" from a command's beginning to its end
# What is written beside a file, and put in its place when it is whole. A person may keep files of other names.
_BESIDE_ROOT = re.compile(r"\.(?:run\.id|sheet\.html|manifest\.parquet)\..+")
_BESIDE_GIVEN = re.compile(r"\.[0-9a-f]{64}\..+")
_FOLDER = re.compile(r"\d{6,}")
_NAME = rf"\d{{9,}}(?:-\d+)?\.(?:{'|'.join(ENDINGS)})"
_PICTURE = re.compile(rf"{_NAME}|\.{_NAME}\..+")
_SHARD = re.compile(r"\d{6,}\.tar|\.\d{6,}\.tar\..+")


@contextmanager
def tidied(folder: Path, ledger: Ledger, keep: Keep) -> Iterator[None]:
    """A command in the run's folder. One that does not come to its end leaves the tidying to the next."""
    broke_off = ledger.get(AT_WORK) == "1"
    ledger.put(**{AT_WORK: "1"})
    keep.clear()
    yield
    keep.put_away()
    try:
        if broke_off:
            _sweep(folder, ledger, keep)
        for empty in _folders(folder / PICTURES):
            if _FOLDER.fullmatch(empty.name):
                with suppress(OSError):  # it is not
                    empty.rmdir()
    except OSError as error:  # all that was asked for is there: what is left over is the next command's
        say(disk_error(folder, error).detail)
        return
    ledger.put(**{AT_WORK: "0"})


def _sweep(folder: Path, ledger: Ledger, keep: Keep) -> None:
    _take_away(folder, _BESIDE_ROOT, ())
    for given in _folders(folder / "given"):
        _take_away(given, _BESIDE_GIVEN, ())
    _take_away(folder / SHARDS, _SHARD, {Path(shard_file(number)).name for number in ledger.shards()})
    for pictures in _folders(folder / PICTURES):
        if _FOLDER.fullmatch(pictures.name):
            first = int(pictures.name) * PER_FOLDER
            known = ledger.single_files(first, first + PER_FOLDER - 1)
            _take_away(pictures, _PICTURE, {Path(file).name for file in known})
    for key in ledger.reference_keys():
        if (beside := keep.beside(keep.reference_file(key))).exists():  # a disk that may only be read has nothing of it
            beside.unlink(missing_ok=True)


def _folders(folder: Path) -> list[Path]:
    return [one for one in folder.iterdir() if one.is_dir()] if folder.is_dir() else []


def _take_away(folder: Path, ours: re.Pattern[str], known: Iterable[str]) -> None:
    """The files in a folder that have a name of ours, and are not known."""
    for one in list(folder.iterdir()) if folder.is_dir() else ():
        if one.name not in known and ours.fullmatch(one.name):
            one.unlink(missing_ok=True)
