"""The pictures of the database: each once, as a PNG file under its content hash."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import time
from collections.abc import Iterable

from PIL import Image

from ..encode.formats import file_of
from ..encode.picture import content_hash, decode
from ..errors import PictureError

MIN_PREFIX = 12  # hexadecimal digits of a content hash
_LEFT = 24 * 3600.0  # seconds that a picture stays which was written for a preset that never came


def png_of(image: Image.Image) -> bytes:
    return file_of(image, compress_level=1)  # photographs hardly become smaller with more effort, only slower


def picture_in(png: bytes | None, name: str) -> Image.Image | None:
    """The picture in a stored file, None where it is no longer the one with the content hash ``name``."""
    try:
        image = decode(png) if png else None
    except PictureError:
        return None
    return image if image is not None and content_hash(image) == name else None


def stored_hash(connection: sqlite3.Connection, start: str) -> str | None:
    """The one stored content hash that begins with ``start``, None if there is none or more than one."""
    start = start.strip().lower()
    if not MIN_PREFIX <= len(start) <= 64 or not re.fullmatch("[0-9a-f]+", start):
        return None
    found = connection.execute(
        "SELECT content_hash FROM pictures WHERE content_hash >= ? AND content_hash < ? LIMIT 2", (start, start + "g")
    ).fetchall()
    return str(found[0][0]) if len(found) == 1 else None


def read(connection: sqlite3.Connection, name: str) -> bytes | None:
    row = connection.execute("SELECT png FROM pictures WHERE content_hash = ?", (name,)).fetchone()
    return None if row is None else bytes(row[0])


def is_whole(connection: sqlite3.Connection, name: str) -> bool:
    """Whether the picture is stored, and byte for byte what was written."""
    row = connection.execute("SELECT file_hash, png FROM pictures WHERE content_hash = ?", (name,)).fetchone()
    return row is not None and row[0] == _file_hash(name, row[1])


def _file_hash(name: str, png: bytes) -> bytes:
    return hashlib.sha256(name.encode() + png).digest()


def write(connection: sqlite3.Connection, name: str, png: bytes) -> None:
    """The picture, in the place of a damaged one; unused until ``sweep`` finds a preset that uses it."""
    connection.execute(
        "INSERT INTO pictures VALUES (?1, ?2, ?3) "
        "ON CONFLICT DO UPDATE SET file_hash = excluded.file_hash, png = excluded.png",
        (name, _file_hash(name, png), png),
    )
    connection.execute("INSERT OR REPLACE INTO unused VALUES (?, ?)", (name, time.time()))


def missing(connection: sqlite3.Connection, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that are not stored."""
    stored = "SELECT 1 FROM pictures WHERE content_hash = ?"
    return [name for name in names if connection.execute(stored, (name,)).fetchone() is None]


def let_go(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    """``sweep`` removes these, unless a preset uses them."""
    connection.executemany(
        "INSERT OR REPLACE INTO unused SELECT content_hash, 0 FROM pictures WHERE content_hash = ?",
        ((name,) for name in names),
    )


def sweep(connection: sqlite3.Connection) -> None:
    """Remove what no preset uses any more, and what killed processes have left a day ago."""
    connection.execute("DELETE FROM unused WHERE content_hash IN (SELECT content_hash FROM uses)")
    connection.execute(
        "DELETE FROM pictures WHERE content_hash IN (SELECT content_hash FROM unused WHERE since < ?)",
        (time.time() - _LEFT,),
    )
