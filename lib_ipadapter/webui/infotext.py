"""Units <-> the generation parameters that the WebUI writes into pictures."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from PIL.Image import Image

from ..checkpoint.catalog import Entry
from ..errors import UnitError
from ..unit import MAX_UNITS, Unit

HASH_LENGTH = 12  # hexadecimal digits of a reference's content hash that are written


def _quoted(value: Any) -> str:
    """A value as it stands in "name: value, name: value"; JSON where it would break that form."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ',:"\n') else text


class Shown(Protocol):
    """A unit at work: its number, itself, its adapter's entry in the catalogue, its references' content hashes."""

    number: int
    unit: Unit
    adapter: Entry
    fingerprints: tuple[str, ...]


def _reference(plan: Shown, index: int) -> str:
    weight = plan.unit.references[index].weight
    return plan.fingerprints[index][:HASH_LENGTH] + (f"*{weight:g}" if weight != 1 else "")


def parameters(plans: Sequence[Shown]) -> dict[str, str]:
    """The entries ``IP-Adapter n`` for ``p.extra_generation_params``: model, fields that differ from their defaults,
    and the references' content hashes (with their own weight after a star)."""
    entries = {}
    for plan in plans:
        values = {"model": plan.adapter.name, **plan.unit.changed()}
        values["references"] = " ".join(_reference(plan, i) for i in range(len(plan.fingerprints)))
        entries[f"IP-Adapter {plan.number}"] = ", ".join(f"{k}: {_quoted(v)}" for k, v in values.items())
    return entries


_ENTRY = re.compile(r"IP-Adapter (\d{1,2})")
_PAIR = re.compile(r'\s*(\w+): ?("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')
_REFERENCE = re.compile(r"([0-9a-f]{12,64})(?:\*(-?[0-9.]+(?:e[-+]?\d+)?))?", re.IGNORECASE)


@dataclass
class Pasted:
    """One entry as it was read: settings that a unit may have, references by content hash, and what was wrong."""

    number: int
    settings: dict[str, Any]
    references: list[tuple[str, float]]
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
    defaults = {f.name: f.default for f in fields(Unit) if f.name not in ("model", "references")}
    if name not in defaults:
        raise UnitError(f"{name} is not known to this version, so it was left out.")
    value: Any = text
    if isinstance(defaults[name], bool):
        value = {"true": True, "false": False}.get(text.lower(), text)
    elif isinstance(defaults[name], float):
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
        references = [
            (found[1].lower(), _weight(found[2]))
            for word in values.pop("references", "").split()
            if (found := _REFERENCE.fullmatch(word))
        ]
        if not references:
            continue
        unit = Pasted(int(name.rpartition(" ")[2]), {"model": values.pop("model", None)}, references)
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


def _weight(text: str | None) -> float:
    with contextlib.suppress(TypeError, ValueError):
        return min(3.0, max(-1.0, float(text)))
    return 1.0


def restored(params: Mapping[str, Any], picture: Callable[[str], Image | None]) -> tuple[list[dict], list[str]]:
    """The units of a picture's parameters as API objects, in their places, and sentences on what is missing.

    ``picture`` gives a reference by the beginning of its content hash, None where it is not there any more. Places
    between the units are disabled units.
    """
    units: list[dict] = []
    notes = []
    for unit in read(params):
        found = [(picture(mark), weight) for mark, weight in unit.references]
        gone = sum(image is None for image, _ in found)
        images = [{"image": image, "weight": weight} for image, weight in found if image is not None]
        units += [{"enabled": False}] * (unit.number - 1 - len(units))
        units.append({**unit.settings, "images": images})
        notes += [f"Unit {unit.number}: {sentence}" for sentence in unit.problems]
        if gone:
            of = "its reference" if len(found) == 1 else f"{gone} of its {len(found)} references"
            notes.append(f"Unit {unit.number}: {of} cannot be restored from the parameters: add the picture again.")
    return units, notes
