"""Recognising FLUX's transformer, in a checkpoint or in a file of its own."""

from __future__ import annotations

import re

from .. import bases
from .shapes import Shapes
from .specs import UNetSpec

PREFIXES = ("model.diffusion_model.", "")  # a whole checkpoint's, and that of files with the transformer alone
_BLOCK = re.compile(r"double_blocks\.([0-9]{1,4})\.img_attn\.qkv\.weight")


def flux(shapes: Shapes) -> UNetSpec | None:
    """FLUX's transformer with these tensors, None where there is none.

    Widths come from tensors that stay whole where the linear layers' weights are packed (nf4): biases.
    """
    for prefix in PREFIXES:
        parts = {"img_in.bias", "txt_in.bias", "vector_in.in_layer.bias", "single_blocks.0.linear1.bias"}
        if all(prefix + part in shapes for part in parts):
            break
    else:
        return None
    blocks = {int(found[1]) for key in shapes if (found := _BLOCK.fullmatch(key.removeprefix(prefix)))}
    if len(shapes[f"{prefix}img_in.bias"]) != 1:
        return None
    (hidden,) = shapes[f"{prefix}img_in.bias"]
    text = shapes.get(f"{prefix}txt_in.weight", ())
    context = text[1] if len(text) == 2 and text[0] == hidden else bases.FLUX_SIZES.context_width  # packed
    return UNetSpec(bases.FLUX, context, (hidden,) * len(blocks), len(blocks)) if blocks else None
