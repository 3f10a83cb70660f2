"""Units <-> the generation parameters that the WebUI writes into pictures."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Protocol

from PIL.Image import Image

from .checkpoint.catalog import AdapterEntry
from .errors import UnitError
from .jobs.plans import PlannedReference
from .unit import MAX_UNITS, PICTURES, Unit
from .weighting import as_text

NEGATIVE, REGION = "negative_images", "region_mask"
HASH_LENGTH = 12  # hexadecimal digits of a reference's content hash that are written


def _quoted(value: Any) -> str:
    """A value as it stands in "name: value, name: value"; JSON where it would break that form."""
    text = as_text(value) if isinstance(value, (float, tuple, Mapping)) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ',:"\n') else text


class Shown(Protocol):
    """A unit at work: its number, itself, its adapter's entry in the catalogue, its pictures with their content
    hashes."""

    @property
    def number(self) -> int: ...

    @property
    def unit(self) -> Unit: ...

    @property
    def adapter(self) -> AdapterEntry: ...

    @property
    def references(self) -> tuple[PlannedReference, ...]: ...

    @property
    def negatives(self) -> tuple[PlannedReference, ...]: ...

    @property
    def region_hash(self) -> str | None: ...


def _marks(pictures: Sequence[PlannedReference]) -> str:
    return " ".join(
        picture.content_hash[:HASH_LENGTH]
        + (f"*{picture.weight:g}" if picture.weight != 1 else "")
        + (f"@{picture.mask_hash[:HASH_LENGTH]}" if picture.mask_hash else "")
        for picture in pictures
    )


def parameters(plans: Sequence[Shown]) -> dict[str, str]:
    """The entries ``IP-Adapter n`` for ``p.extra_generation_params``: model, fields that differ from their defaults,
    and the pictures' content hashes (with their own weight after a star, their mask's hash after an @)."""
    entries = {}
    for plan in plans:
        values = {"model": plan.adapter.name, **plan.unit.changed()}
        if plan.negatives:
            values[NEGATIVE] = _marks(plan.negatives)
        if plan.region_hash:
            values[REGION] = plan.region_hash[:HASH_LENGTH]
        values["references"] = _marks(plan.references)
        entries[f"IP-Adapter {plan.number}"] = ", ".join(f"{k}: {_quoted(v)}" for k, v in values.items())
    return entries


NUMBERS = ("boost",)  # fields that may be None, and are numbers otherwise
_ENTRY = re.compile(r"IP-Adapter (\d{1,2})")
_PAIR = re.compile(r'\s*(\w+): ?("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')
_REFERENCE = re.compile(r"([0-9a-f]{12,64})(?:\*(-?[0-9.]+(?:e[-+]?\d+)?))?(?:@([0-9a-f]{12,64}))?", re.IGNORECASE)


class Mark(NamedTuple):
    """A picture by its content hash, its weight, and its mask by its content hash."""

    picture: str
    weight: float
    mask: str | None


@dataclass
class Pasted:
    """One entry as it was read: settings that a unit may have, pictures by content hash, and what was wrong."""

    number: int
    settings: dict[str, Any]
    references: list[Mark]
    negatives: list[Mark] = field(default_factory=list)
    region: str | None = None
    problems: list[str] = field(default_factory=list)


def entries(params: Mapping[str, Any]) -> dict[str, str]:
    """Those of a picture's parameters that are a unit's; other extensions' of a like name among them."""
    numbers = {name: found for name in params if isinstance(name, str) and (found := _ENTRY.fullmatch(name))}
    return {
        name: params[name]
        for name, found in numbers.items()
        if isinstance(params[name], str) and 1 <= int(found[1]) <= MAX_UNITS
    }


def _values(text: str) -> dict[str, str]:
    values = {}
    for name, value in _PAIR.findall(text):
        with contextlib.suppress(ValueError):
            values[name] = str(json.loads(value)) if value.startswith('"') else value.strip()
    return values


def _typed(name: str, text: str) -> Any:
    """A field's value from its text. Raises UnitError for a field or value that no unit has."""
    defaults = {f.name: f.default for f in fields(Unit) if f.name not in ("model", "number", *PICTURES)}
    if name not in defaults:
        raise UnitError(f"{name} is not known to this version, so it was left out.")
    value: Any = text
    if isinstance(defaults[name], bool):
        value = {"true": True, "false": False}.get(text.lower(), text)
    elif isinstance(defaults[name], float) or name in NUMBERS:
        with contextlib.suppress(ValueError):
            value = float(text)
    Unit.parse({"enabled": False, name: value})
    return value


def read(params: Mapping[str, Any]) -> list[Pasted]:
    """The units of a picture's parameters, by number. What cannot be understood is told, never raised; an entry
    without any reference is another extension's."""
    units = []
    for name, text in entries(params).items():
        values = _values(text)
        references = _read_marks(values.pop("references", ""))
        if not references:
            continue
        unit = Pasted(
            int(name.rpartition(" ")[2]), {"model": values.pop("model", None)}, references,
            _read_marks(values.pop(NEGATIVE, "")), next(iter(_read_marks(values.pop(REGION, ""))), (None,))[0],
        )  # fmt: skip
        for key, value in values.items():
            try:
                unit.settings[key] = _typed(key, value)
            except UnitError as error:
                unit.problems.append(error.detail)
        try:
            Unit.parse({**unit.settings, "enabled": False})
        except UnitError as error:  # values that are possible one by one, but not together
            unit.problems.append(error.detail)
            unit.settings.pop("start", None)
            unit.settings.pop("end", None)
        units.append(unit)
    return sorted(units, key=lambda unit: unit.number)


def _read_marks(text: str) -> list[Mark]:
    found = (_REFERENCE.fullmatch(word) for word in text.split())
    return [Mark(one[1].lower(), _weight(one[2]), one[3] and one[3].lower()) for one in found if one]


def _weight(text: str | None) -> float:
    if text is not None:
        with contextlib.suppress(ValueError):
            return min(3.0, max(-1.0, float(text)))
    return 1.0


def restored(
    params: Mapping[str, Any], picture: Callable[[str], Image | None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The units of a picture's parameters as API objects, in their places, and sentences on what is missing.

    ``picture`` gives a reference by the beginning of its content hash, None where it is not there any more. Places
    between the units are disabled units.
    """
    units: list[dict[str, Any]] = []
    notes = []
    for unit in read(params):
        told = list(unit.problems)
        images = _found(unit.references, picture, "reference", told)
        negatives = _found(unit.negatives, picture, "negative reference", told)
        pictures: dict[str, Any] = {"images": images, **({NEGATIVE: negatives} if negatives else {})}
        if unit.region is not None:
            mask = picture(unit.region)
            if mask is None:
                told.append("its region mask cannot be restored from the parameters: draw it again.")
            else:
                pictures[REGION] = mask
        units += [{"enabled": False}] * (unit.number - 1 - len(units))
        units.append({**unit.settings, **pictures})
        notes += [f"Unit {unit.number}: {sentence}" for sentence in told]
    return units, notes


def _found(
    marks: Sequence[Mark], picture: Callable[[str], Image | None], kind: str, told: list[str]
) -> list[dict[str, Any]]:
    """The pictures that are still there as API items; what is missing is ``told``."""
    items: list[dict[str, Any]] = []
    for mark in marks:
        image = picture(mark.picture)
        if image is None:
            continue
        items.append({"image": image, "weight": mark.weight})
        mask = None if mark.mask is None else picture(mark.mask)
        if mask is not None:
            items[-1]["mask"] = mask
        elif mark.mask is not None:
            told.append(f"the mask of a {kind} cannot be restored from the parameters: draw it again.")
    gone = len(marks) - len(items)
    if gone:
        of = f"its {kind}" if len(marks) == 1 else f"{gone} of its {len(marks)} {kind}s"
        told.append(f"{of} cannot be restored from the parameters: add the picture again.")
    return items
