"""The start picture as a reference: what img2img begins with, or of a larger picture the tile that the job makes.

So each tile of an upscaled picture steers itself, and no face grows in a tile that has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import UnitError, errors_name_unit
from ..reference import Reference
from ..unit import Unit
from . import host
from .neighbours import adetailer

AMONG = "the start picture is among its references, and"


def among(unit: Unit) -> bool:
    """Whether the start picture is one of a unit's references."""
    return any(reference.start_picture for reference in unit.references)


def with_pictures(p: Any, units: Sequence[Unit]) -> list[Unit]:
    """The units with ``p``'s start pictures in the place of the word for them. Raises UnitError (unit named) where
    there are none, or where the unit acts in what has others."""
    filled = []
    for unit in units:
        with errors_name_unit(unit.number):
            filled.append(_filled(unit, _pictures(p, unit)) if among(unit) else unit)
    return filled


def check_is_known(unit: Unit) -> None:
    """Raises UnitError for a unit whose references are only known while a picture is made."""
    if any(reference.controlnet is not None for reference in (*unit.references, *unit.negative_references)):
        raise UnitError("ControlNet's pictures are only known while a picture is made: give the picture itself.")
    if among(unit):
        raise UnitError("the start picture is only known while a picture is made: give the picture itself.")


def _pictures(p: Any, unit: Unit) -> list[Any]:
    current = host.current()
    if unit.acts_in == "detailer" or (unit.acts_in == "both" and adetailer.passes(p).missing is None):
        raise UnitError(
            f"{AMONG} ADetailer's passes begin with pictures that are not there yet: set {unit.called('acts_in')} to "
            "“picture”, or give a picture."
        )
    if (title := current.samples_tiles(p)) is not None:
        raise UnitError(
            f"{AMONG} {title} makes all tiles in one job, so that none can have its own: upscale with SD upscale or "
            f"Ultimate SD upscale, switch {title} off, or give a picture."
        )
    pictures = current.start_pictures(p)
    if not pictures:
        raise UnitError(f"{AMONG} txt2img begins with none: use img2img, or give a picture.")
    return pictures


def _filled(unit: Unit, pictures: Sequence[Any]) -> Unit:
    """``pictures``: one, or that of each picture of a batch."""
    given = unit.references
    if len(pictures) > 1 and all(_same(one, pictures[0]) for one in pictures):
        pictures = pictures[:1]
    if len(pictures) > 1 and unit.batch == "per image" and unit.noise:
        noise = unit.called("noise")
        raise UnitError(
            f"{noise} is made of all references, and the start picture among them is another one in each picture of "
            f"the batch: set {noise} to 0, {unit.called('batch')} to “same”, or the batch size to 1."
        )

    def of(reference: Reference, i: int, **marks: Any) -> Reference:
        image = pictures[i % len(pictures)] if reference.start_picture else reference.image
        return replace(reference, image=image, **marks)

    if unit.batch == "per image":  # picture i sees reference i, and what it begins with there
        turns = range(math.lcm(len(given), len(pictures)))
        return replace(unit, references=tuple(of(given[i % len(given)], i, repeats=i >= len(given)) for i in turns))
    found: list[Reference] = []
    for reference in given:
        if reference.start_picture and len(pictures) > 1:
            found += [of(reference, i, picture=i, repeats=i > 0) for i in range(len(pictures))]
        else:
            found.append(of(reference, 0))
    return replace(unit, references=tuple(found))


def _same(one: Any, other: Any) -> bool:
    """Whether two pictures are equal in every pixel."""
    is_alike: bool = (one.mode, one.size) == (other.mode, other.size)
    return one is other or (is_alike and one.tobytes() == other.tobytes())
