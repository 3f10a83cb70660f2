"""The bar over the units: presets and kept generations are chosen, loaded, saved, renamed, deleted, exported and
imported here. What needs a name or a yes is asked for in the line of notes below the bar.

Buttons and questions are plain HTML. The page's script writes what is wanted into a hidden box:
``{"ask": action}`` for a question, ``{"do": action, "name": …, "about": …}`` for what is answered with a yes, and
``{"do": "load"}``, ``"export"``, ``"cancel"`` or what purpose_row.py and look_row.py say, each with a stamp that makes
it another text than the one before. What is loaded from the shelf (shelf.py) has its name in the order.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from ...errors import IPAdapterError
from ...presets.store import PresetExists, Store
from ..guards import refuse_other_pages
from ..host.page import listing
from . import html_controls, look_row, purpose_row
from .editor import QUIET, hidden, in_page, note
from .exchanged_files import ExchangedFiles
from .panel_state import PanelState

RECENT = "Recent / "  # before a kept generation's name in the list; no name can have that slash
EXPORT = "ip-adapter-presets.zip"
TOOLS = (  # sign, name, order, tip
    ("📂", "load", {"do": "load"}, "Load the chosen preset into the units"),
    ("💾", "save", {"ask": "save"}, "Save all units as a preset"),
    ("✏️", "rename", {"ask": "rename"}, "Rename the chosen preset"),
    ("🗑️", "delete", {"ask": "delete"}, "Delete the chosen preset"),
    ("📤", "export", {"do": "export"}, "Export the chosen preset to a file, or all if none is chosen"),
    ("📥", "import", None, "Import presets from a file"),
)

SHELF = "Presets, recent generations and references used lately, as pictures"

# action -> (question about a preset, and its new name; button)
QUESTIONS = {
    "save": ("Save all units as", "Save"),
    "overwrite": ("“{name}” exists. Overwrite it?", "Overwrite"),
    "rename": ("Rename “{about}” to", "Rename"),
    "rename over": ("“{name}” exists. Overwrite it?", "Overwrite"),
    "delete": ("Delete “{about}”?", "Delete"),
    "import over": ("The file has presets that exist here. Overwrite them?", "Overwrite"),
}
NAMED = ("save", "rename")  # these want a name
READING = ("load", "export", look_row.EXPORT, "cancel")  # these change nothing that is kept
CHOOSE = "Choose a preset first."


def name_of(chosen: str | None) -> str:
    return (chosen or "").removeprefix(RECENT)


class PresetBar:
    """``connect`` gives it what it saves from and loads into, once the editor exists. ``boxes`` are not rendered."""

    def __init__(self, tab: str, store: Callable[[], Store]) -> None:
        self.tab, self.store = tab, store
        with gr.Row(elem_classes="ip-adapter-presets"):
            # The names come when somebody opens the list: reading them all would delay the WebUI's start.
            self.chosen = gr.Dropdown(
                [], value=None, label="Preset", elem_id=self._id("chosen"), scale=4, min_width=160
            )
            tools = [html_controls.tool(sign, self._id(name), tip, order) for sign, name, order, tip in TOOLS]
            tools.append(html_controls.opener("Shelf", self._id("shelf"), SHELF))
            gr.HTML(f"<div class='ip-adapter-tools'>{''.join(tools)}</div>", elem_classes="ip-adapter-tools-column")
        # What comes and goes as a file; without a kind of component that the page does not have anyway.
        self.file = gr.File(visible=False, interactive=True, file_types=[".zip"], elem_id=self._id("file"))
        self.files = ExchangedFiles(self.file)
        self.note = gr.HTML("", elem_id=f"{tab}_ip_adapter_note", elem_classes="ip-adapter-note")
        self.order, self.listed = self.boxes = [hidden(self._id(name)) for name in ("order", "listed")]
        self.chosen.do_not_save_to_config = True

    def _id(self, name: str) -> str:
        return f"{self.tab}_ip_adapter_preset_{name}"

    def _choices(self) -> list[str]:
        try:
            store = self.store()
            return [*store.names(), *(RECENT + name for name in store.recent())]
        except IPAdapterError:
            return []  # what is done with the bar says why

    def _refresh(self) -> tuple[Any, str]:
        choices = self._choices()
        return gr.update(choices=listing(choices)), json.dumps(choices)

    def _list(self, chosen: str | None) -> Any:
        choices = self._choices()
        same = (choice for choice in choices if name_of(choice).casefold() == name_of(chosen).casefold())
        return gr.update(choices=listing(choices), value=next(same, None) if chosen else None)

    # questions

    def _question(self, action: str, about: str = "", name: str = "", problem: str = "") -> str:
        """HTML that asks for a yes to ``action``, or for a name, and says what was wrong with the last answer.
        ``about`` is the preset that there is, ``name`` the one that there will be."""
        text, button = QUESTIONS[action]
        order = {"do": action, "about": about, "name": name}
        question = text.format(about=about, name=name)
        return html_controls.question(self._id, question, button, order, is_named=action in NAMED) + note(problem)

    def _ask(self, action: str, chosen: str | None) -> str:
        if action == "save":
            return self._question("save", name=name_of(chosen))
        return self._question(action, name_of(chosen), name_of(chosen)) if chosen else note(CHOOSE)

    # what is done

    def _do(
        self,
        action: str,
        about: str,
        name: str,
        chosen: str | None,
        file: Path | None,
        units: Callable[[], list[dict[str, Any]]],
    ) -> list[Any]:
        """What was answered with a yes. Returns values for the note, the list of presets and the file."""
        choice, kept = chosen, file
        try:
            if action in ("save", "overwrite"):
                answer, choice = self._saved(name, units(), action == "overwrite"), name
            elif action in ("rename", "rename over"):
                self.store().rename(about, name, overwrite=action == "rename over")
                answer, choice = f"Renamed to “{name}”.", name
            elif action == "delete":
                self.store().delete(about)
                answer, choice = f"Deleted “{about}”.", None
            else:
                answer, kept = self._imported(file, True), None
                self._forget(file)
        except PresetExists:
            return [
                self._question("overwrite" if action == "save" else "rename over", about, name),
                gr.update(),
                kept,
            ]
        except (IPAdapterError, OSError) as error:
            return [self._question(action, about, name, str(error)), gr.update(), kept]
        return [note(answer), self._list(choice), kept]

    def _saved(self, name: str, units: list[dict[str, Any]], overwrite: bool) -> str:
        if not units:
            raise IPAdapterError("There is nothing to save: choose a model or add a reference first.")
        self.store().save(name, units, overwrite=overwrite)
        return f"Saved “{name}”."

    def _forget(self, file: Path | None) -> None:
        """What came has been dealt with; the component is to have no value any more."""
        if file is not None:
            self.files.delete(file)

    def _imported(self, file: Path | None, overwrite: bool) -> str:
        """``file``: None where there is none any more."""
        if file is None:
            return "The file is not here any more: import it again."
        names = self.store().import_(file.read_bytes(), overwrite=overwrite)
        return "Imported " + ", ".join(f"“{name}”" for name in names[:5]) + (" …" if len(names) > 5 else "") + "."

    def _import(self, file: Path | None, chosen: str | None) -> list[Any]:
        """A file has come. It waits in its component while there is a question about it."""
        try:
            said, listed = note(self._imported(file, False)), self._list(chosen)
        except PresetExists:
            return [self._question("import over"), gr.update(), file]
        except (IPAdapterError, OSError) as error:
            said, listed = note(str(error)), gr.update()
        self._forget(file)
        return [said, listed, None]

    def _export(self, chosen: str | None) -> tuple[str, Path | None]:
        """Values for the note and the file."""
        try:
            data = self.store().export([name_of(chosen)] if chosen else None)
        except IPAdapterError as error:
            return note(error.detail), None
        self.files.delete_old()
        return "", self.files.write(EXPORT, data)

    def connect(
        self, inputs: list[Any], units: Callable[[tuple[Any, ...]], list[dict[str, Any]]], outputs: list[Any],
        filled: Callable[[list[dict[str, Any]], tuple[Any, ...]], tuple[list[Any], list[str]]],
    ) -> None:  # fmt: skip
        """``units`` makes API objects of the values of ``inputs``; ``filled`` makes values for ``outputs`` of such
        objects, and of what ``inputs`` had before."""
        self.units, self.filled, self.nothing = units, filled, [gr.update()] * len(outputs)
        script = partial(in_page, self.tab)
        self.order.change(
            self._ordered, [self.order, self.chosen, self.file, *inputs],
            [self.note, self.chosen, self.file, *outputs], queue=False, **QUIET,
        ).then(None, None, self.file, **script("presets.answerOrder"))  # fmt: skip
        self.file.upload(
            self._import, [self.file, self.chosen], [self.note, self.chosen, self.file], queue=False, **QUIET
        ).then(None, None, None, **script("presets.answerNote"))
        # gradio shows new choices only when the list is opened again.
        self.chosen.focus(self._refresh, None, [self.chosen, self.listed], queue=False, **QUIET).then(
            None, self.listed, None, **script("presets.answerNames")
        )

    def _ordered(
        self, order: str, chosen: str | None, file: Path | None, request: gr.Request, *values: Any
    ) -> list[Any]:
        """As ``follow``; what changes something that is kept is for pages of this site."""
        wanted = json.loads(order)
        try:
            if "do" in wanted and wanted["do"] not in READING:
                refuse_other_pages(request)
        except IPAdapterError as error:
            return [note(error.detail), gr.update(), file, *self.nothing]
        return self.follow(order, chosen, file, *values)

    def follow(self, order: str, chosen: str | None, file: Path | None, *values: Any) -> list[Any]:
        """Values for the note, the list, the file (it stays while there may be a question about it), and what
        ``connect`` was given as ``outputs``. The file is always told by itself (see ``ExchangedFiles``)."""
        wanted, same = json.loads(order), gr.update()
        if wanted.get("ask") in look_row.ORDERS or wanted.get("do") in look_row.ORDERS:
            return [*self._look(wanted, file, values), *self.nothing]
        if "ask" in wanted:
            return [self._ask(wanted["ask"], chosen), same, file, *self.nothing]
        action = wanted["do"]
        if action in purpose_row.ORDERS:
            return [purpose_row.followed(wanted), same, file, *self.nothing]
        if action == "cancel":
            self._forget(file)
            return ["", same, None, *self.nothing]
        if action == "load":
            named = wanted.get("name")
            answer, shown = self._load(named or name_of(chosen), values)
            return [answer, self._list(named) if named else same, file, *shown]
        if action == "export":
            answer, path = self._export(chosen)
            return [answer, same, path, *self.nothing]
        name = wanted["name"].strip()
        return [*self._do(action, wanted["about"], name, chosen, file, lambda: self.units(values)), *self.nothing]

    def _look(self, wanted: dict[str, Any], file: Path | None, values: tuple[Any, ...]) -> list[Any]:
        """Values for the note, the list and the file."""
        state = PanelState.parse(values[0])

        def unit(number: int) -> dict[str, Any]:
            units = self.units(values)
            return units[number - 1] if number <= len(units) else {}

        if "ask" in wanted:
            return [look_row.asked(self._id, wanted, state.shown, unit), gr.update(), file]
        question, said, path = look_row.followed(self._id, wanted, len(state.units), unit, self.files)
        # What is exported is what the page fetches: nothing, rather than a file that waits for an answer.
        kept = path if wanted["do"] == look_row.EXPORT else file
        return [question + note(*said) if said else question, gr.update(), kept]

    def _load(self, name: str, before: tuple[Any, ...]) -> tuple[str, list[Any]]:
        """Values for the note and ``outputs``."""
        if not name:
            return note(CHOOSE), self.nothing
        try:
            values, notes = self.filled(self.store().load(name), before)
        except IPAdapterError as error:
            return note(error.detail), self.nothing
        return note(f"Loaded “{name}”.", *notes), values
