"""The panel's line about ControlNet: its unit's picture as a reference, and units that go from one panel to the other.

What ControlNet's panel holds is read as it is by ControlNet at a press of *Generate*: in the page's table of events
stands which components a unit is made of, and by which function. What goes there is put into its components, as its
own pasted parameters are; which they are is the host's to know. Nothing of ControlNet is changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from gradio.context import Context
from modules import scripts
from modules.ui_components import FormRow

from ...encode.picture import decode
from ...errors import IPAdapterError, UnitError
from ...jobs.resources import Resources
from ...kinds import Wording
from ...unit import Unit
from .. import host, options
from ..host import ControlNet
from ..host.page import listing
from . import html_controls, panel_state
from .controls import CONTROLS, UNSAVED
from .editor import QUIET, Editor, in_page, note
from .picture_pool import HeldPictures
from .reference_cards import controlnet_name

if TYPE_CHECKING:
    from ..neighbours.controlnet import ControlNetUnitView

BUILT = "{}_send_to_extras"  # elem_id of a button that the host makes after all scripts' components


@dataclass(frozen=True)
class ReadableUnit:
    """How one of ControlNet's units can be read: ``function`` of the values of ``inputs``. ``components`` are those
    that it is filled by, by the names of its fields."""

    home: ControlNet
    function: Callable[..., Any]
    inputs: list[Any]
    components: dict[str, Any]

    @classmethod
    def of(cls, home: ControlNet, unit: Any) -> ReadableUnit | None:
        """``unit``: the component that is an argument of ControlNet's script."""
        for event in _events():
            if event.fn is not None and len(event.outputs) == 1 and event.outputs[0] is unit:
                inputs = list(event.inputs)
                return cls(home, event.fn, inputs, home.components(inputs, Context.root_block.blocks.values()))
        return None

    @property
    def switch(self) -> Any | None:
        """The tick that switches it on."""
        return self.components.get("enabled")


def _events() -> Iterable[Any]:
    """What the page does at which event, in the order in which it was told; gradio 4 numbers them."""
    events = Context.root_block.fns
    return events.values() if isinstance(events, Mapping) else events


def _runner(tab: str) -> Any:
    return scripts.scripts_img2img if tab == "img2img" else scripts.scripts_txt2img


def _script(tab: str) -> Any | None:
    """ControlNet's script in a tab, None where it is absent."""
    home = host.current().controlnet()
    return None if home is None else home.script(_runner(tab))


class ControlNetBar:
    """One line, folded. It waits for ``connect`` until ControlNet's components are there."""

    waiting: dict[str, ControlNetBar] = {}  # noqa: RUF012 (tab -> its bar; a tab is built anew on "Reload UI")

    def __init__(
        self, tab: str, editor: Editor, resources: Callable[[], Resources], notes: gr.HTML, tick: gr.Checkbox
    ) -> None:
        self.tab, self.editor, self.resources, self.notes, self.tick = tab, editor, resources, notes, tick

        def elem(name: str) -> str:
            return f"{tab}_ip_adapter_controlnet_{name}"

        def button(label: str, name: str, tip: str) -> gr.Button:
            return gr.Button(label, size="sm", min_width=120, elem_id=elem(name), tooltip=tip)

        with (
            gr.Accordion("ControlNet", open=False, elem_id=f"{tab}_ip_adapter_controlnet"),
            FormRow(elem_classes="ip-adapter-controlnet"),
        ):
            self.number = gr.Dropdown(
                [], label="ControlNet unit", min_width=120, elem_id=elem("unit"),
                tooltip="The tab of ControlNet's panel that the buttons are about.",
            )  # fmt: skip
            self.use = button(
                "Use its picture", "use",
                "Adds a reference: the picture that this ControlNet unit has when the generation starts.",
            )  # fmt: skip
            self.bring = button(
                "From ControlNet", "from", "Puts this ControlNet unit, an IP-Adapter, into the unit that is shown."
            )
            self.send = button(
                "To ControlNet", "to", "Puts the unit that is shown into this ControlNet unit, as an IP-Adapter."
            )
        self.number.do_not_save_to_config = True
        self.units: list[ReadableUnit | None] = []
        self.waiting[tab] = self

    @staticmethod
    def wanted(tab: str) -> bool:
        """Whether ControlNet is loaded."""
        return _script(tab) is not None

    @classmethod
    def after_component(cls, _component: Any, **kwargs: Any) -> None:
        """The host has made a component: with this one, those of all scripts are there."""
        for tab in [tab for tab in cls.waiting if kwargs.get("elem_id") == BUILT.format(tab)]:
            cls.waiting.pop(tab).connect()

    def connect(self) -> None:
        home, script = host.current().controlnet(), _script(self.tab)
        assert home is not None and script is not None  # it has just made the component that this waits for
        self.units = [ReadableUnit.of(home, one) for one in _runner(self.tab).inputs[script.args_from : script.args_to]]
        self.names = [controlnet_name(number).removeprefix("ControlNet ") for number in range(1, len(self.units) + 1)]
        self.number.choices, self.number.value = listing(self.names), next(iter(self.names), None)
        self.use.click(None, self.number, None, **in_page(self.tab, "references.answerControlNet"))
        own = [self.number, self.editor.state, self.editor.pictures, *self.editor.controls.values()]
        inputs = [*own, *(one for readable in self.units if readable is not None for one in readable.inputs)]
        self.bring.click(
            self._bring, inputs, [self.notes, self.tick, *self.editor.targets, *self._switches()], queue=False, **QUIET,
            **in_page(self.tab, "truth.askFromControlNet", len(inputs)),
        ).then(None, None, None, **in_page(self.tab, "truth.answerFromControlNet"))  # fmt: skip
        self.send.click(
            self._send, [self.number, *self.editor.arguments], [self.notes, *self._places()], queue=False, **QUIET
        )

    def _chosen(self, name: str) -> tuple[int, ReadableUnit]:
        """The number of the unit that is chosen, and how it is made. Raises UnitError where it cannot be read."""
        number = self.names.index(name) + 1 if name in self.names else 0
        readable = self.units[number - 1] if number else None
        if readable is None:
            raise UnitError("This version of ControlNet keeps its panel's values to itself: set the unit by hand.")
        return number, readable

    # from there

    def _bring(self, name: str, text: str, held: HeldPictures | None, *values: Any) -> list[Any]:
        """Values for the notes, the tick, the editor's targets and the switches of ControlNet's units. A unit that has
        something is not overwritten without a yes, which comes in the state's text as ``"replace"``."""
        from ..neighbours.controlnet.imports import imported  # not when the WebUI starts: most never press it

        own, values = values[: len(self.editor.controls)], values[len(self.editor.controls) :]
        nothing = [gr.update()] * (1 + len(self.editor.targets) + len(self._switches()))
        try:
            number, chosen = self._chosen(name)
            at = 0
            for readable in self.units[: number - 1]:
                at += len(readable.inputs) if readable is not None else 0
            unit = self._read(number, chosen, values[at : at + len(chosen.inputs)])
            translated = imported(unit, self.resources().catalog)
            if not json.loads(text).get("replace") and self._has_something(text, own):
                return [self._question(text, number), *nothing]
            shown, notes = self.editor.refilled(translated.settings, text, held)
        except IPAdapterError as error:
            return [note(error.detail), *nothing]
        switches, taken = self._switched_off(number, chosen, unit.enabled)
        said = note(taken, *translated.notes, *notes)
        return [said, True, *shown, *switches]

    def _has_something(self, text: str, own: tuple[Any, ...]) -> bool:
        """Whether the shown unit has pictures, or settings that are not as they begin, its model and tick aside."""
        unit = {**panel_state.PanelState.parse(text).unit, **dict(zip(self.editor.controls, own, strict=True))}
        begun = {"crop": options.default_crop()}
        fields = [control for control in CONTROLS if control.field not in UNSAVED]
        changed = (unit.get(one.field, one.default) != begun.get(one.field, one.default) for one in fields)
        return bool(unit.get("images") or unit.get(panel_state.REGION)) or any(changed)

    def _question(self, text: str, number: int) -> str:
        shown = panel_state.PanelState.parse(text).shown
        asked = f"Unit {shown} has references or settings of its own. Replace them by {controlnet_name(number)}?"
        return html_controls.question(
            lambda name: f"{self.tab}_ip_adapter_preset_{name}", asked, "Replace", {"do": "replace"}, is_named=False
        )

    def _switches(self) -> list[Any]:
        """Of each of its units that can be read and has one, the tick that switches it on."""
        found = (readable.switch for readable in self.units if readable is not None)
        return [one for one in found if one is not None]

    def _switched_off(self, number: int, chosen: ReadableUnit, is_on: bool) -> tuple[list[Any], str]:
        """Values for ``_switches`` that leave the ``chosen`` one off, and a sentence."""
        own, name = chosen.switch, controlnet_name(number)
        updates = [gr.update(value=False) if is_on and one is own else gr.update() for one in self._switches()]
        if not is_on:
            return updates, f"Taken from {name}."
        if own is None:
            return updates, f"Taken from {name}: disable it there, or both act."
        return updates, f"Taken from {name}, which is switched off there."

    @staticmethod
    def _read(number: int, readable: ReadableUnit, values: tuple[Any, ...]) -> ControlNetUnitView:
        from ..neighbours.controlnet import ControlNetUnitView

        try:
            unit = readable.function(*values)
        except Exception as error:  # ControlNet's own word on what its panel holds
            raise UnitError(f"{controlnet_name(number)} cannot be read: {error}") from None
        return ControlNetUnitView(readable.home, number, unit)

    # and there

    def _places(self) -> list[Any]:
        """Of each of its units that can be read, the components that it is filled by."""
        return [one for readable in self.units if readable is not None for one in readable.components.values()]

    def _send(self, name: str, *values: Any) -> list[Any]:
        nothing = [gr.update()] * len(self._places())
        try:
            number, chosen = self._chosen(name)
            if not chosen.home.is_complete(chosen.components):
                raise UnitError("This version of ControlNet has other controls in its panel: set the unit by hand.")
            given, notes = self._unit(panel_state.PanelState.parse(values[0]).shown, chosen.home, values)
        except IPAdapterError as error:
            return [note(error.detail), *nothing]
        updates = [
            gr.update(value=given[field]) if readable is chosen and field in given else gr.update()
            for readable in self.units if readable is not None
            for field in readable.components
        ]  # fmt: skip
        if chosen.home.habits.paints_regions:
            notes.append(
                "Masks and drawings that the unit had there still count, and its tab must be the one for one picture."
            )
        return [note(f"Put into {controlnet_name(number)}: disable the unit here, or both act.", *notes), *updates]

    def _unit(self, shown: int, home: ControlNet, values: tuple[Any, ...]) -> tuple[dict[str, Any], list[str]]:
        """The shown unit as values of ControlNet's components, and sentences on what could not come along."""
        from ..neighbours.controlnet.exports import exported

        settings = {**panel_state.objects(*values, complete=True)[shown - 1], "enabled": True}
        try:
            unit = Unit.parse(settings, wording=Wording.PANEL)
            if any(reference.controlnet is not None for reference in unit.references):
                raise UnitError("it takes a picture from ControlNet: put the picture itself into the unit.")
            if any(reference.start_picture for reference in unit.references):
                raise UnitError("it takes the start picture, which ControlNet does by itself: put a picture into it.")
            entry = self.resources().catalog.find(unit.model)
            translated = exported(unit, entry.spec, entry.path)
        except IPAdapterError as error:
            raise error.in_unit(shown) from None
        notes, given = list(translated.notes), dict(translated.settings)
        given["image"] = np.asarray(decode(unit.references[0].image))
        if len(unit.references) > 1 and home.habits.averages:
            notes.append(f"The first of its {len(unit.references)} references is there: add the others by hand.")
        if unit.region_mask is not None:
            notes.append("Its region mask is not there: set it by hand.")
        if given.pop("advanced_weighting", None) is not None:
            notes.append("Its weights of single layers are not there: ControlNet's panel makes them from a preset.")
        return home.shown(given), notes
