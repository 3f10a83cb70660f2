"""Recognising checkpoints: Stable Diffusion's by their UNet's cross-attention, FLUX's by its blocks."""

from __future__ import annotations

import re

from .. import bases
from ..errors import CheckpointError
from .flux_models import flux
from .shapes import Shape, Shapes
from .specs import UNetSpec

UNET = "model.diffusion_model."
_STAGES = ("input_blocks", "output_blocks", "middle_block")  # the order in which adapters number the layers
_NUMBER = "[0-9]{1,4}"  # bounded: it is read as one
_ATTN2 = re.compile(
    rf"{re.escape(UNET)}({'|'.join(_STAGES)})\.({_NUMBER}(?:\.{_NUMBER})*)\."
    rf"transformer_blocks\.({_NUMBER})\.attn2\.to_([qk])\.weight"
)


def unet(shapes: Shapes) -> UNetSpec | None:
    """The UNet with these tensors, or FLUX's transformer; None where there is none of a checkpoint's.

    Raises CheckpointError for a UNet without Stable Diffusion's cross-attention.
    """
    if (of_flux := flux(shapes)) is not None:
        return of_flux
    if not any(key.startswith(UNET) for key in shapes):
        return None
    layers: dict[tuple[int, tuple[int, ...], int], dict[str, Shape]] = {}
    for key, shape in shapes.items():
        if (match := _ATTN2.fullmatch(key)) and len(shape) == 2:
            place = (_STAGES.index(match[1]), tuple(map(int, match[2].split("."))), int(match[3]))
            layers.setdefault(place, {})[match[4]] = shape
    ordered = [layers[place] for place in sorted(layers)]
    contexts = {layer["k"][1] for layer in ordered if "k" in layer}
    if len(contexts) != 1 or any(layer.keys() != {"q", "k"} for layer in ordered):
        raise CheckpointError(
            "This file is a checkpoint without a Stable Diffusion UNet's cross-attention: use an SD1.5, SD2.x or SDXL "
            "checkpoint."
        )
    (context,) = contexts
    widths = tuple(layer["q"][0] for layer in ordered)
    known = bases.of(context, len(widths))
    other = bases.REFINERS.get(context, f"{len(widths)} layers, context {context}")
    return UNetSpec(known.name if known else other, context, widths, len({place[:2] for place in layers}))
