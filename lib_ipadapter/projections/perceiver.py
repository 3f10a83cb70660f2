"""The Perceiver resampler of the "plus" adapters (Flamingo, arXiv 2204.14198, section 3.1.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .weights import Weights

HEAD_WIDTH = 64  # every published resampler's; the number of heads follows from to_q's rows


class Perceiver(Weights):
    """Latents that attend to image features, layer after layer. ``prefix`` is where its tensors stand."""

    prefix = ""

    def attention(self, name: str, features: Tensor, latents: Tensor) -> Tensor:
        """Latents [B, T, C] attend to features [B, N, C] and to themselves; [B, T, C]."""
        features = self.layer_norm(f"{name}.norm1", features)
        latents = self.layer_norm(f"{name}.norm2", latents)
        q = self.linear(f"{name}.to_q", latents)
        k, v = self.linear(f"{name}.to_kv", torch.cat([features, latents], dim=1)).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.linear(f"{name}.to_out", out.transpose(1, 2).flatten(2))

    def feed_forward(self, name: str, x: Tensor) -> Tensor:
        x = self.layer_norm(f"{name}.0", x)
        return self.linear(f"{name}.3", F.gelu(self.linear(f"{name}.1", x)))

    def resample(self, features: Tensor, latents: Tensor) -> Tensor:
        """Features [B, N, E] and latents [B, T, C] -> tokens [B, T, D], fp32."""
        features = self.linear(f"{self.prefix}proj_in", features.float())
        layer = 0
        while f"{self.prefix}layers.{layer}.0.to_q.weight" in self.weights:
            latents = latents + self.attention(f"{self.prefix}layers.{layer}.0", features, latents)
            latents = latents + self.feed_forward(f"{self.prefix}layers.{layer}.1", latents)
            layer += 1
        return self.layer_norm(f"{self.prefix}norm_out", self.linear(f"{self.prefix}proj_out", latents))


class Resampler(Perceiver):
    """Plus, plus-face, composition; with a face embedding as its one feature also portrait-unnorm and InstantID."""

    def __call__(self, features: Tensor) -> Tensor:
        """[B, N, E] penultimate hidden states, or [B, E] face embeddings -> [B, T, D] image tokens, fp32."""
        features = features.float()
        if features.ndim == 2:
            features = features[:, None]
        latents = self.tensor("latents", features).expand(len(features), -1, -1)
        return self.resample(features, latents)
