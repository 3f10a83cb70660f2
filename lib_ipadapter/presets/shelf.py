"""What the shelf shows of the store: presets and kept generations in pages, with their references, and the references
that were used last; each with small pictures."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import IPAdapterError
from . import pictures, thumbnails
from .document import PresetError, checked_document, reference_hashes
from .store import Store

PAGE = 24  # presets, and references used last
SHOWN = 4  # references of one preset
MAKING = 0.15  # seconds that one answer spends on thumbnails that older versions have not made
PATIENCE = 1.0  # seconds that thumbnails wait to be kept
_MAX_READ = 1_000_000  # bytes of a document that is read for its references
_LATELY = 200  # presets and generations among which the references used last are looked for


@dataclass(frozen=True)
class Shelved:
    """A preset or kept generation. ``picture`` is a JPEG file of what was made with it, None where none is known;
    ``references`` are content hashes, no more than SHOWN of the ``count`` that there are."""

    name: str
    picture: bytes | None
    references: list[str] = field(default_factory=list)
    count: int = 0


@dataclass(frozen=True)
class Group:
    """A page of presets, or of kept generations. ``total``: how many there are."""

    total: int
    page: list[Shelved]


class Shelf:
    """Raises StorageError as the store does, and PresetError for a database of a newer version."""

    def __init__(self, store: Store) -> None:
        self.database = store.database

    def group(self, *, kept: bool, start: int = 0) -> Group:
        """People's presets by name, or ``kept`` generations, newest first; PAGE of them from ``start`` on."""
        with self.database.reading() as connection:
            if connection is None:
                return Group(0, [])
            rows = connection.execute(
                "SELECT key, name FROM presets WHERE kept IS NOT NULL ORDER BY kept DESC"
                if kept
                else "SELECT key, name FROM presets WHERE kept IS NULL"
            ).fetchall()
            if not kept:
                rows.sort(key=lambda row: (row[1].casefold(), row[1]))
            start = max(0, start)
            return Group(len(rows), [_shelved(connection, *row) for row in rows[start : start + PAGE]])

    def lately(self) -> list[str]:
        """Content hashes of the references used last, newest first, each once."""
        found: dict[str, None] = {}
        with self.database.reading() as connection:
            if connection is None:
                return []
            newest = connection.execute("SELECT rowid FROM presets ORDER BY rowid DESC LIMIT ?", (_LATELY,)).fetchall()
            for [row] in newest:
                found |= dict.fromkeys(_references(connection, "rowid", row))
                if len(found) >= PAGE:
                    break
        return list(found)[:PAGE]

    def small(self, names: Iterable[str]) -> dict[str, bytes]:
        """Thumbnails of pictures by content hash; b"" for those that cannot be shown. Those that have to be made, and
        for which there is no time left, are missing: ask for them again."""
        wanted, end = list(dict.fromkeys(names)), time.monotonic() + MAKING
        made: dict[str, bytes] = {}
        with self.database.reading() as connection:
            if connection is None:
                return dict.fromkeys(wanted, b"")
            there = thumbnails.of_pictures(connection, wanted)
            for name in wanted:
                if name not in there and (not made or time.monotonic() < end):
                    made[name] = thumbnails.made(connection, name)
        if made:
            with suppress(IPAdapterError), self.database.writing(PATIENCE) as connection:  # or made again next time
                for name, jpeg in made.items():
                    thumbnails.give_picture(connection, name, jpeg)
        return {**there, **made}

    def stored(self, names: Iterable[str]) -> set[str]:
        """Those of these content hashes whose pictures are in the store."""
        wanted = set(names)
        with self.database.reading() as connection:
            return wanted - set(pictures.missing(connection, wanted)) if connection else set()


def _shelved(connection: sqlite3.Connection, own: str, name: str) -> Shelved:
    references = _references(connection, "key", own)
    return Shelved(name, thumbnails.of_preset(connection, own), references[:SHOWN], len(references))


def _references(connection: sqlite3.Connection, column: str, value: Any) -> list[str]:
    """The content hashes of a preset's references, masks aside; none of one that cannot be read, which loading says."""
    query = f"SELECT document FROM presets WHERE {column} = ? AND length(document) <= ?"
    row = connection.execute(query, (value, _MAX_READ)).fetchone()
    try:
        return reference_hashes(checked_document(json.loads(row[0]), "")) if row else []
    except (ValueError, RecursionError, PresetError):
        return []
