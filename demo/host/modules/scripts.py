"""Scripts: their base class, loading them from extensions, and calling them while a picture is made."""

from __future__ import annotations

import contextlib
import graphlib
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from modules import errors, extensions, paths, script_callbacks, script_loading
from modules.util import record

AlwaysVisible = object()

MaskBlendArgs = record("MaskBlendArgs", "current_latent nmask init_latent mask blended_latent", denoiser=None,
                       sigma=None)  # fmt: skip
MaskBlendArgs.is_final_blend = property(lambda self: self.denoiser is None)
PostSampleArgs = record("PostSampleArgs", "samples")
PostprocessImageArgs = record("PostprocessImageArgs", "image")
PostProcessMaskOverlayArgs = record("PostProcessMaskOverlayArgs", "index mask_for_overlay overlay_image")
PostprocessBatchListArgs = record("PostprocessBatchListArgs", "images")
OnComponent = record("OnComponent", "component")

# What always-on scripts are told while pictures are made, in the order of a plain job; hires fix has before_hr.
MOMENTS = """setup before_process process before_process_batch after_extra_networks_activate process_batch
process_before_every_sampling before_hr on_mask_blend post_sample postprocess_batch postprocess_batch_list
postprocess_image postprocess_maskoverlay postprocess_image_after_composite postprocess""".split()
PAGE_MOMENTS = ["before_component", "after_component"]


def _silent(moment):
    def method(self, *args, **kwargs):
        """For scripts to override."""

    method.__name__, method.__qualname__ = moment, f"Script.{moment}"
    return method


class Script:
    """What an extension derives from. Besides the methods here it may have one for each of MOMENTS."""

    name = section = filename = tabname = None
    args_from = args_to = None
    alwayson = is_txt2img = is_img2img = setup_for_ui_only = False
    group = controls = api_info = None
    create_group = True
    infotext_fields = paste_field_names = None
    on_before_component_elem_id = on_after_component_elem_id = None

    def title(self):
        raise NotImplementedError("a script needs a title")

    def ui(self, is_img2img):
        """The components whose values are the script's arguments."""

    def show(self, is_img2img):
        """AlwaysVisible, True for a place in the list of scripts, or False."""

    def run(self, p, *args):
        """What a script chosen from the list does instead of the plain generation."""

    def describe(self):
        return ""

    def on_before_component(self, callback, *, elem_id):
        self.on_before_component_elem_id = [*(self.on_before_component_elem_id or ()), (elem_id, callback)]

    def on_after_component(self, callback, *, elem_id):
        self.on_after_component_elem_id = [*(self.on_after_component_elem_id or ()), (elem_id, callback)]

    def elem_id(self, item_id):
        words = ["script", re.sub(r"\W", "", "_".join(self.title().lower().split())), item_id]
        if self.show(True) == self.show(False):  # the same panel in both tabs: the tab tells them apart
            words.insert(1, "img2img" if self.is_img2img else "txt2img")
        return "_".join(words)


for _moment in MOMENTS + PAGE_MOMENTS:
    setattr(Script, _moment, _silent(_moment))


class ScriptBuiltinUI(Script):
    """A part of the page itself that is written as a script."""

    setup_for_ui_only = True

    def show(self, is_img2img):
        return AlwaysVisible

    def elem_id(self, item_id):
        return f"{self.tabname}_{item_id}"


class ScriptFile(NamedTuple):
    basedir: str
    filename: str
    path: str


class ScriptClassData(NamedTuple):
    script_class: type[Script]
    path: str
    basedir: str
    module: Any


scripts_data: list[ScriptClassData] = []
current_basedir = paths.script_path


def basedir():
    """The folder of the extension whose script is being loaded."""
    return current_basedir


def list_scripts(scriptdirname, extension, *, include_extensions=True):
    """Script files in loading order: the host's own, then the extensions', as their metadata.ini wants it."""
    files, after, group = {}, {}, {}
    for path in sorted(Path(paths.script_path, scriptdirname).glob(f"*{extension}")):
        files[path.name], after[path.name] = ScriptFile(paths.script_path, path.name, str(path)), set()
    wishes = []
    for owner in extensions.active() if include_extensions else []:
        for path in owner.files(scriptdirname, extension):
            file = ScriptFile(owner.path, os.path.basename(path), path)
            key = f"{owner.canonical_name}/{file.filename}"
            files[key], after[key] = file, set()
            group.setdefault(owner.canonical_name, []).append(key)
            wishes.append((key, owner, file.filename))
    for key, owner, filename in wishes:  # a wish names an extension or one script of it
        for other in owner.order("After", scriptdirname, filename):
            after[key].update(group.get(other, {other} & files.keys()))
        for other in owner.order("Before", scriptdirname, filename):
            for later in group.get(other, {other} & files.keys()):
                after[later].add(key)
    return [files[key] for key in graphlib.TopologicalSorter(after).static_order()]


def list_files_with_name(filename):
    """The host's file of that name and each extension's, where they have one."""
    folders = [paths.script_path, *(extension.path for extension in extensions.active())]
    return [str(file) for file in (Path(folder, filename) for folder in folders) if file.is_file()]


@contextlib.contextmanager
def _at_home(folder):
    """While a script loads, it finds its extension's own modules, and ``basedir`` tells its folder."""
    global current_basedir
    path = sys.path
    sys.path, current_basedir = [folder, *path] if folder != paths.script_path else path, folder
    try:
        yield
    finally:
        sys.path, current_basedir = path, paths.script_path


def load_scripts():
    """Run every script file and start anew with what is found there."""
    global scripts_txt2img, scripts_img2img
    scripts_data.clear()
    script_callbacks.clear_callbacks()
    files = list_scripts("scripts", ".py") + list_scripts("modules/processing_scripts", ".py", include_extensions=False)
    for file in files:
        with _at_home(file.basedir):
            module = _guarded(f"loading {file.path}", script_loading.load_module, file.path)
        classes = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Script)] if module else []
        scripts_data.extend(ScriptClassData(c, file.path, file.basedir, module) for c in classes)
    scripts_txt2img, scripts_img2img = ScriptRunner(), ScriptRunner()


def _guarded(what, function, *args, **kwargs):
    """Call foreign code: its exception is reported and swallowed, None stands for the result."""
    try:
        return function(*args, **kwargs)
    except Exception:
        errors.report(f"Error {what}", exc_info=True)
        return None


class ScriptRunner:
    """The scripts of one tab. It has a method for each of MOMENTS, which calls the scripts that take part in it."""

    def __init__(self):
        self.scripts, self.alwayson_scripts, self.selectable_scripts = [], [], []
        self.infotext_fields, self.paste_field_names = [], []
        self.inputs = [None]
        self.title_map = {}

    def initialize_scripts(self, is_img2img):
        self.scripts = [s for data in scripts_data if (s := _guarded("making a script", self._make, data, is_img2img))]
        self.alwayson_scripts = [script for script in self.scripts if script.alwayson]
        self.selectable_scripts = [script for script in self.scripts if not script.alwayson]

    def _make(self, data, is_img2img):
        script = data.script_class()
        script.filename, script.tabname = data.path, "img2img" if is_img2img else "txt2img"
        script.is_img2img, script.is_txt2img = is_img2img, not is_img2img
        visible = script.show(is_img2img)
        script.alwayson = visible is AlwaysVisible
        return script if visible else None

    # the page

    def prepare_ui(self):
        self.inputs = [None]

    def create_script_ui(self, script):
        script.args_from = script.args_to = len(self.inputs)
        controls = _guarded(f"building the panel of {script.filename}", script.ui, script.is_img2img)
        if controls is not None:
            self._adopt(script, list(controls))

    def _adopt(self, script, controls):
        from modules.api import models

        script.controls, script.name = controls, script.title().lower()
        self.inputs += controls
        script.args_to = len(self.inputs)
        script.api_info = models.ScriptInfo(
            name=script.name, is_img2img=script.is_img2img, is_alwayson=script.alwayson,
            args=[models.ScriptArg.of(control) for control in controls],
        )  # fmt: skip
        self.infotext_fields += script.infotext_fields or []
        self.paste_field_names += script.paste_field_names or []

    def setup_ui_for_section(self, section, scriptlist=None):
        """Build the panels that belong at this place; None is the place below everything else."""
        if scriptlist is None:
            scriptlist = [script for script in self.alwayson_scripts if script.section == section]
        for script in scriptlist:
            with contextlib.ExitStack() as frame:
                if script.create_group:
                    script.group = frame.enter_context(gr.Group(visible=script.alwayson))
                self.create_script_ui(script)

    def setup_ui(self):
        """The list of scripts to select from, and all panels that have no other place. Returns every input."""
        self.title_map = {script.title().lower(): script for script in self.scripts}
        choosable = self.selectable_scripts
        self.setup_ui_for_section(None)
        names = ["None", *(script.title() for script in choosable)]
        self.inputs[0] = chosen = gr.Dropdown(names, value="None", label="Script", type="index", elem_id="script_list")
        self.setup_ui_for_section(None, choosable)
        if choosable:
            chosen.change(lambda index: [gr.update(visible=i == index) for i in range(1, len(names))], inputs=[chosen],
                          outputs=[script.group for script in choosable])  # fmt: skip
        return self.inputs

    def script(self, title):
        return self.title_map.get(title.lower())

    # jobs

    def run(self, p, *args):
        """The selected script's result; None if none is selected."""
        if not args[0]:
            return None
        script = self.selectable_scripts[args[0] - 1]
        return script.run(p, *args[script.args_from : script.args_to])

    def ordered_scripts(self, method_name):
        """The scripts that have a method of their own for it."""
        candidates = self.scripts if method_name in PAGE_MOMENTS else self.alwayson_scripts
        nothing = getattr(Script, method_name)
        return [script for script in candidates if getattr(type(script), method_name) is not nothing]

    def _tell(self, moment, p, *values, **kwargs):
        for script in self.ordered_scripts(moment):
            arguments = p.script_args[script.args_from : script.args_to]
            method = getattr(script, moment)
            _guarded(f"in {moment} of {script.filename}", method, p, *values, *arguments, **kwargs)

    def setup_scrips(self, p, *, is_ui=True):
        for script in self.ordered_scripts("setup"):
            if is_ui or not script.setup_for_ui_only:
                arguments = p.script_args[script.args_from : script.args_to]
                _guarded(f"in setup of {script.filename}", script.setup, p, *arguments)

    def _tell_of_component(self, moment, component, **kwargs):
        elem_id = kwargs.get("elem_id") or getattr(component, "elem_id", None)
        for script in self.scripts:
            for wanted, callback in getattr(script, f"on_{moment}_elem_id") or ():
                if wanted == elem_id:
                    _guarded(f"in on_{moment} of {script.filename}", callback, OnComponent(component))
        for script in self.ordered_scripts(moment):
            _guarded(f"in {moment} of {script.filename}", getattr(script, moment), component, **kwargs)


def _telling(method, moment):
    def tell(self, *args, **kwargs):
        return method(self, moment, *args, **kwargs)

    tell.__name__, tell.__qualname__ = moment, f"ScriptRunner.{moment}"
    return tell


for _moment in MOMENTS[1:]:  # setup is told by setup_scrips
    setattr(ScriptRunner, _moment, _telling(ScriptRunner._tell, _moment))
for _moment in PAGE_MOMENTS:
    setattr(ScriptRunner, _moment, _telling(ScriptRunner._tell_of_component, _moment))

scripts_txt2img: ScriptRunner = None
scripts_img2img: ScriptRunner = None
scripts_current: ScriptRunner = None
