"""The panel's controls: at least one for each field of a unit that is declared with a place in the panel.

A control shows its field's value in a form that the page knows; ``read`` and ``show`` translate, and nothing else
does. In the page, and in the text that keeps all units (panel_state.py), values have that form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ...fields import PanelPlace, Setting, settings_of
from ...kinds import Among, BlockFactors, Choice, EncoderName, FaceNumber, Flag, Kind, ModelName, Number, Text, Weight
from ...reference import FOLDER, MAX_PATH, WEIGHT
from ...unit import Unit
from ...weighting import as_text
from . import html_controls

NO_MODEL = "None"
CURVE = "curve"  # a weight that changes over the steps, where there is one; it stands in the place of the weight
# What is written there is checked while somebody types: each with its field of a unit.
CHECKED = {CURVE: "weight", "layer_weights": "layer_weights"}
NARROW, WIDE = (0, 1), (WEIGHT.low, WEIGHT.high)  # ranges of the weight's slider
PLACES = ("model", "weight", "sight", "strip", "advanced")
# Gradio's settings of the components in sight, beside those that follow from a field's kind.
LAYOUT: Mapping[str, Mapping[str, Any]] = {
    "model": {"choices": [NO_MODEL], "scale": 4, "min_width": 160},
    "enabled": {"scale": 1, "min_width": 90, "elem_classes": "ip-adapter-enabled"},
    "weight": {"minimum": NARROW[0], "maximum": NARROW[1], "scale": 4, "min_width": 160},
}


def model_name(shown: str | None) -> str | None:
    """The name of an adapter that is chosen in the list of models; None for none."""
    return None if shown in (None, "", NO_MODEL) else shown


def _same(value: Any) -> Any:
    return value


def _stripped(text: str | None) -> str | None:
    """What stands in a box of text, None for nothing."""
    return (text or "").strip() or None


def _line(value: Any) -> str:
    return "" if value is None else as_text(value)


# Behind the path of a folder stands what else its item has, where that is not the usual.
_OF_FOLDER = re.compile(r"(?:shuffle|start|weight):\S+")
LONGEST_LINE = MAX_PATH + 100  # characters: of a longer one all counts as the path, which is refused then


def folder_item(text: str | None) -> dict[str, Any] | None:
    """ "/a/b shuffle:7 start:2 weight:0.5" -> the item of that folder, None for nothing. What is no number stays text,
    to be refused by the unit."""
    path, words = (text or "").strip(), list[str]()
    if not path:
        return None
    while len(path) <= LONGEST_LINE and len(parts := path.rsplit(None, 1)) == 2 and _OF_FOLDER.fullmatch(parts[1]):
        path, word = parts[0].rstrip(), parts[1]
        words.insert(0, word)
    item: dict[str, Any] = {"folder": path}
    for word in words:
        name, _, value = word.partition(":")
        number = Number(WEIGHT.low, WEIGHT.high).from_text(value) if name == "weight" else value
        if name == "shuffle":
            item["order"] = "shuffle"
        item[{"shuffle": "seed"}.get(name, name)] = int(value) if name != "weight" and value.isdecimal() else number
    return item


def folder_text(item: Mapping[str, Any] | None) -> str:
    """What ``folder_item`` makes the item of."""
    if not item:
        return ""
    words = [f"shuffle:{item.get('seed') or 0}"] if item.get("order") == "shuffle" else []
    words += [f"start:{item['start']}"] if item.get("start") else []
    words += [f"weight:{item['weight']:g}"] if item.get("weight", 1) != 1 else []
    return " ".join((str(item["folder"]), *words))


@dataclass(frozen=True)
class Form:
    """How the panel shows a kind of fields: the HTML and the component that do (None where it is never of that sort),
    their settings, and how values are read and shown."""

    html: Callable[..., str] | None
    component: Any
    settings: Callable[[Any, PanelPlace], Mapping[str, Any]]
    read: Callable[[Any, Any], Any] = lambda kind, value: value
    show: Callable[[Any], Any] = _same


def _limits(kind: Number, place: PanelPlace) -> dict[str, Any]:
    return {"minimum": kind.low, "maximum": kind.high, "step": place.step}


def _placeholder(kind: Kind, place: PanelPlace) -> dict[str, Any]:
    return {"placeholder": place.placeholder}


def _number(kind: Number, text: str | None) -> Any:
    """A number from a box that may be empty; what is none is left to be refused by the unit."""
    return kind.from_text(text or "")


SLIDER = Form(html_controls.slider, gr.Slider, _limits)
LINE = Form(html_controls.text, None, _placeholder, lambda kind, text: _stripped(text), _line)
FORMS: Mapping[type[Kind], Form] = {
    Number: SLIDER,
    Weight: SLIDER,
    Choice: Form(html_controls.choice, None, lambda kind, place: {"choices": list(kind.choices)}),
    Among: Form(
        html_controls.choice,
        None,
        lambda kind, place: {"choices": {str(number): shown for number, shown in kind.choices.items()}},
        lambda kind, text: kind.from_text(str(text)),
        str,
    ),
    Flag: Form(html_controls.tick, gr.Checkbox, lambda kind, place: {}),
    Text: Form(html_controls.text, None, _placeholder),
    EncoderName: Form(html_controls.text, None, _placeholder),
    FaceNumber: Form(html_controls.text, None, _placeholder, show=str),
    BlockFactors: LINE,
    ModelName: Form(
        None, gr.Dropdown, lambda kind, place: {}, lambda kind, name: model_name(name), lambda name: name or NO_MODEL
    ),
}
FOLDER_LINE = Form(html_controls.text, None, _placeholder, lambda kind, text: folder_item(text), folder_text)
OPTIONAL_NUMBER = Form(html_controls.text, None, _placeholder, _number, _line)


def _form(setting: Setting, key: str) -> Form:
    if key == CURVE:
        return LINE
    if key == FOLDER:
        return FOLDER_LINE
    if isinstance(setting.kind, Number) and setting.kind.empty is not None:
        return OPTIONAL_NUMBER
    return FORMS[type(setting.kind)]


@dataclass(frozen=True)
class Control:
    """One control. ``field`` is its name, which is its field's but for the curve."""

    field: str
    setting: Setting
    at: PanelPlace
    form: Form

    @property
    def place(self) -> str:
        return self.at.place

    @property
    def is_html(self) -> bool:
        """Whether it is HTML of ours and no component of gradio's, with which the page would open more slowly."""
        return self.place in ("sight", "strip", "advanced")

    @property
    def default(self) -> Any:
        """As the page shows it."""
        return self.show(None if self.field in (CURVE, FOLDER) else self.setting.default)

    def read(self, value: Any) -> Any:
        """What the page has of the field -> what a unit is parsed from, None for nothing."""
        return self.form.read(self.setting.kind, value)

    def show(self, value: Any) -> Any:
        """A unit's value as the page has it."""
        return self.form.show(value)

    def build(self, elem_id: str, **settings: Any) -> Any:
        """The component, of the field's default."""
        layout = LAYOUT.get(self.field, {"scale": 2, "min_width": 100})
        given = {"value": self.default, **self.form.settings(self.setting.kind, self.at), **layout, **settings}
        return self.form.component(label=self.at.label, elem_id=elem_id, tooltip=self.at.tooltip, **given)

    def html(self, elem_id: str) -> str:
        """The HTML of one that is no component; the page fills in its value. One of a field that only some adapters
        have is in sight for these, one that means nothing for some adapters for the others, and one that needs
        something while that is there."""
        about = {"id": elem_id, "title": self.at.tooltip, "data_field": self.field}
        about["data_default"] = json.dumps(self.default)
        if self.setting.variants:
            about["data_variants"] = " ".join(self.setting.variants)
        if self.setting.not_for:
            about["data_not_for"] = " ".join(self.setting.not_for)
        if self.at.needs:
            about["data_needs"] = self.at.needs
        if self.field in CHECKED:
            about["data_checked"] = ""
        assert self.form.html is not None
        shown = self.form.html(self.at.label, **self.form.settings(self.setting.kind, self.at))
        reason = html_controls.reason(elem_id) if self.field in CHECKED else ""
        return f"<div class='ip-adapter-control'{html_controls.attributes(**about)}>{shown}{reason}</div>"


def controls_of(unit_class: type[Unit]) -> tuple[Control, ...]:
    """The controls for a class of units, by their places in the panel."""
    controls = [
        Control(at.key or name, setting, at, _form(setting, at.key))
        for name, setting in settings_of(unit_class).items()
        for at in setting.panel
    ]
    return tuple(sorted(controls, key=lambda control: (PLACES.index(control.place), control.at.order)))


CONTROLS = controls_of(Unit)
BY_FIELD = {control.field: control for control in CONTROLS}
COMPONENTS = tuple(control for control in CONTROLS if not control.is_html)  # gradio's
HTML_CONTROLS = tuple(control for control in CONTROLS if control.is_html)
UNSAVED = ("model", "enabled")  # the WebUI's list of default values takes neither these nor what is HTML
