"""diffusers' UNets in the published sizes with its own IP-Adapter attention: what ours is measured beside."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .gpu import unets
from .gpu.job import adapter_state
from .gpu.measure import reason
from .gpu.unets import randomise

POOLED = 1024  # width of the image embedding


def lacking() -> str:
    """Why diffusers' own cannot be had; empty where it can."""
    if importlib.util.find_spec("diffusers") is None:
        return "diffusers is not installed"
    try:
        from diffusers import UNet2DConditionModel  # noqa: F401
    except Exception as error:  # of any kind, where transformers or torch does not suit it
        return f"diffusers cannot be imported: {reason(error.__cause__ or error)}"
    return ""


def build(sizes: unets.Sizes, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A UNet of these sizes with random weights, by diffusers' own classes."""
    from diffusers import UNet2DConditionModel

    attending = [bool(depth) for depth in sizes.depths]
    down = tuple("CrossAttnDownBlock2D" if one else "DownBlock2D" for one in attending)
    up = tuple("CrossAttnUpBlock2D" if one else "UpBlock2D" for one in reversed(attending))
    widths = tuple(sizes.channels * multiplier for multiplier in sizes.multipliers)
    more: dict[str, Any] = {}
    if sizes.vector is not None:  # SDXL's extra conditioning, given as a vector
        more = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": sizes.vector}
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=sizes.latent, block_out_channels=widths, down_block_types=down, up_block_types=up,
            layers_per_block=sizes.res_blocks, cross_attention_dim=sizes.context,
            # By a mistake that diffusers keeps for old files' sake, this is the number of heads.
            attention_head_dim=sizes.heads or tuple(width // 64 for width in widths),
            transformer_layers_per_block=tuple(max(depth, 1) for depth in sizes.depths),
            use_linear_projection=sizes.linear, **more,
        )  # fmt: skip
    unet = unet.to(dtype).to_empty(device=device)
    randomise(unet, seed=1)
    return unet.eval().requires_grad_(False)


class Theirs:
    """A step of diffusers' UNet, with its IP-Adapter and without."""

    def __init__(self, unet: nn.Module, x: Tensor, t: Tensor, text: Tensor, y: Tensor | None) -> None:
        self.unet, self.inputs, self.text, self.y = unet, (x, t), text, y
        self._plain = dict(unet.attn_processors)
        layers = [name for name in self._plain if name.endswith("attn2.processor")]
        widths = [unet.get_submodule(name.removesuffix(".processor")).to_q.in_features for name in layers]
        unet._load_ip_adapter_weights([adapter_state(widths, text.shape[-1], POOLED)])
        unet.to(x.device, x.dtype)
        self._acting, self._projection = dict(unet.attn_processors), unet.encoder_hid_proj
        self._embedding = torch.ones(len(x), 1, POOLED, device=x.device, dtype=x.dtype)
        for processor in self._acting.values():
            if hasattr(processor, "scale"):
                processor.scale = [0.7]

    @torch.no_grad()
    def step(self, acting: bool) -> Tensor:
        more: dict[str, Any] = {} if self.y is None else {"class_labels": self.y}
        if acting:
            more["added_cond_kwargs"] = {"image_embeds": [self._embedding]}
        return self.unet(*self.inputs, encoder_hidden_states=self.text, return_dict=False, **more)[0]

    def timed(self, seconds: Callable[[Callable[[], object]], float], acting: bool) -> float:
        """``seconds`` of a step; what is changed before it does not count."""
        self.unet.set_attn_processor(dict(self._acting if acting else self._plain))
        self.unet.encoder_hid_proj = self._projection if acting else None
        self.unet.config["encoder_hid_dim_type"] = "ip_image_proj" if acting else None
        return seconds(lambda: self.step(acting))
