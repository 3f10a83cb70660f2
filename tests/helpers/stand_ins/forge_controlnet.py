"""A stand-in for the ControlNet that Forge has built in: its modules with their real names, fields, ids and habits.

Copied as ``scripts/controlnet.py`` into an extension's folder it is loaded by the host. Every enabled unit adds a
pattern that is made of its picture and mask to the UNet's cross-attention. What the real one would stumble over it
stumbles over: a picture that is no array, a preprocessor or model that is not there, pictures named by a request.
"""

import base64
import enum
import io
import json
import sys
import types
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
import torch
from modules import scripts, shared
from PIL import Image

PREPROCESSORS = [
    "None", "canny", "inpaint_only", "CLIP-ViT-H (IPAdapter)", "CLIP-ViT-bigG (IPAdapter)",
    "InsightFace+CLIP-H (IPAdapter)", "InsightFace (InstantID)", "instant_id_face_keypoints",
]  # fmt: skip
seen = []  # of every run, what its enabled units were made of: (unit, picture, mask)


class HiResFixOption(enum.Enum):
    BOTH = "Both"
    LOW_RES_ONLY = "Low res only"
    HIGH_RES_ONLY = "High res only"


class InputMode(enum.Enum):
    SIMPLE = "simple"
    BATCH = "batch"
    MERGE = "merge"


class ResizeMode(enum.Enum):
    RESIZE = "Just Resize"
    INNER_FIT = "Crop and Resize"
    OUTER_FIT = "Resize and Fill"


class ControlMode(enum.Enum):
    BALANCED = "Balanced"
    PROMPT = "My prompt is more important"
    CONTROL = "ControlNet is more important"


@dataclass
class ControlNetUnit:
    input_mode: InputMode = InputMode.SIMPLE
    use_preview_as_input: bool = False
    batch_image_dir: str = ""
    batch_mask_dir: str = ""
    batch_input_gallery: Any = None
    batch_mask_gallery: Any = None
    generated_image: Any = None
    mask_image: Any = None
    mask_image_fg: Any = None
    hr_option: Any = HiResFixOption.BOTH
    enabled: bool = True
    module: str = "None"
    model: str = "None"
    weight: float = 1.0
    image: Any = None
    image_fg: Any = None
    resize_mode: Any = ResizeMode.INNER_FIT
    processor_res: int = -1
    threshold_a: float = -1
    threshold_b: float = -1
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    pixel_perfect: bool = False
    control_mode: Any = ControlMode.BALANCED
    save_detected_map: bool = True

    @staticmethod
    def from_dict(values):
        """Names that it does not know are ignored; pictures are base64."""
        unit = ControlNetUnit(**{name: value for name, value in values.items() if name in vars(ControlNetUnit)})
        for name in ("image", "mask_image"):
            if isinstance(getattr(unit, name), str):
                setattr(unit, name, from_base64(getattr(unit, name)))
        return unit


def from_base64(text):
    return np.array(Image.open(io.BytesIO(base64.b64decode(text.rpartition(",")[2])))).astype("uint8")


def rgb(array):
    """Over white where it is transparent."""
    assert array.dtype == np.uint8
    array = array[:, :, None] if array.ndim == 2 else array
    if array.shape[2] == 4:
        alpha = array[:, :, 3:] / 255.0
        return (array[:, :, :3] * alpha + 255 * (1 - alpha)).clip(0, 255).astype(np.uint8)
    return np.concatenate([array] * 3, axis=2) if array.shape[2] == 1 else array


def input_of(unit, p):
    """The picture and the mask that a unit is made of: arrays [H, W, 3], the mask None where nothing is painted."""
    if unit.input_mode == InputMode.MERGE:
        return rgb(np.asarray(Image.open(unit.batch_input_gallery[0][0]))), None
    image, drawn = unit.image, unit.image_fg[:, :, 3] if unit.image_fg is not None else None
    if unit.use_preview_as_input and unit.generated_image is not None:
        image, drawn = unit.generated_image, None
    elif image is None:
        image = np.asarray(getattr(p, "init_images", [None])[0])
    elif (image < 5).all() and (drawn > 5).any():
        image = drawn
    if not isinstance(image, np.ndarray):
        raise ValueError("controlnet is enabled but no input image is given")
    over_mask = unit.mask_image_fg[:, :, 3] if unit.mask_image_fg is not None else None
    masks = [one for one in (over_mask, unit.mask_image, drawn) if one is not None and (one > 5).any()]
    image = rgb(image)
    if not masks:
        return image, None
    fitted = Image.fromarray(rgb(masks[0])).resize((image.shape[1], image.shape[0]), Image.Resampling.NEAREST)
    return image, np.asarray(fitted)


# Its modules

package = types.ModuleType("lib_controlnet")
external_code = types.ModuleType("lib_controlnet.external_code")
global_state = types.ModuleType("lib_controlnet.global_state")
for one in (ControlNetUnit, HiResFixOption, InputMode, ResizeMode, ControlMode):
    setattr(external_code, one.__name__, one)
external_code.UiControlNetUnit = ControlNetUnit
external_code.get_api_version = lambda: 2
external_code.seen = seen
global_state.controlnet_filename_dict = {"None": "model.safetensors"}
global_state.looked_for = {}  # what it finds when it looks again; the tests put files there


def update_controlnet_filenames():
    global_state.controlnet_filename_dict = {"None": "model.safetensors", **global_state.looked_for}


global_state.update_controlnet_filenames = update_controlnet_filenames
global_state.get_all_preprocessor_names = lambda: list(PREPROCESSORS)
for module in (package, external_code, global_state):
    sys.modules[module.__name__] = module
package.external_code, package.global_state = external_code, global_state


# Its panel, for gradio 3


class LogicalImage(gr.Textbox):
    """Half of a canvas: a picture as text."""

    def preprocess(self, x):
        if not isinstance(x, str) or not x.startswith("data:image/png;base64,"):
            return None
        return np.array(Image.open(io.BytesIO(base64.b64decode(x.rpartition(",")[2]))).convert("RGBA"))

    def postprocess(self, y):
        if not isinstance(y, np.ndarray):  # gradio 3 begins with an empty text
            return None
        buffer = io.BytesIO()
        Image.fromarray(y).convert("RGBA").save(buffer, format="PNG")
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

    def get_block_name(self):
        return "textbox"


class ForgeCanvas:
    def __init__(self, elem_id):
        self.block = gr.HTML("", elem_id=elem_id)
        self.foreground = LogicalImage(visible=False, elem_id=f"uuid_{id(self)}")
        self.background = LogicalImage(visible=False, elem_id=f"uuid_{id(self)}")


class RangeSlider(gr.Textbox):
    """Two numbers."""

    def preprocess(self, x):
        return tuple(json.loads(x or "[0.0, 1.0]"))

    def postprocess(self, y):
        return y if isinstance(y, str) else json.dumps(list(y))

    def get_block_name(self):
        return "textbox"


def unit_panel(name, default):
    """The components of one unit; returns the argument that they are made into."""
    input_mode, preview = gr.State(InputMode.SIMPLE), gr.Checkbox(False, visible=False)
    image, generated, mask = (ForgeCanvas(f"{name}_{one}_image") for one in ("input", "generated", "mask"))
    folders = [gr.Textbox("", elem_id=f"{name}_batch_{one}_dir") for one in ("image", "mask")]
    galleries = [gr.Gallery(), gr.Gallery()]
    enabled = gr.Checkbox(False, label="Enable", elem_id=f"{name}_controlnet_enable_checkbox")
    pixel_perfect = gr.Checkbox(False, elem_id=f"{name}_controlnet_pixel_perfect_checkbox")
    module = gr.Dropdown(PREPROCESSORS, value="None", elem_id=f"{name}_controlnet_preprocessor_dropdown")
    models = list(global_state.controlnet_filename_dict)
    model = gr.Dropdown(models, value="None", elem_id=f"{name}_controlnet_model_dropdown")
    weight = gr.Slider(0.0, 2.0, 1.0, step=0.05, elem_id=f"{name}_controlnet_control_weight_slider")
    window = RangeSlider("[0.0, 1.0]", elem_id=f"{name}_controlnet_control_step_slider")
    start, end = gr.State(0.0), gr.State(1.0)
    window.change(lambda both: (both[0], both[1]), [window], [start, end])
    sliders = [gr.Slider(64, 2048, -1, visible=False) for _ in range(3)]
    mode = gr.Radio([one.value for one in ControlMode], value="Balanced")
    resize = gr.Radio([one.value for one in ResizeMode], value="Crop and Resize")
    passes = [one.value for one in HiResFixOption]
    hires = gr.Radio(passes, value=passes[0], visible=False, elem_id=f"{name}_controlnet_hr_option_radio")
    values = [
        input_mode, preview, *folders, *galleries, generated.background, mask.background, mask.foreground, hires,
        enabled, module, model, weight, image.background, image.foreground, resize, *sliders, start, end,
        pixel_perfect, mode,
    ]  # fmt: skip
    unit = gr.State(default)
    for one in values:
        event = one.release if isinstance(one, gr.Slider) else getattr(one, "change", None)
        if event is not None:
            event(ControlNetUnit, values, unit)
    return unit


# What it does


class ControlNetForForgeOfficial(scripts.Script):
    sorting_priority = 10

    def __init__(self):
        self.current_params = {}
        self.hooks = []

    def title(self):
        return "ControlNet"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        name = f"{'img2img' if is_img2img else 'txt2img'}_controlnet"
        default = ControlNetUnit(enabled=False, module="None", model="None")
        count = shared.opts.data.get("control_net_unit_count", 3)
        with gr.Group(elem_id=name), gr.Accordion("ControlNet Integrated", open=False, elem_id="controlnet"):
            return tuple(unit_panel(f"{name}_ControlNet-{i}", default) for i in range(count))

    def get_enabled_units(self, units):
        units = [ControlNetUnit.from_dict(unit) if isinstance(unit, dict) else unit for unit in units]
        assert all(isinstance(unit, ControlNetUnit) for unit in units)
        return [unit for unit in units if unit.enabled]

    def process(self, p, *args, **kwargs):
        self.current_params = {}
        self.clear()
        units = self.get_enabled_units(args)
        p.extra_generation_params |= {f"ControlNet {i}": f"Module: {unit.module}" for i, unit in enumerate(units)}
        seen.append([])
        for i, unit in enumerate(units):
            if unit.module not in PREPROCESSORS:
                raise AttributeError("'NoneType' object has no attribute 'slider_resolution'")
            image, mask = input_of(unit, p)
            assert unit.model != "None", "You have not selected any control model!"
            global_state.controlnet_filename_dict[unit.model]
            seen[-1].append((unit, image, mask))
            self.current_params[i] = image, mask

    def process_before_every_sampling(self, p, *args, **kwargs):
        self.clear()
        for i, unit in enumerate(self.get_enabled_units(args)):
            image, mask = self.current_params[i]
            seed = int(image.sum()) + (0 if mask is None else int(mask.sum()))
            for layer in p.sd_model.model.diffusion_model.modules():
                if hasattr(layer, "to_q") and layer.to_k.in_features != layer.to_q.in_features:
                    self.hooks.append(layer.register_forward_hook(pattern(seed, unit.weight)))

    def postprocess(self, p, processed, *args):
        self.current_params = {}
        self.clear()

    def clear(self):
        while self.hooks:
            self.hooks.pop().remove()


def pattern(seed, weight):
    def add(_module, _args, out):
        drawn = torch.randn(out.shape[-1], generator=torch.Generator().manual_seed(seed % 2**31))
        return out + 0.3 * weight * drawn.to(out)

    return add
