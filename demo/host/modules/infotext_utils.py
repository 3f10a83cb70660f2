"""The text under a picture: reading it, and putting its values back into the page."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import gradio as gr

from modules import errors, images, script_callbacks, shared
from modules.paths import data_path
from modules.util import convert, record

NAME = r"\w[\w /-]+"  # of a parameter

paste_fields: dict[str, dict] = {}
registered_param_bindings: list[ParamBinding] = []

ParamBinding = record(
    "ParamBinding", "paste_button tabname", source_text_component=None, source_image_component=None,
    source_tabname=None, override_settings_component=None, paste_field_names=None,
)  # fmt: skip


class PasteField(tuple):
    """A component, and what it takes from a text: the parameter of that name, or what a function makes of all of
    them. ``api`` is the name that the API has for it."""

    def __new__(cls, component, target, *, api=None):
        field = super().__new__(cls, (component, target))
        field.component, field.api = component, api
        field.label, field.function = (None, target) if callable(target) else (target, None)
        return field

    def _value(self, params):
        """Its value in ``params``; None where there is none."""
        if self.function is None:
            return params.get(self.label)
        try:
            return self.function(params)
        except Exception:
            errors.report(f"{self.function} could not read the parameters", exc_info=True)
            return None


def reset():
    paste_fields.clear()
    registered_param_bindings.clear()


def quote(text):
    """As it stands among "name: value, name: value": a JSON string where it would break that form."""
    return json.dumps(str(text), ensure_ascii=False) if re.search(r"[,:\n]", str(text)) else text


def unquote(text):
    try:
        value = json.loads(text) if text[:1] == '"' else text
    except ValueError:
        value = text
    return value


def image_from_url_text(filedata):
    """The picture that a component of the page has sent: a list of pictures, a file, or base64."""
    if not filedata:
        return None
    if isinstance(filedata, list):
        return image_from_url_text(filedata[0])
    if isinstance(filedata, dict):
        return images.read(filedata["name"].partition("?")[0])
    return images.read(io.BytesIO(base64.b64decode(filedata.partition("base64,")[2] or filedata)))


def add_paste_fields(tabname, init_img, fields, override_settings_component=None):
    """``fields`` is None for a tab that takes pictures only."""
    if fields is not None:
        fields = [field if isinstance(field, PasteField) else PasteField(*field) for field in fields]
    paste_fields[tabname] = {
        "fields": fields, "init_img": init_img, "override_settings_component": override_settings_component
    }  # fmt: skip


def register_paste_params_button(binding):
    registered_param_bindings.append(binding)


def connect_paste_params_buttons():
    """Give the registered buttons something to do; called when all tabs exist."""
    for binding in registered_param_bindings:
        button, tab, source = binding.paste_button, paste_fields[binding.tabname], binding.source_image_component
        if source is not None and tab["init_img"] is not None:
            from_gallery = isinstance(source, gr.Gallery)
            button.click(
                image_from_url_text if from_gallery else lambda image: image, inputs=[source],
                outputs=[tab["init_img"]], show_progress=False, _js="chosenPicture" if from_gallery else None,
            )  # fmt: skip
        if binding.source_text_component is not None and tab["fields"] is not None:
            connect_paste(button, tab["fields"], binding.source_text_component, None, binding.tabname)
        if binding.source_tabname is not None and tab["fields"] is not None:
            _connect_tabs(binding, tab["fields"])
        button.click(None, _js=f"switch_to_{binding.tabname}")


def _connect_tabs(binding, fields):
    """Let values go along from tab to tab: those of the prompts, and what the extensions' scripts have named."""
    names = ["Prompt", "Negative prompt", "Steps", "Seed", *binding.paste_field_names]
    here, there = (
        {field.label: field.component for field in side if field.label in names}
        for side in (paste_fields[binding.source_tabname]["fields"], fields)
    )
    common = [name for name in here if name in there]
    binding.paste_button.click(
        lambda *values: values if len(values) > 1 else values[0], inputs=[here[name] for name in common],
        outputs=[there[name] for name in common], show_progress=False,
    )  # fmt: skip


# What a text means by saying nothing about it.
_UNSAID = {
    "Clip skip": "1", "Hires resize-1": 0, "Hires resize-2": 0, "Hires prompt": "", "Hires negative prompt": "",
    "Hires sampler": "Use same sampler", "Hires checkpoint": "Use same checkpoint",
    "Hires schedule type": "Use same scheduler", "Schedule type": "Automatic",
}  # fmt: skip


def _pairs(line):
    """The (name, value) pairs of a parameter line."""
    while ":" in line:
        name, _, line = line.partition(":")
        line = line.lstrip()
        try:
            value, end = json.JSONDecoder().raw_decode(line) if line[:1] == '"' else (None, 0)
        except ValueError:
            end = 0
        if not end:
            end = len(line.partition(",")[0])
            value = line[:end].strip()
        line = line[end:].partition(",")[2]
        name = name.rpartition(",")[2].strip()
        if re.fullmatch(NAME, name):
            yield name, value


def parse_generation_parameters(x, skip_fields=None):
    """Prompt, negative prompt and the parameters of the last line, "Size" as "Size-1" and "Size-2"."""
    lines = x.strip().split("\n")
    pairs = list(_pairs(lines[-1]))
    if len(pairs) < 3:
        pairs = []  # the last line is prompt, too
    text = "\n".join(line.strip() for line in (lines[:-1] if pairs else lines))
    prompt, _, negative = f"\n{text}".partition("\nNegative prompt:")
    params = {**_UNSAID, "Prompt": prompt.strip(), "Negative prompt": negative.strip()}
    for name, value in pairs:
        size = re.fullmatch(r"(\d+)x(\d+)", value)
        params |= {f"{name}-{i}": number for i, number in enumerate(size.groups(), 1)} if size else {name: value}
    skipped = shared.opts.infotext_skip_pasting if skip_fields is None else skip_fields
    return {name: value for name, value in params.items() if name not in skipped}


def get_override_settings(params, *, skip_fields=None):
    """(name in the text, setting, value) for each parameter that is a setting and differs from its present value."""
    told = [(info.infotext, key) for key, info in shared.opts.data_labels.items() if info.infotext in params]
    found = [(name, key, shared.opts.cast_value(key, params[name])) for name, key in told]
    return [
        (name, key, value) for name, key, value in found
        if value != getattr(shared.opts, key) and name not in (skip_fields or ())
        and not (key == "sd_model_checkpoint" and shared.opts.disable_weights_auto_swap)
    ]  # fmt: skip


def _new_value(component, key, params):
    """What a field becomes: an update, possibly an empty one."""
    value = PasteField(component, key)._value(params)
    if isinstance(value, dict) and "__type__" in value:
        return value
    kind = type(component.value)
    value = convert(value, float if kind is int else kind)
    return gr.update() if value is None else gr.update(value=value)


def connect_paste(button, paste_fields, input_comp, override_settings_component, tabname):
    """Let ``button`` read the text of ``input_comp``, or without one the last generation's."""
    last = Path(data_path, "params.txt")

    def paste(text):
        if not text and last.exists():
            text = last.read_text(encoding="utf8")
        params = parse_generation_parameters(text)
        script_callbacks.infotext_pasted_callback(text, params)
        return [_new_value(*field, params) for field in paste_fields]

    button.click(paste, inputs=[input_comp], outputs=[field.component for field in paste_fields], show_progress=False)
