"""The line that says how much each unit did in the last picture: the page's script (opened/shares.js) reads it in what
the host tells the page of a job, as soon as that is there."""

from __future__ import annotations

from typing import Any

from .editor import in_page

# elem_id of the host's box that holds the ``info`` of the last job -> its tab
BOXES = {f"generation_info_{tab}": tab for tab in ("txt2img", "img2img")}


def after_component(component: Any, **kwargs: Any) -> None:
    """Watches the host building its page."""
    tab = BOXES.get(str(kwargs.get("elem_id")))
    if tab is not None:
        component.change(None, component, None, **in_page(tab, "drawings.answerMade"))
