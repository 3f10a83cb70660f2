"""Where in the picture a unit acts, and its references, some of which may have a region of their own.

References in one place act together, as those of a unit do; each place's are added in its mask, as a unit of their own
would be. So a unit with regions of its references is as many image prompts as it has places.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..attend.keyframes import FadedRegion
from ..attend.regions import Region, feathered
from ..encode.picture import Mask
from ..errors import IPAdapterError, PictureError
from ..reference import called
from .planned import BLACK, PlannedReference, check_side_by_side

if TYPE_CHECKING:
    from .plans import Plan


def with_regions(plan: Plan) -> Plan:
    """The plan with the unit's region and those of its references. Raises IPAdapterError for a mask that is none, for
    one that would leave a reference nowhere to act, and for references that are made one and have several places."""
    unit = plan.unit
    where = "region_mask: "
    mask = _mask(unit.region_mask, where, "unit", "mask")
    region = _region(mask, unit.region_feather)
    references, places = [], {}
    names = [called(i, len(unit.references)) for i in range(len(unit.references))]
    owns = [
        _mask(given.region, f"{name}region: ", "reference", "region")
        for name, given in zip(names, unit.references, strict=True)
    ]
    for one in plan.references:
        own = owns[one.item]
        if own is not None and own.content_hash not in places:
            places[own.content_hash] = _region(own, unit.region_feather)
        found = None if own is None else places[own.content_hash]
        if region is not None and found is not None and region.overlap(found).nowhere:
            raise PictureError(
                f"{names[one.item]}its region lies outside of the unit's, so it acts nowhere: change one of them, or "
                "leave one out."
            )
        references.append(one if found is None or own is None else replace(one, region_hash=own.content_hash))
    placed = replace(
        plan, region=region, region_hash=None if mask is None else mask.content_hash, references=tuple(references),
        places={content_hash: found for content_hash, found in places.items() if found is not None},
    )  # fmt: skip
    _check_joined(placed)
    return placed


def _check_joined(plan: Plan) -> None:
    unit = plan.unit
    if len({one.region_hash for one in plan.references}) == 1:
        return
    item = next(one.item for one in plan.references if one.region_hash is not None)
    first = called(item, len(unit.references))
    check_side_by_side(unit, f"{first}it has a region of its own", "the region")


def parts(plan: Plan) -> list[Plan]:
    """The plan as one for each of its places, with the references that act there, in the order of the first of each.
    Keyframes are one, whose place fades from theirs to theirs."""
    if not plan.places:
        return [plan]
    return [replace(plan, region=_faded(plan))] if plan.fades else list(_parts(plan))


def _faded(plan: Plan) -> Region:
    everywhere = Region(torch.ones(1, 1))
    regions = [_within(plan, one.region_hash) or everywhere for one in plan.references]
    return regions[0] if len({one.region_hash for one in plan.references}) == 1 else FadedRegion(regions)


def _within(plan: Plan, region_hash: str | None) -> Region | None:
    """The region of a reference, as far as the unit acts there."""
    own = None if region_hash is None else plan.places[region_hash]
    return own if plan.region is None else plan.region if own is None else plan.region.overlap(own)


def _parts(plan: Plan) -> Iterator[Plan]:
    groups: dict[str | None, list[PlannedReference]] = {}
    for one in plan.references:
        groups.setdefault(one.region_hash, []).append(one)
    for content_hash, group in groups.items():
        yield replace(plan, references=tuple(group), region=_within(plan, content_hash))


def _mask(data: Any, where: str, of: str, called: str) -> Mask | None:
    """What is white where something acts. Raises PictureError for what is none, and for one that is black all over."""
    if data is None:
        return None
    try:
        mask = Mask.of(data)
    except IPAdapterError as error:
        raise type(error)(f"{where}{error.detail}") from None
    if mask.extrema == BLACK:
        raise PictureError(
            f"{where}the mask is black all over, so the {of} acts nowhere: paint white where it acts, or leave the "
            f"{called} out."
        )
    return mask


def _region(mask: Mask | None, feather: float) -> Region | None:
    """None for everywhere."""
    if mask is None:
        return None
    region = Region(feathered(torch.from_numpy(np.array(mask.image, dtype=np.float32)) / 255, feather))
    return None if region.everywhere else region
