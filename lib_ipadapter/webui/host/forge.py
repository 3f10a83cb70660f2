"""Forge and its kin (reForge, Forge classic, Forge Neo): the WebUI with another engine below it.

They differ in where the model is (``forge_objects``), in who tells the rows of a call (the call itself), and in who has
the device's memory. What not all of them have is looked for among what is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from modules import devices, shared
from torch import nn

from ...attend.rows import Row, Rows
from ...attend.step import RowsOfCall, Step
from ...encode.device import CPU, Device
from .a1111 import A1111
from .controlnet import ControlNet
from .forge_controlnet import ForgeControlNet

ENGINE = "backend.memory_management"
# Where they manage the device's memory: Forge and Neo, reForge and classic.
MEMORY = (ENGINE, "ldm_patched.modules.model_management")
OPTIONS, KINDS, COND, UNCOND = "transformer_options", "cond_or_uncond", 0, 1
COMPUTING = 2**29  # bytes that an image encoder computes with, beside its weights


class Forge(A1111):
    def recognises(self, model: Any) -> bool:
        """They load their first model with the first job; until then their own modules tell."""
        return hasattr(model, "forge_objects") or (not hasattr(model, "model") and _memory() is not None)

    def unet_of(self, model: Any) -> nn.Module | None:
        patcher = getattr(getattr(model, "forge_objects", None), "unet", None)
        unet: nn.Module | None = getattr(getattr(patcher, "model", None), "diffusion_model", None)
        return unet

    def is_loaded(self, chosen: Any) -> bool:
        """A checkpoint that is chosen is loaded with the next job: until then the loaded one is another."""
        loaded = getattr(self.loaded_model(), "sd_checkpoint_info", None)
        return chosen is None or loaded is None or bool(chosen.filename == loaded.filename)

    def runs_flux(self) -> bool:
        """reForge and classic cannot: the engine that can has its memory managed elsewhere."""
        return ENGINE in sys.modules

    def device(self) -> Device:
        return Device(devices.device, devices.dtype, _make_room)

    def _latent_channels(self) -> int:
        autoencoder = getattr(getattr(shared.sd_model, "forge_objects", None), "vae", None)
        channels: int = getattr(autoencoder, "latent_channels", super()._latent_channels())
        return channels

    def expected_controlnet(self) -> type[ControlNet]:
        return ForgeControlNet

    def denoising_step(self, params: Any) -> Step:
        """``x`` has one row for each picture, and each call tells its rows."""
        pictures = len(params.x)
        kinds = [COND] if params.text_uncond is None else [COND, UNCOND]
        return (
            super()
            .denoising_step(params)
            ._replace(
                rows=_rows(kinds, pictures), texts=None, latents=None, sampler=None, rows_of_call=announced(pictures)
            )
        )


def announced(pictures: int) -> RowsOfCall:
    """The rows of calls in a step of so many ``pictures``, from the options that come with each call.

    ``cond_or_uncond`` has an entry for each group of rows, in their order: 0 for conditional ones, 1 for unconditional
    ones. A group has a row of every picture; several conditional ones are those of AND prompts. An extension that takes
    the picture apart calls with all of these rows for each of its tiles, one tile after the other.
    """

    def rows(kwargs: Mapping[str, Any], n: int) -> Rows | None:
        options = kwargs.get(OPTIONS)
        kinds = options.get(KINDS) if isinstance(options, Mapping) else None
        if not isinstance(kinds, Sequence) or not kinds or any(kind not in (COND, UNCOND) for kind in kinds):
            return None
        of_picture = _rows(kinds, pictures)
        tiles, odd = divmod(n, len(of_picture))
        return None if odd else of_picture * tiles

    return rows


def _rows(kinds: Sequence[int], pictures: int) -> Rows:
    return tuple(Row(kind == COND, picture) for kind in kinds for picture in range(pictures))


def _memory() -> Any | None:
    """The module that manages the device's memory."""
    return next((module for name in MEMORY if (module := sys.modules.get(name)) is not None), None)


def _make_room(nbytes: int) -> None:
    """The host moves models away until the device has so many bytes."""
    memory = _memory()
    if memory is not None and devices.device != CPU:
        memory.free_memory(nbytes + COMPUTING, devices.device)
    devices.torch_gc()
