"""Shards are written beside the run, not between its rows: one takes seconds, in which WebUIs would wait."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from .ledger import Ledger
from .problems import BatchError
from .shards import Packer

EVERY = 2.0  # seconds


@contextlib.contextmanager
def packing(path: Path, per_shard: int) -> Iterator[None]:
    """While the body runs, shards of the run with the ledger ``path`` are written by a thread of their own. What it
    cannot write is left to the end of the run, which says why."""
    if not per_shard:
        yield
        return
    is_over = threading.Event()

    def work() -> None:
        pause = 0.0
        while not is_over.wait(pause):  # what fails now may go well later
            pause = EVERY
            with contextlib.suppress(OSError, sqlite3.Error, BatchError), contextlib.closing(Ledger(path)) as ledger:
                packer = Packer(ledger, path.parent, per_shard)
                while not is_over.wait(0 if packer.pack() else EVERY):
                    pass

    thread = threading.Thread(target=work, name="IP-Adapter: shards", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
