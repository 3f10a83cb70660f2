"""Image prompts for a UNet, its inputs, and a call with them."""

from __future__ import annotations

import torch

from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.projections import build
from tests.helpers.tensors import draw, kv_weights

POOLED = 32  # width of the pooled embedding of these tests' base adapters


def base_projection(width: int, seed: int) -> dict[str, torch.Tensor]:
    return {
        "proj.weight": draw(4 * width, POOLED, seed=seed, scale=POOLED**-0.5),
        "proj.bias": draw(4 * width, seed=seed + 1, scale=0.1),
        "norm.weight": 1 + draw(width, seed=seed + 2, scale=0.1),
        "norm.bias": draw(width, seed=seed + 3, scale=0.1),
    }


def make_prompt(unet, seed: int, weight: float = 1.0, embeds: torch.Tensor | None = None, **kwargs) -> ImagePrompt:
    """A base adapter's image prompt for ``unet``, its references embedded as ``embeds`` [n, POOLED] (concat)."""
    width = cross_attention_layers(unet)[0].context_width
    key, value = kv_weights(unet, seed)
    embeds = draw(1, POOLED, seed=seed + 10) if embeds is None else embeds
    projection = build("ImageProj", base_projection(width, seed), width)
    cond, uncond = projection(embeds), projection(torch.zeros_like(embeds))
    kv = KeysValues.project(key, value, cond.reshape(1, -1, width), uncond.reshape(1, -1, width))
    return ImagePrompt(kv, weight, **kwargs)


def inputs(unet, rows: int = 2, size: int = 8, seed: int = 50):
    width = cross_attention_layers(unet)[0].context_width
    x = draw(rows, unet.in_channels, size, size, seed=seed)
    return x, torch.full((rows,), 500.0), draw(rows, 77, width, seed=seed + 1)


def call(unet, x, t, text, prompts, rows, *, step: int = 0, steps: int = 1):
    with Injection(unet, cross_attention_layers(unet), prompts) as injection:
        injection.begin(rows, step, steps)
        return unet(x, t, context=text)
