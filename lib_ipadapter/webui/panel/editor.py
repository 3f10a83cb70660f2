"""The editor: one set of controls for all units of a tab, and the choice of the unit that they show.

What happens at a mere switch of units happens in the page's script alone, in one go with the state (panel_state.py).
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

from ...bases import SD15
from ...checkpoint.catalog import AUTO
from ...errors import IPAdapterError
from ...fields import meaningless
from ...flux_fields import NOT_NEGATIVE
from ...jobs.resources import Resources
from ...kinds import Wording
from ...reference import FOLDER, MAX_REFERENCES
from ...unit import Unit
from .. import ahead, options
from ..host.folders import EXTENSION
from ..host.page import LABELLED, SCRIPT, listing
from . import (
    advanced,
    block_strengths,
    download_card,
    folder_row,
    html_controls,
    look_row,
    model_line,
    other_files,
    panel_state,
    purpose_row,
    reference_cards,
    region_line,
)
from .controls import BY_FIELD, COMPONENTS, CURVE, NARROW, NO_MODEL, UNSAVED, WIDE, model_name
from .face_cards import face_look
from .model_choice import ModelChoice, Settled, exchanged
from .panel_entry import entry
from .panel_state import PanelState
from .picture_pool import HeldPictures, Intake, PagePictures, changed, now

QUIET = {"show_progress": "hidden"}
SEEN_BY = ("crop", "encoder", "resolution", "variant", "face_index")  # what the references' cards hang on
# What the picture of the blocks' strengths shows.
SPREAD = ("weight", CURVE, "weight_type", "composition_weight", "boost", "layer_weights")


def hidden(elem_id: str, value: str = "", *, is_long: bool = False) -> gr.Textbox:
    """A text without line breaks that the page and its script exchange.

    One line is an input field, which costs the page less; some browsers cut its text off after 524,288 characters.
    It is not rendered: the panel does that with all of them at once, so that gradio puts them into one form.
    """
    box = gr.Textbox(value, max_lines=2 if is_long else 1, visible=False, elem_id=elem_id, render=False)
    box.do_not_save_to_config = True
    return box


def in_page(tab: str, function: str, inputs: int | None = None) -> dict[str, str]:
    """Settings of an event that the page's script answers: by ``function``, from its inputs' values.

    gradio hands it those of the outputs, too, and gradio 4 puts what comes back into the wrong inputs where it is more
    than these and a state is not the last of them: ``inputs`` says how many there are.
    """
    end = "" if inputs is None else f".slice(0, {inputs})"
    return {SCRIPT: f"(...values) => ipAdapter.call({function!r}, ipAdapter.page.tabs.{tab}, values{end})"}


def note(sentence: str, *more: str) -> str:
    """Sentences as HTML for the line of notes."""
    return "".join(f"<div>{html.escape(text)}</div>" for text in (sentence, *more) if text)


def scripts_age() -> int:
    """When the scripts that the page loads later were last changed, in seconds: browsers keep no older ones."""
    return max((int(file.stat().st_mtime) for file in (EXTENSION / "javascript").glob("*/*.js")), default=0)


UNTICKED = (
    "IP-Adapter is not ticked, so the next picture is made without its references: tick it at the panel's head to use "
    "them."
)
LEFT_OUT = "IP-Adapter is not ticked: the next picture is made without its references."
LEFT_BEHIND = "References that were still on their way have been left behind: add them here again."
START_BUTTON = (
    "<button type='button' class='ip-adapter-start' title='Adds what img2img begins with as a reference; in tiled "
    "upscaling each tile sees itself, so that no face grows where there is none.'>Start picture</button>"
)
_DEFAULT_UNIT = Unit.parse({"enabled": False})


class Editor:
    """``arguments`` are what the script gets at a press of Generate, and ``panel_state.objects`` wants; ``targets`` is
    what ``filled`` speaks to; ``boxes`` are not rendered."""

    def __init__(self, tab: str, count: int, resources: Callable[[], Resources], notes: gr.HTML) -> None:
        self.tab, self.count, self.resources, self.notes = tab, count, resources, notes
        self._build()
        self._connect()

    @property
    def arguments(self) -> list[Any]:
        return [self.state, self.inbox, self.pictures, *self.controls.values()]

    @property
    def targets(self) -> list[Any]:
        return [self.state, self.pictures, *self.controls.values()]

    def _id(self, name: str) -> str:
        return f"{self.tab}_ip_adapter_{name}"

    # its components

    def _build(self) -> None:
        self.controls: dict[str, Any] = {}
        gr.HTML(self._tabs(), elem_id=self._id("units"))
        with gr.Row(elem_classes="ip-adapter-pictures"):
            gr.HTML(_drop_area(self.tab), elem_id=self._id("drop_area"), elem_classes="ip-adapter-drop-area-column")
            self.cards = gr.HTML("", elem_id=self._id("references"), elem_classes="ip-adapter-references")
        self.purposes = gr.HTML(purpose_row.drawn(), elem_id=self._id("purposes"))
        with gr.Row(elem_classes="ip-adapter-model"):
            blank = ModelChoice.present(self.resources()).blank()
            listed, model = self._choices([]), blank.get("model", NO_MODEL)
            self._add("model", "model", choices=listed, value=model)
            self.refresh = ToolButton("\U0001f504", elem_id=self._id("refresh"), tooltip="Look for adapters again.")
            self._add("model", "enabled")
        self.details = gr.HTML("", elem_id=self._id("details"), elem_classes="ip-adapter-details")
        with gr.Row(elem_classes="ip-adapter-weight"):
            self._add("weight", "weight")
            self.wide = ToolButton("↔", elem_id=self._id("wide"), tooltip=_ranges(WIDE))
            self._add("weight")
        with gr.Accordion("Advanced", open=False, elem_id=self._id("advanced")):
            gr.HTML(advanced.groups(self._id))
            # The page's script puts these into the groups.
            self.region = gr.HTML(region_line.drawn(PanelState.blank(1), {}), elem_id=self._id("region"))
            self.bars = gr.HTML(block_strengths.drawn(SD15.blocks, _DEFAULT_UNIT), elem_id=self._id("bars"))
        self.controls = {control.field: self.controls[control.field] for control in COMPONENTS}  # in the table's order
        self.state = hidden(self._id("state"), self._blank(self.count, blank).text())
        self.inbox = hidden(self._id("inbox"), is_long=True)
        self.stamp, self.spread = hidden(self._id("stamp")), hidden(self._id("spread"))
        self.boxes = [self.state, self.inbox, self.stamp, self.spread]
        self.pictures = gr.State({})
        self.show, self.take = (gr.Button(name, visible=False, elem_id=self._id(name)) for name in ("show", "take"))

    @staticmethod
    def _blank(count: int, model: Mapping[str, Any]) -> PanelState:
        return PanelState.blank(count, crop=options.default_crop(), **model)

    def _add(self, place: str, field: str | None = None, **settings: Any) -> None:
        """The components of a place that are not there yet, or the one of ``field``."""
        for control in COMPONENTS:
            if control.place == place and control.field not in self.controls and field in (None, control.field):
                component = control.build(self._id(control.field), **settings)
                component.do_not_save_to_config = control.field in UNSAVED
                self.controls[control.field] = component

    def _tabs(self) -> str:
        """The row of units; the page's script keeps it up to date, and finds here what it has to know."""
        facts = {
            "fields": [control.field for control in COMPONENTS], "narrow": NARROW, "wide": WIDE, "spread": SPREAD,
            "scripts": scripts_age(), "labelled": LABELLED, "crop": options.default_crop(),
            "references": MAX_REFERENCES, "positive": NOT_NEGATIVE, "ranges": [_ranges(WIDE), _ranges((0, WIDE[1]))],
        }  # fmt: skip
        return (
            f"<div class='ip-adapter-units' role='tablist' aria-label='Units' "
            f"data-facts='{html.escape(json.dumps(facts))}'></div>"
            f"{_left_out(self._id('unused'))}"
        ) + "".join(
            f"<div class='ip-adapter-lone ip-adapter-problem ip-adapter-note' data-part='{part}' role='status' hidden>"
            f"⚠ <span>{html.escape(sentence)}</span></div>"
            for part, (_, sentence) in panel_state.LONE.items()
        )

    # what they do

    def _connect(self) -> None:
        own, script = list(self.controls.values()), partial(in_page, self.tab)
        model, weight, enabled = (self.controls[name] for name in ("model", "weight", "enabled"))
        self.show.click(None, [self.state, *own], [self.state, *own], **script("units.answerShow"))
        self.wide.click(None, [self.state, weight], [self.state, weight], **script("units.answerWide"))
        shown = [self.state, enabled, model, weight]  # what says whether the shown unit takes part
        for event in (self.state.change, enabled.change):
            event(None, shown, weight, **script("units.answerChange"))
        model.change(None, [model, self.state], weight, **script("drawings.answerModel"))
        for component in (model, weight):
            component.change(None, shown, None, **script("drawings.answerStrength"))
        self.spread.change(
            self._bars, [self.state, model, weight], self.bars, queue=False, **QUIET
        ).then(None, None, None, **script("drawings.answerBars"))  # fmt: skip
        self.stamp.change(
            self._drawn, [self.stamp, self.state, self.pictures, model],
            [self.cards, self.region, self.details, self.notes, self.purposes], queue=False, **QUIET,
        ).then(None, model, model, **script("drawings.answerCards"))  # fmt: skip
        self.take.click(
            self._taken, [self.inbox, self.state, self.pictures, model], [self.inbox, self.pictures],
            queue=False, **QUIET,
        ).then(None, self.inbox, None, **script("pictures.answerTaken"))  # fmt: skip
        self.refresh.click(self._look_again, [self.state, model], [model, self.notes]).then(
            None, None, None, **script("drawings.answerList")
        )

    def _look(self, model: str | None, shown: Mapping[str, Any]) -> reference_cards.Look:
        """How the shown unit's references are seen."""
        settings: dict[str, Any] = {"model": model_name(model), "enabled": False}
        for name in SEEN_BY:
            settings[name] = BY_FIELD[name].read(shown.get(name, BY_FIELD[name].default))
        crop = str(shown.get("crop", reference_cards.Look.crop))
        catalog = self.resources().catalog
        size, family = (
            reference_cards.encoder_size(settings, catalog),
            reference_cards.encoder_family(settings["model"] or "", catalog),
        )
        try:
            faces = face_look(Unit.parse(settings, wording=Wording.PANEL), self.resources()) if model else None
        except IPAdapterError:
            faces = None
        return reference_cards.Look(size, crop, faces, family)

    def _drawn(self, stamp: str, text: str, held: HeldPictures | None, model: str | None) -> tuple[Any, ...]:
        """What depends on pictures and files, newly drawn; the page's script takes the units' models from it."""
        pictures, page = PagePictures(held), PanelState.parse(text)
        page.unit["model"] = model
        choice = ModelChoice.present(self.resources())
        settled = choice.settle(page)
        said = exchanged(settled, page, choice.topology)
        for one in settled:
            page.units[one.number - 1]["model"] = one.now
        model = page.unit["model"]
        if page.unit.get("enabled", True) and (shown := panel_state.shown_object(page, held)) is not None:
            ahead.encode(shown, self.tab)
        look = self._look(model, page.unit)
        cards = reference_cards.cards(page.items, pictures, look, stamp)
        encoder = _encoder_name(page.unit)
        name, catalog = model_name(model), self.resources().catalog
        # The card says what is missing, and gets it: no sentence beside it that tells to do so by hand.
        has_card = name is None and download_card.offered(name, catalog, encoder) is not None
        details = [
            "" if has_card else self.describe(model, encoder),
            download_card.card(name, catalog, encoder),
            other_files.rest(catalog, choice.topology),
            _for_page(page, settled, choice),
        ]
        region, purposes = region_line.drawn(page, pictures), purpose_row.drawn(choice)
        return cards, region, "".join(details), note(said) if said else gr.update(), purposes

    def _bars(self, text: str, model: str | None, weight: float) -> str:
        """The picture of the blocks' strengths; the reason while there is none, and those for the page's fields."""
        shown, adapter = {**PanelState.parse(text).unit, "weight": weight}, model_name(model)
        settings = {name: BY_FIELD[name].read(shown.get(name, BY_FIELD[name].default)) for name in SPREAD}
        try:
            spec = self.resources().catalog.find(adapter).spec if adapter else None
        except IPAdapterError as error:
            return model_line.problem(error.detail)
        for name in meaningless(Unit, spec.variant) if spec else ():
            if name in settings:
                settings[name] = BY_FIELD[name].setting.default
        return block_strengths.checked(block_strengths.blocks_of(spec), settings)

    def _taken(self, inbox: str, text: str, held: HeldPictures | None, model: str | None) -> tuple[Any, ...]:
        try:
            if key := panel_state.wanted(inbox):
                return panel_state.receipt(whole=reference_cards.enlarged(PagePictures(held).get(key))), gr.update()
            look = self._look(model, PanelState.parse(text).unit)
            taken, kept = panel_state.take(text, inbox, held, look)
            return panel_state.receipt(taken=taken), kept
        except IPAdapterError as error:
            return panel_state.receipt(problem=error.detail), gr.update()

    def _look_again(self, text: str, model: str | None) -> tuple[Any, str]:
        """The list of models after another look at the disk, and a note on what it has found. Models in use stay in
        the list even if they are gone."""
        catalog = self.resources().catalog
        before = other_files.files(catalog)
        catalog.refresh()
        found = other_files.found(before, catalog, ModelChoice.present(self.resources()).topology)
        used = [model, *(unit.get("model") for unit in PanelState.parse(text).units)]
        return gr.update(choices=listing(self._choices(used))), note(found)

    def _choices(self, used: Sequence[str | None]) -> list[str]:
        return ModelChoice.present(self.resources()).listed(used)

    def describe(self, model: str | None, encoder: str = AUTO) -> str:
        name, catalog = model_name(model), self.resources().catalog
        if name is None and (missing := ModelChoice.present(self.resources()).missing()) is not None:
            return model_line.problem(missing)
        return model_line.about(name, catalog, encoder)

    # units put into them

    def filled(
        self, units: Sequence[Mapping[str, Any] | None], held: HeldPictures | None = None
    ) -> tuple[list[Any], list[str]]:
        """Values for ``targets`` that show these API objects and nothing else, and sentences on what cannot be shown.
        The first unit with a reference is shown. ``held``: the page's pictures, which stay for an undo."""
        state = self._blank(max(self.count, len(units)), ModelChoice.present(self.resources()).blank())
        before = now(held)
        all_pictures = dict(before)
        notes: list[str] = []
        intake = Intake()
        for number, unit in enumerate(units, 1):
            given, pictures, more = entry(unit, self.resources().catalog, intake)
            if given:  # all of what is there goes
                state.units[number - 1] = given
            all_pictures |= pictures
            notes += [f"Unit {number}: {sentence}" for sentence in more]
        has = [bool(unit.get("images") or unit.get(FOLDER)) for unit in state.units]
        state.shown = has.index(True) + 1 if any(has) else 1
        return self._values(state, changed(held, before, state.kept(all_pictures))), notes

    def refilled(self, unit: Mapping[str, Any], text: str, held: HeldPictures | None) -> tuple[list[Any], list[str]]:
        """As ``filled``, but only the unit that is shown becomes ``unit``. ``text``, ``held``: the page's."""
        state, before = PanelState.parse(text), now(held)
        state.units[state.shown - 1] = {}
        others = state.still_used(before)
        state.units[state.shown - 1], more, notes = entry(unit, self.resources().catalog, Intake(others.values()))
        return self._values(state, changed(held, before, state.kept({**before, **more}))), notes

    def taken_over(
        self, text: str, values: Sequence[Any], sent: HeldPictures | None, held: HeldPictures | None
    ) -> tuple[list[Any] | None, list[str]]:
        """As ``filled``, with another tab's units: its state, what its controls have, and its pictures, of which those
        that are still on their way there stay behind. None where no unit has a reference."""
        state, there, before = PanelState.parse(text), now(sent), now(held)
        state.unit.update(zip(self.controls, values, strict=True))
        notes: list[str] = []
        for unit in state.units:
            come = [item for item in unit["images"] if item["key"] in there or not item.get("waiting")]
            if len(come) < len(unit["images"]) and not notes:
                notes.append(LEFT_BEHIND)
            unit["images"] = [{name: value for name, value in item.items() if name != "waiting"} for item in come]
        if not any(unit["images"] or unit.get(FOLDER) for unit in state.units):
            return None, notes
        pictures = changed(held, before, state.kept({**before, **state.still_used(there)}))
        return self._values(state, pictures), notes

    def _values(self, state: PanelState, pictures: HeldPictures) -> list[Any]:
        shown = state.unit
        values = {name: shown.get(name, component.value) for name, component in self.controls.items()}
        choices = self._choices([unit.get("model") for unit in state.units])
        low, high = WIDE if shown.get("wide") else NARROW
        updates = {
            **values,
            "model": gr.update(choices=listing(choices), value=values["model"]),
            "weight": gr.update(value=values["weight"], minimum=low, maximum=high),
        }
        return [state.text(), pictures, *updates.values()]


def _for_page(page: PanelState, settled: Sequence[Settled], choice: ModelChoice) -> str:
    """What the page's script takes up: each unit's model, and the list of models."""
    listed = choice.listed([unit.get("model") for unit in page.units])
    about = {"shown": page.shown, "units": settled, "choices": listed, "drawn": page.unit["model"]}
    return f"<div class='ip-adapter-settled' hidden{html_controls.attributes(data_settled=json.dumps(about))}></div>"


def _encoder_name(shown: Mapping[str, Any]) -> str:
    """The encoder that a unit in the page asks for."""
    return str(shown.get("encoder") or "").strip() or AUTO


def _ranges(there: tuple[float, float]) -> str:
    wide, narrow = (" … ".join(f"{limit:g}".replace("-", "−") for limit in limits) for limits in (there, NARROW))
    return f"Weights from {wide} instead of {narrow}."


def _left_out(elem_id: str) -> str:
    """The question about references that are in view, and left out. The page's script puts it below the head."""
    return (
        f"<div id='{elem_id}' class='ip-adapter-left-out ip-adapter-note' role='status' hidden>"
        f"<span class='ip-adapter-problem'>⚠ <span>{html.escape(LEFT_OUT)}</span></span>"
        "<button type='button' class='ip-adapter-use' title='Tick IP-Adapter'>Use them</button>"
        "<button type='button' class='ip-adapter-leave' title='Make pictures without them, and do not ask again'>"
        "Leave them out</button></div>"
    )


def _drop_area(tab: str) -> str:
    return (
        f"<div class='ip-adapter-drop-area' data-tab='{tab}' role='button' tabindex='0' aria-label='Add references' "
        "title='Drop, paste or click: the pictures become references of the unit that is shown.'>"
        "<span>Add references</span><small>drop, paste or click</small>"
        "<input type='file' accept='image/*,.safetensors' multiple hidden tabindex='-1'></div>"
        f"<button type='button' class='ip-adapter-looks-opener' aria-expanded='false' title='{look_row.OPENER}'>Looks"
        f"</button>{folder_row.opener()}"
        + (START_BUTTON if tab == "img2img" else "")
        + "<button type='button' class='ip-adapter-clear' title='Remove all of them' hidden>Remove all</button>"
    )
