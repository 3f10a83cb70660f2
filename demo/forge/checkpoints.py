"""Forge's way with checkpoints: one is loaded, with the first job, and every load makes a new object."""

from __future__ import annotations

import math
from typing import Any

import torch
from modules import script_callbacks, sd_models, shared

from demo.forge import flux
from demo.forge.engine import PACKED, Flux, ForgeDiffusionEngine, alike, forges_transformer, forges_unet
from demo.models import KINDS, LatentDiffusion


class FakeInitialModel:
    """What stands in the model's place until there is one."""

    def __init__(self) -> None:
        self.cond_stage_model = None
        self.chunk_length = 75

    def get_prompt_lengths_on_ui(self, prompt: str) -> tuple[int, int]:
        words = len(prompt.split())
        return words, math.ceil(max(words, 1) / self.chunk_length) * self.chunk_length


class SdModelData:
    def __init__(self) -> None:
        self.sd_model: Any = FakeInitialModel()
        self.forge_loading_parameters: dict[str, Any] = {}
        self.forge_hash = ""

    def get_sd_model(self) -> Any:
        return self.sd_model

    def set_sd_model(self, v: Any) -> None:
        self.sd_model = v


patterns: dict[tuple[str, bool], LatentDiffusion | flux.Flux] = {}
"""Checkpoints by file and whether they are packed, built once: every load is another object with the same tensors."""


def _pattern(info: Any, packed: bool) -> LatentDiffusion | flux.Flux:
    key = info.filename, packed
    if key not in patterns:
        if info.config == flux.KIND:
            patterns[key] = flux.build(int(info.metadata["demo_seed"]))
            forges_transformer(patterns[key].model.diffusion_model, packed)
        else:
            patterns[key] = sd_models._build(info)
            forges_unet(patterns[key].model.diffusion_model, KINDS[patterns[key].kind][1], packed)
    return patterns[key]


@torch.inference_mode()
def forge_model_reload() -> tuple[Any, bool]:
    """Load what the loading parameters say, unless it is loaded. Returns the model, and whether it is a new one."""
    data = sd_models.model_data
    parameters = data.forge_loading_parameters
    info, packed = parameters["checkpoint_info"], parameters["unet_storage_dtype"] == PACKED
    wanted = str({**parameters, "checkpoint_info": info.filename})
    if data.forge_hash == wanted:
        return data.sd_model, False
    data.sd_model = None
    kind = Flux if info.config == flux.KIND else ForgeDiffusionEngine
    model = kind(alike(_pattern(info, packed)))
    model.extra_generation_params, model.comments = {}, []
    model.sd_checkpoint_info, model.filename, model.sd_model_hash = info, info.filename, info.shorthash
    shared.opts.data["sd_checkpoint_hash"] = info.sha256
    data.set_sd_model(model)
    script_callbacks.model_loaded_callback(model)
    data.forge_hash = wanted
    return model, True


def take_up(info: Any = None) -> None:
    """Load the settings' checkpoint, or ``info``."""
    sd_models.model_data.forge_loading_parameters = {
        "checkpoint_info": info or sd_models.select_checkpoint(), "additional_modules": [],
        "unet_storage_dtype": getattr(shared.opts, "forge_unet_storage_dtype", None),
    }  # fmt: skip
    forge_model_reload()


def get_unet_option(option: str | None = None) -> Any:
    """The replacement for the UNet that is chosen; "Automatic" asks the loaded checkpoint for its name."""
    if (option or getattr(shared.opts, "sd_unet", "Automatic")) == "Automatic":
        _ = shared.sd_model.sd_checkpoint_info.model_name


def stub(*_args: Any, **_kwargs: Any) -> None:
    """What Forge has kept of the WebUI's functions is a name."""
