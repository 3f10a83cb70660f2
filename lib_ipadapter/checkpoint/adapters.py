"""Recognising IP-Adapters: their attention pairs, their LoRA, and the projection by the table of architectures."""

from __future__ import annotations

import re
from collections import Counter
from math import prod

from .. import bases
from ..projections import PROJECTIONS, Layout
from .flux import flux_adapter
from .keys import PAIRS, PROJ
from .refusals import INSTEAD, RefusedAdapter
from .shapes import Shape, Shapes, check_same, dims, some, under
from .specs import AdapterSpec


def adapter(shapes: Shapes) -> AdapterSpec | None:
    """The adapter with these tensors, by their published names; None where there is none of an adapter's.

    Raises RefusedAdapter for one that is not whole, or not for here.
    """
    shapes = {key: shape for key, shape in shapes.items() if key.startswith((PROJ, PAIRS))}
    if not shapes:
        return None
    if (found := flux_adapter(shapes)) is not None:
        return found
    projection, pairs = under(shapes, PROJ), under(shapes, PAIRS)
    if not projection or not pairs:
        there, lacking = ("attention pairs", "projection") if pairs else ("projection", "attention pairs")
        raise RefusedAdapter(
            f"This file is half an IP-Adapter: it holds the {there} but no {lacking}. Download the whole file again."
        )
    base, widths, wanted = _pairs(pairs)
    has_lora = any("_lora." in key for key in pairs)
    name, layout = _recognised(projection, base, has_lora)
    if has_lora:
        wanted |= _lora(pairs, base, widths)
    wanted = {PAIRS + key: shape for key, shape in wanted.items()}
    check_same(shapes, wanted | {PROJ + key: shape for key, shape in layout.tensors.items()})
    return AdapterSpec(
        variant=layout.variant,
        base=base.name,
        projection=name,
        source=layout.source,
        embedding_width=layout.embedding_width,
        clip_width=layout.clip_width,
        tokens=layout.tokens,
        context_width=base.context_width,
        layer_widths=widths,
        parameters=sum(map(prod, shapes.values())),
        has_lora=has_lora,
        alternatives=layout.alternatives,
    )


def _recognised(projection: Shapes, base: bases.Base, has_lora: bool) -> tuple[str, Layout]:
    """The name and the layout of the first architecture in the table that a projection's tensors are of."""
    for name, architecture in PROJECTIONS.items():
        layout = architecture.recognise(projection, base.context_width, has_lora)
        if layout is not None:
            return name, layout
    raise RefusedAdapter(
        f"This IP-Adapter has a projection that this version does not know (it holds {some(projection)}): {INSTEAD}"
    )


def _pairs(found: Shapes) -> tuple[bases.Base, tuple[int, ...], dict[str, Shape]]:
    """The base, layer widths in key order, and the tensors of the pairs 1, 3, 5, …: to_k_ip and to_v_ip [C, D]."""
    numbers = sorted({int(m[1]) for key in found if (m := re.fullmatch(r"([0-9]{1,4})\.to_[kv]_ip\.weight", key))})
    shapes = [dims(found, f"{n}.to_k_ip.weight", 2) for n in numbers]
    contexts = Counter(context for _, context in shapes)
    if not contexts:
        raise RefusedAdapter(f"This IP-Adapter names its attention pairs in an unknown way ({some(found)}): {INSTEAD}")
    base = _base(contexts.most_common(1)[0][0], len(numbers))
    if numbers != list(range(1, 2 * len(numbers), 2)):
        raise RefusedAdapter(
            f"This IP-Adapter's attention pairs are not numbered 1, 3, 5, … (they begin with {numbers[:4]}), so their "
            "layers are not known: download the original file again."
        )
    widths = tuple(width for width, _ in shapes)
    layout: dict[str, Shape] = {
        f"{n}.{name}.weight": (width, base.context_width)
        for n, width in zip(numbers, widths, strict=True)
        for name in ("to_k_ip", "to_v_ip")
    }
    return base, widths, layout


def _base(context_width: int, pairs: int) -> bases.Base:
    """The base whose layers take such a context, in such a number."""
    base = bases.with_context(context_width)
    if base is None:
        raise RefusedAdapter(
            f"This IP-Adapter's attention pairs take tokens {context_width} wide, where {bases.context_of_each()}: it "
            f"was made for another model, so {INSTEAD}"
        )
    if bases.of(context_width, pairs) is None:
        raise RefusedAdapter(
            f"This IP-Adapter has {pairs} attention pairs, where {base.name} has {base.layers}: the file is incomplete "
            f"or made for a pruned model (SSD-1B, Segmind). Download it again, or {INSTEAD}"
        )
    return base


def _lora(found: Shapes, base: bases.Base, widths: tuple[int, ...]) -> dict[str, Shape]:
    """The tensors of the LoRA that FaceID files carry: all four layers of attn1 (even) and attn2 (odd numbers)."""
    rank, _ = dims(found, "0.to_q_lora.down.weight", 2)
    layout: dict[str, Shape] = {}
    for i, width in enumerate(widths):
        # attn2 takes keys and values from the context
        for number, source in ((2 * i, width), (2 * i + 1, base.context_width)):
            for name, columns in (("q", width), ("k", source), ("v", source), ("out", width)):
                layout[f"{number}.to_{name}_lora.down.weight"] = (rank, columns)
                layout[f"{number}.to_{name}_lora.up.weight"] = (width, rank)
    return layout
