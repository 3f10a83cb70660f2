"""A unit's folder of references in the panel: what its strip (javascript/opened/folder.js) asks for.

The strip asks through the box of the shelf: ``{"ask": "folder", "text": …, "walks": true}``, the text being the page's
value of the folder (controls.py), "" for none yet. Only what the setting allows is looked into, as for a job; folders
are told by their names, which say nothing of where they lie.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from functools import partial
from typing import Any

from PIL import Image

from ...checkpoint.names import shown
from ...encode.folders import FolderFile
from ...errors import IPAdapterError
from ...reference import Folder, Reference
from .. import process, reference_folders
from ..picture_text import data_url
from . import picture_pool
from .controls import folder_item

SHOWN = 6  # pictures
SIDE = 96  # pixels
OPENER = "A folder of references: averaged, or one for each picture. Settings say which folders may be read."


def opener() -> str:
    """HTML: the button that opens the strip."""
    return (
        "<button type='button' class='ip-adapter-folder-opener' aria-expanded='false' "
        f"title='{html.escape(OPENER)}'>Folder</button>"
    )


def told(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the strip shows: ``offered`` folders by name, and of the one that is asked for ``count`` of its pictures,
    ``notes``, and the first few pictures in their order. Raises IPAdapterError where there is none of it."""
    item = folder_item(str(asked.get("text") or ""))
    offered = reference_folders.offered()
    if item is None:
        return {"offered": offered, "count": 0, "notes": [], "pictures": []}
    try:
        folder = Reference.parse(item, "").folder
        assert folder is not None
        return {"offered": offered, **_told(folder, bool(asked.get("walks")))}
    except IPAdapterError as error:
        return {"offered": offered, "wrong": error.detail}


def _told(folder: Folder, walks: bool) -> dict[str, Any]:
    count, files, notes = reference_folders.first(folder, SHOWN, walks)
    pictures = []
    for file in files:
        name = shown(file.path.name).strip("'")
        try:
            key = ("folder", str(file.path), *file.stamp, SIDE)
            small = picture_pool.pool().preview(key, partial(_small, file))
        except IPAdapterError as error:
            small, notes = "", [*notes, f"{name}: {error.detail}"]
        pictures.append({"name": name, "picture": small})
    return {"count": count, "notes": notes, "pictures": pictures}


def _small(file: FolderFile) -> str:
    picture = process.known_files().picture(file).image
    picture.thumbnail((SIDE * 2, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return data_url(picture, "JPEG", quality=80)
