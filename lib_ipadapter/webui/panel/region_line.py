"""The line about a unit's region: what it is, buttons that set it in one click, and the one that opens the painter."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping

from ...encode.picture import Picture
from ..picture_text import data_url
from . import picture_pool
from .html_controls import attributes
from .panel_state import REGION, PanelState

WIDTH, HEIGHT = 224, 112  # of the shown mask at most, in pixels
# What the page's script (regions.js) knows by name -> what stands on the button, and its tip.
PARTS = {
    "left": ("Left", "The unit acts in the left half of the picture"),
    "right": ("Right", "The unit acts in the right half of the picture"),
    "top": ("Top", "The unit acts in the upper half of the picture"),
    "bottom": ("Bottom", "The unit acts in the lower half of the picture"),
}
REST = ("What the others leave", "The unit acts where no other unit's region is")
DRAW = ("Draw …", "Paint where in the picture the unit acts")
EMPTY = "Nothing is painted, so the unit would act nowhere: paint where it acts, or remove the region."
CLEAR = ("Remove", "The unit acts in the whole picture again")


def _button(name: str, text: tuple[str, str]) -> str:
    label, tip = text
    about = attributes(data_region=name, title=tip)
    return f"<button type='button' class='ip-adapter-region-{name}'{about}>{html.escape(label)}</button>"


def _address(mask: Picture) -> str:
    return picture_pool.pool().preview((mask.content_hash, "PNG"), lambda: data_url(mask.image))


def _shown(mask: Picture) -> str:
    def draw() -> str:
        shown = mask.image.copy()
        shown.thumbnail((WIDTH, HEIGHT))
        return data_url(shown)

    return f"<img src='{picture_pool.pool().preview((mask.content_hash, 'region'), draw)}' alt='Region mask'>"


def drawn(page: PanelState, pictures: Mapping[str, Picture]) -> str:
    """HTML: the shown unit's region, and what can be done with it. It carries the regions of all units and of their
    references, by the keys of their masks, for the painter."""
    holders = [*page.units, *(item for unit in page.units for item in unit.get("images", ()))]
    keys = [str(one[REGION]) for one in holders if one.get(REGION)]
    masks = {key: mask for key in keys if (mask := pictures.get(key)) is not None}
    key = page.unit.get(REGION)
    if key in masks:
        shown = _shown(masks[key])
    elif key:
        shown = "<em class='ip-adapter-problem'>⚠ not there any more: draw it again</em>"
    else:
        shown = "<em>the whole picture</em>"
    others = any(unit.get(REGION) in masks for unit in page.units if unit is not page.unit)
    buttons = "".join(_button(name, text) for name, text in PARTS.items())
    buttons += _button("rest", REST) if others else ""
    buttons += _button("draw", DRAW) + (_button("clear", CLEAR) if key else "")
    empty = [one for one, mask in masks.items() if picture_pool.is_empty(mask)]
    if key in empty:
        shown += f"<em class='ip-adapter-problem' role='alert'>⚠ <span>{EMPTY}</span></em>"
    about = attributes(data_empty=json.dumps(empty))
    about += attributes(data_masks=json.dumps({key: _address(mask) for key, mask in masks.items()}))
    return (
        f"<div class='ip-adapter-region'{about}><span>Region</span>{shown}"
        f"<span role='group' aria-label='Region'>{buttons}</span></div>"
    )
