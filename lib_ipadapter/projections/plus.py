"""The projection of the "plus" adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..checkpoint.shapes import Shape, Shapes, dims, layer_norm, linear
from .architecture import FACE_WIDTH, Layout
from .perceiver import Perceiver

if TYPE_CHECKING:
    from torch import Tensor


class Resampler(Perceiver):
    """Plus, plus-face, composition; with a face embedding as its one feature also portrait-unnorm and InstantID."""

    recognised_by = "latents"
    as_wide_as_a_token = "norm_out.weight"

    @classmethod
    def layout(cls, shapes: Shapes, context_width: int, has_lora: bool) -> Layout:
        _, tokens, dim = dims(shapes, "latents", 3)
        _, width = dims(shapes, "proj_in.weight", 2)
        tensors: dict[str, Shape] = {"latents": (1, tokens, dim)}
        tensors |= linear("proj_in", dim, width) | cls.layers(shapes, dim)
        tensors |= linear("proj_out", context_width, dim) | layer_norm("norm_out", context_width)
        if width == FACE_WIDTH:
            return Layout("instantid", "face", width, tokens, tensors, alternatives=("faceid-portrait-unnorm",))
        return Layout("plus", "penultimate", width, tokens, tensors)

    def __call__(self, features: Tensor) -> Tensor:
        """[B, N, E] penultimate hidden states, or [B, E] face embeddings -> [B, T, D] image tokens, fp32."""
        features = features.float()
        if features.ndim == 2:
            features = features[:, None]
        latents = self.tensor("latents", features).expand(len(features), -1, -1)
        return self.resample(features, latents)
