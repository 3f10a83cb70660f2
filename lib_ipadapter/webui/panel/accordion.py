"""The panel: an accordion with presets and the units' editor, and how its values and the API's objects become units."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from modules.infotext_utils import PasteField
from modules.ui_components import InputAccordion

from ... import infotext
from ...errors import IPAdapterError, UnitError
from ...jobs.resources import Resources
from ...kinds import Wording
from ...presets.store import Store
from ...unit import MAX_UNITS
from .. import ahead, face_install, looks, options, process, reference_folders
from ..guards import refuse_other_pages
from . import download_card, model_choice, panel_state
from .controlnet_bar import ControlNetBar
from .editor import QUIET, UNTICKED, Editor, hidden, in_page, note
from .picture_pool import HeldPictures
from .preset_bar import PresetBar
from .shelf import ShelfBox

log = logging.getLogger("ip-adapter")

SOURCE = "txt2img"  # the tab from which the host sends pictures, and what belongs to them, to img2img
NOT_SENT = "(no unit)"  # what stands in a place of the API where no client has put a unit
API_PLACES = MAX_UNITS + 1  # one more than allowed, so that an eleventh unit is noticed, not cut off by the host


# Values -> units


def units(args: tuple[Any, ...], *, is_api: bool = False, brought: Collection[int] = ()) -> list[object]:
    """The script's arguments -> API objects, numbered by their place.

    A client's units fill the first arguments. Without any, and with the panel ticked, the panel's count; those without
    a reference keep their number as disabled units, and those without a model get one. Without either, those of the
    parameters that a client of the API has sent as ``infotext`` (in the page, pasted parameters go into the panel).
    None where the arguments are not ours (``are_ours``).
    The units whose numbers are ``brought`` need no reference, because they get one. Raises UnitError where none has a
    reference, where one has something else in the place of references, or where one's pictures are not there.
    """
    if not are_ours(args):
        log.debug("IP-Adapter: a job without arguments of ours goes on without it.")
        return []
    if sent := _sent(args):
        return sent
    pasted, tick, *values = args[API_PLACES:]
    if tick is not True:
        return _restored(pasted) if is_api else []
    shown = panel_state.objects(*values)
    _check_lone(shown, brought)
    model_choice.complete(shown, panel_state.PanelState.parse(values[0]), process.resources())
    model_choice.leave_out_hidden(shown, process.resources())
    have = [bool(unit["images"]) or number in brought for number, unit in enumerate(shown, 1)]
    if not any(have):
        raise UnitError("IP-Adapter is ticked, but no unit has a reference picture: add one, or untick the panel.")
    return [unit if has and unit["enabled"] else {"enabled": False} for unit, has in zip(shown, have, strict=True)]


def _check_lone(units: Sequence[Mapping[str, Any]], brought: Collection[int]) -> None:
    """Raises UnitError (unit named) for one that is enabled and has negative references, or a picture for the pose, and
    no reference: a plain picture would be made beside them."""
    for number, unit in enumerate(units, 1):
        if not unit["enabled"] or unit["images"] or number in brought:
            continue
        for field, sentence in panel_state.LONE.values():
            if field in unit:
                raise UnitError(f"it has {sentence[0].lower()}{sentence[1:]}").in_unit(number)


def wording(args: tuple[Any, ...]) -> Wording:
    """Whose words sentences about the units of ``units(args)`` use: the panel's if it holds them."""
    of_panel = are_ours(args) and not _sent(args) and args[API_PLACES + 1] is True
    return Wording.PANEL if of_panel else Wording.API


def left_out(args: tuple[Any, ...]) -> bool:
    """Whether the page has references that are ready to be used, and the panel is not ticked."""
    if not are_ours(args) or _sent(args):
        return False
    tick, text, _, _, *values = args[API_PLACES + 1 :]
    return tick is not True and panel_state.is_ready(text, *values)


def are_ours(args: tuple[Any, ...]) -> bool:
    """Whether the arguments are such as the page and the API give. Other extensions make jobs with the host's runner of
    scripts, for which they give no arguments, or fill the places of those that they do not know with nothing."""
    if len(args) < API_PLACES + 2 and not any(isinstance(one, Mapping) for one in args[:API_PLACES]):
        return False
    return not all(one is None or (isinstance(one, (int, float, str)) and not one) for one in args)


def _sent(args: tuple[Any, ...]) -> list[object]:
    """What a client has sent, up to the last place that it has filled."""
    places = args[:API_PLACES]
    filled = [i for i, place in enumerate(places) if place != NOT_SENT]
    return list(places[: filled[-1] + 1]) if filled else []


def presets_units(values: tuple[Any, ...]) -> list[dict[str, Any]]:
    """The editor's values -> API objects for a preset: also what is not complete, without the empty units at the end,
    for which nobody has chosen a model.

    Raises UnitError where a unit's pictures are not there.
    """
    units = panel_state.objects(*values, complete=True)
    model_choice.leave_out_hidden(units, process.resources())
    shown = panel_state.PanelState.parse(values[0]).units
    while units and not units[-1]["images"] and model_choice.is_own(shown[len(units) - 1], units[-1].get("model")):
        units.pop()
    return units


def _restored(pasted: str) -> list[object]:
    """The units of pasted parameters, whole. Raises UnitError for what cannot be restored."""
    units, notes = _from_parameters(pasted, process.store())
    if notes:
        raise UnitError(f"IP-Adapter: the infotext's units cannot be restored as they were. {' '.join(notes)}")
    return list(units)


def _from_parameters(pasted: str, store: Store) -> tuple[list[dict[str, Any]], list[str]]:
    """As ``infotext.restored``, from what ``Panel._read`` has written; nothing yet is no unit."""

    def picture(content_hash: str) -> Any:
        try:
            return store.picture(content_hash)
        except IPAdapterError:
            return None

    return infotext.restored(
        json.loads(pasted)["entries"] if pasted else {}, picture, looks.as_picture, reference_folders.pasted()
    )


# The panel


@dataclass(frozen=True)
class BuiltPanel:
    """What the script wants of the panel: its arguments, what pasted parameters go to, and what goes along when the
    WebUI sends a picture with its parameters from tab to tab."""

    components: list[Any]
    infotext_fields: list[PasteField]
    paste_field_names: list[str]


class Panel:
    def __init__(self, tab: str, resources: Callable[[], Resources], store: Callable[[], Store]) -> None:
        self.tab, self.resources, self.store = tab, resources, store
        self.api_places = [gr.State(NOT_SENT)] * API_PLACES  # one component is enough: the page never sets it
        with InputAccordion(False, label="IP-Adapter", elem_id=f"{tab}_ip_adapter") as self.tick:
            self.bar = PresetBar(tab, store)
            self.shelf = ShelfBox(tab, store)
            self.editor = Editor(tab, options.unit_count(), resources, self.bar.note)
            if ControlNetBar.wanted(tab):
                ControlNetBar(tab, self.editor, resources, self.bar.note, self.tick)
            self.pasted = hidden(f"{tab}_ip_adapter_pasted")
            # Where what the host copies from ``SOURCE`` waits for ``take_over``: a place for each of ``targets``, the
            # state's in the page.
            self.sent: list[Any] = []
            if tab != SOURCE:
                box = hidden(f"{tab}_ip_adapter_sent")
                self.sent = [gr.State(None), box, *(gr.State(None) for _ in self.targets[2:])]
            for box in (*self.bar.boxes, *self.editor.boxes, self.shelf.box, self.pasted, *self.sent[1:2]):
                box.render()
            if tab == "txt2img":  # all pages press these
                download_card.add_button()
                self._button("unload", self._unload)
                self._install_button()
                self._button("nothing", self._nothing)
                self._button("unticked", lambda: gr.Warning(UNTICKED))
        self.tick.do_not_save_to_config = True
        self.shelf.connect(self.editor)
        self._connect()

    @property
    def targets(self) -> list[Any]:
        return [self.tick, *self.editor.targets]

    def _connect(self) -> None:
        self.bar.connect(
            self.editor.arguments, presets_units, self.targets, lambda units, values: self.filled(units, values[2])
        )
        self.tick.change(None, self.tick, None, **in_page(self.tab, "units.answerTick"))
        pasting = in_page(self.tab, "undo.answerPasting")
        pages = [self.pasted, self.editor.pictures]
        come = in_page(self.tab, "undo.answerCome")
        self.pasted.change(self.paste, pages, [self.bar.note, *self.targets], **pasting, **QUIET).then(
            None, None, None, **come
        )
        for box in self.sent[1:2]:
            inputs = [*self.sent, self.editor.pictures]
            box.change(
                self.take_over, inputs, [box, self.bar.note, *self.targets], queue=False,
                **in_page(self.tab, "undo.answerSending", len(inputs)), **QUIET,
            ).then(None, None, None, **come)  # fmt: skip

    def _button(self, name: str, function: Callable[[], None]) -> None:
        button = gr.Button(name, visible=False, elem_id=f"{self.tab}_ip_adapter_{name}")
        button.click(function, **QUIET)

    def _install_button(self) -> None:
        """Events that pass gradio's queue by say where they come from, and those in it can tell what goes on: a press
        is one of each. What the first has found waits in the page's session, which the server has."""
        button = gr.Button("install_faces", visible=False, elem_id=f"{self.tab}_ip_adapter_install_faces")
        may = gr.State(False)
        button.click(self._check, None, may, queue=False, **QUIET).success(self._install_faces, may, **QUIET)

    # what it does

    def filled(
        self, objects: Sequence[Mapping[str, Any]], held: HeldPictures | None = None
    ) -> tuple[list[Any], list[str]]:
        """Values for ``targets`` that show these units and nothing else, and sentences on what cannot be shown.
        ``held``: the page's pictures, which stay for an undo."""
        values, notes = self.editor.filled(objects, held)
        return [True, *values], notes

    def paste(self, text: str, held: HeldPictures | None = None) -> list[Any]:
        """Entries of a picture's parameters, as ``_read`` has written them -> values for the notes and ``targets``.
        ``held``: the page's pictures."""
        objects, notes = _from_parameters(text, self.store())
        if not objects:  # a picture made without us
            return ["", False, *[gr.update()] * (len(self.targets) - 1)]
        values, more = self.filled(objects, held)
        return [note("Restored from the parameters.", *notes, *more), *values]

    def take_over(self, tick: Any, text: str, sent: HeldPictures | None, *more: Any) -> list[Any]:
        """What the host has copied from ``SOURCE``, and the page's pictures here -> values for the box in which it has
        come, the notes and ``targets``. Nothing changes where the panel is not in use there."""
        *values, held = more
        same = [gr.update()] * len(self.targets)
        if not text:
            return [gr.update(), gr.update(), *same]
        if tick is not True:
            return ["", gr.update(), *same]
        try:
            shown, notes = self.editor.taken_over(text, values, sent, held)
        except IPAdapterError as error:
            return ["", note(error.detail), *same]
        if shown is None:
            return ["", note(*notes) if notes else gr.update(), *same]
        return ["", note(f"Taken from {SOURCE}.", *notes), True, *shown]

    @staticmethod
    def _read(params: Mapping[str, Any]) -> Any:
        """A picture's parameters, for the box in which they wait for ``paste``; None (no change) for a mere prompt.
        A client's ``infotext`` comes this way too. The stamp makes the same parameters, pasted again, a change."""
        entries = infotext.entries(params)
        if not entries and "Steps" not in params:
            return None
        return gr.update(value=json.dumps({"entries": entries, "stamp": secrets.token_hex(8)}))

    def _unload(self) -> None:
        ahead.worker().drop()
        self.resources().unload()
        process.faces().end()
        gr.Info("IP-Adapter has let go of its adapters, the image encoder and all encoded references.")

    @staticmethod
    def _check(request: gr.Request) -> bool:
        """Whether the page may have something installed: True, or an error."""
        try:
            refuse_other_pages(request)
        except IPAdapterError as error:
            raise gr.Error(f"IP-Adapter: {error.detail}") from None
        return True

    @staticmethod
    def _install_faces(may: bool) -> None:
        """``may``: what ``_check`` has found."""
        if not may:
            raise gr.Error("IP-Adapter: press “Install face analysis” in the settings again.")
        gr.Info("IP-Adapter is installing face analysis; this takes a minute or two. The console says how far it is.")
        try:
            face_install.install()
        except IPAdapterError as error:
            raise gr.Error(f"IP-Adapter: {error.detail}") from None
        gr.Info("IP-Adapter has installed face analysis. No restart is needed.")

    @staticmethod
    def _nothing() -> None:
        gr.Warning("There is no picture to send: make or choose one first.")

    def built(self) -> BuiltPanel:
        names = ["ticked", "state", "pictures", *self.editor.controls]
        # No parameter in a picture can have a name with brackets: these go from tab to tab alone.
        travelling = dict(zip((f"IP-Adapter panel [{name}]" for name in names), self.targets, strict=True))
        fields = [PasteField(component, name) for name, component in travelling.items()]
        return BuiltPanel(
            [*self.api_places, self.pasted, self.tick, *self.editor.arguments],
            [PasteField(self.pasted, self._read), *self._places(fields)],
            list(travelling),
        )

    def _places(self, fields: list[PasteField]) -> list[PasteField]:
        """The host copies as it is what has the same name in two tabs: here it would replace all that there is."""
        if not self.sent:
            return fields
        return [PasteField(place, name) for place, (_, name) in zip(self.sent, fields, strict=True)]


def build(tab: str, resources: Callable[[], Resources], store: Callable[[], Store]) -> BuiltPanel:
    """Build the panel in ``tab`` ("txt2img" or "img2img")."""
    return Panel(tab, resources, store).built()
