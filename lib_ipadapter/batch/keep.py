"""From a worker's answer to what is kept: a file gets its name when it is whole, and the ledger is told after that.

A kill between the two leaves a whole file that the ledger does not know: the row is made again, to the same bytes, and
the file is put in the place of itself.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
from pathlib import Path

from .crew import Outcome, Part
from .ledger import DONE, OPEN, REFERENCES, ROWS, Ledger, Made, Result
from .problems import writing

COMING = "coming"
PICTURES = "pictures"
PER_FOLDER = 1000
EVERY = 0.25  # seconds between commits, at most
AT_MOST = 256  # results in one


class Keep:
    """The results of a run in ``folder``. ``sure``: whether the disk is waited for."""

    def __init__(self, folder: Path, ledger: Ledger, sure: bool = True, references: Path | None = None) -> None:
        self.folder, self._ledger, self._sure = folder, ledger, sure
        self.references = references or folder / "references"
        self._coming = folder / COMING
        self._mark = hashlib.sha256(str(folder.resolve()).encode("utf8", "surrogateescape")).hexdigest()[:16]
        self._waiting: dict[str, list[Result]] = {ROWS: [], REFERENCES: []}
        self._touched: set[Path] = set()
        self._due = 0.0

    def clear(self) -> None:
        """Take away what was coming when the last run ended, and make room for what comes. Raises DiskError."""
        self.put_away()
        with writing(self.folder):
            self._coming.mkdir(parents=True, exist_ok=True)

    def put_away(self) -> None:
        """Nothing comes any more: a worker that has outlived its driver finds no place to write to."""
        shutil.rmtree(self._coming, ignore_errors=True)

    def beside(self, path: Path) -> Path:
        """Where a file from another disk is written before it has its name; of this run alone, and the same each time
        so that the next command writes over it or takes it away."""
        return path.with_name(f".{path.name}.{self._mark}")

    def picture(self, number: int, index: int, part: Part) -> Made:
        """Give a picture its final name. Raises DiskError."""
        more = f"-{index + 1}" if index else ""
        name = f"{PICTURES}/{number // PER_FOLDER:06}/{number:09}{more}.{part.ending}"
        with writing(self.folder):
            self._place(part, self.folder / name)
        return Made(name, part.sha256, part.size, part.infotext)

    def reference(self, key: str, part: Part) -> Made:
        path = self.reference_file(key)
        with writing(self.references):
            self._place(part, path)
        return Made(path.name, part.sha256, part.size)

    def reference_file(self, key: str) -> Path:
        return self.references / key[:2] / f"{key}.safetensors"

    def look_at_references(self) -> None:
        """What is on the disk counts, as long as a row is open: files of earlier runs are not made again, and those
        that are gone are."""
        if not self._ledger.counts().get(OPEN):
            return
        there = [one for one, key in self._ledger.references_in(OPEN) if self.reference_file(key).is_file()]
        gone = [one for one, key in self._ledger.references_in(DONE) if not self.reference_file(key).is_file()]
        for positions, state in ((there, DONE), (gone, OPEN)):
            self._ledger.record([Result(position, state) for position in positions], REFERENCES)

    def record(self, result: Result, table: str = ROWS) -> None:
        """Kept with the next commit."""
        self._waiting[table].append(result)

    def flush(self, now: bool = False) -> int:
        """Commit what is due; how many rows are on the disk by that."""
        count = sum(map(len, self._waiting.values()))
        if not count or not (now or count >= AT_MOST or time.monotonic() >= self._due):
            return 0
        if self._sure:
            for folder in self._touched:
                _sync(folder)
        self._touched.clear()
        for table, results in self._waiting.items():
            if results:
                self._ledger.record(results, table)
                results.clear()
        self._due = time.monotonic() + EVERY
        return count

    def _place(self, part: Part, path: Path) -> None:
        if path.parent not in self._touched:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._touched.add(path.parent)
        coming = self._coming / (part.coming or path.name)
        if not part.coming:
            with writing(self._coming):
                self._coming.mkdir(parents=True, exist_ok=True)
                write_whole(coming, part.data, self._sure)
        try:
            os.replace(coming, path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            write_whole(beside := self.beside(path), coming.read_bytes(), self._sure)  # another disk
            os.replace(beside, path)
            coming.unlink()


def result_of(position: int, endpoint: str, outcome: Outcome, tries: int, pictures: list[Made]) -> Result:
    return Result(position, DONE, endpoint, tries, "", outcome.seconds, time.time(), pictures)


def write_whole(path: Path, data: bytes, sure: bool = True) -> None:
    """Write a file that is on the disk when this returns. Raises OSError, with nothing left of it."""
    try:
        with path.open("wb") as file:
            file.write(data)
            if sure:
                file.flush()
                os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _sync(folder: Path) -> None:
    """Make new names in a folder last; where folders cannot be opened (Windows), the file system sees to it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
