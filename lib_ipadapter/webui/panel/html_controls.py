"""Controls as plain HTML, for those that are rarely used: the page opens faster than with as many of gradio's.

The page's script gives them their values, and takes up what is done there.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attributes(**values: Any) -> str:
    """Attributes of an HTML element, each after a space. ``data_field`` is written ``data-field``."""
    return "".join(f" {name.replace('_', '-')}='{html.escape(str(value))}'" for name, value in values.items())


def slider(label: str, *, minimum: float, maximum: float, step: float) -> str:
    """A number, and a range beside it."""
    limits = {"min": minimum, "max": maximum, "step": step}
    number = f"<input type='number'{attributes(**limits)}>"
    return (
        f"<label><span>{html.escape(label)}</span>{number}</label>"
        f"<input type='range'{attributes(**limits, aria_label=label)}>"
    )


def choice(label: str, *, choices: Sequence[str] | Mapping[str, str]) -> str:
    """One of some names, or of some values with what is shown of them. Names are given as values, too: what is shown
    may be translated in the page."""
    shown = choices if isinstance(choices, Mapping) else {name: name for name in choices}
    options = "".join(f"<option{attributes(value=name)}>{html.escape(text)}</option>" for name, text in shown.items())
    return f"<label><span>{html.escape(label)}</span><select>{options}</select></label>"


def text(label: str, *, placeholder: str) -> str:
    """A line to write in."""
    field = f"<input type='text' autocomplete='off' spellcheck='false'{attributes(placeholder=placeholder)}>"
    return f"<label><span>{html.escape(label)}</span>{field}</label>"


def reason(elem_id: str) -> str:
    """A place for the sentence that says why what is written in a line cannot be used."""
    about = attributes(id=elem_id + "_reason")
    return f"<small class='ip-adapter-reason ip-adapter-problem' role='status'{about}></small>"


def tick(label: str) -> str:
    """Yes or no."""
    return f"<label class='ip-adapter-tick'><input type='checkbox'><span>{html.escape(label)}</span></label>"


def tool(sign: str, elem_id: str, tip: str, order: Mapping[str, Any] | None) -> str:
    """A small button, and what is ordered with it (None: a file is asked for)."""
    about = attributes(id=elem_id, title=tip, aria_label=tip, data_order=json.dumps(order))
    return f"<button type='button'{about}>{html.escape(sign)}</button>"


def opener(text: str, elem_id: str, tip: str) -> str:
    """A button that unfolds something, folded yet."""
    about = attributes(id=elem_id, title=tip)
    return f"<button type='button' aria-expanded='false'{about}>{html.escape(text)}</button>"


def question(elem_id: Callable[[str], str], text: str, button: str, order: Mapping[str, Any], *, is_named: bool) -> str:
    """A line that asks, with the button that gives the order and one that does not. ``is_named``: for its ``name``."""
    field = attributes(id=elem_id("name"), value=order.get("name", ""), placeholder="Name", aria_label=text)
    span = attributes(id=elem_id("asked"))
    yes = attributes(id=elem_id("yes"), title=text)  # without a title, the WebUI would give a button "Save" its own
    no = attributes(id=elem_id("no"), title="Leave everything as it is")
    return (
        f"<form class='ip-adapter-question'{attributes(data_order=json.dumps(order))}>"
        f"<span{span}>{html.escape(text)}</span>"
        + (f"<input type='text' autocomplete='off' spellcheck='false'{field}>" if is_named else "")
        + f"<button type='submit'{yes}>{html.escape(button)}</button><button type='button'{no}>Cancel</button></form>"
    )
