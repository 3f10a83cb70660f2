"""What a file is, told from its tensors' names and shapes alone. Pure: no tensor is read, no torch imported."""

from __future__ import annotations

from ..errors import CheckpointError
from . import foreign
from .adapters import adapter
from .control import keypoints_network
from .encoders import encoder
from .keys import bearers
from .refusals import INSTEAD, RefusedAdapter
from .shapes import Shapes, some
from .specs import AdapterSpec, EncoderSpec, KeypointsSpec, UNetSpec
from .unets import unet

Spec = AdapterSpec | EncoderSpec | KeypointsSpec | UNetSpec


def identify(shapes: Shapes) -> Spec:
    """What the file with these tensors is. ``shapes``: {key: shape}, nested dicts joined with dots.

    Raises CheckpointError, with a sentence of its own for each kind of file that is of no use here, and its subclass
    RefusedAdapter where the file is an image-prompt adapter all the same.
    """
    if not shapes:
        raise CheckpointError("This file holds no tensors: download it again.")
    named = bearers(shapes)
    for name, (first, *others) in named.items():
        if any(shapes[other] != shapes[first] for other in others):
            raise RefusedAdapter(
                f"This file holds {name[:80]} twice, under different prefixes and in different sizes, so it is not "
                "clear which one counts: download the original file again."
            )
    shapes = {name: tuple(shapes[key]) for name, (key, *_) in named.items()}
    if (sentence := foreign.first_sentence(foreign.ADAPTERS, shapes)) is not None:
        raise RefusedAdapter(sentence)
    spec: Spec | None = adapter(shapes) or unet(shapes) or keypoints_network(shapes)
    if spec is not None:
        return spec
    if (sentence := foreign.first_sentence(foreign.FILES, shapes)) is not None:
        raise CheckpointError(sentence)
    if (spec := encoder(shapes)) is not None:
        return spec
    raise CheckpointError(
        f"This file is neither an IP-Adapter nor an image encoder (its tensors are {some(shapes)}): {INSTEAD}"
    )


__all__ = ["AdapterSpec", "EncoderSpec", "KeypointsSpec", "UNetSpec", "identify"]
