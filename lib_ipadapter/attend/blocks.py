"""The blocks of latent diffusion's UNet in plain torch modules, named as in the published checkpoints.

What they compute hangs on nothing that a host or its extensions do to their own modules. Made on the meta device they
hold no numbers yet.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import image_attention


class CrossAttention(nn.Module):
    """Attention of [B, L, width] to a context [B, T, context], or to itself without one."""

    def __init__(self, width: int, context: int | None, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context or width, width, bias=False)
        self.to_v = nn.Linear(context or width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        attended = image_attention(self.to_q(x), self.to_k(context), self.to_v(context), self.heads)
        out: Tensor = self.to_out(attended)
        return out


class GEGLU(nn.Module):
    """A linear layer gated by another one (arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Dropout(0.0), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class BasicTransformerBlock(nn.Module):
    """Attention of all places to each other and to the context, then a feed-forward layer."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.attn1 = CrossAttention(width, None, heads)
        self.ff = FeedForward(width)
        self.attn2 = CrossAttention(width, context, heads)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(self.norm2(x), context) + x
        out: Tensor = self.ff(self.norm3(x)) + x
        return out


class SpatialTransformer(nn.Module):
    """Transformer blocks over the places of [B, channels, height, width]. With ``linear`` they stand between linear
    layers, else between 1 x 1 convolutions."""

    def __init__(self, width: int, depth: int, context: int, heads: int, *, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(BasicTransformerBlock(width, context, heads) for _ in range(depth))
        self.proj_out = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        form, hidden = x.shape[-2:], self.norm(x)
        if self.linear:
            hidden = self.proj_in(hidden.flatten(2).transpose(1, 2))
        else:
            hidden = self.proj_in(hidden).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            hidden = block(hidden, context)
        if self.linear:
            hidden = self.proj_out(hidden).transpose(1, 2).unflatten(2, form)
        else:
            hidden = self.proj_out(hidden.transpose(1, 2).unflatten(2, form))
        out: Tensor = hidden + x
        return out


class ResBlock(nn.Module):
    """Two convolutions with the step's embedding between them."""

    def __init__(self, width: int, out: int, time: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if width == out else nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        hidden = self.in_layers(x) + self.emb_layers(emb)[..., None, None]
        out: Tensor = self.out_layers(hidden) + self.skip_connection(x)
        return out


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class Stage(nn.ModuleList):
    """One of input, middle or output blocks: its modules one after the other, each with what it takes."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(modules)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        for module in self:
            if isinstance(module, ResBlock):
                x = module(x, emb)
            elif isinstance(module, SpatialTransformer):
                x = module(x, context)
            else:
                x = module(x)
        return x


def time_embedding(t: Tensor, width: int) -> Tensor:
    """[B] steps -> [B, width] cosines and sines, fp32 (Transformer, arXiv 1706.03762, section 3.5)."""
    half = width // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def perceptron(width: int, out: int) -> nn.Sequential:
    """Two linear layers with SiLU between them."""
    return nn.Sequential(nn.Linear(width, out), nn.SiLU(), nn.Linear(out, out))
