"""Which adapters were used last with each kind of checkpoint, in a small JSON file: the next ones are chosen by it.

It is a convenience: a file that is damaged, foreign or cannot be written is no trouble, and of two WebUIs that write it
at once one counts.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..replace_file import replace_file

MOST_NAMES, MOST_BASES = 12, 12
LONGEST_NAME = 300  # characters; longer names are not kept
LARGEST_FILE = 256 * 2**10  # bytes


class UsedModels:
    """base of a checkpoint ("SD1.5", …) -> names of adapters, the one used last first. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def last(self, base: str) -> list[str]:
        """Names, the one used last first."""
        with self._lock:
            return self._read().get(base, [])

    def note(self, base: str, names: Iterable[str]) -> None:
        """These were used together, the first of them first of all."""
        names = [name for name in dict.fromkeys(names) if 0 < len(name) <= LONGEST_NAME]
        with self._lock:
            known = self._read()
            before = known.pop(base, [])
            kept = [*names, *(name for name in before if name not in names)][:MOST_NAMES]
            if kept and kept != before:
                self._write(dict([*known.items(), (base, kept)][-MOST_BASES:]))

    def _read(self) -> dict[str, list[str]]:
        try:
            if self.path.stat().st_size > LARGEST_FILE:
                return {}
            found = json.loads(self.path.read_bytes())["used"]
            return {
                str(base): [name for name in names if isinstance(name, str)][:MOST_NAMES]
                for base, names in found.items()
                if isinstance(names, list)
            }
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}

    def _write(self, known: dict[str, list[str]]) -> None:
        """A disk that cannot be written is no trouble."""
        with suppress(OSError, ValueError):
            replace_file(self.path, json.dumps({"used": known}, separators=(",", ":")))
