"""Presets as tests compare them."""

from __future__ import annotations

import io
import json
import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from PIL import Image

from lib_ipadapter.encode.picture import content_hash
from lib_ipadapter.presets.store import Store
from tests.helpers.files import picture


def with_pictures(*seeds: int, **settings) -> dict[str, Any]:
    return {"model": "base", "images": [picture(seed) for seed in seeds], **settings}


def shown(units: Any) -> Any:
    """Units in a form that can be compared: pictures by their content hashes."""
    if isinstance(units, Image.Image):
        assert units.mode == "RGB"
        return content_hash(units)
    if isinstance(units, dict):
        return {name: shown(value) for name, value in units.items()}
    return [shown(value) for value in units] if isinstance(units, (list, tuple)) else units


@contextmanager
def tables(store: Store) -> Iterator[sqlite3.Connection]:
    """The store's tables as another program sees them; what is changed is kept."""
    with closing(sqlite3.connect(store.database.path)) as connection, connection:
        yield connection


def stored(store: Store) -> set[str]:
    """The content hashes of the pictures in the store."""
    return {row[1] for row in rows(store) if row[0] == "pictures"}


def rows(store: Store) -> list[tuple[Any, ...]]:
    """All that is in the store's tables."""
    if not store.database.path.exists():
        return []
    with tables(store) as connection:
        names = [name for [name] in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [(name, *row) for name in names for row in connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2")]


def mask(seed: int) -> Image.Image:
    return picture(seed).convert("L").convert("RGB")


def prints(*seeds: int) -> set[str]:
    return {content_hash(picture(seed)) for seed in seeds}


def raw_document(store: Store, name: str) -> dict[str, Any]:
    with tables(store) as connection:
        [[raw]] = connection.execute("SELECT document FROM presets WHERE name = ?", (name,))
    return json.loads(raw)


def put_document(store: Store, name: str, raw: bytes) -> None:
    """Another document in the place of the one under ``name``."""
    with tables(store) as connection:
        connection.execute("UPDATE presets SET document = ? WHERE name = ?", (raw, name))


def put_png(store: Store, name: str, png: bytes) -> None:
    """Another file in the place of a stored picture's."""
    with tables(store) as connection:
        connection.execute("UPDATE pictures SET png = ? WHERE content_hash = ?", (png, name))


def age(store: Store, seconds: float) -> None:
    """What is unused has been so for longer."""
    with tables(store) as connection:
        connection.execute("UPDATE unused SET since = since - ?", (seconds,))


def archive(documents: Any, pictures: dict[str, bytes] | None = None, pack: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", pack) as file:
        file.writestr("presets.json", json.dumps({"version": 1, "presets": documents}))
        for name, data in (pictures or {}).items():
            file.writestr(name, data)
    return buffer.getvalue()


def document(name: str = "a", *marks: str, **more) -> dict[str, Any]:
    return {"version": 1, "needs": 1, "name": name, "units": [{"images": [f"sha256:{m}" for m in marks]}], **more}
