"""SigLIP's image tower (arXiv 2303.15343), from transformers' key layout, which ComfyUI's single file has too.

It differs from CLIP's in that it has no class token, no layer norm before the blocks, a convolution with bias, GELU by
its tanh approximation, layer norms of epsilon 1e-6, and, in the place of a projection, a head that pools by attention.
The modules are named as open_clip names CLIP's, so that clip_blocks.py fills and runs them; they are torch's own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint.clip_keys import SIGLIP_TOWER
from .clip_blocks import arithmetic, call, fill, no_autocast, run_block
from .clip_image import Embedding, ImageEncoder, Source, positions

if TYPE_CHECKING:
    from ..checkpoint.specs import EncoderSpec

EPSILON = 1e-6  # of its layer norms


class SiglipEncoder(ImageEncoder):
    """A SigLIP image tower with its weights, ready to encode."""

    @classmethod
    def from_state(cls, spec: EncoderSpec, state: MutableMapping[str, Tensor], *, dtype: torch.dtype) -> SiglipEncoder:
        """Build the tower that ``spec`` describes from ``state``, as ``ImageEncoder.from_state`` does."""
        with torch.device("meta"):  # no memory, no random initialisation
            tower = _Tower(spec)
        fill(tower, state, SIGLIP_TOWER, spec.kind, dtype)
        return cls(spec, tower.eval())

    def encode(self, pixels: Tensor, source: Source = "both") -> Embedding:
        """Encode ``pixels`` [B, 3, S, S], normalised, S the spec's ``image_size``, or a multiple of its ``patch``, for
        which the positions are interpolated. What of its own size the patches do not fill is left out, as 6 of 384
        pixels are by patches of 14.

        ``source`` is "last", "pooled" or both. Results, dtypes and devices are as in ``ImageEncoder.encode``.
        """
        spec, size = self.spec, pixels.shape[-1]
        fits = size == spec.image_size or (size > 0 and size % spec.patch == 0)
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size) or not fits:
            raise ValueError(
                f"{spec.kind} encodes pixels of shape [B, 3, S, S], S {spec.image_size} or a multiple of {spec.patch}, "
                f"not {[*pixels.shape]}"
            )
        if source == "penultimate":
            raise ValueError(f"{spec.kind} is a SigLIP tower, of which no penultimate hidden states are taken")
        tower, dtype = self._tower, arithmetic(self.device, self.dtype)
        with torch.inference_mode(False), torch.no_grad(), no_autocast(self.device):
            x = call(tower.conv1, pixels.to(self.device, dtype)).flatten(2).transpose(1, 2)
            x = x + positions(tower.get_parameter("positional_embedding"), size // spec.patch, 0).to(dtype)
            for block in tower.transformer.resblocks:
                x = run_block(block, x)
            x = call(tower.ln_post, x)
            pooled = _pooled(tower.head, x) if source != "last" else None
        return Embedding(pooled, last=x if source != "pooled" else None)


def _pooled(head: nn.Module, x: Tensor) -> Tensor:
    """[B, W]: the tokens [B, N, W] as the learned probe attends to them."""
    attention, probe = head.attention, head.probe.to(x.dtype).expand(len(x), -1, -1)
    weights, biases = attention.in_proj_weight.to(x.dtype), attention.in_proj_bias.to(x.dtype)
    parts = zip((probe, x, x), weights.chunk(3), biases.chunk(3), strict=True)
    q, k, v = (
        F.linear(tokens, weight, bias).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for tokens, weight, bias in parts
    )
    attended: Tensor = torch.ops.aten.scaled_dot_product_attention(q, k, v)
    pooled = call(attention.out_proj, attended.transpose(1, 2).flatten(2))
    pooled = pooled + call(head.mlp, call(head.layernorm, pooled))
    return pooled[:, 0]


class _Tower(nn.Module):
    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        patches = spec.image_size // spec.patch
        self.conv1 = nn.Conv2d(3, spec.width, spec.patch, spec.patch)
        self.positional_embedding = nn.Parameter(torch.empty(patches**2, spec.width))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(_Block(spec) for _ in range(spec.layers))
        self.ln_post = nn.LayerNorm(spec.width, EPSILON)
        self.head = _Head(spec)


class _Block(nn.Module):
    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(spec.width, EPSILON)
        self.attn = nn.MultiheadAttention(spec.width, spec.heads)
        self.ln_2 = nn.LayerNorm(spec.width, EPSILON)
        self.mlp = _mlp(spec, "c_fc", "c_proj")


class _Head(nn.Module):
    """Its names are transformers' own."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, spec.width))
        self.attention = nn.MultiheadAttention(spec.width, spec.heads)
        self.layernorm = nn.LayerNorm(spec.width, EPSILON)
        self.mlp = _mlp(spec, "fc1", "fc2")


def _mlp(spec: EncoderSpec, first: str, second: str) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            {
                first: nn.Linear(spec.width, spec.mlp_width),
                "gelu": nn.GELU(approximate="tanh"),
                second: nn.Linear(spec.mlp_width, spec.width),
            }
        )
    )
