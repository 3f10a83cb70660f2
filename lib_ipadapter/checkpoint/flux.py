"""Recognising adapters for FLUX: Redux, XLabs' IP-Adapter and InstantX'.

XLabs': a pair for each double block, with biases, numbered from 0; the projection is a base adapter's. InstantX': a
pair for each double block and then for each single block, without biases, numbered through from 0; its projection is an
MLP on SigLIP's pooled output. Redux has a projection and no pairs: its tokens stand behind the text's. XLabs' and
Redux' published names have become the usual ones before (``keys.py``).
"""

from __future__ import annotations

import re
from collections import Counter
from math import prod
from typing import NamedTuple

from .. import bases
from ..projections import PROJECTIONS, Layout
from .keys import PAIRS, PROJ
from .refusals import RefusedAdapter
from .shapes import Shape, Shapes, check_same, dims, some, under
from .specs import AdapterSpec

FLUX = bases.FLUX_SIZES
AGAIN = "Download the original file again."
# By variant: whose adapter it is, its projection, and how many pairs one for FLUX itself has.
XLABS, INSTANTX = "xlabs", "instantx"
_KINDS = {
    XLABS: ("XLabs'", "ImageProj", FLUX.double_blocks),
    INSTANTX: ("InstantX'", "InstantXMLP", FLUX.double_blocks + FLUX.single_blocks),
}
_PAIR = re.compile(r"([0-9]{1,4})\.to_([kv])_ip\.(weight|bias)")


class _Pairs(NamedTuple):
    context_width: int
    widths: tuple[int, ...]
    tensors: dict[str, Shape]


def flux_adapter(shapes: Shapes) -> AdapterSpec | None:
    """The adapter for FLUX with these tensors, by their usual names; None where they are not one's.

    Raises RefusedAdapter for one that is not whole.
    """
    projection, pairs = under(shapes, PROJ), under(shapes, PAIRS)
    if any(key.startswith("redux_") for key in projection):
        return _redux(shapes, projection)
    variant = _variant(pairs)
    if variant is None:
        return None
    whose, name, _ = _KINDS[variant]
    if not projection:
        raise RefusedAdapter(
            f"This file is half of {whose} IP-Adapter for FLUX: it holds the attention pairs but no projection. {AGAIN}"
        )
    found = _pairs(pairs, variant)
    layout = PROJECTIONS[name].recognise(projection, found.context_width, has_lora=False)
    if layout is None:
        raise RefusedAdapter(
            f"This is {whose} IP-Adapter for FLUX with another projection than it was published with (it holds "
            f"{some(projection)}). {AGAIN}"
        )
    check_same(shapes, {PAIRS + key: shape for key, shape in found.tensors.items()} | _prefixed(layout))
    return _spec(shapes, variant, name, layout, found.context_width, found.widths)


def _redux(shapes: Shapes, projection: Shapes) -> AdapterSpec:
    context_width, _ = dims(projection, "redux_down.weight", 2)
    layout = PROJECTIONS["Redux"].recognise(projection, context_width, has_lora=False)
    if layout is None:
        raise RefusedAdapter(f"This file is half of FLUX Redux: it lacks redux_up.weight. {AGAIN}")
    check_same(shapes, _prefixed(layout))
    return _spec(shapes, layout.variant, "Redux", layout, context_width, ())


def _prefixed(layout: Layout) -> dict[str, Shape]:
    return {PROJ + key: shape for key, shape in layout.tensors.items()}


def _variant(pairs: Shapes) -> str | None:
    """Whose adapter for FLUX has these pairs; None for one for another model, whose pairs are numbered 1, 3, 5, …"""
    found = {key: match for key in pairs if (match := _PAIR.fullmatch(key))}
    contexts = Counter(pairs[key][-1] for key in found if len(pairs[key]) == 2)
    if contexts and bases.with_context(contexts.most_common(1)[0][0]) is not None:
        return None
    if any(match[3] == "bias" for match in found.values()):
        return XLABS
    return INSTANTX if any(match[1] == "0" for match in found.values()) else None


def _pairs(pairs: Shapes, variant: str) -> _Pairs:
    """The width of the tokens, those of the layers in order, and the tensors of the pairs."""
    whose, _, count = _KINDS[variant]
    numbers = sorted({int(match[1]) for key in pairs if (match := _PAIR.fullmatch(key))})
    shapes = [dims(pairs, f"{n}.to_k_ip.weight", 2) for n in numbers]
    context = shapes[0][1]
    is_whole = numbers == list(range(len(numbers))) and (context != FLUX.context_width or len(numbers) == count)
    if not is_whole:
        raise RefusedAdapter(
            f"This is {whose} IP-Adapter for FLUX with {len(numbers)} attention pairs, where the published one has "
            f"{count}, numbered from 0: the file is incomplete. {AGAIN}"
        )
    widths = tuple(width for width, _ in shapes)
    tensors: dict[str, Shape] = {}
    for n, width in zip(numbers, widths, strict=True):
        for name in ("to_k_ip", "to_v_ip"):
            tensors[f"{n}.{name}.weight"] = (width, context)
            if variant == XLABS:
                tensors[f"{n}.{name}.bias"] = (width,)
    return _Pairs(context, widths, tensors)


def _spec(
    shapes: Shapes, variant: str, projection: str, layout: Layout, context_width: int, widths: tuple[int, ...]
) -> AdapterSpec:
    return AdapterSpec(
        variant=variant,
        base=FLUX.name,
        projection=projection,
        source=layout.source,
        embedding_width=layout.embedding_width,
        clip_width=None,
        tokens=layout.tokens,
        context_width=context_width,
        layer_widths=widths,
        parameters=sum(map(prod, shapes.values())),
        has_lora=False,
        alternatives=(),
        family=layout.family,
    )
