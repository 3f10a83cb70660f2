"""The shelf below the presets: presets, kept generations and the references used last, as small pictures; and what the
page asks for to keep the panel's pictures beyond a reload.

Nothing of it is drawn or asked for before somebody opens it (javascript/opened/shelf.js). The page writes a question
with a stamp into a hidden box, and the answer comes back in the same box:

    {"ask": "open"}                                     the references used last, and the first page of one group
    {"ask": "group", "group": "recent", "start": 24}    a page of "recent" or "presets"
    {"ask": "small", "names": [content hash, …]}        small pictures that an answer before has not held yet
    {"ask": "kept", "keys": [key, …]}                   the session's pictures, so that the page can bring them again
    {"ask": "looks"}                                    all looks (look_row.py)
    {"ask": "folder", "text": …, "walks": true}         what is in a folder of references (folder_row.py)
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import IPAdapterError
from ...presets.document import HASH_PREFIX
from ..picture_text import data_url
from . import folder_row, look_row
from .editor import QUIET, hidden, in_page
from .picture_pool import HeldPictures, PagePictures, now

if TYPE_CHECKING:
    from ...presets.shelf import Group, Shelf
    from ...presets.store import Store
    from .editor import Editor

MAX_ASKED = 500  # names or keys in one question
MAX_GIVEN = 8_000_000  # pixels of pictures that one answer holds whole


class ShelfBox:
    """``box`` is not rendered."""

    def __init__(self, tab: str, store: Callable[[], Store]) -> None:
        self.tab, self.store = tab, store
        self.box = hidden(f"{tab}_ip_adapter_shelf", is_long=True)

    def connect(self, editor: Editor) -> None:
        script = partial(in_page, self.tab)
        # ``input`` is what the page has written, not what is answered.
        self.box.input(self.answer, [self.box, editor.pictures], self.box, queue=False, **QUIET).then(
            None, self.box, None, **script("shelf.answerAsked")
        )

    def answer(self, question: str, held: HeldPictures | None) -> str:
        asked = json.loads(question)
        try:
            answer = self._answer(asked, held)
        except IPAdapterError as error:
            answer = {"problem": error.detail}
        return json.dumps({**answer, "stamp": asked["stamp"]})

    def _answer(self, asked: dict[str, Any], held: HeldPictures | None) -> dict[str, Any]:
        from ...presets.shelf import Shelf

        if asked["ask"] == "looks":
            return look_row.told()
        if asked["ask"] == "folder":
            return folder_row.told(asked)
        shelf, what = Shelf(self.store()), asked["ask"]
        if what == "open":
            return _opened(shelf)
        if what == "group":
            name = "recent" if asked["group"] == "recent" else "presets"
            return _group(shelf, name, shelf.group(kept=name == "recent", start=int(asked.get("start", 0))))
        if what == "small":
            return {"small": _small(shelf, [str(name) for name in asked["names"][:MAX_ASKED]])}
        return {"pictures": _kept(shelf, [str(key) for key in asked["keys"][:MAX_ASKED]], now(held))}


def _opened(shelf: Shelf) -> dict[str, Any]:
    """The group that is shown first has something in it, if any has."""
    lately, recent, presets = shelf.lately(), shelf.group(kept=True), shelf.group(kept=False)
    name, group = ("presets", presets) if presets.total and not recent.total else ("recent", recent)
    answer = _group(shelf, name, group, *lately)
    return {**answer, "lately": lately, "totals": {"recent": recent.total, "presets": presets.total}}


def _group(shelf: Shelf, name: str, group: Group, *more: str) -> dict[str, Any]:
    """A page of a group with its small pictures, those of ``more`` pictures among them."""
    entries = [
        {
            "name": one.name, "picture": None if one.picture is None else _address(one.picture),
            "references": one.references, "count": one.count,
        }
        for one in group.page
    ]  # fmt: skip
    names = [*more, *(reference for one in group.page for reference in one.references)]
    return {"group": name, "total": group.total, "entries": entries, "small": _small(shelf, names)}


def _small(shelf: Shelf, names: list[str]) -> dict[str, str]:
    """Addresses of small pictures, "" for those that there are none of."""
    return {name: _address(jpeg) if jpeg else "" for name, jpeg in shelf.small(names).items()}


def _address(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"


def _kept(shelf: Shelf, keys: list[str], held: HeldPictures) -> dict[str, str]:
    """By key: what brings a session's picture back, ``sha256:…`` if it is stored, else its file as an address. Those
    that have gone, and those for which there is no room, are missing."""
    stored = shelf.stored(held[key] for key in keys if key in held)
    pictures, left = PagePictures(held), MAX_GIVEN
    kept = {}
    for key in keys:
        if held.get(key) in stored:
            kept[key] = HASH_PREFIX + held[key]
        elif (picture := pictures.get(key)) is not None and picture.size[0] * picture.size[1] <= left:
            left -= picture.size[0] * picture.size[1]
            kept[key] = data_url(picture.image, compress_level=1)
    return kept
