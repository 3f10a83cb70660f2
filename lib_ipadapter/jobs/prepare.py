"""Plans -> keys and values of every layer: encoded, projected, and remembered."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from ..attend.prompt import KeysValues
from ..encode.combine import combine
from ..encode.device import Device, Fallback
from ..encode.references import References, mean
from ..errors import errors_name_unit
from ..projections import build
from .plans import Plan
from .resources import Progress, Resources


def prepare(plans: Sequence[Plan], resources: Resources, device: Device, progress: Progress) -> list[KeysValues]:
    """Encode, project, and compute every layer's keys and values for each plan; fp32 in main memory."""
    here = str(device.device)
    keys = [_key(plan, resources, device, here, here) for plan in plans]
    ready = {key: resources.cache.get(key) for key in keys}
    missing = [plan.inputs() for plan, key in zip(plans, keys, strict=True) if ready[key] is None]
    references = References(missing, resources, device, progress)
    for plan, key in zip(plans, keys, strict=True):
        if ready[key] is None:
            with errors_name_unit(plan.number):
                ready[key] = _keys_values(plan, references, resources, device, progress)
    return [ready[key] for key in keys]


def _key(plan: Plan, resources: Resources, device: Device, encoded: str, projected: str) -> tuple[Hashable, ...]:
    """What a plan's keys and values are remembered by: everything that they are computed from, and the devices on which
    its pictures were encoded and projected."""
    with errors_name_unit(plan.number):
        entries = (plan.adapter, plan.encoder, plan.text_encoder)
        files = [resources.identity(entry) for entry in entries if entry is not None]
    pictures = tuple(tuple(one.key for one in side) for side in (plan.references, plan.negatives))
    places = (device.dtype, encoded, projected)
    return ("keys and values", *files, plan.spec, *places, *plan.unit.token_settings(), pictures)


def _keys_values(
    plan: Plan, references: References, resources: Resources, device: Device, progress: Progress
) -> KeysValues:
    inputs, work = plan.inputs(), Fallback(device)
    embeddings, uncond = references.embeddings(inputs)
    if plan.text_encoder is not None:
        text = resources.text_embedding(plan.text_encoder, plan.unit.subtract_prompt, progress)
        embeddings = _without_text(embeddings, text)
    progress(f"loading adapter {plan.adapter.name}")
    weights = resources.adapter(plan.adapter, plan.spec)
    projection = build(plan.spec.projection, weights.image_proj, plan.spec.context_width)

    def project(where: torch.device) -> KeysValues:
        known: KeysValues | None = resources.cache.get(key(where))
        if known is not None:
            return known
        with torch.no_grad():
            moved = [views.to(where) for views in embeddings]
            cond, of_uncond, factor = _tokens(plan, projection, moved, uncond.to(where))
            return KeysValues.project(weights.key, weights.value, cond, of_uncond, factor)

    def key(where: torch.device) -> tuple[Hashable, ...]:
        return _key(plan, resources, device, references.place(inputs), str(where))

    kv = work.run("projection", project)
    resources.cache.put(key(work.now), kv, kv.nbytes)
    return kv


def _without_text(embeddings: Sequence[Tensor], text: Tensor) -> list[Tensor]:
    """Pooled embeddings [V, E] without what they share with the ``text``'s [1, E]."""
    from ..encode.clip_text import subtract

    return [subtract(views, text.to(views)) for views in embeddings]


def _tokens(
    plan: Plan, projection: Callable[[Tensor], Tensor], references: list[Tensor], uncond: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Image tokens of the cond and uncond sides [pictures, T, D], and each token's factor [pictures, T].

    The views of a reference are averaged where the adapter takes a pooled embedding, else each brings its tokens.
    """
    unit = plan.unit
    weights = [reference.weight for reference in plan.references]
    if plan.source == "pooled":
        references = [mean(views) for views in references]
    if unit.batch == "same":
        references, weights = _joined(references, unit.combine, weights)
    tokens = [projection(views).flatten(0, 1) for views in references]  # [V * T, D]
    factors = [t.new_tensor(weight).expand(len(t)) for t, weight in zip(tokens, weights, strict=True)]
    of_uncond = projection(uncond)
    if unit.batch == "per image":
        cond, factor = torch.stack(tokens), torch.stack(factors)
    else:
        cond, factor = torch.cat(tokens)[None], torch.cat(factors)[None]
    return cond, of_uncond.repeat(len(cond), cond.shape[1] // of_uncond.shape[1], 1), factor


def _joined(references: list[Tensor], mode: str, weights: list[float]) -> tuple[list[Tensor], list[float]]:
    """The references that every picture sees, and the factors of their tokens."""
    if not any(weights):
        return references[:1], [0.0]
    if mode == "concat" or (len(references) == 1 and len(references[0]) > 1):
        # Tokens of weight 0 would still take their part of the attention.
        kept = [(e, weight) for e, weight in zip(references, weights, strict=True) if weight]
        return [e for e, _ in kept], [weight for _, weight in kept]
    # A reference's weight is its share of the mean; what all shares lack to 1 weakens the unit as a whole.
    strength = sum(map(abs, weights)) / len(weights) if mode == "average" else 1.0
    return [combine(references, mode, weights)], [strength]
