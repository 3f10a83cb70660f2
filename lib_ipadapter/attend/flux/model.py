"""What a loaded FLUX transformer is made of.

The names of its modules are those of the published checkpoints (Black Forest Labs), so every host that loads these
has them: ``double_blocks`` (picture and text apart, attention over both), ``single_blocks`` (both in one), ``txt_in``
(the text's projection to the hidden width), ``vector_in`` (the pooled text's).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ... import bases
from ...errors import MismatchError
from ..layers import Topology

PATCH = 2  # places of the latent, in either direction, that one place of the model covers
PARTS = ("double_blocks", "single_blocks", "img_in", "txt_in", "vector_in")


def is_flux(model: nn.Module) -> bool:
    """Whether ``model`` is built as FLUX is. (Chroma, which is much like it, has no ``vector_in``.)"""
    return all(hasattr(model, part) for part in PARTS)


def topology(model: nn.Module) -> Topology:
    """The width of its text context, and the hidden width of each double block.

    Raises MismatchError where packed layers hide a width that the model's configuration does not tell either.
    """
    blocks = len(model.double_blocks)
    hidden = _told(model, "hidden_size", "hidden_size") or _side(model.img_in, 0)
    context = _told(model, None, "context_in_dim") or _side(model.txt_in, 1)
    if hidden is None or context is None:
        raise MismatchError("the loaded model does not tell its widths: load a checkpoint that is stored otherwise.")
    return Topology(context, (hidden,) * blocks, blocks, bases.FLUX)


def _told(model: nn.Module, attribute: str | None, key: str) -> int | None:
    """A width by the model's own word, which packed layers do not change."""
    config: Any = getattr(model, "config", None)
    told = config.get(key) if isinstance(config, Mapping) else None
    if not isinstance(told, int) and attribute is not None:
        told = getattr(model, attribute, None)
    return told if isinstance(told, int) else None


def _side(linear: nn.Module, side: int) -> int | None:
    """A linear layer's output (0) or input (1) width: as it tells it, or as its weight's form does."""
    told = getattr(linear, ("out_features", "in_features")[side], None)
    if isinstance(told, int):
        return told
    shape: Any = getattr(getattr(linear, "weight", None), "shape", ())
    return int(shape[side]) if len(shape) == 2 and shape[1] != 1 else None
