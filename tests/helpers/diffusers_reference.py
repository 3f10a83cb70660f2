"""The same UNet in diffusers, with diffusers' own IP-Adapter attention: the independent answer."""

from __future__ import annotations

import copy
import functools

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import Tensor, nn


def diffusers_unet(unet: nn.Module, context_width: int, *, xl: bool = False, linear: bool = False) -> nn.Module:
    """An ldm UNet's weights in diffusers' UNet2DConditionModel."""
    twin = copy.deepcopy(_empty(context_width, unet.in_channels, xl, linear))
    config = {"layers_per_block": 2, "class_embed_type": None, "addition_embed_type": None}
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in unet.state_dict().items()}
    converted = convert_ldm_unet_checkpoint(prefixed, {**twin.config, **config})
    twin.load_state_dict({name: tensor.clone() for name, tensor in converted.items()}, assign=True)
    return twin.eval().requires_grad_(False)


@functools.cache
def _empty(context_width: int, in_channels: int, xl: bool, linear: bool) -> nn.Module:
    """One without numbers: building it takes longer than a step of it."""
    if xl:
        blocks = {
            "block_out_channels": (32, 64, 128),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": 4,
        }
    else:
        blocks = {
            "block_out_channels": (32, 64, 128, 128),
            "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            "attention_head_dim": 8,
        }
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=16, in_channels=in_channels, out_channels=4, layers_per_block=2, norm_num_groups=32,
            cross_attention_dim=context_width, use_linear_projection=linear, **blocks,
        )  # fmt: skip


def add_adapters(twin: nn.Module, adapters: list[dict[str, dict[str, Tensor]]], scales: list[float]) -> None:
    """``adapters``: each {"image_proj": …, "ip_adapter": …} as published files hold them."""
    twin._load_ip_adapter_weights(adapters)
    for processor in twin.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = list(scales)


def published(image_proj: dict[str, Tensor], key: list[Tensor], value: list[Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors in the nested form of a published ``.bin``."""
    pairs = {}
    for i, (k, v) in enumerate(zip(key, value, strict=True)):
        pairs[f"{2 * i + 1}.to_k_ip.weight"], pairs[f"{2 * i + 1}.to_v_ip.weight"] = k, v
    return {"image_proj": image_proj, "ip_adapter": pairs}


def run(twin: nn.Module, x: Tensor, t: Tensor, text: Tensor, embeds: list[Tensor]) -> Tensor:
    """``embeds``: for each adapter the rows' image embeddings [rows, images, …]."""
    return twin(x, t, encoder_hidden_states=text, added_cond_kwargs={"image_embeds": embeds}).sample
