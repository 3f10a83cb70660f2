"""Embeddings -> image tokens: one class for each published projection architecture.

A projection is built from an adapter's ``image_proj`` tensors; every size is read from their shapes. It computes in
fp32 wherever the weights are stored, because it runs once per reference and its result decides every step.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .face import FaceIDMLP, FaceIDPlus
from .linear import ImageProj, MLPProj
from .perceiver import Resampler

Projection = ImageProj | Resampler | MLPProj | FaceIDMLP | FaceIDPlus
PROJECTIONS: dict[str, type[Projection]] = {
    cls.__name__: cls for cls in (ImageProj, Resampler, MLPProj, FaceIDMLP, FaceIDPlus)
}


def build(projection: str, weights: Mapping[str, Tensor], context_width: int) -> Projection:
    """The projection called ``projection`` (``AdapterSpec.projection``) on ``weights`` (keys without prefix).

    ``context_width`` is the width of one image token, which a plain MLP's shapes do not tell apart from its count.
    """
    return PROJECTIONS[projection](weights, context_width)


__all__ = ["PROJECTIONS", "FaceIDMLP", "FaceIDPlus", "ImageProj", "MLPProj", "Projection", "Resampler", "build"]
