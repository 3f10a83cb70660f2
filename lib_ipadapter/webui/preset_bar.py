"""The bar over the units: presets and kept generations are chosen, loaded, saved, renamed, deleted, exported and
imported here. What needs a name or a yes is asked for in a line below the bar."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from modules.ui_components import ToolButton

from ..errors import IPAdapterError
from .editor import QUIET, hidden, note
from .presets import PresetExists, Store

RECENT = "Recent / "  # before a kept generation's name in the list; no name can have that slash
EXPORT = "ip-adapter-presets.zip"

# What the line below the bar asks for: action -> (question with the preset's name, button)
QUESTIONS = {
    "save": ("Save all units as", "Save"),
    "overwrite": ("“{}” exists. Overwrite it?", "Overwrite"),
    "rename": ("Rename “{}” to", "Rename"),
    "rename over": ("“{}” exists. Overwrite it?", "Overwrite"),
    "delete": ("Delete “{}”?", "Delete"),
    "import over": ("The file has presets that exist here. Overwrite them?", "Overwrite"),
}
NAMED = ("save", "rename")  # these want a name


def name_of(chosen: str | None) -> str:
    return (chosen or "").removeprefix(RECENT)


class PresetBar:
    """``connect`` gives it what it saves from and loads into, once the editor exists."""

    def __init__(self, tab: str, store: Callable[[], Store]) -> None:
        self.store = store

        def elem(name: str) -> str:
            return f"{tab}_ip_adapter_preset_{name}"

        def tool(sign: str, name: str, tooltip: str) -> gr.Button:
            return ToolButton(sign, elem_id=elem(name), tooltip=tooltip)

        with gr.Row(elem_classes="ip-adapter-presets"):
            # The names come when somebody opens the list: reading them all would delay the WebUI's start.
            self.chosen = gr.Dropdown(
                [], value=None, label="Preset", elem_id=elem("chosen"), scale=4, min_width=160
            )
            self.load = tool("📂", "load", "Load the chosen preset into the units")
            self.save = tool("💾", "save", "Save all units as a preset")
            self.rename = tool("✏️", "rename", "Rename the chosen preset")
            self.delete = tool("🗑️", "delete", "Delete the chosen preset")
            self.export = tool("📤", "export", "Export the chosen preset to a file, or all if none is chosen")
            self.upload = tool("📥", "import", "Import presets from a file")
        with gr.Row(visible=False, elem_id=elem("question"), elem_classes="ip-adapter-question") as self.asking:
            self.question = gr.HTML("", elem_id=elem("asked"))
            self.name = gr.Textbox(
                "", show_label=False, max_lines=1, placeholder="Name", elem_id=elem("name"), min_width=120, scale=3
            )
            self.yes = gr.Button("Save", variant="primary", size="sm", min_width=80, elem_id=elem("yes"))
            self.no = gr.Button("Cancel", size="sm", min_width=80, elem_id=elem("no"))
        self.pending = gr.State(None)  # (action, the preset's name or the imported file's path)
        self.listed = hidden(elem("listed"))
        # What comes and goes as a file; without a kind of component that the page does not have anyway.
        self.file = gr.File(visible=False, interactive=True, file_types=[".zip"], elem_id=elem("file"))
        self.note = gr.HTML("", elem_id=f"{tab}_ip_adapter_note", elem_classes="ip-adapter-note")
        self.chosen.do_not_save_to_config = self.name.do_not_save_to_config = True

    def _choices(self) -> list[str]:
        try:
            store = self.store()
            return [*store.names(), *(RECENT + name for name in store.recent())]
        except IPAdapterError:
            return []  # what is done with the bar says why

    # the line of questions

    @property
    def _line(self) -> list[Any]:
        return [self.asking, self.question, self.name, self.yes, self.pending, self.note]

    @staticmethod
    def _ask(action: str, about: str, name: str = "") -> list[Any]:
        text, button = QUESTIONS[action]
        return [
            gr.update(visible=True), note(text.format(name_of(about))),
            gr.update(visible=action in NAMED, value=name), gr.update(value=button), (action, about), "",
        ]  # fmt: skip

    @staticmethod
    def _quiet(sentence: str = "", *more: str) -> list[Any]:
        """Nothing is asked; ``sentence`` is what there is to say."""
        return [gr.update(visible=False), "", gr.update(value=""), gr.update(), None, note(sentence, *more)]

    def _on_chosen(self, action: str) -> Callable[[str | None], list[Any]]:
        def ask(chosen: str | None) -> list[Any]:
            if not chosen:
                return self._quiet("Choose a preset first.")
            return self._ask(action, chosen, name_of(chosen))

        return ask

    def _confirm(
        self, pending: tuple | None, name: str, chosen: str | None, units: Callable[[], list[dict]]
    ) -> list[Any]:
        """What was asked for is wanted. Returns values for ``_line`` and the list of presets."""
        action, about = pending or (None, "")
        said, stays = "", chosen
        try:
            if action == "save":
                said, stays = self._saved(name, units(), False), name.strip()
            elif action == "overwrite":
                said, stays = self._saved(about, units(), True), about
            elif action == "rename":
                self.store().rename(name_of(about), name.strip())
                said, stays = f"Renamed to “{name.strip()}”.", name.strip()
            elif action == "rename over":
                old, new = about
                self.store().rename(old, new, overwrite=True)
                said, stays = f"Renamed to “{new}”.", new
            elif action == "delete":
                self.store().delete(name_of(about))
                said, stays = f"Deleted “{name_of(about)}”.", None
            elif action == "import over":
                said = self._imported(Path(about).read_bytes(), True)
        except PresetExists:
            if action == "rename":
                new = name.strip()
                return [*self._ask("rename over", new)[:4], ("rename over", (name_of(about), new)), "", gr.update()]
            return [*self._ask("overwrite", name.strip()), gr.update()]
        except (IPAdapterError, OSError) as error:
            return [*[gr.update()] * 5, note(getattr(error, "detail", str(error))), gr.update()]
        return [*self._quiet(said), self._list(stays)]

    def _refresh(self) -> tuple[Any, str]:
        choices = self._choices()
        return gr.update(choices=choices), json.dumps(choices)

    def _list(self, chosen: str | None) -> Any:
        choices = self._choices()
        same = (choice for choice in choices if name_of(choice).casefold() == name_of(chosen).casefold())
        return gr.update(choices=choices, value=next(same, None) if chosen else None)

    def _saved(self, name: str, units: list[dict], overwrite: bool) -> str:
        if not units:
            return "There is nothing to save: choose a model or add a reference first."
        self.store().save(name.strip(), units, overwrite=overwrite)
        return f"Saved “{name.strip()}”."

    def _imported(self, data: bytes, overwrite: bool) -> str:
        names = self.store().import_(data, overwrite=overwrite)
        return "Imported " + ", ".join(f"“{name}”" for name in names[:5]) + (" …" if len(names) > 5 else "") + "."

    def _import(self, file: Any, chosen: str | None) -> list[Any]:
        try:
            return [*self._quiet(self._imported(Path(file.name).read_bytes(), False)), self._list(chosen), None]
        except PresetExists:
            return [*self._ask("import over", file.name), gr.update(), None]
        except (IPAdapterError, OSError) as error:
            return [*self._quiet(getattr(error, "detail", str(error))), gr.update(), None]

    def _export(self, chosen: str | None) -> tuple[Any, str]:
        try:
            data = self.store().export([name_of(chosen)] if chosen else None)
        except IPAdapterError as error:
            return None, note(error.detail)
        path = Path(tempfile.mkdtemp(prefix="ip-adapter-")) / EXPORT
        path.write_bytes(data)
        return str(path), ""

    def connect(
        self, inputs: list[Any], units: Callable[[tuple], list[dict]], outputs: list[Any],
        filled: Callable[[list[dict]], tuple[list[Any], list[str]]],
    ) -> None:  # fmt: skip
        """``units`` makes API objects of the values of ``inputs``; ``filled`` makes values for ``outputs`` of them."""
        def load(chosen: str | None) -> list[Any]:
            if not chosen:
                return [note("Choose a preset first."), *[gr.update()] * len(outputs)]
            try:
                values, notes = filled(self.store().load(name_of(chosen)))
            except IPAdapterError as error:
                return [note(error.detail), *[gr.update()] * len(outputs)]
            return [note(f"Loaded “{name_of(chosen)}”.", *notes), *values]

        def confirm(pending: tuple | None, name: str, chosen: str | None, *values: Any) -> list[Any]:
            return self._confirm(pending, name, chosen, lambda: units(values))

        self.load.click(load, self.chosen, [self.note, *outputs], **QUIET)
        self.save.click(lambda chosen: self._ask("save", "", name_of(chosen)), self.chosen, self._line, **QUIET)
        for button, action in ((self.rename, "rename"), (self.delete, "delete")):
            button.click(self._on_chosen(action), self.chosen, self._line, **QUIET)
        for event in (self.yes.click, self.name.submit):
            event(confirm, [self.pending, self.name, self.chosen, *inputs], [*self._line, self.chosen], **QUIET)
        self.no.click(self._quiet, None, self._line, **QUIET)
        self.upload.click(None, None, None, _js=f"() => ipAdapterUpload({self.file.elem_id!r})")
        self.file.upload(self._import, [self.file, self.chosen], [*self._line, self.chosen, self.file], **QUIET)
        self.export.click(self._export, self.chosen, [self.file, self.note], **QUIET).then(
            lambda: None, None, self.file, _js=f"() => ipAdapterDownload({self.file.elem_id!r})", **QUIET
        )
        # gradio shows new choices only when the list is opened again.
        self.chosen.focus(self._refresh, None, [self.chosen, self.listed], **QUIET).then(
            None, self.listed, None, _js=f"(names) => ipAdapterReopen({self.chosen.elem_id!r}, names)"
        )
