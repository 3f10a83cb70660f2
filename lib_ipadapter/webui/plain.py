"""Controls as plain HTML, for those that are rarely used: the page opens faster than with as many of gradio's.

The page's script (ip_adapter.js) shows the sheet's values in them, and puts what is done there into the sheet.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any


def _attributes(**values: Any) -> str:
    return "".join(f" {name}='{html.escape(str(value))}'" for name, value in values.items())


def slider(label: str, *, minimum: float, maximum: float, step: float) -> str:
    """A number, and a range beside it."""
    limits = {"min": minimum, "max": maximum, "step": step}
    number = f"<input type='number'{_attributes(**limits)}>"
    return (
        f"<label><span>{html.escape(label)}</span>{number}</label>"
        f"<input type='range'{_attributes(**limits, **{'aria-label': label})}>"
    )


def choice(label: str, *, choices: Sequence[str]) -> str:
    """One of some names. Each is told as a value, too: what is shown may be translated in the page."""
    options = "".join(f"<option{_attributes(value=name)}>{html.escape(name)}</option>" for name in choices)
    return f"<label><span>{html.escape(label)}</span><select>{options}</select></label>"


def text(label: str, *, placeholder: str) -> str:
    """A line to write in."""
    field = f"<input type='text' autocomplete='off' spellcheck='false'{_attributes(placeholder=placeholder)}>"
    return f"<label><span>{html.escape(label)}</span>{field}</label>"


def tick(label: str) -> str:
    """Yes or no."""
    return f"<label class='ip-adapter-tick'><input type='checkbox'><span>{html.escape(label)}</span></label>"
