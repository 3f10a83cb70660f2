"""Which picture was made with a preset's units: that of a kept generation whose units do the same."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from ..errors import IPAdapterError
from ..unit import Unit
from . import thumbnails
from .document import checked_document, content_hashes, key

_LOOKED_AT = 20  # presets or generations with the same pictures
_MAX_READ = 1_000_000  # bytes of one of their documents


def picture_of(connection: sqlite3.Connection, document: Mapping[str, Any]) -> bytes | None:
    """For a preset that is about to be there: the thumbnail of the newest kept generation with the same units."""
    kept = "kept IS NOT NULL AND key IN (SELECT preset FROM preset_thumbnails) ORDER BY kept DESC"
    found = next(iter(_alike(connection, document, kept)), None)
    return None if found is None else thumbnails.of_preset(connection, found)


def give_presets(connection: sqlite3.Connection, document: Mapping[str, Any], jpeg: bytes | None) -> None:
    """For a generation that is kept: its thumbnail for people's presets with the same units that have none."""
    without = "kept IS NULL AND key NOT IN (SELECT preset FROM preset_thumbnails) ORDER BY key"
    for own in _alike(connection, document, without) if jpeg else ():
        thumbnails.give_preset(connection, own, jpeg)


def _alike(connection: sqlite3.Connection, document: Mapping[str, Any], which: str) -> list[str]:
    """The keys of those with the same units, but for ``document``'s own."""
    names = content_hashes(document)
    if not names:
        return []
    rows = connection.execute(
        "SELECT key, document FROM presets WHERE key IN (SELECT preset FROM uses WHERE content_hash = ?) "
        f"AND length(document) <= ? AND {which} LIMIT ?",
        (min(names), _MAX_READ, _LOOKED_AT),
    ).fetchall()
    wanted, own = _acting(document), key(document["name"])
    return [one for one, raw in rows if wanted and one != own and _acting(_read(raw)) == wanted]


def _read(raw: bytes) -> Mapping[str, Any]:
    try:
        return checked_document(json.loads(raw), "")
    except (ValueError, RecursionError, IPAdapterError):
        return {"units": []}


def _acting(document: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The units that act, by their numbers, each without what is at its default; {} where one is unknown to us."""
    acting = {}
    for number, settings in enumerate(document["units"], 1):
        has_references = settings.get("images") or settings.get("image") is not None
        if not has_references or settings.get("enabled") is False:
            continue
        try:
            acting[number] = Unit.parse(settings).to_object()
        except IPAdapterError:
            return {}
    return acting
