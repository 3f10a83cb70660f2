"""The pictures of ControlNet's units as references of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ....encode.picture import Mask, Picture
from ....errors import IPAdapterError, UnitError, errors_name_unit
from ....reference import Reference, references_at_most
from ....unit import Unit
from .units import ControlNetPicture, unit_of


def with_pictures(p: Any, units: Sequence[Unit]) -> list[Unit]:
    """The units with ControlNet's pictures in the place of references that name one of its units.

    A unit of several pictures becomes as many references. Raises UnitError (ours named) for a picture that is not
    there.
    """
    filled = []
    for unit in units:
        with errors_name_unit(unit.number):
            filled.append(_with_pictures(p, unit))
    return filled


def _with_pictures(p: Any, unit: Unit) -> Unit:
    if all(reference.controlnet is None for reference in unit.references):
        return unit
    references: list[Reference] = []
    for reference in unit.references:
        references += [reference] if reference.controlnet is None else _references(p, reference, reference.controlnet)
    at_most = references_at_most({"combine": unit.combine, "batch": unit.batch})
    if len(references) > at_most:
        raise UnitError(f"images holds {len(references)} pictures, ControlNet's among them: give at most {at_most}.")
    return replace(unit, references=tuple(references))


def _references(p: Any, reference: Reference, number: int) -> list[Reference]:
    """What ``reference`` becomes. A mask of our own counts more than what is painted there."""
    references = []
    for picture in pictures(p, number):
        painted = None if picture.mask is None else Mask(picture.mask)
        mask = painted if reference.mask is None else reference.mask
        references.append(replace(reference, image=Picture(picture.image), controlnet=None, mask=mask))
    return references


def pictures(p: Any, number: int) -> list[ControlNetPicture]:
    """The pictures of unit ``number``, enabled or not, for use as references.

    What is painted on the picture of a unit that is at work with something else (an inpainting model, say) is that
    unit's business, as it is where it tells an IP-Adapter unit where to act. On any other it is what the reference
    leaves out. Raises IPAdapterError where there is no such picture.
    """
    view = unit_of(p, number)
    try:
        found = view.pictures()
    except IPAdapterError as error:
        raise type(error)(f"{view}: {error.detail}") from None
    if not found:
        raise UnitError(f"{view} has no picture: add one there; the unit need not be enabled.")
    if view.home.habits.paints_regions if view.is_ip_adapter else view.enabled:
        return [ControlNetPicture(picture.image) for picture in found]
    return found
