"""Embeddings -> image tokens: one class for each published projection architecture.

A class holds the layout that recognises its architecture and the computation; adding one is one file here and one
row in the table. It is built from an adapter's ``image_proj`` tensors; every size is read from their shapes. It
computes on fp32 tensors wherever the weights are stored, because it runs once per reference and its result decides
every step; a host that lets its card multiply them as TF32 has a little less. Importing this package imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .architecture import Architecture, Layout
from .faceid import FaceIDMLP
from .faceid_plus import FaceIDPlus
from .image_proj import ImageProj
from .instantx import InstantXMLP
from .mlp_proj import MLPProj
from .plus import Resampler
from .redux import Redux

if TYPE_CHECKING:
    from torch import Tensor

# By name; the first that recognises a file's tensors counts. A FaceID-Plus has a FaceID's tensors too, a full-face
# adapter has proj.0 and proj.2 too. Those of FLUX alone (checkpoint/flux.py asks for them by name) are the last ones.
PROJECTIONS: dict[str, type[Architecture]] = {
    "FaceIDPlus": FaceIDPlus,
    "Resampler": Resampler,
    "MLPProj": MLPProj,
    "ImageProj": ImageProj,
    "FaceIDMLP": FaceIDMLP,
    "Redux": Redux,
    "InstantXMLP": InstantXMLP,
}


def build(projection: str, weights: Mapping[str, Tensor], context_width: int) -> Architecture:
    """The projection called ``projection`` (``AdapterSpec.projection``) on ``weights`` (keys without prefix).

    ``context_width`` is the width of one image token, which a plain MLP's shapes do not tell apart from its count.
    """
    return PROJECTIONS[projection](weights, context_width)


__all__ = [
    "PROJECTIONS",
    "Architecture",
    "FaceIDMLP",
    "FaceIDPlus",
    "ImageProj",
    "InstantXMLP",
    "Layout",
    "MLPProj",
    "Redux",
    "Resampler",
    "build",
]
