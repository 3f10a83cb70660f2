"""Small pictures of what is kept: of each reference, and of the picture that was made with a preset's units.

They are JPEG files of a few kilobytes. A reference's is made when it is stored, or when it is first asked for where an
older version has stored it; it goes with its picture. A preset's goes with the preset.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from PIL import Image, ImageOps

from ..encode.carriers import carries
from ..encode.conversions import to_rgb
from ..encode.formats import file_of
from ..errors import PictureError
from . import pictures

SIDE = 128  # pixels of the longer one
MAX_BYTES = 10_000
ON_BOARD = 4  # pictures that one thumbnail shows side by side
_QUALITIES = (80, 60, 40, 20, 5)
# Pixels beyond which most are skipped rather than averaged, because a job waits for this; of what has to be converted.
_LARGE, _SLOW = 16_000_000, 1_000_000


def thumbnail(image: Image.Image) -> bytes:
    """A JPEG file of at most MAX_BYTES and SIDE pixels; b"" for what is nothing to look at, such as embeddings."""
    if carries(image):
        return b""
    if image.width * image.height > (_LARGE if image.mode == "RGB" else _SLOW):
        image = image.resize(_within(image, 8 * SIDE), Image.Resampling.NEAREST)
    try:
        image = image if image.mode == "RGB" else to_rgb(image)
        small = to_rgb(image.resize(_within(image, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0))
    except PictureError:
        return b""
    file = b""
    for quality in _QUALITIES:
        file = file_of(small, "JPEG", quality=quality)
        if len(file) <= MAX_BYTES:
            break
    return file


def board(images: Sequence[Image.Image]) -> bytes:
    """A thumbnail of one picture, or of the first four side by side; b"" for none."""
    shown = [image for image in images if not carries(image)][:ON_BOARD]
    if len(shown) < 2:
        return thumbnail(shown[0]) if shown else b""
    half = SIDE // 2
    rows = 2 if len(shown) > 2 else 1
    paper = Image.new("RGB", (SIDE, half * rows))
    for i, image in enumerate(shown):
        # The third of three is as broad as the others together.
        width = SIDE if i == 2 and len(shown) == 3 else half
        tile = ImageOps.fit(to_rgb(image), (width, half), Image.Resampling.BICUBIC)
        paper.paste(tile, (half * (i % 2), half * (i // 2)))
    return thumbnail(paper)


def _within(image: Image.Image, side: int) -> tuple[int, int]:
    share = min(1.0, side / max(image.size))
    return max(1, round(image.width * share)), max(1, round(image.height * share))


def are_there(connection: sqlite3.Connection) -> bool:
    """Whether the database has these tables: one of an older version gets them when something is next written."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'preset_thumbnails'"
    return connection.execute(query).fetchone() is not None


def of_preset(connection: sqlite3.Connection, own: str) -> bytes | None:
    """The small picture that was made with the preset whose key is ``own``; None where none is known."""
    if not are_there(connection):
        return None
    row = connection.execute("SELECT jpeg FROM preset_thumbnails WHERE preset = ?", (own,)).fetchone()
    return None if row is None else bytes(row[0])


def give_preset(connection: sqlite3.Connection, own: str, jpeg: bytes | None) -> None:
    if jpeg:
        connection.execute("INSERT OR REPLACE INTO preset_thumbnails VALUES (?, ?)", (own, jpeg))


def of_pictures(connection: sqlite3.Connection, names: Iterable[str]) -> dict[str, bytes]:
    """Those that are there, by content hash."""
    if not are_there(connection):
        return {}
    query, found = "SELECT jpeg FROM picture_thumbnails WHERE content_hash = ?", {}
    for name in names:
        if (row := connection.execute(query, (name,)).fetchone()) is not None:
            found[name] = bytes(row[0])
    return found


def give_picture(connection: sqlite3.Connection, name: str, jpeg: bytes) -> None:
    """Nothing happens where the picture has gone meanwhile."""
    connection.execute(
        "INSERT OR REPLACE INTO picture_thumbnails SELECT content_hash, ? FROM pictures WHERE content_hash = ?",
        (jpeg, name),
    )


def made(connection: sqlite3.Connection, name: str) -> bytes:
    """A new one of a stored picture; b"" where it is damaged or has gone."""
    image = pictures.picture_in(pictures.read(connection, name), name)
    return b"" if image is None else thumbnail(image)
