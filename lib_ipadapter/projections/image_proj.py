"""The projection of the base adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..checkpoint.shapes import Shapes, dims, layer_norm, linear
from .architecture import Architecture, Layout, whole_tokens

if TYPE_CHECKING:
    from torch import Tensor


class ImageProj(Architecture):
    """Base adapters: ``tokens = LayerNorm(Linear(pooled))`` (IP-Adapter, arXiv 2308.06721, section 3.2)."""

    recognised_by = "proj.weight"
    as_wide_as_a_token = "norm.weight"

    @classmethod
    def layout(cls, shapes: Shapes, context_width: int, has_lora: bool) -> Layout:
        rows, width = dims(shapes, "proj.weight", 2)
        tensors = linear("proj", rows, width) | layer_norm("norm", context_width)
        return Layout("base", "pooled", width, whole_tokens(rows, context_width), tensors)

    def __call__(self, pooled: Tensor) -> Tensor:
        """[B, E] pooled image embeddings -> [B, T, D] image tokens, fp32."""
        tokens = self.linear("proj", pooled.float())
        return self.layer_norm("norm", tokens.reshape(len(pooled), -1, self.context_width))
