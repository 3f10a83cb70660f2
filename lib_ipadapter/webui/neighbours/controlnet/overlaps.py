"""What happens where ControlNet is asked for the same as one of our units."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....checkpoint.catalog import Catalog
from ....checkpoint.entries import AdapterEntry
from ....encode.picture import Picture
from ....errors import CheckpointError, IPAdapterError
from ....unit import Unit
from ....weighting import peak
from ... import host
from ...options import SAME_CHOICES
from .changes import disabled, replace
from .models import adapter
from .units import ControlNetUnitView, has_begun_batch, units_of

log = logging.getLogger("ip-adapter")
ADD, SKIP, TAKE = SAME_CHOICES
NOTE = "IP-Adapter and ControlNet"  # the entry in a picture's parameters
WHO_ACTS = {ADD: "both act", SKIP: "{} acts", TAKE: "ours acts"}
COMMENTS = {
    ADD: "they both act, and their effects add up.",
    SKIP: "ours is skipped.",
    TAKE: "{} is off for this run.",
}


@dataclass(frozen=True)
class Overlap:
    """Unit ``number`` of ours and a unit of ControlNet's with the same adapter and the same pictures."""

    number: int
    theirs: ControlNetUnitView


def settle(p: Any, units: list[Unit], catalog: Catalog, choice: str = ADD) -> list[Unit]:
    """What the job does where ControlNet is asked for the same as one of our units; returns the units left to us.

    "add": both act. "skip ours": ControlNet's acts. "take over": ours acts, with our unit's settings, and ControlNet's
    is off for this run; in one of its batches of files, which it has begun by then, ours is skipped instead. Whatever
    it is stands in the log, in the picture's parameters and among the job's comments.
    """
    p.extra_generation_params.pop(NOTE, None)  # of an earlier run of the same job
    overlaps = find(p, units, catalog)
    if not overlaps:
        return units
    if choice == TAKE and has_begun_batch(p):
        choice = SKIP  # the nearest to it: one of the two acts
    _say(p, overlaps, choice)
    if choice == TAKE:
        replace(p, {overlap.theirs.number: disabled(overlap.theirs.value) for overlap in overlaps})
    if choice == SKIP:
        skipped = {overlap.number for overlap in overlaps}
        return [unit for unit in units if unit.number not in skipped]
    return units


def _say(p: Any, overlaps: Sequence[Overlap], choice: str) -> None:
    its = overlaps[0].theirs.home.its
    both = ", ".join(f"IP-Adapter {one.number} = {its} unit {one.theirs.number}" for one in overlaps)
    p.extra_generation_params[NOTE] = f"{both}: {WHO_ACTS[choice].format(its)}"
    for overlap in overlaps:
        sentence = (
            f"IP-Adapter unit {overlap.number} and {overlap.theirs} have the same adapter and the same picture: "
            f"{COMMENTS[choice].format(its)} (Settings, IP-Adapter)"
        )
        log.info("%s", sentence)
        p.comment(sentence)


def find(p: Any, units: Sequence[Unit], catalog: Catalog) -> list[Overlap]:
    """Which of our units ControlNet is asked for as well: enabled, of a weight, same adapter, same pictures."""
    views = [
        view for view in units_of(p) or ()
        if view.enabled and view.is_ip_adapter and view.number_of("weight", 1.0) != 0
    ]  # fmt: skip
    if not views:
        return []
    start_picture = host.current().start_picture(p)
    their_hashes: dict[int, frozenset[str] | None] = {}
    overlaps = []
    for unit in units:
        entry = _entry(unit.model, catalog)
        if entry is None or peak(unit.weight) == 0:
            continue
        for view in views:
            if adapter(str(view.get("model")), catalog) != entry:
                continue
            if view.number not in their_hashes:
                their_hashes[view.number] = _their_hashes(view, start_picture)
            hashes = their_hashes[view.number]
            if hashes is not None and hashes == _our_hashes(unit):
                overlaps.append(Overlap(unit.number, view))
    return overlaps


def _their_hashes(view: ControlNetUnitView, start_picture: Any) -> frozenset[str] | None:
    """The content hashes of what a unit of ControlNet's feeds its adapter with; None where that cannot be told, or
    where a mask makes it another picture. Without a picture of its own it takes img2img's."""
    if view.get("input_mode", "simple") == "batch" or view.get("ipadapter_input") is not None:
        return None
    try:
        pictures = view.fed(view.pictures())
        own = [Picture(picture.image) for picture in pictures]
        shown = own or ([Picture.of(start_picture)] if start_picture else [])
        region = view.region if view.home.habits.paints_regions else None
    except IPAdapterError:
        return None
    if not shown or region is not None or any(picture.mask is not None for picture in pictures):
        return None
    return frozenset(picture.content_hash for picture in shown)


def _our_hashes(unit: Unit) -> frozenset[str] | None:
    if any(reference.mask is not None for reference in unit.references):
        return None
    try:
        return frozenset(Picture.of(reference.image).content_hash for reference in unit.references)
    except IPAdapterError:
        return None


def _entry(name: str, catalog: Catalog) -> AdapterEntry | None:
    try:
        return catalog.find(name)
    except CheckpointError:
        return None  # its own sentence is told when the unit is prepared
