"""Requests for an X/Y/Z plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def plot_over(axes: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """What asks for a plot over up to three axes of ours, by their labels without ours before them, or over seeds."""
    from modules import scripts

    script = next(s for s in scripts.scripts_txt2img.selectable_scripts if s.title() == "X/Y/Z plot")
    labels = [one.label for one in script.current_axis_options]
    arguments: list[Any] = [0, "", None] * 3
    for i, (name, values) in enumerate(axes.items()):
        arguments[3 * i : 3 * i + 2] = [labels.index(name if name == "Seed" else f"[IP-Adapter] {name}"), values]
    return {"script_name": "x/y/z plot", "script_args": arguments}
