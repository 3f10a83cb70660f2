"""What is folded below "Advanced": controls in groups, as HTML. Two parts that the server draws anew, the region's line
and the picture of the blocks, have their places in it; the page's script puts them there, and takes out what is to be
in sight."""

from __future__ import annotations

import html
from collections.abc import Callable

from ...fields import EXPERT, GROUPS, WHERE
from .controls import HTML_CONTROLS, Control

SLOT = "<div class='ip-adapter-slot' data-slot='{}'></div>"
BEHIND = {"weight_type": SLOT.format("bars")}  # control -> what stands behind it
AHEAD = {WHERE: SLOT.format("region")}  # group -> what stands before its controls


def groups(elem_id: Callable[[str], str]) -> str:
    """HTML: what is in sight, then each group's heading and its controls; a control that names no group is an
    expert's."""
    sight = "".join(_drawn(control, elem_id) for control in HTML_CONTROLS if control.place == "sight")
    return f"<div class='ip-adapter-sight' hidden>{sight}</div>" + "".join(_group(group, elem_id) for group in GROUPS)


def _group(group: str, elem_id: Callable[[str], str]) -> str:
    folded = (control for control in HTML_CONTROLS if control.place == "advanced")
    own = (control for control in folded if (control.at.group or EXPERT) == group)
    return (
        f"<section class='ip-adapter-group'><h4>{html.escape(group)}</h4>"
        f"<div class='ip-adapter-grid'>{AHEAD.get(group, '')}{''.join(_drawn(one, elem_id) for one in own)}</div>"
        "</section>"
    )


def _drawn(control: Control, elem_id: Callable[[str], str]) -> str:
    return control.html(elem_id(control.field)) + BEHIND.get(control.field, "")
