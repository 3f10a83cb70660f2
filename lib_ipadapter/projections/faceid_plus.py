"""The projection of the FaceID-Plus adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import bases
from ..checkpoint.shapes import Shapes, dims, layer_norm, linear
from .architecture import FACE_WIDTH, Layout
from .identity import Identity
from .perceiver import Perceiver

if TYPE_CHECKING:
    from torch import Tensor


class FaceIDPlus(Identity, Perceiver):
    """FaceID-Plus: the identity tokens look at the CLIP features of the aligned face.

    Version 2 adds the resampled tokens to the identity tokens (``shortcut``), version 1 replaces them; the published
    SD1.5 files of both have the same shapes.
    """

    prefix = "perceiver_resampler."
    recognised_by = f"{prefix}proj_in.weight"

    @classmethod
    def layout(cls, shapes: Shapes, context_width: int, has_lora: bool) -> Layout:
        tokens, tensors = cls.identity_layout(shapes, context_width)
        _, clip_width = dims(shapes, f"{cls.prefix}proj_in.weight", 2)
        tensors |= linear(f"{cls.prefix}proj_in", context_width, clip_width) | cls.layers(shapes, context_width)
        tensors |= linear(f"{cls.prefix}proj_out", context_width, context_width)
        tensors |= layer_norm(f"{cls.prefix}norm_out", context_width)
        # Versions 1 and 2 have the same tensors; for SDXL only version 2 was published.
        newer = context_width == bases.SDXL.context_width
        variant, others = ("faceid-plus-v2", ()) if newer else ("faceid-plus", ("faceid-plus-v2",))
        return Layout(variant, "face+penultimate", FACE_WIDTH, tokens, tensors, clip_width, others)

    def __call__(self, face: Tensor, penultimate: Tensor, *, shortcut: bool, scale: float = 1.0) -> Tensor:
        """[B, 512] face embeddings and [B, N, W] penultimate hidden states -> [B, T, D] image tokens, fp32.

        ``scale`` weighs the resampled tokens of version 2 (the reference implementation's ``s_scale``).
        """
        identity = self.identity_tokens(face)
        tokens = self.resample(penultimate, identity)
        return identity + scale * tokens if shortcut else tokens
