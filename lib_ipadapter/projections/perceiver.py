"""The Perceiver resampler (Flamingo, arXiv 2204.14198, section 3.1.1) that several architectures are made of."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from ..checkpoint.refusals import INSTEAD, RefusedAdapter
from ..checkpoint.shapes import Shape, Shapes, dims, layer_norm, under
from .architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

HEAD_WIDTH = 64  # every published resampler's; the number of heads follows from to_q's rows


class Perceiver(Architecture):
    """Latents that attend to image features, layer after layer. ``prefix`` is where its tensors stand."""

    prefix: ClassVar[str] = ""

    @classmethod
    def layers(cls, shapes: Shapes, dim: int) -> dict[str, Shape]:
        """The tensors of layers of width ``dim``; their number, heads and feed-forward width are the file's."""
        prefix = cls.prefix
        depth = len({key.split(".")[1] for key in under(shapes, prefix) if re.match(r"layers\.\d+\.", key)})
        inner, _ = dims(shapes, f"{prefix}layers.0.0.to_q.weight", 2)
        hidden, _ = dims(shapes, f"{prefix}layers.0.1.1.weight", 2)
        if inner % HEAD_WIDTH:
            raise RefusedAdapter(
                f"This IP-Adapter's attention is {inner} wide, which heads of {HEAD_WIDTH} do not divide: it has an "
                f"architecture that this version does not know, so {INSTEAD}"
            )
        tensors: dict[str, Shape] = {}
        for i in range(depth):
            attention, feed_forward = f"{prefix}layers.{i}.0", f"{prefix}layers.{i}.1"
            tensors |= layer_norm(f"{attention}.norm1", dim) | layer_norm(f"{attention}.norm2", dim)
            tensors |= {f"{attention}.to_q.weight": (inner, dim), f"{attention}.to_kv.weight": (2 * inner, dim)}
            tensors |= {f"{attention}.to_out.weight": (dim, inner)} | layer_norm(f"{feed_forward}.0", dim)
            tensors |= {f"{feed_forward}.1.weight": (hidden, dim), f"{feed_forward}.3.weight": (dim, hidden)}
        return tensors

    def attention(self, name: str, features: Tensor, latents: Tensor) -> Tensor:
        """Latents [B, T, C] attend to features [B, N, C] and to themselves; [B, T, C]."""
        import torch

        features = self.layer_norm(f"{name}.norm1", features)
        latents = self.layer_norm(f"{name}.norm2", latents)
        q = self.linear(f"{name}.to_q", latents)
        k, v = self.linear(f"{name}.to_kv", torch.cat([features, latents], dim=1)).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2) for x in (q, k, v))
        # Written out: torch's own gives wrong values on Apple's devices where there are as few queries as a face has
        # (2.8 and later), and hosts put others in its place.
        out = (q @ k.mT * HEAD_WIDTH**-0.5).softmax(dim=-1) @ v
        return self.linear(f"{name}.to_out", out.transpose(1, 2).flatten(2))

    def feed_forward(self, name: str, x: Tensor) -> Tensor:
        x = self.layer_norm(f"{name}.0", x)
        return self.linear(f"{name}.3", self.gelu(self.linear(f"{name}.1", x)))

    def resample(self, features: Tensor, latents: Tensor) -> Tensor:
        """Features [B, N, E] and latents [B, T, C] -> tokens [B, T, D], fp32."""
        features = self.linear(f"{self.prefix}proj_in", features.float())
        layer = 0
        while f"{self.prefix}layers.{layer}.0.to_q.weight" in self.weights:
            latents = latents + self.attention(f"{self.prefix}layers.{layer}.0", features, latents)
            latents = latents + self.feed_forward(f"{self.prefix}layers.{layer}.1", latents)
            layer += 1
        return self.layer_norm(f"{self.prefix}norm_out", self.linear(f"{self.prefix}proj_out", latents))
