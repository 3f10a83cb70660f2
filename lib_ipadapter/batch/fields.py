"""What a row may say beside its units: the fields of txt2img and img2img, by their types (the API of the WebUI
v1.10.1). A field that only a newer WebUI has is taken if its own list of fields names it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isfinite
from typing import Any

from .problems import RowError

_TEXT = (
    "prompt negative_prompt sampler_name sampler_index scheduler script_name infotext refiner_checkpoint "
    "firstpass_image hr_upscaler hr_checkpoint_name hr_sampler_name hr_scheduler hr_prompt hr_negative_prompt"
)
_WHOLE = (
    "seed subseed seed_resize_from_h seed_resize_from_w batch_size n_iter steps width height firstphase_width "
    "firstphase_height hr_second_pass_steps hr_resize_x hr_resize_y resize_mode mask_blur mask_blur_x mask_blur_y "
    "inpainting_fill inpaint_full_res_padding inpainting_mask_invert"
)
_NUMBER = (
    "subseed_strength cfg_scale image_cfg_scale denoising_strength eta s_min_uncond s_churn s_tmax s_tmin s_noise "
    "hr_scale refiner_switch_at initial_noise_multiplier"
)
_FLAG = "restore_faces tiling enable_hr disable_extra_networks mask_round override_settings_restore_afterwards"
_OBJECT = "override_settings alwayson_scripts"
_LIST = "script_args styles"
TYPES = {
    **dict.fromkeys(_TEXT.split(), "text"), **dict.fromkeys(_WHOLE.split(), "whole number"),
    **dict.fromkeys(_NUMBER.split(), "number"), **dict.fromkeys(_FLAG.split(), "true or false"),
    **dict.fromkeys(_OBJECT.split(), "object"), **dict.fromkeys(_LIST.split(), "list"),
    "inpaint_full_res": "true or false",
}  # fmt: skip
ONLY_IMG2IMG = {
    "mask", "resize_mode", "mask_blur", "mask_blur_x", "mask_blur_y", "inpainting_fill", "inpaint_full_res",
    "inpaint_full_res_padding", "inpainting_mask_invert", "image_cfg_scale", "initial_noise_multiplier", "mask_round",
}  # fmt: skip
# What the run itself decides, and what a file must not ask of a WebUI.
RESERVED = {
    "send_images": "the run needs the pictures", "save_images": "the run saves them itself",
    "force_task_id": "the run has names of its own", "include_init_images": "the run does not need them",
    "do_not_save_samples": "the run saves them itself", "do_not_save_grid": "there are no grids",
}  # fmt: skip
OWN = ("id", "checkpoint", "preset", "units", "init_images", "mask")
TEXTS = {*_TEXT.split(), "id", "checkpoint", "preset", "mask", "model", "image", "subtract_prompt", "look"}
LIMITS = {"width": 16384, "height": 16384, "batch_size": 64, "n_iter": 1000, "steps": 1000}


def checked(name: str, value: Any, listed: Collection[str]) -> Any:
    """A field's value as it is sent; ``listed``: what the WebUI itself lists. Raises RowError."""
    if name in RESERVED:
        raise RowError(f"{name} is not a row's to say, because {RESERVED[name]}: leave it out.")
    kind = TYPES.get(name)
    if kind is None:
        if name in listed:
            return value
        raise RowError(f"unknown field {name[:100]!r}: correct its name, or leave it out.")
    value = _as(kind, value)
    if value is None:
        raise RowError(f"{name} is no {kind}: give one.")
    if name in LIMITS and not 1 <= value <= LIMITS[name]:
        raise RowError(f"{name} is {value}: give 1 to {LIMITS[name]}.")
    if name in ("seed", "subseed") and not -1 <= value <= 2**63 - 1:
        raise RowError(f"{name} is {value}: give -1, or 0 to {2**63 - 1}.")
    return value


def _as(kind: str, value: Any) -> Any:
    """``value`` as a value of that kind; None where it is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
    if kind == "text":
        return value if isinstance(value, str) else str(value) if is_number else None
    if kind == "whole number":
        return int(value) if is_number and value == int(value) else None
    if kind == "number":
        return value if is_number else None
    if kind == "true or false":
        return bool(value) if isinstance(value, bool) or value in (0, 1) else None
    wanted = Mapping if kind == "object" else list
    return value if isinstance(value, wanted) else None
