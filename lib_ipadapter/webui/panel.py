"""The panel: an accordion with presets and one tab for each unit, and how its values and the API's objects become
units."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from modules.infotext_utils import PasteField
from modules.ui_components import InputAccordion

from ..errors import IPAdapterError, UnitError
from ..generation import Resources
from ..unit import MAX_UNITS
from . import infotext, options
from . import references as refs
from .preset_bar import PresetBar, note
from .presets import Store
from .unit_tab import NAMES, NO_MODEL, UnitTab, hidden, models, named, stamp

NOT_SENT = "(no unit)"  # what an API slot holds when no client has put a unit there
SLOTS = MAX_UNITS + 1  # one more than allowed, so that an eleventh unit is noticed, not cut off by the host


# Values -> units


def _settings(values: tuple) -> dict[str, Any]:
    """One tab's values as an API object, its references possibly none."""
    settings = dict(zip(NAMES, values, strict=True))
    pictures = refs.for_api(refs.act(settings.pop("references") or [], settings.pop("act")))
    dropped = settings.pop("slot")  # generated before the page had moved it to the references
    if dropped is not None:
        pictures.append(dropped)
    return {**settings, "model": named(settings["model"]), "images": pictures}


def _tabs(values: tuple) -> list[dict[str, Any]]:
    size = len(NAMES)
    return [_settings(tuple(values[i : i + size])) for i in range(0, len(values), size)]


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
    tabs = _tabs(tuple(values))
    if not any(tab["images"] for tab in tabs):
        raise UnitError("IP-Adapter is ticked, but no unit has a reference picture: add one, or untick the panel.")
    return [tab if tab["images"] and tab["enabled"] else {"enabled": False} for tab in tabs]


def presets_units(values: tuple) -> list[dict[str, Any]]:
    """The tabs' values -> API objects for a preset: also what is not complete, without the empty tabs at the end."""
    tabs = _tabs(values)
    while tabs and not tabs[-1]["images"] and tabs[-1]["model"] is None:
        tabs.pop()
    return [{name: value for name, value in tab.items() if value is not None} for tab in tabs]


# The panel


@dataclass(frozen=True)
class Built:
    """What the script wants of the panel: its arguments, what pasted parameters go to, and what goes along when the
    WebUI sends a picture with its parameters from tab to tab."""

    components: list[Any]
    infotext_fields: list[PasteField]
    paste_field_names: list[str]


class Panel:
    def __init__(self, tab: str, resources: Callable[[], Resources], store: Callable[[], Store]) -> None:
        self.tab, self.resources, self.store = tab, resources, store
        self.slots = [gr.State(NOT_SENT) for _ in range(SLOTS)]
        with InputAccordion(False, label="IP-Adapter", elem_id=f"{tab}_ip_adapter") as self.tick:
            self.bar = PresetBar(tab, store)
            with gr.Tabs(elem_id=f"{tab}_ip_adapter_units"):
                self.units = [self._tab(number) for number in range(1, options.unit_count() + 1)]
            self.pasted = hidden(f"{tab}_ip_adapter_pasted")
            self.recheck = gr.Button("Look at the checkpoint", visible=False, elem_id=f"{tab}_ip_adapter_recheck")
            self.nothing = gr.Button("No picture", visible=False, elem_id=f"{tab}_ip_adapter_nothing")
            self.unload = gr.Button("Unload", visible=False, elem_id=f"{tab}_ip_adapter_unload")
        self.tick.do_not_save_to_config = True
        self._connect()

    def _tab(self, number: int) -> UnitTab:
        with gr.Tab(f"Unit {number}", id=f"unit{number}", elem_id=f"{self.tab}_ip_adapter_unit_{number}"):
            return UnitTab(self.tab, number, self.resources)

    @property
    def controls(self) -> list[Any]:
        return [component for unit in self.units for component in unit.controls.components()]

    @property
    def targets(self) -> list[Any]:
        return [self.tick, *(target for unit in self.units for target in unit.targets)]

    def _connect(self) -> None:
        quiet = {"show_progress": "hidden"}
        self.bar.connect(self.controls, presets_units, self.targets, self.filled)
        self.pasted.change(self.paste, self.pasted, [self.bar.note, *self.targets], **quiet)
        choices = [unit.controls.model for unit in self.units]
        for unit in self.units:
            unit.refresh.click(self._look_again, choices, choices)
        self.recheck.click(
            lambda *names: _plain([u.describe(n) for u, n in zip(self.units, names, strict=True)]),
            choices, [unit.details for unit in self.units], **quiet,
        )  # fmt: skip
        self.nothing.click(lambda: gr.Warning("There is no picture to send: make or choose one first."), **quiet)
        self.unload.click(self._unload, **quiet)

    # what it does

    def filled(self, objects: list[Mapping[str, Any]]) -> tuple[list[Any], list[str]]:
        """Values for ``targets`` that show these units and nothing else, and sentences on what cannot be shown."""
        values, notes = [], []
        for unit in self.units:
            settings = objects[unit.number - 1] if unit.number <= len(objects) else None
            shown, more = unit.filled(settings)
            values += shown
            notes += more
        if len(objects) > len(self.units):
            notes.append(
                f"Only the first {len(self.units)} of {len(objects)} units have a tab here: "
                "raise the number of units in Settings, IP-Adapter."
            )
        return [True, *values], notes

    def paste(self, text: str) -> list[Any]:
        """Entries of a picture's parameters, as ``_read`` has packed them -> values for the notes and ``targets``."""
        entries = json.loads(text)["entries"] if text else {}
        objects, notes = infotext.restored(entries, self._picture)
        if not objects:  # a picture made without us
            return ["", False, *[gr.update()] * (len(self.targets) - 1)]
        values, more = self.filled(objects)
        return [note("Restored from the parameters.", *notes, *more), *values]

    def _picture(self, mark: str) -> Any:
        try:
            return self.store().picture(mark)
        except IPAdapterError:
            return None

    @staticmethod
    def _read(params: Mapping[str, Any]) -> Any:
        """A picture's parameters, for the box in which they wait for ``paste``; None (no change) for a mere prompt."""
        entries = infotext.entries(params)
        if not entries and "Steps" not in params:
            return None
        return gr.update(value=json.dumps({"entries": entries, "stamp": stamp()}))

    def _look_again(self, *chosen: str) -> Any:
        """Every unit's list of models after another look at the disk; what was chosen stays if it is still there."""
        self.resources().catalog.refresh()
        names = models(self.resources())
        return _plain([gr.update(choices=names, value=name if name in names else NO_MODEL) for name in chosen])

    def _unload(self) -> None:
        self.resources().unload()
        gr.Info("IP-Adapter has let go of its adapters, the image encoder and all encoded references.")

    def built(self) -> Built:
        """References go along with their stamp, which has them drawn where they arrive."""
        travelling = {f"IP-Adapter panel {self.tick.label}": self.tick}
        for unit in self.units:
            names = [*NAMES, "stamp"]
            components = [*unit.controls.components(), unit.stamp]
            travelling |= {
                f"IP-Adapter panel {unit.number} {name}": component
                for name, component in zip(names, components, strict=True) if name != "slot"
            }  # fmt: skip
        fields = [PasteField(component, name) for name, component in travelling.items()]
        return Built(
            [*self.slots, self.tick, *self.controls], [PasteField(self.pasted, self._read), *fields], list(travelling)
        )


def _plain(values: list[Any]) -> Any:
    """As gradio wants them: one value bare, several as a list."""
    return values if len(values) > 1 else values[0]


def build(tab: str, resources: Callable[[], Resources], store: Callable[[], Store]) -> Built:
    """Build the panel in ``tab`` ("txt2img" or "img2img")."""
    return Panel(tab, resources, store).built()
