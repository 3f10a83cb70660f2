"""What adapters for FLUX need that others do not: which fields have a meaning there, and their keys, values and tokens.

Redux' tokens stand behind the prompt's words: there is no layer that it has something for, and its strength is a factor
on how much it is attended to. XLabs' and InstantX' adapters attend beside the model's own attention, in all its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import bases
from ..attend.prompt import KeysValues
from ..errors import UnitError
from ..fields import meaningless
from ..flux_fields import NOT_NEGATIVE

if TYPE_CHECKING:
    from ..checkpoint.load import AdapterWeights
    from ..unit import Unit
    from .planned import PlannedReference
    from .plans import Plan

Parts = tuple[Tensor, ...]

EPSILON = 1e-5  # of the norm of InstantX' keys
# Why some fields mean nothing there, by variant; which these are stands in their declarations.
WHY = {
    "redux": "is FLUX Redux, whose image tokens stand behind the prompt's, for all blocks alike",
    "xlabs": "is for FLUX, of whose blocks nobody knows what they carry",
    "instantx": "is for FLUX, of whose blocks nobody knows what they carry, and its image encoder has no words",
}
NOTED = ("influence_map",)  # a note tells of it, since the picture is what it would be


def check_fields(plan: Plan) -> None:
    """Raises UnitError for a field that was set and has no meaning for the plan's adapter, and for a negative weight of
    Redux: what is attended to cannot be attended to less than not at all."""
    unit, spec = plan.unit, plan.spec
    if spec.variant not in WHY:
        return
    fields, why = meaningless(type(unit), spec.variant), WHY[spec.variant]
    changed = unit.changed()
    for name in (name for name in fields if name in changed and name not in NOTED):
        kept = "layer_weights" not in fields and name == "weight_type"
        instead = f", or give {unit.called('layer_weights')}" if kept else ""
        raise UnitError(
            f"{unit.called(name)} means nothing here: adapter {plan.adapter.name} {why}. Leave it at its default"
            f"{instead}."
        )
    if spec.variant in NOT_NEGATIVE:
        _check_weights(unit, (*plan.references, *plan.negatives))


def _check_weights(unit: Unit, references: Sequence[PlannedReference]) -> None:
    curve = unit.weight if isinstance(unit.weight, tuple) else ((0.0, unit.weight),)
    lowest = min(weight for _, weight in curve)
    name = unit.called("weight")
    if lowest >= 0:
        single = [part.weight for one in references for part in one.singles()]
        lowest, name = min(single, default=0.0), "the weight of a reference"
    if lowest < 0:
        raise UnitError(
            f"{name} is {lowest:g}, and FLUX Redux has no negative weights: give 0 or more, or put what the picture "
            "should move away from into negative_images."
        )


def keys_values(
    weights: AdapterWeights, variant: str, cond: Tensor, uncond: Tensor, scale: Tensor, *, fades: bool = False
) -> KeysValues:
    """As ``KeysValues.project``, with the biases that XLabs' layers have, and the norm of each head's keys that
    InstantX' have: to a mean square of 1, without weights (its IPAFluxAttnProcessor2_0). Where the tokens are keyframes
    that fade, mixed keys get it."""
    tokens = torch.cat([cond, uncond])
    factor = torch.cat([scale, scale])[..., None].to(tokens)
    keys, values = [], []
    for i in range(len(weights.key)):  # one layer's at a time where they are made
        key, value = of_layer(weights, variant, i, tokens, factor, fades=fades)
        keys.append(key.cpu())
        values.append(value.cpu())
    mixed = _normed if variant == "instantx" and fades else None
    return KeysValues(tuple(keys), tuple(values), norm=mixed)


def of_layer(
    weights: AdapterWeights, variant: str, i: int, tokens: Tensor, factor: Tensor, *, fades: bool = False
) -> tuple[Tensor, Tensor]:
    """Keys and values of layer ``i``, of tokens [B, T, D], the values multiplied by ``factor`` [B, T, 1]; ``fades`` as
    above."""

    def project(weight: Tensor, bias: Tensor | None) -> Tensor:
        made = F.linear(tokens, weight.to(tokens))
        return made if bias is None else made + bias.to(made)

    key = project(weights.key[i], weights.key_bias[i] if weights.key_bias else None)
    value = project(weights.value[i], weights.value_bias[i] if weights.value_bias else None)
    return _normed(key) if variant == "instantx" and not fades else key, value * factor


def _normed(key: Tensor) -> Tensor:
    """[B, T, C], each head's channels divided by the root of their mean square. A narrow model of a test has one."""
    head = bases.FLUX_SIZES.head_width if key.shape[-1] % bases.FLUX_SIZES.head_width == 0 else key.shape[-1]
    heads = key.unflatten(-1, (-1, head))
    scale = torch.rsqrt(heads.pow(2).mean(-1, keepdim=True) + EPSILON)
    normed: Tensor = (heads * scale).flatten(-2)
    return normed


def negative_tokens(
    plan: Plan, projection: Callable[[Parts], Tensor], negatives: Sequence[Tensor], like: Tensor
) -> tuple[Tensor, Tensor]:
    """Redux' tokens of the unconditional side [pictures, T, D], and the factor of each [pictures, T], for as many
    pictures as ``like`` [pictures, …, D] is for: those of the negative references, one after the other; T is 0 without
    any, where that side has words alone."""
    tokens = [projection((negative,)).flatten(0, 1) for negative in negatives]
    factors = [one.new_full((len(one),), part.weight) for one, part in zip(tokens, plan.negatives, strict=True)]
    if not tokens:
        return like.new_zeros(len(like), 0, like.shape[-1]), like.new_zeros(len(like), 0)
    return torch.cat(tokens).expand(len(like), -1, -1), torch.cat(factors).expand(len(like), -1)
