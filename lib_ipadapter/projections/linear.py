"""Projections without attention: the base adapters' and the full-face adapter's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .weights import Weights


class ImageProj(Weights):
    """Base adapters: ``tokens = LayerNorm(Linear(pooled))`` (IP-Adapter, arXiv 2308.06721, section 3.2)."""

    def __call__(self, pooled: Tensor) -> Tensor:
        """[B, E] pooled image embeddings -> [B, T, D] image tokens, fp32."""
        tokens = self.linear("proj", pooled.float())
        return self.layer_norm("norm", tokens.reshape(len(pooled), -1, self.context_width))


class MLPProj(Weights):
    """Full-face: an MLP on every token of the encoder's penultimate layer, so 257 image tokens for a ViT-H."""

    def __call__(self, penultimate: Tensor) -> Tensor:
        """[B, N, W] penultimate hidden states -> [B, N, D] image tokens, fp32."""
        hidden = F.gelu(self.linear("proj.0", penultimate.float()))
        return self.layer_norm("proj.3", self.linear("proj.2", hidden))
