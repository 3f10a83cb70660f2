"""Pictures in tar files, as WebDataset reads them: from 10^5 files on, file systems and copies suffer of their number.

A shard holds the rows of a stretch of the line, once all of them have ended: for each ``000000123.png`` and
``000000123.json``. It has its name when it is whole; the ledger is told after that, and only then do the single files
go. Its bytes depend on what is in it alone.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

from .ledger import DONE, FAILED, OPEN, ROWS, Ledger, Result

SHARDS = "shards"
FEW = 20  # of a stretch one row, or one in so many, may have failed where it is packed at the end of a run


def shard_file(number: int) -> str:
    return f"{SHARDS}/{number:06}.tar"


class Packer:
    """``per_shard``: rows of one, 0 for none at all."""

    def __init__(self, ledger: Ledger, folder: Path, per_shard: int) -> None:
        self._ledger, self._folder, self._per_shard = ledger, folder, per_shard
        self._last = max((last for _, last, *_ in ledger.sections()), default=0)
        self._written = ledger.shards()
        self._next = 0
        for number, is_clean in list(self._written.items()):
            if not is_clean:  # a run that was ended is taken up
                self._clear(number)

    def pack(self, count: int = 1, is_last: bool = False) -> int:
        """Pack what can be packed, ``count`` shards at most; how many it were. With ``is_last`` a few rows that
        failed are waited for no more: their pictures will lie in none. Raises OSError, with no half of one."""
        if not self._per_shard:
            return 0
        packed = 0
        total, begin = -(-self._last // self._per_shard), self._next
        for step in range(total):
            number = (begin + step) % total
            if packed == count:
                break
            if number in self._written or not self._is_ready(number, is_last) or self._reopened(number):
                continue
            self._pack(number)
            packed += 1
            self._next = number + 1
        return packed

    def _stretch(self, number: int) -> tuple[int, int]:
        first = number * self._per_shard + 1
        return first, min(first + self._per_shard - 1, self._last)

    def _is_ready(self, number: int, is_last: bool) -> bool:
        """Whether there is something to pack, and not much that would come too late for it."""
        first, last = self._stretch(number)
        few = max(1, (last - first + 1) // FEW) if is_last else 0

        def has_more_than(count: int, state: str) -> bool:
            return len(self._ledger.open(ROWS, first - 1, last, count + 1, state)) > count

        return not has_more_than(0, OPEN) and not has_more_than(few, FAILED) and has_more_than(0, DONE)

    def _reopened(self, number: int) -> bool:
        """Whether pictures of a stretch have gone from the disk. Their rows are open again, for the next command."""
        gone = [
            row["position"]
            for row in self._ledger.of_shard(*self._stretch(number))
            if row["state"] == DONE
            and not all((self._folder / one["file"]).is_file() for one in json.loads(row["pictures"]))
        ]
        self._ledger.record([Result(position, OPEN, tries=0) for position in gone])
        return bool(gone)

    def _pack(self, number: int) -> None:
        first, last = self._stretch(number)
        path = self._folder / shard_file(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with beside.open("wb") as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as shard:
                    for row in self._ledger.of_shard(first, last):
                        if row["state"] == DONE:
                            self._add(shard, row)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except OSError:
            beside.unlink(missing_ok=True)  # on a disk that is full, half of it is what others lack
            raise
        self._ledger.add_shard(number, first, last)
        self._written[number] = False
        self._clear(number)

    def _add(self, shard: tarfile.TarFile, row: dict[str, Any]) -> None:
        pictures = json.loads(row["pictures"])
        for index, picture in enumerate(pictures):
            ending = PurePosixPath(picture["file"]).suffix
            more = f".{index + 1}" if index else ""
            _put(shard, f"{row['number']:09}{more}{ending}", (self._folder / picture["file"]).read_bytes())
        told = {
            "row": row["number"],
            "id": row["id"],
            "seed": row["seed"],
            "parameters": [one["infotext"] for one in pictures],
        }
        _put(shard, f"{row['number']:09}.json", json.dumps(told, ensure_ascii=False).encode())

    def _clear(self, number: int) -> None:
        """Take away the single files of a shard that is written down."""
        for row in self._ledger.of_shard(*self._stretch(number)):
            if row["shard"] == number:  # others have been made since it was written, and are in none
                for picture in json.loads(row["pictures"]):
                    (self._folder / picture["file"]).unlink(missing_ok=True)
        self._ledger.clean_shard(number)
        self._written[number] = True


def _put(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    shard.addfile(entry, io.BytesIO(data))
