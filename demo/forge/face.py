"""Putting Forge's face on the miniature host, and taking it off."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

MISSING = object()
MEMORY = "backend.memory_management"


class _Changes:
    """Attributes that stand for others until they are taken back."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def put(self, owner: Any, **values: Any) -> None:
        for name, value in values.items():
            own = vars(owner) if isinstance(owner, type) else {name: getattr(owner, name, MISSING)}
            self._before.append((owner, name, own.get(name, MISSING)))
            setattr(owner, name, value)

    def back(self) -> None:
        while self._before:
            owner, name, value = self._before.pop()
            if value is MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def put_on() -> Callable[[], None]:
    """Make the host Forge, whose first job loads the first model. Returns what takes all of it back."""
    backend = ModuleType("backend")
    backend.memory_management = sys.modules[MEMORY] = importlib.import_module("demo.forge.memory")
    sys.modules["backend"] = backend
    from modules import paths

    from demo.forge import checkpoints, flux

    changes = _Changes()
    _settings(changes)
    _models(changes)
    _sampling(changes)
    _jobs(changes)
    of_flux = flux.write_checkpoint(Path(paths.models_path) / "Stable-diffusion")

    def take_off() -> None:
        changes.back()
        of_flux.unlink(missing_ok=True)
        checkpoints.patterns.clear()
        for name in ("backend", MEMORY):
            sys.modules.pop(name, None)

    return take_off


def _settings(changes: _Changes) -> None:
    from modules import shared, shared_options

    of_forge = {"forge_unet_storage_dtype": "Automatic", "sd_unet": "Automatic"}
    infos = {key: shared_options._info(key, value) for key, value in of_forge.items()}
    changes.put(shared, options_templates={**shared.options_templates, **infos})


def _models(changes: _Changes) -> None:
    from modules import lowvram, sd_hijack, sd_models, sd_unet, shared

    from demo.forge import checkpoints
    from demo.forge.checkpoints import stub

    changes.put(
        sd_models, FakeInitialModel=checkpoints.FakeInitialModel, SdModelData=checkpoints.SdModelData,
        model_data=checkpoints.SdModelData(), forge_model_reload=checkpoints.forge_model_reload,
        _take_up=checkpoints.take_up, load_model=stub, reload_model_weights=stub, get_empty_cond=stub,
        send_model_to_device=stub, send_model_to_trash=stub, apply_token_merging=stub,
    )  # fmt: skip
    changes.put(sd_unet, get_unet_option=checkpoints.get_unet_option)
    changes.put(lowvram, is_needed=lambda sd_model: False, is_enabled=lambda sd_model: False, apply=stub,
                send_everything_to_cpu=stub)  # fmt: skip
    changes.put(
        sd_hijack.StableDiffusionModelHijack,
        get_prompt_lengths=lambda self, text: shared.sd_model.get_prompt_lengths_on_ui(text),
    )


def _sampling(changes: _Changes) -> None:
    from modules import sd_samplers_cfg_denoiser, sd_samplers_common, sd_samplers_kdiffusion, sd_samplers_timesteps

    from demo.forge import guidance

    changes.put(sd_samplers_cfg_denoiser, CFGDenoiser=guidance.CFGDenoiser)
    changes.put(sd_samplers_kdiffusion, CFGDenoiserKDiffusion=guidance.CFGDenoiserKDiffusion)
    changes.put(
        sd_samplers_kdiffusion.KDiffusionSampler, denoiser=guidance.CFGDenoiserKDiffusion, noised=guidance.noised
    )
    changes.put(sd_samplers_timesteps, CFGDenoiserTimesteps=guidance.CFGDenoiserTimesteps)
    changes.put(sd_samplers_timesteps.CompVisSampler, denoiser=guidance.CFGDenoiserTimesteps)
    changes.put(
        sd_samplers_common, _conditioning_key=lambda: "crossattn",
        _autoencoder=lambda model: model.forge_objects.vae.first_stage_model,
    )  # fmt: skip


def _jobs(changes: _Changes) -> None:
    from modules import processing
    from modules.api import api, models

    from demo.forge import jobs

    text, picture = jobs.StableDiffusionProcessingTxt2Img, jobs.StableDiffusionProcessingImg2Img
    changes.put(
        processing, StableDiffusionProcessingTxt2Img=text, StableDiffusionProcessingImg2Img=picture,
        _computing=jobs.computing, _sees_picture=jobs.sees_picture, program_version=lambda: "f2.0.1v1.10.1",
    )  # fmt: skip
    of_text, of_picture = models._request(text), models._request(picture, mask=(str, None))
    changes.put(models, StableDiffusionTxt2ImgProcessingAPI=of_text, StableDiffusionImg2ImgProcessingAPI=of_picture)
    for function, request in ((api.Api.text2imgapi, of_text), (api.Api.img2imgapi, of_picture)):
        (name,) = function.__annotations__
        changes.put(function, __annotations__={name: request})
