"""The panel: an accordion with one tab for each unit, and how its values and the API's objects become units."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion, ToolButton

from ..encode.picture import decode
from ..errors import IPAdapterError, PictureError, UnitError
from ..generation import Resources
from ..unit import CHOICES, MAX_UNITS
from . import options
from .api import encoder_wanted

NOT_SENT = "(no unit)"  # what an API slot holds when no client has put a unit there
NO_MODEL = "None"
SLOTS = MAX_UNITS + 1  # one more than allowed, so that an eleventh unit is noticed, not cut off by the host


@dataclass
class UnitControls:
    """One tab's components; the order of the fields is the order of the script's arguments."""

    slot: gr.Image
    references: gr.State
    model: gr.Dropdown
    weight: gr.Slider
    start: gr.Slider
    end: gr.Slider
    combine: gr.Dropdown
    hires: gr.Radio
    batch: gr.Radio

    def components(self) -> list[Any]:
        return [getattr(self, f.name) for f in fields(self)]


NAMES = [f.name for f in fields(UnitControls)]


def _panel_unit(values: tuple) -> dict[str, Any] | None:
    """One tab's values as an API object; None for a tab without a picture, which is off."""
    settings = dict(zip(NAMES, values, strict=True))
    pictures = list(settings.pop("references") or [])
    dropped = settings.pop("slot")  # generated before the page had moved it to the references
    if dropped is not None:
        pictures.append(dropped)
    if not pictures:
        return None
    if settings["model"] in (None, "", NO_MODEL):
        settings["model"] = None
    return {**settings, "images": pictures}


def units(args: tuple) -> list[object]:
    """The script's arguments -> API objects, numbered by their place.

    A client's units fill the first arguments. Without any, and with the panel ticked, the tabs count; tabs without a
    picture keep their number as disabled units.
    """
    slots, (tick, *values) = args[:SLOTS], args[SLOTS:]
    sent = [i for i, slot in enumerate(slots) if slot != NOT_SENT]
    if sent:
        return list(slots[: sent[-1] + 1])
    if tick is not True:
        return []
    size = len(NAMES)
    tabs = [_panel_unit(tuple(values[i : i + size])) for i in range(0, len(values), size)]
    if not any(tabs):
        raise UnitError("IP-Adapter is ticked, but no unit has a reference picture: add one, or untick the panel.")
    return [tab or {"enabled": False} for tab in tabs]


def _describe(resources: Resources, name: str | None) -> str:
    """What an adapter is, as a line of HTML for under the list."""
    if name in (None, "", NO_MODEL):
        return ""
    try:
        spec = resources.catalog.find(name).spec
    except IPAdapterError as error:
        return f"<span class='ip-adapter-problem'>{html.escape(error.detail)}</span>"
    parts = [spec.variant, spec.base, f"fed by {encoder_wanted(spec)}", f"{spec.tokens} tokens"]
    return html.escape(" · ".join(parts))


def _names(resources: Resources) -> list[str]:
    return [NO_MODEL, *(entry.name for entry in resources.catalog.adapters)]


def _unit_tab(tab: str, number: int, resources: Callable[[], Resources]) -> tuple[UnitControls, Any]:
    """One unit's tab; its controls, and the button that looks for models again."""

    def elem(name: str) -> str:
        return f"{tab}_ip_adapter_{number}_{name}"

    with gr.Row(equal_height=True):
        slot = gr.Image(
            label="Add a reference (drop, paste or click)", type="pil", source="upload",
            image_mode=None,  # as it is: gradio would clip 16-bit pictures
            height=180, elem_id=elem("slot"), elem_classes="ip-adapter-slot",
        )  # fmt: skip
        gallery = gr.Gallery(
            label="References", columns=3, height=180, object_fit="contain", preview=False, allow_preview=False,
            show_download_button=False, elem_id=elem("references"), elem_classes="ip-adapter-references",
        )  # fmt: skip
    references, chosen = gr.State([]), gr.State(None)
    with gr.Row(elem_classes="ip-adapter-reference-buttons"):
        remove = gr.Button("Remove selected", size="sm", elem_id=elem("remove"))
        clear = gr.Button("Remove all", size="sm", elem_id=elem("clear"))
    with gr.Row():
        model = gr.Dropdown(_names(resources()), value=NO_MODEL, label="Model", elem_id=elem("model"), scale=4)
        refresh = ToolButton("\U0001f504", elem_id=elem("refresh"), tooltip="Look for adapters again")
    details = gr.HTML("", elem_id=elem("details"), elem_classes="ip-adapter-details")
    with gr.Row():
        weight = gr.Slider(0, 1, 1.0, step=0.05, label="Weight", elem_id=elem("weight"), scale=4)
        wide = ToolButton("↔", elem_id=elem("wide"), tooltip="Weight from −1 to 3 instead of 0 to 1")
        start = gr.Slider(0, 1, 0.0, step=0.01, label="Start", elem_id=elem("start"), scale=2)
        end = gr.Slider(0, 1, 1.0, step=0.01, label="End", elem_id=elem("end"), scale=2)
    with gr.Accordion("More", open=False, elem_id=elem("more")), gr.Row():
        combine = gr.Dropdown(list(CHOICES["combine"]), value="concat", label="Combine references")
        hires = gr.Radio(list(CHOICES["hires"]), value="both", label="Passes of hires fix")
        batch = gr.Radio(list(CHOICES["batch"]), value="same", label="References in a batch")

    def add(picture: Any, pictures: list) -> tuple:
        try:
            pictures = [*pictures, decode(picture)] if picture is not None else pictures
        except PictureError as error:
            gr.Warning(error.detail)
        return None, pictures, pictures, None

    def drop(index: int | None, pictures: list) -> tuple:
        pictures = [p for i, p in enumerate(pictures) if i != index]
        return pictures, pictures, None

    def select(event: gr.SelectData) -> int:
        return event.index

    slot.upload(add, [slot, references], [slot, references, gallery, chosen], show_progress="hidden")
    gallery.select(select, None, chosen, show_progress="hidden")
    remove.click(drop, [chosen, references], [references, gallery, chosen], show_progress="hidden")
    clear.click(lambda: ([], [], None), None, [references, gallery, chosen], show_progress="hidden")
    model.change(lambda name: _describe(resources(), name), model, details, show_progress="hidden")

    is_wide = gr.State(False)

    def widen(wide_now: bool, value: float) -> tuple:
        if wide_now:
            return gr.update(minimum=0, maximum=1, value=min(1, max(0, value))), False
        return gr.update(minimum=-1, maximum=3), True

    wide.click(widen, [is_wide, weight], [weight, is_wide], show_progress="hidden")
    return UnitControls(slot, references, model, weight, start, end, combine, hires, batch), refresh


def _look_again(resources: Callable[[], Resources], chosen: tuple[str, ...]) -> list[Any]:
    """Every unit's list of models after another look at the disk; what was chosen stays if it is still there."""
    resources().catalog.refresh()
    names = _names(resources())
    updates = [gr.update(choices=names, value=name if name in names else NO_MODEL) for name in chosen]
    return updates if len(updates) > 1 else updates[0]


def build(tab: str, resources: Callable[[], Resources]) -> list[Any]:
    """Build the panel in ``tab`` ("txt2img" or "img2img"); returns the script's argument components."""
    slots = [gr.State(NOT_SENT) for _ in range(SLOTS)]
    with InputAccordion(False, label="IP-Adapter", elem_id=f"{tab}_ip_adapter") as tick, gr.Tabs(
        elem_id=f"{tab}_ip_adapter_units"
    ):
        tabs = []
        for number in range(1, options.unit_count() + 1):
            with gr.Tab(f"Unit {number}", elem_id=f"{tab}_ip_adapter_unit_{number}"):
                tabs.append(_unit_tab(tab, number, resources))
    controls = [unit for unit, _ in tabs]
    models = [unit.model for unit in controls]
    for _, refresh in tabs:
        refresh.click(lambda *chosen: _look_again(resources, chosen), models, models)
    tick.do_not_save_to_config = True
    for control in controls:
        control.model.do_not_save_to_config = True
    return [*slots, tick, *(component for control in controls for component in control.components())]
