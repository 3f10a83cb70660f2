"""Axes of the X/Y/Z plot for what a unit comes from: one of its own references by its number, a look, a purpose, and
for all units at once a preset.

They are written down as the other axes' values are (xyz.py), under names that no field has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...errors import IPAdapterError, UnitError
from ...flux_fields import FLUX
from ...jobs import choose
from ...presets.looks import found
from ...purposes import PURPOSES, Purpose
from ...reference import Folder
from ...unit import Reference, Unit
from .. import process, reference_folders
from ..host import record

REFERENCE, LOOK, PURPOSE, PRESET = SOURCES = ("reference", "look", "purpose", "preset")
ALL_UNITS = 0  # in the place of a unit's number
OF_ALL = f"{ALL_UNITS} {PRESET}"  # a preset's place among a cell's values


def looks() -> list[str]:
    """Names, none where they cannot be read: using one says why."""
    try:
        return [look.name for look in process.looks().all()]
    except IPAdapterError:
        return []


def purposes() -> list[str]:
    return [purpose.label for purpose in PURPOSES]


def presets() -> list[str]:
    try:
        return process.store().names()
    except IPAdapterError:
        return []


# What may stand on an axis


def check(field: str, value: Any) -> None:
    """Raises IPAdapterError for a value that no cell could be made with, whatever the unit is."""
    if field == LOOK:
        found(process.looks(), str(value), "")
    elif field == PURPOSE:
        _purpose(value)
    elif field == PRESET:
        _preset(value)
    elif value < 1:
        raise UnitError(f"reference is {value}: give the number of one of its references, from 1 on.")


def check_unit(unit: Mapping[str, Any], field: str, value: Any) -> None:
    """Raises UnitError for a value that does not go with the unit, an API object."""
    if field == REFERENCE:
        images = unit.get("images", [unit["image"]] if unit.get("image") is not None else [])
        if isinstance(images, (list, tuple)):
            folder = _only_folder([Reference.parse(one, "") for one in images]) if len(images) == 1 else None
            _check_number(len(images) if folder is None else reference_folders.first(folder, 0, False)[0], value)


def _numbered(references: Sequence[Reference], number: int) -> Reference:
    """The reference of that number, or the picture of that number in a folder that is all there is."""
    if (folder := _only_folder(references)) is not None:
        _check_number(reference_folders.first(folder, 0, False)[0], number)
        return replace(references[0], folder=replace(folder, only=number - 1))
    _check_number(len(references), number)
    return references[number - 1]


def _only_folder(references: Sequence[Reference]) -> Folder | None:
    return references[0].folder if len(references) == 1 else None


def _check_number(count: int, number: int) -> None:
    if not 1 <= number <= count:
        there = f"1 to {count}" if count > 1 else "1 alone"
        raise UnitError(f"the X/Y/Z plot wants its reference {number}, and it has {there}: take the number out.")


def _purpose(value: Any) -> Purpose:
    """By its label or its name, in any case."""
    wanted = str(value).strip().casefold()
    for purpose in PURPOSES:
        if wanted in (purpose.name.casefold(), purpose.label.casefold()):
            return purpose
    raise UnitError(f"there is no purpose “{value}”: choose one of {', '.join(purposes())}.")


def _preset(value: Any) -> list[dict[str, Any]]:
    try:
        units = process.store().load(str(value))
    except IPAdapterError as error:
        raise UnitError(error.detail) from None  # of the job, whose status it gets
    if not any(unit.get("enabled", True) and (unit.get("images") or unit.get("image")) for unit in units):
        raise UnitError(f"preset “{value}” has no unit that is in use: take it out of the X/Y/Z plot.")
    return units


# A cell's units


def with_preset(p: Any) -> list[object] | None:
    """The units of the preset that stands in the place of the job's in its cell, None where none does. Those that are
    without references, and get no look, are no units."""
    name = record.axis_values(p).get(OF_ALL)
    if name is None:
        return None
    looks = {place.split()[0] for place in record.axis_values(p) if place.endswith(f" {LOOK}")}
    return [
        unit if unit.get("images") or unit.get("image") or str(number) in looks else {"enabled": False}
        for number, unit in enumerate(_preset(name), 1)
    ]


def applied(unit: Unit, values: Mapping[str, Any]) -> Unit:
    """The unit with the sources among ``values``, by their names. Raises UnitError where that cannot be."""
    if PURPOSE in values:
        purpose = _purpose(values[PURPOSE])
        _check_kind(unit, purpose)
        if purpose.faces:
            _check_faces(unit, purpose)
        unit = unit.with_values(process.purposes().all()[purpose.name])
    if REFERENCE in values and LOOK in values:
        raise UnitError(
            "the X/Y/Z plot has both a Reference and a Look of it, which takes the references' place: take one of the "
            "axes out."
        )
    if REFERENCE in values:
        unit = replace(unit, references=(_numbered(unit.references, values[REFERENCE]),))
    if LOOK in values:
        unit = replace(unit, references=(Reference(None, look=str(values[LOOK])),))
    return unit


def _check_kind(unit: Unit, purpose: Purpose) -> None:
    variant = process.resources().catalog.find(unit.model).spec.variant
    kind = variant if variant in FLUX else ""
    if kind not in purpose.kinds:
        there = ", ".join(one.label for one in PURPOSES if kind in one.kinds)
        raise UnitError(
            f"the X/Y/Z plot wants its purpose “{purpose.label}”, which means nothing to adapter {unit.model}: choose "
            f"one of {there}."
        )


def _check_faces(unit: Unit, purpose: Purpose) -> None:
    if not choose.is_for_faces(process.resources().catalog.find(unit.model)):
        raise UnitError(
            f"the X/Y/Z plot wants its purpose “{purpose.label}”, and adapter {unit.model} is none for faces: choose "
            "one that is, or take the purpose out."
        )
