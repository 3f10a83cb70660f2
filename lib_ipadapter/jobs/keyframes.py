"""A unit's references as keyframes: what must hold of them, and how they fade (attend/keyframes.py)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..attend.keyframes import Fade
from ..errors import UnitError
from ..reference import called
from .planned import HIDDEN_STATES, check_side_by_side

if TYPE_CHECKING:
    from torch import Tensor

    from .planned import PlannedReference
    from .plans import Plan
    from .prepare import Prepared

POSE_NOTE = (
    "a face's points do not fade: each picture has those of the nearest keyframe, so the pose jumps half-way between "
    "two of them. {} gives all pictures one pose."
)


def checked(plan: Plan) -> Plan:
    """The plan, whose references are all keyframes, or none of them: a single one is none. Raises UnitError where only
    some are, or where another field makes one reference of all or gives each picture one."""
    unit, references = plan.unit, plan.references
    given = [one for one in references if one.at is not None]
    if not given:
        return plan
    if len(references) == 1:
        return replace(plan, references=(replace(references[0], at=None),))
    if folder := next((one for one in references if one.folder is not None), None):
        raise UnitError(
            f"{called(folder.item, len(unit.references))}a folder stands beside keyframes (“at”): put it into another "
            "unit, or leave “at” out."
        )
    if missing := [one for one in references if one.at is None]:
        raise UnitError(
            f"{missing[0].name}it has no “at”, and other references of the unit have one: say of each of them where it "
            "stands, from 0 (the first picture) to 1 (the last), or of none."
        )
    check_side_by_side(unit, f"{given[0].name}it is a keyframe (“at”)", "“at”")
    if any(one.picture is not None for one in references):
        raise UnitError(
            "the start picture is among its keyframes, and the pictures of the batch begin with different ones: give "
            "all of them the same start picture, or leave “at” out."
        )
    jumps = plan.spec.variant == "instantid" and unit.keypoints_weight != 0 and unit.keypoints_image is None
    notes = (POSE_NOTE.format(unit.called("keypoints_image")),) if jumps else ()
    return replace(plan, notes=(*plan.notes, *notes))


def check_tokens(plan: Plan) -> None:
    """Raises UnitError for keyframes with different numbers of tokens, which have no mean."""
    if not plan.fades or plan.spec.source not in HIDDEN_STATES:
        return
    if len({count for one in plan.references for count in one.views(plan.size, plan.unit.crop)}) > 1:
        raise UnitError(
            "its keyframes have different forms, so they become different numbers of tiles and cannot fade into one "
            "another: choose another crop, or cut the references to one form."
        )


def fade_of(plan: Plan, prepared: Prepared) -> Fade | None:
    """How an expanded plan's references fade; None where they are no keyframes."""
    if not plan.fades:
        return None
    names = [_name(one) for one in plan.references]
    weights = tuple(one.weight for one in plan.references)
    return Fade(
        tuple(one.at or 0.0 for one in plan.references),
        weights,
        tuple(names.index(name) for name in names),
        len(set(weights)) == 1 and _alike(prepared.uncond),
    )


def _name(reference: PlannedReference) -> Hashable:
    return (reference.key, reference.region_hash)


def _alike(entries: Tensor) -> bool:
    return all(torch.equal(one, entries[0]) for one in entries)
