"""A stand-in for sd-webui-controlnet: its public module with its real names and habits, and what it does to a UNet.

Copied as ``scripts/controlnet.py`` into an extension's folder it is loaded by the host. Every enabled unit adds an
attention to tokens that are made of its picture, through a replaced ``attn2.forward`` that is put back to what had
been there, as the real one does; what goes wrong in ``process`` is only printed, by the host.
"""

import base64
import copy
import enum
import hashlib
import io
import sys
import types
from pathlib import Path

import gradio as gr
import numpy as np
import torch
from modules import script_callbacks, scripts, shared
from PIL import Image

MODULES = ["none", "canny", "inpaint_only", "ip-adapter-auto", "ip-adapter_clip_h", "ip-adapter_clip_g",
           "instant_id_face_embedding", "instant_id_face_keypoints"]  # fmt: skip
models = {"None": None}  # label -> file; the tests put more there
warnings = []  # what the real one would log


class HiResFixOption(enum.Enum):
    BOTH = "Both"
    LOW_RES_ONLY = "Low res only"
    HIGH_RES_ONLY = "High res only"


class InputMode(enum.Enum):
    SIMPLE = "simple"
    BATCH = "batch"
    MERGE = "merge"


FIELDS = {
    "is_ui": False, "input_mode": InputMode.SIMPLE, "batch_images": None, "output_dir": "", "loopback": False,
    "enabled": False, "module": "none", "model": "None", "weight": 1.0, "image": None,
    "resize_mode": "Crop and Resize", "low_vram": False, "processor_res": -1, "threshold_a": -1, "threshold_b": -1,
    "guidance_start": 0.0, "guidance_end": 1.0, "pixel_perfect": False, "control_mode": "Balanced",
    "inpaint_crop_input_image": True, "hr_option": HiResFixOption.BOTH, "save_detected_map": True,
    "advanced_weighting": None, "effective_region_mask": None, "pulid_mode": "Fidelity", "ipadapter_input": None,
    "mask": None,
}  # fmt: skip


class ControlNetUnit:
    """Fields that it does not know are ignored; values that it does not allow are errors."""

    def __init__(self, **values):
        vars(self).update(FIELDS)
        vars(self).update({name: value for name, value in values.items() if name in FIELDS})
        self.hr_option = HiResFixOption(self.hr_option)
        self.input_mode = InputMode(self.input_mode)
        if self.module not in MODULES:
            raise ValueError(f"module({self.module}) not found in supported modules.")
        if not 0 <= self.weight <= 2:
            raise ValueError(f"weight is {self.weight}")
        if self.guidance_start > self.guidance_end:
            raise ValueError("guidance_start > guidance_end")

    def __copy__(self):
        made = object.__new__(type(self))
        vars(made).update(vars(self))
        return made

    @classmethod
    def from_dict(cls, values):
        values = dict(values)
        for old, name in (("guidance", "guidance_end"), ("lowvram", "low_vram"), ("input_image", "image"),
                          ("mask_image", "mask")):  # fmt: skip
            if values.get(old) is not None:
                assert values.get(name) is None, f"Conflict of field '{old}' and '{name}'"
                values[name] = values[old]
        return cls(**values)

    @property
    def is_ipadapter(self):
        return self.module.startswith("ip-adapter")

    def get_input_images_rgba(self):
        """RGBA arrays, the mask (0 where nothing is painted) in the place of alpha; None without a picture."""
        given, mask = self.image, self.mask
        if given is None:
            assert mask is None
            return None
        if isinstance(given, (list, tuple)):
            assert given, "no valid image"
            if not isinstance(given[0], dict):
                assert len(given) == 2
                given = [{"image": given[0], "mask": given[1]}]
        elif isinstance(given, dict):
            given = [given]
        else:
            assert isinstance(given, (str, np.ndarray))
            given = [{"image": given, "mask": mask}]
        pictures = []
        for one in given:
            image = rgb(one["image"])
            painted = np.zeros_like(image) if one.get("mask") is None else rgb(one["mask"])
            assert painted.shape == image.shape
            pictures.append(np.concatenate([image, painted[:, :, :1]], axis=2))
        return pictures


def rgb(image):
    if isinstance(image, str):
        image = np.array(Image.open(io.BytesIO(base64.b64decode(image.rpartition(",")[2]))))
    image = image[:, :, None] if image.ndim == 2 else image
    if image.shape[2] == 4:
        alpha = image[:, :, 3:] / 255.0
        image = (image[:, :, :3] * alpha + 255 * (1 - alpha)).astype("uint8")
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


# Its public module


def find_cn_script(script_runner):
    runner = script_runner.alwayson_scripts if script_runner is not None else ()
    return next((script for script in runner if script.title().lower() == "controlnet"), None)


def to_processing_unit(unit):
    if isinstance(unit, dict):
        return ControlNetUnit.from_dict(unit)
    assert isinstance(unit, ControlNetUnit)
    return unit


def get_all_units_from(script_args):
    units = [to_processing_unit(arg) for arg in script_args if isinstance(arg, (ControlNetUnit, dict))]
    if not units:
        warnings.append("No ControlNetUnit detected in args.")
    return units


def get_all_units_in_processing(p):
    script = find_cn_script(p.scripts)
    return get_all_units_from(p.script_args[script.args_from : script.args_to]) if script else []


def update_cn_script_in_processing(p, cn_units, **_kwargs):
    """Pads to the number in the settings, and moves the arguments of all later scripts for good where that is more
    than there were."""
    script, arguments = find_cn_script(p.scripts), list(p.script_args)
    count = shared.opts.data.get("control_net_unit_count", 3)
    cn_units = cn_units + [ControlNetUnit(enabled=False)] * max(count - len(cn_units), 0)
    more = 0
    for other in p.scripts.alwayson_scripts:
        if other is script:
            more = len(cn_units) - (script.args_to - script.args_from)
            arguments[script.args_from : script.args_to] = cn_units
            script.args_to = script.args_from + len(cn_units)
        else:
            other.args_from += more
            other.args_to += more
    p.script_args = type(p.script_args)(arguments)


def get_models(update=False):
    return list(models)


def get_modules(alias_names=False):
    return list(MODULES)


public = types.ModuleType("internal_controlnet.external_code")
for name in ("ControlNetUnit", "find_cn_script", "to_processing_unit", "get_all_units_from",
             "get_all_units_in_processing", "update_cn_script_in_processing", "get_models", "get_modules"):  # fmt: skip
    setattr(public, name, globals()[name])
public.get_api_version = lambda: 3
public.global_state = types.SimpleNamespace(cn_models=models)
sys.modules[public.__name__] = public


def add_routes(_page, app):
    @app.get("/controlnet/model_list")
    def model_list():
        return {"model_list": list(models)}

    @app.get("/controlnet/module_list")
    def module_list(alias_names: bool = False):
        return {"module_list": list(MODULES)}


script_callbacks.on_app_started(add_routes)


# What it does

hacked = {}  # attn2 -> the forward that was there


def attend(module, q, k, v):
    q, k, v = (t.unflatten(-1, (module.heads, -1)).transpose(1, 2) for t in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def hack(module, unit):
    """Replace ``module.forward``, once, by attention of its own kind with ``units``' tokens on top."""
    seed = int(sum(int(image[:, :, :3].sum()) for image in unit.get_input_images_rgba())) % 2**31
    width = module.to_q.out_features
    tokens = torch.randn(2, 1, 4, width, generator=torch.Generator().manual_seed(seed)) * 0.3
    if module not in hacked:
        hacked[module] = module.forward
        module.units = []

        def forward(x, context=None, mask=None, **_kwargs):
            context = x if context is None else context
            q = module.to_q(x)
            out = attend(module, q, module.to_k(context), module.to_v(context))
            for weight, (k, v) in module.units:
                out = out + weight * attend(module, q, k.expand(len(q), -1, -1), v.expand(len(q), -1, -1))
            return module.to_out(out)

        module.forward = forward
    module.units.append((unit.weight, tokens.to(module.to_q.weight)))


def clear():
    for module, forward in hacked.items():
        module.forward = forward
        del module.units
    hacked.clear()


def unit_panel(name):
    """The components of one unit; returns the argument that they are made into whenever one changes."""
    with gr.Accordion(name, open=True):
        image = gr.Image(source="upload", type="numpy", tool="sketch", elem_id=f"{name}_input_image")
        enabled = gr.Checkbox(False, label="Enable", elem_id=f"{name}_controlnet_enable_checkbox")
        module = gr.Dropdown(MODULES, value="none", elem_id=f"{name}_controlnet_preprocessor_dropdown")
        model = gr.Dropdown(list(models), value="None", elem_id=f"{name}_controlnet_model_dropdown")
        weight = gr.Slider(0, 2, 1.0, step=0.05, elem_id=f"{name}_controlnet_control_weight_slider")
        start = gr.Slider(0, 1, 0.0, step=0.01, elem_id=f"{name}_controlnet_start_control_step_slider")
        end = gr.Slider(0, 1, 1.0, step=0.01, elem_id=f"{name}_controlnet_ending_control_step_slider")
        passes = [one.value for one in HiResFixOption]
        hires = gr.Radio(passes, value=passes[0], elem_id=f"{name}_controlnet_hr_option_radio")
    advanced = gr.State(None)
    inputs = [enabled, module, model, weight, image, start, end, hires, advanced]
    unit = gr.State(ControlNetUnit(is_ui=True))
    events = [image.edit, image.clear, *(one.change for one in inputs[:-1] if one is not image)]
    for event in events:
        event(unit_of_panel, inputs, unit)
    return unit


def unit_of_panel(*values):
    names = ("enabled", "module", "model", "weight", "image", "guidance_start", "guidance_end", "hr_option",
             "advanced_weighting")  # fmt: skip
    return ControlNetUnit.from_dict({"is_ui": True, **dict(zip(names, values, strict=True))})


class Script(scripts.Script):
    def __init__(self):
        self.latest_network = None
        self.seen = []  # of every run, the enabled units

    def title(self):
        return "ControlNet"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        folder = shared.opts.data.get("control_net_models_path")
        for file in sorted(Path(folder).glob("*.safetensors")) if folder else ():
            with open(file, "rb") as stream:
                stream.seek(0x100000)
                models[f"{file.stem} [{hashlib.sha256(stream.read(0x10000)).hexdigest()[:8]}]"] = str(file)
        count = shared.opts.data.get("control_net_unit_count", 3)
        tab = "img2img" if is_img2img else "txt2img"
        with gr.Accordion("ControlNet", open=False, elem_id=f"{tab}_controlnet"):
            return tuple(unit_panel(f"{tab}_controlnet_ControlNet-{i}") for i in range(count))

    def process(self, p, *args):
        clear()
        units = [copy.copy(unit) for unit in get_all_units_in_processing(p) if unit.enabled]
        self.seen.append(units)
        p.extra_generation_params |= {f"ControlNet {i}": f"Module: {unit.module}" for i, unit in enumerate(units)}
        if not units:
            self.latest_network = None
            return
        for i, unit in enumerate(units):
            if models.get(unit.model) is None:
                raise RuntimeError(f"model not found: {unit.model}")
            if unit.module == "instant_id_face_keypoints":
                assert i and units[i - 1].module == "instant_id_face_embedding"
            for module in p.sd_model.model.diffusion_model.modules():
                if hasattr(module, "to_q") and module.to_k.in_features != module.to_q.in_features:
                    hack(module, unit)
        self.latest_network = units

    def postprocess(self, p, processed, *args):
        clear()
        self.latest_network = None
