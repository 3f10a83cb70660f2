"""The projection of the FaceID and the portrait adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..checkpoint.shapes import Shapes
from .architecture import FACE_WIDTH, Layout
from .identity import Identity

if TYPE_CHECKING:
    from torch import Tensor


class FaceIDMLP(Identity):
    """FaceID and portrait: the identity tokens as they are."""

    recognised_by = "proj.0.weight"

    @classmethod
    def layout(cls, shapes: Shapes, context_width: int, has_lora: bool) -> Layout:
        tokens, tensors = cls.identity_layout(shapes, context_width)
        # Published: 4 tokens with a LoRA, or 16 without. A copy that has lost its LoRA still has 4 tokens.
        variant = "faceid" if has_lora or tokens <= 4 else "faceid-portrait"
        return Layout(variant, "face", FACE_WIDTH, tokens, tensors)

    def __call__(self, face: Tensor) -> Tensor:
        """[B, 512] normalised face embeddings -> [B, T, D] image tokens, fp32."""
        return self.identity_tokens(face)
