"""The editor: one set of controls for all units of a tab, and the choice of the unit that they show.

What happens at a mere switch of units happens in the page alone (ip_adapter.js), in one go with the sheet (sheet.py).
The server takes pictures in, and draws what depends on them and on files: cards, and the lines about the model.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gradio as gr
from modules.ui_components import ToolButton

from ...errors import IPAdapterError
from ...jobs.resources import Resources
from ...unit import Unit
from ...weighting import peak
from .. import options
from . import block_strengths as bars
from . import model_line as about_model
from . import panel_state as sheet
from . import reference_cards as refs
from .controls import BY_FIELD, COMPONENTS, NARROW, NO_MODEL, PLAIN, UNSAVED, WIDE, named
from .panel_state import Sheet
from .reference_cards import Pictures

QUIET = {"show_progress": "hidden"}
SPREAD = ("weight", "weight_type", "composition_weight", "boost", "layer_weights")  # what the bars show


def models(resources: Resources) -> list[str]:
    return [NO_MODEL, *(entry.name for entry in resources.catalog.adapters)]


def hidden(elem_id: str, value: str = "", *, is_long: bool = False) -> gr.Textbox:
    """A text without line breaks that the page and its script exchange.

    One line is an input field, which costs the page less; some browsers cut its text off after 524,288 characters.
    It is not rendered: the panel does that with all of them at once, so that gradio puts them into one form.
    """
    box = gr.Textbox(value, max_lines=2 if is_long else 1, visible=False, elem_id=elem_id, render=False)
    box.do_not_save_to_config = True
    return box


def in_page(tab: str, function: str) -> dict[str, str]:
    """Settings of an event that the page's script answers: by ``function``, from its inputs' values."""
    return {"_js": f"(...values) => ipAdapter.{function}({tab!r}, values)"}


def note(sentence: str, *more: str) -> str:
    """Sentences as HTML for the line of notes."""
    return "".join(f"<div>{html.escape(text)}</div>" for text in (sentence, *more) if text)


class Editor:
    """``arguments`` are what the script gets at a press of Generate, and ``sheet.objects`` wants; ``targets`` is what
    ``filled`` speaks to; ``boxes`` are not rendered."""

    def __init__(self, tab: str, count: int, resources: Callable[[], Resources], notes: gr.HTML) -> None:
        self.tab, self.count, self.resources, self.notes = tab, count, resources, notes
        self._build()
        self._connect()

    @property
    def arguments(self) -> list[Any]:
        return [self.sheet, self.inbox, self.pictures, *self.controls.values()]

    @property
    def targets(self) -> list[Any]:
        return [self.sheet, self.pictures, *self.controls.values()]

    def _id(self, name: str) -> str:
        return f"{self.tab}_ip_adapter_{name}"

    # its components

    def _build(self) -> None:
        self.controls: dict[str, Any] = {}
        gr.HTML(self._tabs(), elem_id=self._id("units"))
        with gr.Row(elem_classes="ip-adapter-pictures"):
            gr.HTML(_slot(self.tab), elem_id=self._id("slot"), elem_classes="ip-adapter-slot-column")
            self.cards = gr.HTML("", elem_id=self._id("references"), elem_classes="ip-adapter-references")
        with gr.Row(elem_classes="ip-adapter-model"):
            self._add("model", "model", choices=models(self.resources()))
            self.refresh = ToolButton("\U0001f504", elem_id=self._id("refresh"), tooltip="Look for adapters again.")
            self._add("model", "enabled")
        self.details = gr.HTML("", elem_id=self._id("details"), elem_classes="ip-adapter-details")
        with gr.Row(elem_classes="ip-adapter-weight"):
            self._add("weight", "weight")
            self.wide = ToolButton("↔", elem_id=self._id("wide"), tooltip="Weights from −1 to 3 instead of 0 to 1.")
            self._add("weight")
        with gr.Accordion("Advanced", open=False, elem_id=self._id("advanced")):
            drawn = (control.drawn(self._id(control.field)) for control in PLAIN)
            gr.HTML(f"<div class='ip-adapter-grid'>{''.join(drawn)}</div>")
            with gr.Row(elem_classes="ip-adapter-where"):
                self.region = gr.HTML(refs.region(None), elem_id=self._id("region"))
                self.bars = gr.HTML(bars.drawn(None, 1.0, "linear", 1.0, None, None), elem_id=self._id("bars"))
        self.controls = {control.field: self.controls[control.field] for control in COMPONENTS}  # in the table's order
        self.sheet = hidden(self._id("sheet"), self._blank(self.count).text())
        self.inbox = hidden(self._id("inbox"), is_long=True)
        self.stamp, self.spread = hidden(self._id("stamp")), hidden(self._id("spread"))
        self.boxes = [self.sheet, self.inbox, self.stamp, self.spread]
        self.pictures = gr.State({})
        self.show, self.take = (gr.Button(name, visible=False, elem_id=self._id(name)) for name in ("show", "take"))

    @staticmethod
    def _blank(count: int) -> Sheet:
        return Sheet.blank(count, crop=options.default_crop())

    def _add(self, place: str, field: str | None = None, **settings: Any) -> None:
        """The components of a place that are not there yet, or the one of ``field``."""
        for control in COMPONENTS:
            if control.place == place and control.field not in self.controls and field in (None, control.field):
                component = control.build(self._id(control.field), **settings)
                component.do_not_save_to_config = control.field in UNSAVED
                self.controls[control.field] = component

    def _tabs(self) -> str:
        """The row of units; the page's script keeps it up to date, and finds here what it has to know."""
        facts = {"fields": [control.field for control in COMPONENTS], "narrow": NARROW, "wide": WIDE, "spread": SPREAD}
        return (
            f"<div class='ip-adapter-units' role='tablist' aria-label='Units' "
            f"data-facts='{html.escape(json.dumps(facts))}'></div>"
        )

    # what they do

    def _connect(self) -> None:
        own, script = list(self.controls.values()), partial(in_page, self.tab)
        model, weight, enabled = (self.controls[name] for name in ("model", "weight", "enabled"))
        self.show.click(None, [self.sheet, *own], [self.sheet, *own], **script("shown"))
        self.wide.click(None, [self.sheet, weight], [self.sheet, weight], **script("widened"))
        for event in (self.sheet.change, enabled.change):
            event(None, [self.sheet, enabled], weight, **script("changed"))
        model.change(None, None, None, **script("draw"))
        for component in (model, weight):
            component.change(None, None, None, **script("weighed"))
        self.spread.change(
            self._bars, [self.sheet, model, weight], self.bars, queue=False, **QUIET
        ).then(None, None, None, **script("barsDrawn"))  # fmt: skip
        self.stamp.change(
            self._drawn, [self.stamp, self.sheet, self.pictures, model],
            [self.cards, self.region, self.details], queue=False, **QUIET,
        ).then(None, None, None, **script("drawn"))  # fmt: skip
        self.take.click(
            self._taken, [self.inbox, self.sheet, self.pictures], [self.inbox, self.pictures, self.notes],
            queue=False, **QUIET,
        ).then(None, self.inbox, None, **script("taken"))  # fmt: skip
        self.refresh.click(self._look_again, [self.sheet, model], model).then(None, None, None, **script("draw"))

    def _drawn(self, mark: str, text: str, pictures: Pictures, model: str | None) -> tuple[Any, ...]:
        """What depends on pictures and files, newly drawn."""
        catalog, pictures, page = self.resources().catalog, pictures or {}, Sheet.parse(text)
        look = refs.Look(refs.encoder_size(named(model), catalog), page.unit.get("crop", refs.Look.crop))
        cards = refs.cards(page.items, pictures, look, mark)
        key = page.unit.get(sheet.REGION)
        region = refs.region(pictures.get(key) if key else None, missing=bool(key))
        return cards, region, self.describe(model)

    def _bars(self, text: str, model: str | None, weight: float) -> str:
        """The picture of the blocks' strengths; the reason while what is written down makes none."""
        shown, adapter = {**Sheet.parse(text).unit, "weight": weight}, named(model)
        settings = {name: BY_FIELD[name].read(shown.get(name, BY_FIELD[name].default)) for name in SPREAD}
        try:
            unit = Unit.parse({"enabled": False, **settings})
            base = self.resources().catalog.find(adapter).spec.base if adapter else None
        except IPAdapterError as error:
            return about_model.problem(error.detail)
        return bars.drawn(
            base, peak(unit.weight), unit.weight_type, unit.composition_weight, unit.boost, unit.layer_weights
        )  # fmt: skip

    @staticmethod
    def _taken(inbox: str, text: str, pictures: Pictures) -> tuple[Any, ...]:
        try:
            key, kept = sheet.take(text, inbox, pictures)
            return sheet.receipt(key), kept, gr.update()
        except IPAdapterError as error:
            return sheet.receipt(None), pictures, note(error.detail)

    def _look_again(self, text: str, model: str | None) -> Any:
        """The list of models after another look at the disk. Those in use stay in it even if they are gone."""
        self.resources().catalog.refresh()
        return gr.update(choices=self._choices([model, *(unit.get("model") for unit in Sheet.parse(text).units)]))

    def _choices(self, used: Sequence[str | None]) -> list[str]:
        there = models(self.resources())
        return [*there, *dict.fromkeys(name for name in map(named, used) if name and name not in there)]

    def describe(self, model: str | None) -> str:
        return about_model.about(named(model), self.resources().catalog)

    # units put into them

    def filled(self, units: Sequence[Mapping[str, Any] | None]) -> tuple[list[Any], list[str]]:
        """Values for ``targets`` that show these API objects and nothing else, and sentences on what cannot be shown.
        The first unit with a reference is shown."""
        made = self._blank(max(self.count, len(units)))
        kept: Pictures = {}
        notes: list[str] = []
        for number, unit in enumerate(units, 1):
            given, pictures, more = sheet.entry(unit, self.resources().catalog)
            made.units[number - 1].update(given)
            kept |= pictures
            notes += [f"Unit {number}: {sentence}" for sentence in more]
        made.shown = next((number for number, unit in enumerate(made.units, 1) if unit.get("images")), 1)
        return self._values(made, kept), notes

    def refilled(
        self, unit: Mapping[str, Any], text: str, pictures: Pictures, *values: Any
    ) -> tuple[list[Any], list[str]]:
        """As ``filled``, but only the unit that is shown becomes ``unit``. ``text``, ``pictures``: the page's."""
        made = Sheet.parse(text)
        made.units[made.shown - 1], more, notes = sheet.entry(unit, self.resources().catalog)
        kept = {key: picture for key, picture in (pictures or {}).items() if key in made.used()}
        return self._values(made, {**kept, **more}), notes

    def _values(self, made: Sheet, pictures: Pictures) -> list[Any]:
        shown = made.unit
        values = {name: shown.get(name, component.value) for name, component in self.controls.items()}
        choices = self._choices([unit.get("model") for unit in made.units])
        low, high = WIDE if shown.get("wide") else NARROW
        updates = {
            **values,
            "model": gr.update(choices=choices, value=values["model"]),
            "weight": gr.update(value=values["weight"], minimum=low, maximum=high),
        }
        return [made.text(), pictures, *updates.values()]


def _slot(tab: str) -> str:
    return (
        f"<div class='ip-adapter-slot' data-tab='{tab}' role='button' tabindex='0' aria-label='Add references' "
        "title='Drop, paste or click: the pictures become references of the unit that is shown.'>"
        "<span>Add references</span><small>drop, paste or click</small>"
        "<input type='file' accept='image/*' multiple hidden tabindex='-1'></div>"
    )
