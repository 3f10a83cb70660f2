"""The projection of the full-face adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..checkpoint.shapes import Shapes, dims, layer_norm, linear
from .architecture import Architecture, Layout

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 257  # as many as ViT-H has: one image token of each


class MLPProj(Architecture):
    """Full-face: an MLP on every token of the encoder's penultimate layer, so 257 image tokens for a ViT-H."""

    recognised_by = "proj.3.weight"
    as_wide_as_a_token = "proj.3.weight"

    @classmethod
    def layout(cls, shapes: Shapes, context_width: int, has_lora: bool) -> Layout:
        hidden, width = dims(shapes, "proj.0.weight", 2)
        tensors = linear("proj.0", hidden, width) | linear("proj.2", context_width, hidden)
        return Layout("full-face", "penultimate", width, TOKENS, tensors | layer_norm("proj.3", context_width))

    def __call__(self, penultimate: Tensor) -> Tensor:
        """[B, N, W] penultimate hidden states -> [B, N, D] image tokens, fp32."""
        hidden = self.gelu(self.linear("proj.0", penultimate.float()))
        return self.layer_norm("proj.3", self.linear("proj.2", hidden))
