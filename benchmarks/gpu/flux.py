"""FLUX's blocks in their published sizes, as many as are wanted, with random weights, which cost what trained ones do.

Modules are named as in the published checkpoints, and attention is called by this module's name ``attention_function``,
which knows no mask of this model, as on Forge. Written from the formulas: rectified flow (Esser et al. 2024, arXiv
2403.03206), rotary positions (Su et al. 2021), modulation by time and text (Peebles and Xie 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_ipadapter.attend.blocks import time_embedding

from .unets import randomise

PATCH = 2


@dataclass(frozen=True)
class Sizes:
    """``axes`` are the channels of a head that places turn: of text's axis, of rows and of columns. ``text`` is how
    many tokens the prompt has, ``latent`` the side of the latent."""

    width: int = 3072
    heads: int = 24
    double_blocks: int = 2
    single_blocks: int = 4
    context: int = 4096
    pooled: int = 768
    channels: int = 16
    axes: tuple[int, ...] = (16, 56, 56)
    text: int = 512
    latent: int = 128

    def small(self) -> Sizes:
        return Sizes(64, 2, 1, 2, 48, 24, 4, (8, 12, 12), 16, 16)

    @property
    def places(self) -> int:
        """Of the picture in the sequence."""
        return (self.latent // PATCH) ** 2


FULL = Sizes()


def attention_function(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, attn_precision: Any = None,
    skip_reshape: bool = False,
) -> Tensor:  # fmt: skip
    """[B, heads, L, d] with ``skip_reshape``, else [B, L, heads * d]; [B, L, heads * d]."""
    if not skip_reshape:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    return attention_function(_turned(q, turns), _turned(k, turns), v, q.shape[1], skip_reshape=True)


def _turned(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Each pair of channels turned by its place's angle, [B, heads, L, d]."""
    cosine, sine = turns
    one, other = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([one * cosine - other * sine, one * sine + other * cosine], dim=-1).flatten(-2)


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6).to(x) * (1 + self.scale)


class Norms(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_norm, self.key_norm = Scale(width), Scale(width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.query_norm(q), self.key_norm(k)


class Modulation(nn.Module):
    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts, self.lin = parts, nn.Linear(width, parts * width)

    def forward(self, vec: Tensor) -> tuple[Tensor, ...]:
        return self.lin(F.silu(vec))[:, None].chunk(self.parts, dim=-1)


class Side(nn.Module):
    """The picture's or the text's part in the attention over both."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.norm, self.proj = nn.Linear(width, 3 * width), Norms(width // heads), nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _by_head(self.qkv(x), self.heads, self.norm)


def _by_head(qkv: Tensor, heads: int, norm: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return *norm(q, k, v), v


def _normed(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))


class DoubleBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.img_mod, self.img_attn, self.img_mlp = Modulation(width, 6), Side(width, heads), _mlp(width)
        self.txt_mod, self.txt_attn, self.txt_mlp = Modulation(width, 6), Side(width, heads), _mlp(width)

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, pe: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        of_img, of_txt = self.img_mod(vec), self.txt_mod(vec)
        text, picture = self.txt_attn(_normed(txt, *of_txt[:2])), self.img_attn(_normed(img, *of_img[:2]))
        seen = attend(*(torch.cat(both, dim=2) for both in zip(text, picture, strict=True)), turns=pe)
        of_text, of_picture = seen.tensor_split((txt.shape[1],), dim=1)
        img = img + of_img[2] * self.img_attn.proj(of_picture)
        txt = txt + of_txt[2] * self.txt_attn.proj(of_text)
        img = img + of_img[5] * self.img_mlp(_normed(img, *of_img[3:5]))
        return img, txt + of_txt[5] * self.txt_mlp(_normed(txt, *of_txt[3:5]))


class SingleBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.linear1, self.linear2 = nn.Linear(width, 7 * width), nn.Linear(5 * width, width)
        self.norm, self.modulation = Norms(width // heads), Modulation(width, 3)

    def forward(self, x: Tensor, vec: Tensor, pe: tuple[Tensor, Tensor]) -> Tensor:
        shift, scale, gate = self.modulation(vec)
        qkv, inner = self.linear1(_normed(x, shift, scale)).tensor_split((3 * self.width,), dim=-1)
        seen = attend(*_by_head(qkv, self.heads, self.norm), turns=pe)
        return x + gate * self.linear2(torch.cat([seen, F.gelu(inner, approximate="tanh")], dim=-1))


class Flux(nn.Module):
    """A transformer called as Forge calls its own."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes, width, heads = sizes, sizes.width, sizes.heads
        self.hidden_size = width
        patch = sizes.channels * PATCH**2
        self.img_in, self.txt_in = nn.Linear(patch, width), nn.Linear(sizes.context, width)
        self.time_in, self.vector_in = nn.Linear(256, width), nn.Linear(sizes.pooled, width)
        self.double_blocks = nn.ModuleList(DoubleBlock(width, heads) for _ in range(sizes.double_blocks))
        self.single_blocks = nn.ModuleList(SingleBlock(width, heads) for _ in range(sizes.single_blocks))
        self.final_layer = nn.Linear(width, patch)

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor, y: Tensor) -> Tensor:
        """[B, channels, side, side] latents, [B] noise levels, [B, T, context] texts and [B, pooled]; the latents'
        form."""
        side = x.shape[-1] // PATCH
        img = self.img_in(F.pixel_unshuffle(x, PATCH).flatten(2).transpose(1, 2))
        txt = self.txt_in(context)
        vec = self.time_in(time_embedding(1000 * timestep, 256).to(x)) + self.vector_in(y)
        pe = self._turns(side, txt)
        for block in self.double_blocks:
            img, txt = block(img=img, txt=txt, vec=vec, pe=pe)
        both = torch.cat([txt, img], dim=1)
        for block in self.single_blocks:
            both = block(both, vec=vec, pe=pe)
        out = self.final_layer(both[:, txt.shape[1] :]).transpose(1, 2).unflatten(2, (side, side))
        return F.pixel_shuffle(out, PATCH)

    def _turns(self, side: int, txt: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine for each place, [L, d / 2]; text stands nowhere."""
        grid = torch.arange(side, device=txt.device)
        places = torch.cartesian_prod(grid[:1], grid, grid).float()
        places = torch.cat([places.new_zeros(txt.shape[1], 3), places])
        speeds = [10000.0 ** -(torch.arange(0, axis, 2, device=txt.device) / axis) for axis in self.sizes.axes]
        angle = torch.cat([places[:, i, None] * speed for i, speed in enumerate(speeds)], dim=1)
        return angle.cos().to(txt), angle.sin().to(txt)


def build(sizes: Sizes, device: torch.device, dtype: torch.dtype, seed: int = 1) -> Flux:
    """A transformer of these sizes with random weights, made on ``device``."""
    with torch.device("meta"):
        made = Flux(sizes).to(dtype)
    randomise(made.to_empty(device=device), seed)
    return made.eval().requires_grad_(False)
