"""What the API takes and answers with."""

import dataclasses
from typing import Any

from pydantic import BaseModel, create_model

from modules.processing import StableDiffusionProcessingImg2Img, StableDiffusionProcessingTxt2Img

# Arguments of a job that are the host's own business.
_HIDDEN = {
    "sd_model", "outpath_samples", "outpath_grids", "extra_generation_params", "overlay_images", "latent_mask",
    "do_not_reload_embeddings", "prompt_for_display", "ddim_discretize", "comments", "seed_enable_extras",
}  # fmt: skip
_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "Image": str}
# What a request may say that is no argument of a job; the API takes these out again.
EXTRAS = {
    "script_name": (str, None), "script_args": (list, []), "alwayson_scripts": (dict, {}), "send_images": (bool, True),
    "save_images": (bool, False), "infotext": (str, None), "include_init_images": (bool, False),
}  # fmt: skip


def _request(cls, **changes):
    fields = {
        f.name: (_TYPES.get(f.type.partition("[")[0], Any), f.default)
        for f in dataclasses.fields(cls) if f.init and f.name not in _HIDDEN
    }  # fmt: skip
    fields |= EXTRAS | {"sampler_index": (str, "Euler")} | changes
    return create_model(cls.__name__, **{name: (kind | None, value) for name, (kind, value) in fields.items()})


StableDiffusionTxt2ImgProcessingAPI = _request(StableDiffusionProcessingTxt2Img)
StableDiffusionImg2ImgProcessingAPI = _request(StableDiffusionProcessingImg2Img, mask=(str, None))


class ImagesResponse(BaseModel):
    images: list
    parameters: dict
    info: str


class PNGInfoRequest(BaseModel):
    image: str


class ProgressRequest(BaseModel):
    skip_current_image: bool = False


class ScriptArg(BaseModel):
    """What is known of one argument of a script."""

    label: str = ""
    value: Any = None
    minimum: Any = None
    maximum: Any = None
    step: Any = None
    choices: list | None = None

    @classmethod
    def of(cls, control):
        known = {name: getattr(control, name, None) for name in cls.__fields__}
        names = [choice[0] if isinstance(choice, tuple) else choice for choice in known["choices"] or ()]
        return cls(**{**known, "label": known["label"] or "", "choices": names or None})


class ScriptInfo(BaseModel):
    name: str
    is_alwayson: bool
    is_img2img: bool
    args: list[ScriptArg]
