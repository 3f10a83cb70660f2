"""Narrow UNets of the real topologies, seeded."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import nn

from tests.helpers.tensors import randomise


def _empty(**sizes: Any) -> nn.Module:
    """ldm's UNet, 32 channels wide instead of 320, without numbers in it: making them twice takes longest."""
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

    with torch.device("meta"):
        return UNetModel(
            image_size=16, out_channels=4, model_channels=32, num_res_blocks=2, use_spatial_transformer=True,
            transformer_depth=1, use_checkpoint=False, legacy=False, **sizes,
        )  # fmt: skip


def _filled(unet: nn.Module, seed: int) -> nn.Module:
    return randomise(unet.to_empty(device="cpu"), seed).eval().requires_grad_(False)


def sd_unet(context_width: int = 768, *, in_channels: int = 4, heads: int = 8, linear: bool = False) -> nn.Module:
    """A UNet of SD1.5's (SD2.x's with ``linear``) topology, the caller's own: a copy takes a tenth of the time."""
    return copy.deepcopy(_sd_unet(context_width, in_channels, heads, linear))


@functools.cache
def _sd_unet(context_width: int, in_channels: int, heads: int, linear: bool) -> nn.Module:
    unet = _empty(
        in_channels=in_channels, attention_resolutions=[4, 2, 1], channel_mult=[1, 2, 4, 4], num_heads=heads,
        context_dim=context_width, use_linear_in_transformer=linear,
    )  # fmt: skip
    return _filled(unet, 1)


@functools.cache
def sdxl_unet() -> nn.Module:
    """A UNet of SDXL's topology: 70 cross-attention layers, context 2048, three levels, none at the first. The same for
    all: none may change its weights."""
    from ldm.modules.attention import BasicTransformerBlock, SpatialTransformer

    class DeepTransformer(SpatialTransformer):
        def forward(self, x, context=None):  # the package's own wants one context for each block
            return super().forward(x, [context] * len(self.transformer_blocks))

    unet = _empty(
        in_channels=4, attention_resolutions=[4, 2], channel_mult=[1, 2, 4], num_heads=4, context_dim=2048,
        use_linear_in_transformer=True,
    )  # fmt: skip
    for module in unet.modules():
        if isinstance(module, SpatialTransformer):
            first = module.transformer_blocks[0]
            width, heads = first.attn2.to_q.out_features, first.attn2.heads
            with torch.device("meta"):
                module.transformer_blocks = nn.ModuleList(
                    BasicTransformerBlock(width, heads, width // heads, context_dim=first.attn2.to_k.in_features)
                    for _ in range(10 if width > 64 else 2)
                )
            module.__class__ = DeepTransformer
    return _filled(unet, 3)
