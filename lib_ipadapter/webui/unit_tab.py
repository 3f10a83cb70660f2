"""One unit's tab: its components, what they do, and how an API object is put into them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr
from modules.ui_components import FormRow, ToolButton

from ..errors import IPAdapterError, UnitError
from ..generation import Resources
from ..unit import CHOICES, NOT_YET, Unit
from . import references as refs
from .about_model import about

NO_MODEL = "None"
NARROW, WIDE = (0, 1), (-1, 3)  # ranges of the weight's slider


@dataclass
class UnitControls:
    """One tab's components that are arguments of the script, in their order; named as the unit's fields, but for
    ``slot``, where a picture arrives, ``references``, which have arrived, and ``act``, what was last done with their
    cards: it comes with a press of Generate even if the page has not yet told it otherwise."""

    slot: gr.Image
    references: gr.State
    model: gr.Dropdown
    weight: gr.Slider
    start: gr.Slider
    end: gr.Slider
    combine: gr.Dropdown
    hires: gr.Radio
    batch: gr.Radio
    influence_map: gr.Checkbox
    enabled: gr.Checkbox
    act: gr.Textbox

    def components(self) -> list[Any]:
        return [getattr(self, f.name) for f in fields(self)]


NAMES = [f.name for f in fields(UnitControls)]
SETTINGS = [name for name in NAMES if name not in ("slot", "references", "model", "act")]
DEFAULTS = {f.name: f.default for f in fields(Unit)}


def models(resources: Resources) -> list[str]:
    return [NO_MODEL, *(entry.name for entry in resources.catalog.adapters)]


def stamp() -> str:
    """A text that no other call returns: in a hidden box, it announces that something has changed."""
    return secrets.token_hex(8)


def hidden(elem_id: str) -> gr.Textbox:
    """A text that the page and its script exchange."""
    box = gr.Textbox("", visible=False, elem_id=elem_id)
    box.do_not_save_to_config = True
    return box


class UnitTab:
    """The components of one unit in one of the WebUI's tabs."""

    def __init__(self, tab: str, number: int, resources: Callable[[], Resources]) -> None:
        self.tab, self.number, self.resources = tab, number, resources
        self._build()
        self._connect()

    def _id(self, name: str) -> str:
        return f"{self.tab}_ip_adapter_{self.number}_{name}"

    def _build(self) -> None:
        with gr.Row(elem_classes="ip-adapter-pictures"):
            slot = gr.Image(
                label="Add a reference", type="pil", source="upload",
                image_mode=None,  # as it is: gradio would clip 16-bit pictures
                height=150, min_width=140, scale=1, elem_id=self._id("slot"), elem_classes="ip-adapter-slot",
            )  # fmt: skip
            with gr.Column(scale=2, min_width=200, elem_classes="ip-adapter-references"):
                self.cards = gr.HTML("", elem_id=self._id("references"))
                self.clear = gr.Button(
                    "Remove all", size="sm", visible=False, elem_id=self._id("clear"), elem_classes="ip-adapter-clear"
                )
        references = gr.State([])
        with FormRow(elem_classes="ip-adapter-model"):
            model = gr.Dropdown(
                models(self.resources()), value=NO_MODEL, label="Model", elem_id=self._id("model"), scale=4,
                min_width=160,
            )  # fmt: skip
            self.refresh = ToolButton("\U0001f504", elem_id=self._id("refresh"), tooltip="Look for adapters again")
            enabled = gr.Checkbox(
                True, label="Enabled", scale=1, min_width=90, elem_id=self._id("enabled"),
                elem_classes="ip-adapter-enabled",
            )  # fmt: skip
        self.details = gr.HTML("", elem_id=self._id("details"), elem_classes="ip-adapter-details")
        with FormRow(elem_classes="ip-adapter-weight"):
            weight = gr.Slider(
                *NARROW, 1.0, step=0.05, label="Weight", elem_id=self._id("weight"), scale=4, min_width=160
            )
            self.wide = ToolButton("↔", elem_id=self._id("wide"), tooltip="Weight from −1 to 3 instead of 0 to 1")
            start = gr.Slider(0, 1, 0.0, step=0.01, label="Start", elem_id=self._id("start"), scale=2, min_width=100)
            end = gr.Slider(0, 1, 1.0, step=0.01, label="End", elem_id=self._id("end"), scale=2, min_width=100)
        with gr.Accordion("Advanced", open=False, elem_id=self._id("advanced"), elem_classes="ip-adapter-advanced"):
            with FormRow():
                combine = gr.Dropdown(
                    list(CHOICES["combine"]), value=DEFAULTS["combine"], label="Combine references",
                    elem_id=self._id("combine"), min_width=140,
                )  # fmt: skip
                batch = gr.Radio(
                    list(CHOICES["batch"]), value=DEFAULTS["batch"], label="References in a batch",
                    elem_id=self._id("batch"), min_width=140,
                )  # fmt: skip
            with FormRow():
                hires = gr.Radio(
                    list(CHOICES["hires"]), value=DEFAULTS["hires"], label="Passes of hires fix",
                    elem_id=self._id("hires"), min_width=140,
                )  # fmt: skip
                influence_map = gr.Checkbox(
                    False, label="Influence map", elem_id=self._id("influence_map"), min_width=140
                )
        self.is_wide = gr.State(False)
        self.stamp = hidden(self._id("stamp"))
        self.controls = UnitControls(
            slot, references, model, weight, start, end, combine, hires, batch, influence_map, enabled,
            hidden(self._id("act")),
        )  # fmt: skip
        model.do_not_save_to_config = enabled.do_not_save_to_config = True

    def _connect(self) -> None:
        own, quiet = self.controls, {"show_progress": "hidden"}
        own.slot.upload(self._add, [own.slot, own.references], [own.slot, own.references, self.stamp], **quiet)
        self.clear.click(lambda: ([], stamp()), None, [own.references, self.stamp], **quiet)
        own.act.change(self._act, [own.act, own.references], [own.references, self.stamp], **quiet)
        self.stamp.change(self._draw, [own.references, own.model], [self.cards, self.clear], **quiet)
        own.model.change(
            lambda model, items: (self.describe(model), self._cards(items, model)),
            [own.model, own.references], [self.details, self.cards], **quiet,
        )  # fmt: skip
        self.wide.click(self._widen, [self.is_wide, own.weight], [own.weight, self.is_wide], **quiet)

    # what the components do

    @staticmethod
    def _add(picture: Any, items: list) -> tuple:
        try:
            return None, refs.add(items, [picture]), stamp()
        except IPAdapterError as error:
            gr.Warning(error.detail)
            return None, items, gr.update()

    @staticmethod
    def _act(text: str, items: list) -> tuple:
        changed = refs.act(items, text)
        return changed, stamp() if len(changed) != len(items) else gr.update()

    def _cards(self, items: list, model: str | None) -> str:
        return refs.cards(items, refs.encoder_size(named(model), self.resources().catalog))

    def _draw(self, items: list, model: str | None) -> tuple:
        return self._cards(items, model), gr.update(visible=len(items) > 1)

    def describe(self, model: str | None) -> str:
        return about(named(model), self.resources().catalog)

    @staticmethod
    def _widen(is_wide: bool, weight: float) -> tuple:
        if is_wide:
            low, high = NARROW
            return gr.update(minimum=low, maximum=high, value=min(high, max(low, weight))), False
        return gr.update(minimum=WIDE[0], maximum=WIDE[1]), True

    # units put into the components

    @property
    def targets(self) -> list[Any]:
        """The components that ``filled`` speaks to."""
        return [*self.controls.components(), self.is_wide, self.stamp]

    def filled(self, unit: Mapping[str, Any] | None) -> tuple[list[Any], list[str]]:
        """Values for ``targets`` that show an API object (None: an empty tab), and sentences on what cannot be shown.

        Its pictures are PIL images or anything else that ``decode`` takes.
        """
        unit = {"enabled": True} if not unit or set(unit) <= {"enabled"} else unit
        items, notes = _items(unit)
        settings = {name: DEFAULTS[name] for name in SETTINGS}
        for name in unit:
            if name in settings:
                try:
                    settings[name] = getattr(Unit.parse({"enabled": False, **_pair(unit, name)}), name)
                except UnitError as error:
                    notes.append(error.detail)
            elif name not in ("model", "image", "images") and unit[name] != {**DEFAULTS, **NOT_YET}.get(name):
                notes.append(f"{name} has no place in this panel and was left out.")
        settings["enabled"] = unit.get("enabled", True) is not False
        low, high = NARROW if NARROW[0] <= settings["weight"] <= NARROW[1] else WIDE
        settings["weight"] = gr.update(value=settings["weight"], minimum=low, maximum=high)
        values = {"slot": None, "act": "", "references": items, "model": self._model(unit.get("model")), **settings}
        notes = [f"Unit {self.number}: {note}" for note in notes]
        return [*(values[name] for name in NAMES), (low, high) == WIDE, stamp()], notes

    def _model(self, name: Any) -> Any:
        """An update of the list of models; a model that is not here is shown, and the line below it says so."""
        names = models(self.resources())
        name = name if isinstance(name, str) and name else NO_MODEL
        try:
            name = self.resources().catalog.find(name).name if name != NO_MODEL else name
        except IPAdapterError:
            names.append(name)
        return gr.update(choices=names, value=name)


def named(model: str | None) -> str | None:
    return None if model in (None, "", NO_MODEL) else model


def _pair(unit: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A field with those that only make sense together with it."""
    together = ("start", "end") if name in ("start", "end") else (name,)
    return {key: unit[key] for key in together if key in unit and key != "enabled"}


def _items(unit: Mapping[str, Any]) -> tuple[list[refs.Item], list[str]]:
    given = unit.get("images")
    given = [unit["image"]] if given is None and unit.get("image") is not None else given or []
    items, notes = [], []
    for one in given:
        one = one if isinstance(one, Mapping) else {"image": one}
        try:
            (kept,) = refs.add([], [one.get("image")])
            kept["weight"] = float(one.get("weight", 1.0))
            items.append(kept)
        except (IPAdapterError, ValueError, TypeError) as error:
            notes.append(f"a reference was left out. {error}")
    return items, notes
