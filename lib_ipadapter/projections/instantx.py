"""The projection of InstantX's IP-Adapter for FLUX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..checkpoint.shapes import Shapes, dims, layer_norm, linear
from ..checkpoint.specs import SIGLIP
from .architecture import Layout, whole_tokens
from .identity import Identity

if TYPE_CHECKING:
    from torch import Tensor


class InstantXMLP(Identity):
    """An MLP from SigLIP's pooled embedding to 128 tokens: what FaceID makes of faces, with other sizes."""

    recognised_by = "proj.0.weight"

    @classmethod
    def layout(cls, shapes: Shapes, context_width: int, has_lora: bool) -> Layout:
        hidden, width = dims(shapes, "proj.0.weight", 2)
        rows, _ = dims(shapes, "proj.2.weight", 2)
        tensors = linear("proj.0", hidden, width) | linear("proj.2", rows, hidden) | layer_norm("norm", context_width)
        tokens = whole_tokens(rows, context_width)
        return Layout("instantx", "pooled", width, tokens, tensors, family=SIGLIP)

    def __call__(self, pooled: Tensor) -> Tensor:
        """[B, E] pooled embeddings -> [B, T, D] image tokens, fp32."""
        return self.identity_tokens(pooled)
