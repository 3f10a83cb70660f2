"""The panel's controls: one row of the table for each field of a unit that has one.

A control shows its field's value in a form that the page knows; ``read`` and ``show`` translate, and nothing else
does. In the page, and in the sheet that keeps all units (sheet.py), values have that form.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

import gradio as gr

from ...unit import CHOICES, Unit
from ...weighting import as_text
from . import html_controls as plain

NO_MODEL = "None"
NARROW, WIDE = (0, 1), (-1, 3)  # ranges of the weight's slider


def named(model: str | None) -> str | None:
    return None if model in (None, "", NO_MODEL) else model


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Control:
    """``place``: the row it stands in ("model" and "weight" are in sight and gradio's, "advanced" is folded and plain
    HTML). ``settings`` go to the component's class, or the function that writes the HTML, as they are. ``variant``:
    of the adapters that have this field, where not all have it; plain ones are in sight for these only."""

    field: str
    place: str
    component: Callable[..., Any]
    label: str
    tip: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    read: Callable[[Any], Any] = _same
    show: Callable[[Any], Any] = _same
    variant: str | None = None

    @property
    def is_plain(self) -> bool:
        return self.place == "advanced"

    @property
    def default(self) -> Any:
        """As the page shows it."""
        return self.show(_DEFAULTS[self.field])

    def build(self, elem_id: str, **settings: Any) -> Any:
        """The component, of the field's default."""
        given = {"value": self.default, **self.settings, **settings}
        return self.component(label=self.label, elem_id=elem_id, tooltip=self.tip, **given)

    def drawn(self, elem_id: str) -> str:
        """The HTML of one that is plain; the page fills in its value."""
        about = {"id": elem_id, "title": self.tip, "data_field": self.field, "data_default": json.dumps(self.default)}
        if self.variant:
            about["data_variant"] = self.variant
        shown = self.component(self.label, **self.settings)
        return f"<div class='ip-adapter-control'{plain.attributes(**about)}>{shown}</div>"


CURVE = "curve"  # a weight that changes over the steps, where there is one; it stands in the place of the weight
_DEFAULTS = {f.name: None if f.default is MISSING else f.default for f in fields(Unit)} | {CURVE: None}


def _text(value: Any) -> str:
    return "" if value is None else as_text(value)


def _written(text: Any) -> Any:
    """What stands in a box of text, None for nothing."""
    return (text or "").strip() or None


def _number(text: Any) -> Any:
    """A number from a box that may be empty; what is none is left to be told by the unit."""
    try:
        return None if _written(text) is None else float(text)
    except ValueError:
        return text


def _slider(low: float, high: float, step: float, **layout: Any) -> dict[str, Any]:
    return {"minimum": low, "maximum": high, "step": step, **layout}


def _choice(name: str) -> dict[str, Any]:
    return {"choices": list(CHOICES[name])}


CONTROLS = (
    Control(
        "model", "model", gr.Dropdown, "Model", "The IP-Adapter that carries the references into the picture.",
        {"choices": [NO_MODEL], "scale": 4, "min_width": 160}, read=named, show=lambda model: model or NO_MODEL,
    ),
    Control(
        "enabled", "model", gr.Checkbox, "Enabled", "Whether this unit takes part; its settings stay either way.",
        {"scale": 1, "min_width": 90, "elem_classes": "ip-adapter-enabled"},
    ),
    Control(
        "weight", "weight", gr.Slider, "Weight", "How strongly the references steer the picture beside the prompt.",
        _slider(*NARROW, 0.05, scale=4, min_width=160),
    ),
    Control(
        "start", "weight", gr.Slider, "Start", "The share of the sampling steps after which the unit begins to act.",
        _slider(0, 1, 0.01, scale=2, min_width=100),
    ),
    Control(
        "end", "weight", gr.Slider, "End", "The share of the sampling steps after which the unit acts no more.",
        _slider(0, 1, 0.01, scale=2, min_width=100),
    ),
    Control(
        "weight_type", "advanced", plain.choice, "Weight type",
        "Which of the model's blocks get how much of the weight: all alike, or those of style or composition.",
        _choice("weight_type"),
    ),
    Control(
        "crop", "advanced", plain.choice, "Crop",
        "How a reference that is not square meets the square encoder; “tile” shows all of it in several squares.",
        _choice("crop"),
    ),
    Control(
        "combine", "advanced", plain.choice, "Combine references",
        "Whether several references act side by side, or as one embedding made of theirs.", _choice("combine"),
    ),
    Control(
        "subtract_prompt", "advanced", plain.text, "Subtract prompt",
        "Words whose meaning is taken out of the references; needs an image encoder with its text encoder.",
        {"placeholder": "what should not come along"},
    ),
    Control(
        "composition_weight", "advanced", plain.slider, "Composition weight",
        "The strength at the composition's blocks, for the weight types “… style and composition”.",
        _slider(-1, 3, 0.05),
    ),
    Control(
        "noise", "advanced", plain.slider, "Noise",
        "How much of the references' shuffled colours the negative side gets: less copying, less burn.",
        _slider(0, 1, 0.01),
    ),
    Control(
        CURVE, "advanced", plain.text, "Weight over the steps",
        "Points step:weight in the place of the weight, both as shares: 0:1 0.6:0.2 falls until six tenths.",
        {"placeholder": "0:1 0.6:0.2"}, read=_written, show=_text,
    ),
    Control(
        "layer_weights", "advanced", plain.text, "Layer weights",
        "A factor for each block (16 in SD1.5, 11 in SDXL), or for some, as 5:0.4 6:1; the others get nothing then.",
        {"placeholder": "5:0.4 6:1"}, read=_written, show=_text,
    ),
    Control(
        "embeds_scaling", "advanced", plain.choice, "Embeds scaling",
        "What the weight multiplies; “K+V w/ C penalty” keeps strong references from burning the picture.",
        _choice("embeds_scaling"),
    ),
    Control(
        "boost", "advanced", plain.text, "Boost of precise types",
        "How strongly the “precise” weight types turn against the other half; empty: the type's own.",
        {"placeholder": "the type's own"}, read=_number, show=_text,
    ),
    Control(
        "region_feather", "advanced", plain.slider, "Region feather",
        "How soft the edge of the region mask is, as a share of the picture's shorter side.", _slider(0, 1, 0.01),
    ),
    Control(
        "batch", "advanced", plain.choice, "References in a batch",
        "Whether each picture of a batch sees all references, or the first sees the first, and so on.",
        _choice("batch"),
    ),
    Control(
        "hires", "advanced", plain.choice, "Passes of hires fix",
        "The passes of a hires-fix run in which the unit acts.", _choice("hires"),
    ),
    Control(
        "keypoints_weight", "advanced", plain.slider, "Keypoints strength",
        "How strictly InstantID keeps the face where it is in the reference.", _slider(0, 2, 0.05), variant="instantid",
    ),
    Control(
        "influence_map", "advanced", plain.tick, "Influence map",
        "Adds a picture of where the references weighed how much.",
    ),
)  # fmt: skip
BY_FIELD = {control.field: control for control in CONTROLS}
COMPONENTS = tuple(control for control in CONTROLS if not control.is_plain)  # gradio's
PLAIN = tuple(control for control in CONTROLS if control.is_plain)
UNSAVED = ("model", "enabled")  # the WebUI's list of default values does not take these, nor what is plain
