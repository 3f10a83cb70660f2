"""Plans -> keys and values of every layer: encoded, projected, and remembered."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attend.prompt import KeysValues, KeysValuesLater
from ..encode.cache import remembered_bytes
from ..encode.combine import Fold, combine
from ..encode.device import Device, Fallback
from ..encode.references import References, mean, noise_like, of_pictures, towards, unconditional
from ..errors import UnitError, errors_name_unit
from ..projections import build
from . import flux
from .faces import face_embedding
from .fit import FLUX, UNNORMALISED, recogniser
from .planned import PlannedReference
from .plans import Plan
from .resources import Progress, Resources

if TYPE_CHECKING:
    from ..checkpoint.load import AdapterWeights

MAX_WALK = 4 * 2**30  # bytes of the image tokens of a long walk
Parts = tuple[Tensor, ...]  # what a projection is called with, each [V, …]: pooled, penultimate, face, or the last two


class Prepared(NamedTuple):
    """A unit's keys and values, and the image tokens that they are made of: [pictures, T, D] of both sides.

    Tokens that stand for themselves, behind the text, have no keys and values, but factors [pictures, T].
    """

    kv: KeysValues | KeysValuesLater
    cond: Tensor
    uncond: Tensor
    factor: Tensor | None = None
    uncond_factor: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that it takes to remember them."""
        own = (self.cond, self.uncond, self.factor, self.uncond_factor)
        return remembered_bytes((*self.kv.tensors, *(one for one in own if one is not None)))


def prepare(plans: Sequence[Plan], resources: Resources, device: Device, progress: Progress) -> list[Prepared]:
    """Encode, project, and compute every layer's keys and values for each plan; fp32 in main memory. The faces of
    those that take some have been found."""
    # A new thread begins with as many threads of its own as there are cores, until somebody asks for their number: its
    # first product of matrices would be rounded in another way, according to what is computed first.
    torch.get_num_threads()
    here = str(device.device)
    keys = [_key(plan, resources, device, here, here) for plan in plans]
    ready = {key: resources.cache.get(key) for key in keys}
    missing = [plan.inputs() for plan, key in zip(plans, keys, strict=True) if ready[key] is None]
    references = References([inputs for inputs in missing if inputs is not None], resources, device, progress)
    for plan, key in zip(plans, keys, strict=True):
        if ready[key] is None:
            with errors_name_unit(plan.number):
                make = _long_walk if plan.is_long_walk else _prepared
                ready[key] = make(plan, references, resources, device, progress)
    return [ready[key] for key in keys]


def _key(plan: Plan, resources: Resources, device: Device, encoded: str, projected: str) -> tuple[Hashable, ...]:
    """What a plan's keys and values are remembered by: everything that they are computed from, and the devices on which
    its pictures were encoded and projected."""
    with errors_name_unit(plan.number):
        entries = (plan.adapter, plan.encoder, plan.text_encoder)
        files = [resources.identity(entry) for entry in entries if entry is not None]
    pictures = tuple(tuple(one.key for one in side) for side in (plan.references, plan.negatives))
    places = (device.dtype, encoded, projected)
    pack = resources.faces_identity(recogniser(plan.spec)) if plan.takes_faces else None
    summed = ("summed one by one",) if plan.streams else ()
    sides = tuple(map(tuple, plan.sides()))  # a list and a folder of the same pictures differ in these
    settings = (*plan.unit.token_settings(), pictures, sides, plan.fades, *summed)
    return ("keys and values", *files, pack, plan.spec, *places, *settings)


def _prepared(plan: Plan, references: References, resources: Resources, device: Device, progress: Progress) -> Prepared:
    inputs, work = plan.inputs(), Fallback(device)
    embeddings, weights_of, uncond = encoded(plan, references, resources, progress)
    progress(f"loading adapter {plan.adapter.name}")
    weights = resources.adapter(plan.adapter, plan.spec)
    projection = _projection(plan, build(plan.spec.projection, weights.image_proj, plan.spec.context_width))

    def project(where: torch.device) -> Prepared:
        known: Prepared | None = resources.cache.get(key(where))
        if known is not None:
            return known
        with torch.no_grad():
            moved = [tuple(part.to(where) for part in parts) for parts in embeddings]
            of_uncond = tuple(part.to(where) for part in uncond)
            return _projected(plan, weights, projection, moved, weights_of, of_uncond)

    def key(where: torch.device) -> tuple[Hashable, ...]:
        encoded = str(device.device) if inputs is None else references.place(inputs)
        return _key(plan, resources, device, encoded, str(where))

    prepared = work.run("projection", project)
    resources.cache.put(key(work.now), prepared, prepared.nbytes)
    return prepared


def _long_walk(
    plan: Plan, references: References, resources: Resources, device: Device, progress: Progress
) -> Prepared:
    """The image tokens of each reference, made as it comes. All keys and values of so many would take too much: those
    that a batch sees are made when it begins. Raises UnitError where even the tokens take too much."""
    progress(f"loading adapter {plan.adapter.name}")
    weights = resources.adapter(plan.adapter, plan.spec)
    projection = _projection(plan, build(plan.spec.projection, weights.image_proj, plan.spec.context_width))
    work = Fallback(device)

    def tokens(parts: Parts) -> Tensor:
        def project(where: torch.device) -> Tensor:
            with torch.no_grad():
                return projection(tuple(part.to(where) for part in parts)).cpu()

        return work.run("projection", project)

    conds: list[Tensor] = []
    with _each_encoded(plan, references, resources, progress) as (each, of_uncond):
        for parts in each:
            conds.append(tokens(parts).flatten(0, 1))
            _check_walk(conds[0].nbytes * len(plan.references), len(plan.references))
        uncond = of_uncond()
    cond = torch.stack(conds)
    factor = torch.tensor([one.weight for one in plan.references])[:, None].expand(cond.shape[:2])
    if plan.spec.variant == "redux":
        negative, of_negative = flux.negative_tokens(plan, tokens, uncond, cond)
        return Prepared(KeysValues((), ()), cond, negative, factor, of_negative)
    pictures = max(len(part) for part in uncond)
    sides = [tokens(tuple(part[i % len(part)][None] for part in uncond)) for i in range(pictures)]
    of_sides = torch.cat([one.repeat(1, cond.shape[1] // one.shape[1], 1) for one in sides])
    make = partial(flux.of_layer, weights, plan.spec.variant)  # biases are there where these have some
    return Prepared(KeysValuesLater(cond, of_sides, factor, len(weights.key), make), cond, of_sides.expand_as(cond))


def _check_walk(nbytes: int, count: int) -> None:
    if nbytes > MAX_WALK:
        raise UnitError(
            f"the pictures of this job see {count} references in turn, whose image tokens take {nbytes / 2**30:.1f} "
            f"GB, and {MAX_WALK >> 30} GB is the most: make fewer pictures in one job."
        )


@contextmanager
def _each_encoded(
    plan: Plan, references: References, resources: Resources, progress: Progress
) -> Iterator[tuple[Iterator[Parts], Callable[[], Parts]]]:
    """The embeddings of each reference as ``encoded`` has them, one after the other, and what gives those of the
    unconditional side once the first is there."""
    change, inputs = _without_words(plan, resources, progress), plan.inputs()
    faces, of_faces = _faces(plan) if plan.takes_faces else ([], torch.empty(0))
    shown = inputs if plan.spec.variant == "redux" else None  # whose negative references stand for themselves
    negatives = [] if shown is None else references.of_negatives(replace(shown, references=()))
    with ExitStack() as stack:
        of = None if inputs is None else stack.enter_context(references.one_by_one(inputs))
        first: list[Tensor] = []

        def each() -> Iterator[Parts]:
            for i in range(len(plan.references)):
                face = faces[i : i + 1]
                found = [of(inputs.references[i])] if of is not None and inputs is not None else []
                first[:] = first or found
                parts = (*face, *map(change, found))
                yield tuple(mean(part) for part in parts) if plan.spec.source == "pooled" else parts

        def of_uncond() -> Parts:
            if shown is not None:
                return tuple(negatives)
            found = [of_faces] if faces else []
            if of is not None and inputs is not None:
                found.append(references.uncond(inputs, of, first[0]))
            return tuple(found)

        yield each(), of_uncond


def encoded(
    plan: Plan, references: References, resources: Resources, progress: Progress
) -> tuple[list[Parts], list[float], Parts]:
    """The embeddings of each reference without the words that are taken out, the references' weights, and the
    embeddings of the unconditional side, fp32 in main memory. Many references that become one are so already."""

    change = _without_words(plan, resources, progress)
    weights = [reference.weight for reference in plan.references]
    if plan.streams and any(weights):
        return _summed(plan, references, change)
    embeddings, uncond = _embeddings(plan, references)
    if plan.text_encoder is not None:
        embeddings = [(change(pooled),) for (pooled,) in embeddings]
    return embeddings, weights, uncond


def _without_words(plan: Plan, resources: Resources, progress: Progress) -> Callable[[Tensor], Tensor]:
    """What takes out of an embedding the words that the unit leaves out."""
    if plan.text_encoder is None:
        return lambda embedding: embedding
    text = resources.text_embedding(plan.text_encoder, plan.unit.subtract_prompt, progress)
    return lambda embedding: _without_text(embedding, text)


def _summed(
    plan: Plan, references: References, change: Callable[[Tensor], Tensor]
) -> tuple[list[Parts], list[float], Parts]:
    """As ``encoded``, where the references become one as they come."""
    mode, weights = plan.unit.combine, [reference.weight for reference in plan.references]
    parts: list[Tensor] = []
    of_uncond: list[Tensor] = []
    if plan.takes_faces:
        faces, uncond = _faces(plan)
        fold = Fold(mode, weights)
        for face in faces:
            fold.add(face)
        parts.append(_measured(plan, fold.result()))
        of_uncond.append(uncond)
    if (inputs := plan.inputs()) is not None and plan.spec.variant == "redux":
        negative = references.of_negatives(replace(inputs, references=()))
        whole, _ = references.combined(replace(inputs, negatives=(), negative_weights=()), mode, change)
        parts, of_uncond = [whole], negative
    elif inputs is not None:
        is_pooled = plan.spec.source == "pooled"
        whole, uncond = references.combined(inputs, mode, lambda one: mean(change(one)) if is_pooled else one)
        parts.append(whole)
        of_uncond.append(uncond)
    return [tuple(parts)], [_strength(mode, weights)], tuple(of_uncond)


def _projected(
    plan: Plan,
    weights: AdapterWeights,
    projection: Callable[[Parts], Tensor],
    references: list[Parts],
    weights_of: list[float],
    uncond: Parts,
) -> Prepared:
    """What is made of the embeddings where they lie, in main memory."""
    cond, factor = _tokens(plan, projection, references, weights_of)
    if plan.spec.variant == "redux":
        negative, of_negative = flux.negative_tokens(plan, projection, uncond, cond)
        return Prepared(KeysValues((), ()), cond.cpu(), negative.cpu(), factor.cpu(), of_negative.cpu())
    pictures = max(len(part) for part in uncond)  # of several parts one may be the same for all pictures
    of_uncond = projection(tuple(part.expand(pictures, *part.shape[1:]) for part in uncond))
    copies = cond.shape[1] // of_uncond.shape[1]
    of_uncond = of_uncond.repeat(len(cond) // pictures, copies, 1)
    if plan.spec.base == FLUX:
        kv = flux.keys_values(weights, plan.spec.variant, cond, of_uncond, factor, fades=plan.fades)
    else:
        kv = KeysValues.project(weights.key, weights.value, cond, of_uncond, factor, copies)
    return Prepared(kv, cond.cpu(), of_uncond.cpu())


def _embeddings(plan: Plan, references: References) -> tuple[list[Parts], Parts]:
    """The embeddings of each reference, and of the unconditional side, fp32 in main memory: for Redux those of each
    negative reference."""
    if plan.spec.variant == "redux" and (shown := plan.inputs()) is not None:
        negative = references.of_negatives(shown)  # which encodes all of them in one go
        positive, _ = references.embeddings(replace(shown, negatives=(), negative_weights=()))
        return [(one,) for one in positive], tuple(negative)
    parts: list[tuple[list[Tensor], Tensor]] = []
    if plan.takes_faces:
        parts.append(_faces(plan))
    inputs = plan.inputs()
    if inputs is not None:
        parts.append(references.embeddings(inputs))
    of_each = [*zip(*(of_references for of_references, _ in parts), strict=True)]
    return of_each, tuple(uncond for _, uncond in parts)


def _faces(plan: Plan) -> tuple[list[Tensor], Tensor]:
    """Face embeddings [1, 512] of each reference, and of the unconditional side: zeros, as the reference implementation
    has it, negative references in their place, and noise of the references' length."""
    faces = [_face(plan, one) for one in plan.references]
    own = [None if one.uncond is None else one.uncond["face"] for one in plan.references]
    negatives = [_face(plan, one) for one in plan.negatives]
    noise = [noise_like(face, one.content_hash) for face, one in zip(faces, plan.references, strict=True)]

    def side(seen: Sequence[int]) -> Tensor:
        weights = [plan.references[i].weight for i in seen]
        uncond = unconditional(torch.zeros_like(faces[0]), [own[i] for i in seen], weights)
        if negatives:
            uncond = towards(uncond, negatives, [one.weight for one in plan.negatives])
        if plan.unit.noise:
            uncond = torch.lerp(uncond, mean(torch.cat([noise[i] for i in seen])), plan.unit.noise)
        return uncond

    return faces, of_pictures(side, plan.sides())


def _face(plan: Plan, reference: PlannedReference) -> Tensor:
    return _measured(plan, face_embedding(reference))


def _measured(plan: Plan, face: Tensor) -> Tensor:
    """A face embedding of the length that the adapter was trained with: 1, or recognition's own."""
    return face if plan.spec.variant in UNNORMALISED else F.normalize(face, dim=-1)


def _projection(plan: Plan, projection: Callable[..., Tensor]) -> Callable[[Parts], Tensor]:
    """``projection`` as a function of one reference's embeddings."""
    options: dict[str, Any] = {}
    if plan.spec.variant == "redux":
        options = {"downsampling": plan.unit.downsampling}
    if plan.spec.source == "face+penultimate":
        options = {"shortcut": plan.spec.variant == "faceid-plus-v2", "scale": plan.unit.faceid_v2_weight}
    return lambda parts: projection(*parts, **options)


def _without_text(pooled: Tensor, text: Tensor) -> Tensor:
    """Pooled embeddings [V, E] without what they share with the ``text``'s [1, E]."""
    from ..encode.clip_text import subtract

    return subtract(pooled, text.to(pooled))


def _tokens(
    plan: Plan, projection: Callable[[Parts], Tensor], references: list[Parts], weights: list[float]
) -> tuple[Tensor, Tensor]:
    """Image tokens of the cond side [pictures, T, D], and each token's factor [pictures, T].

    The views of a reference are averaged where the adapter takes a pooled embedding, else each brings its tokens.
    """
    if plan.spec.source == "pooled":
        references = [(mean(pooled),) for (pooled,) in references]
    if plan.unit.batch == "per image":
        shown = [([parts], [weight]) for parts, weight in zip(references, weights, strict=True)]
    elif len(references) < len(plan.references):  # they are one already
        shown = [(references, weights)]
    else:
        shown = [joined(plan, [references[i] for i in seen], [weights[i] for i in seen]) for seen in plan.seen()]
    conds, factors = [], []  # of each picture
    for of_picture, own_weights in shown:
        tokens = [projection(parts).flatten(0, 1) for parts in of_picture]  # [V * T, D]
        conds.append(torch.cat(tokens))
        factors.append(torch.cat([t.new_tensor(w).expand(len(t)) for t, w in zip(tokens, own_weights, strict=True)]))
    return torch.stack(conds), torch.stack(factors)


def joined(plan: Plan, references: list[Parts], weights: list[float]) -> tuple[list[Parts], list[float]]:
    """The references that every picture sees, and the factors of their tokens."""
    mode = plan.unit.combine
    if not any(weights):
        return references[:1], [0.0]
    if mode == "concat" or (len(references) == 1 and len(references[0][0]) > 1):
        # Tokens of weight 0 would still take their part of the attention.
        kept = [(parts, weight) for parts, weight in zip(references, weights, strict=True) if weight]
        return [parts for parts, _ in kept], [weight for _, weight in kept]
    strength = _strength(mode, weights)
    parts = tuple(combine(part, mode, weights) for part in zip(*references, strict=True))
    if plan.takes_faces:  # the mean of several is shorter than any face that the adapter was trained with
        parts = (_measured(plan, parts[0]), *parts[1:])
    return [parts], [strength]


def _strength(mode: str, weights: Sequence[float]) -> float:
    """The factor of the tokens of several references that have become one. A reference's weight is its share of the
    mean; what all shares lack to 1 weakens the unit as a whole."""
    return sum(map(abs, weights)) / len(weights) if mode == "average" else 1.0
