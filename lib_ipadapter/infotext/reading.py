"""The generation parameters in pictures -> units."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, NamedTuple

from PIL.Image import Image

from ..encode.folders import FolderMark
from ..errors import UnitError
from ..fields import settings_of
from ..reference import AT, MAX_REFERENCES, START, WEIGHT, references_at_most
from ..unit import MAX_UNITS, Unit, conflicts
from .writing import BETWEEN, BETWEEN_FOLDERS, FOLDERS, LOOKS, NEGATIVE, POSE, REFERENCES, REGION, REGIONS, TIMES

MAX_ENTRY = 95_000  # characters of one unit's entry; most of the longest of ours are hashes and names of looks
REMEDIES = {REGION: "draw it again", POSE: "add the picture again"}
_ENTRY = re.compile(r"IP-Adapter (\d{1,2})")
_NAME = re.compile(r"\w{1,40}")
_JSON = json.JSONDecoder()
_REFERENCE = re.compile(
    rf"({START}|[0-9a-f]{{12,64}})(?:\*(-?[0-9.]+(?:e[-+]?\d+)?))?(?:@([0-9a-f]{{12,64}}))?", re.IGNORECASE
)


class HashedReference(NamedTuple):
    """A picture by its content hash (START: the start picture), its weight, its mask and its region by their content
    hashes, and where it stands over time."""

    content_hash: str
    weight: float
    mask_hash: str | None
    region_hash: str | None = None
    at: float | None = None


@dataclass
class Pasted:
    """One entry as it was read: settings that a unit may have, pictures by content hash, the names of those that are
    looks, and what was wrong."""

    number: int
    settings: dict[str, Any]
    references: list[HashedReference]
    negatives: list[HashedReference] = field(default_factory=list)
    region_hash: str | None = None
    pose_hash: str | None = None
    looks: dict[str, str] = field(default_factory=dict)
    folders: dict[str, FolderMark] = field(default_factory=dict)  # by the beginning of their content hashes
    problems: list[str] = field(default_factory=list)


def entries(params: Mapping[str, Any]) -> dict[str, str]:
    """Those of a picture's parameters that are a unit's; other extensions' of a like name among them."""
    numbers = {name: found for name in params if isinstance(name, str) and (found := _ENTRY.fullmatch(name))}
    return {
        name: params[name]
        for name, found in numbers.items()
        if isinstance(params[name], str) and 1 <= int(found[1]) <= MAX_UNITS
    }


def read(params: Mapping[str, Any], unit_class: type[Unit] = Unit) -> list[Pasted]:
    """The units of a picture's parameters, by number. What cannot be understood is reported, never raised; an entry
    without any reference is another extension's, and one longer than any of ours is nobody's."""
    units = []
    for name, text in entries(params).items():
        if len(text) > MAX_ENTRY:
            continue
        values = _values(text)
        references = _read_hashes(values.pop(REFERENCES, ""))
        if not references:
            continue
        references = _with_times(_with_regions(references, values.pop(REGIONS, "")), values.pop(TIMES, ""))
        unit = Pasted(int(name.rpartition(" ")[2]), {"model": values.pop("model", None)}, references)
        unit.negatives = _read_hashes(values.pop(NEGATIVE, ""))
        unit.looks = _read_looks(values.pop(LOOKS, ""))
        unit.folders = _read_folders(values.pop(FOLDERS, ""))
        unit.region_hash, unit.pose_hash = (
            next((one.content_hash for one in _read_hashes(values.pop(name, ""))), None) for name in (REGION, POSE)
        )
        _read_settings(values, unit, unit_class)
        at_most = references_at_most(unit.settings)
        for kind, found, most in (
            ("references", unit.references, at_most), ("negative references", unit.negatives, MAX_REFERENCES),
        ):  # fmt: skip
            if len(found) > most:
                unit.problems.append(f"it has {len(found)} {kind}: the first {most} are used.")
                del found[most:]
        units.append(unit)
    return sorted(units, key=lambda unit: unit.number)


def _values(text: str) -> dict[str, str]:
    """ "name: value, name: value" with values in JSON where they are quoted. In one go from left to right: what comes
    before a name, and is none, is skipped."""
    values: dict[str, str] = {}
    at = 0
    while (colon := text.find(":", at)) >= 0:
        if colon == at or text[colon - 1] in '":':
            at = colon + 1
            continue
        name = "".join(text[max(at, colon - 40) : colon].replace(",", " ").split()[-1:])
        at = colon + 1 + text.startswith(" ", colon + 1)
        if not _NAME.fullmatch(name):
            continue
        if text.startswith('"', at):
            try:
                value, at = _JSON.raw_decode(text, at)
            except ValueError:  # not closed: the rest is inside it
                break
            values[name] = str(value)
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            values[name], at = text[at:end].strip(), end
    return values


def _read_settings(texts: Mapping[str, str], unit: Pasted, unit_class: type[Unit]) -> None:
    """Put what a unit may have into ``unit``'s settings, and sentences on everything else among its problems."""
    known = {name: setting for name, setting in settings_of(unit_class).items() if setting.kind.is_value}
    parsed = {name: setting.default for name, setting in known.items()}
    for name, text in texts.items():
        if name not in known:
            unit.problems.append(f"{name} is not known to this version, so it was left out.")
            continue
        value = known[name].kind.from_text(text)
        try:
            parsed[name] = known[name].parse({name: value})
            unit.settings[name] = value
        except UnitError as error:
            unit.problems.append(error.detail)
    for names, sentence in conflicts(parsed):
        unit.problems.append(sentence)
        for name in names:
            unit.settings.pop(name, None)


def _read_hashes(text: str) -> list[HashedReference]:
    found = (_REFERENCE.fullmatch(word) for word in text.split())
    return [HashedReference(one[1].lower(), _weight(one[2]), one[3] and one[3].lower()) for one in found if one]


def _with_regions(references: list[HashedReference], text: str) -> list[HashedReference]:
    found = [_REFERENCE.fullmatch(word) for word in text.split()]
    regions = [None if one is None else one[1].lower() for one in found]
    return [one._replace(region_hash=region) for one, region in zip_longest(references, regions) if one is not None]


def _with_times(references: list[HashedReference], text: str) -> list[HashedReference]:
    """As many as there are references, or nobody's."""
    try:
        times = [AT.parse(float(word), TIMES) for word in text.split()]
    except (ValueError, UnitError):
        return references
    if len(times) != len(references):
        return references
    return [one._replace(at=at) for one, at in zip(references, times, strict=True)]


def _read_looks(text: str) -> dict[str, str]:
    """The names of looks by the beginning of their content hashes."""
    words = (one.strip().partition(" ") for one in text.split(BETWEEN))
    return {start.lower(): name for start, _, name in words if name and "/" not in name and _REFERENCE.fullmatch(start)}


def _read_folders(text: str) -> dict[str, FolderMark]:
    """The marks of folders by the beginning of their content hashes."""
    marks = (FolderMark.of_text(one.strip()) for one in text.split(BETWEEN_FOLDERS))
    return {mark.content_hash: mark for mark in marks if mark is not None}


def _weight(text: str | None) -> float:
    if text is not None:
        with contextlib.suppress(ValueError):
            return min(WEIGHT.high, max(WEIGHT.low, float(text)))
    return 1.0


def restored(
    params: Mapping[str, Any],
    picture: Callable[[str], Image | None],
    look: Callable[[str], tuple[str, Image] | None] = lambda name: None,
    folder: Callable[[FolderMark], tuple[str, str] | None] = lambda mark: None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """The units of a picture's parameters as API objects, in their places, and sentences on what is missing.

    ``picture`` gives a reference by the beginning of its content hash, None where it is not there any more; it is asked
    once for each. ``look`` gives a look as a picture, with its content hash, by its name. ``folder`` gives the name of
    a folder that is marked, with its content hash, where it may be read; "" is the hash where nobody has looked. Places
    between the units are disabled units.
    """
    picture, look, folder = functools.cache(picture), functools.cache(look), functools.cache(folder)
    units: list[dict[str, Any]] = []
    notes = []
    for unit in read(params):
        missing = list(unit.problems)
        images = _items(unit.references, picture, "reference", missing, unit, look, folder)
        negatives = _items(unit.negatives, picture, "negative reference", missing, unit, look, folder)
        pictures: dict[str, Any] = {"images": images, **({NEGATIVE: negatives} if negatives else {})}
        for name, content_hash, called in ((REGION, unit.region_hash, "region mask"), (POSE, unit.pose_hash, "pose")):
            if content_hash is not None and (found := picture(content_hash)) is not None:
                pictures[name] = found
            elif content_hash is not None:
                missing.append(f"its {called} cannot be restored from the parameters: {REMEDIES[name]}.")
        units += [{"enabled": False}] * (unit.number - 1 - len(units))
        units.append({**unit.settings, **pictures})
        notes += [f"Unit {unit.number}: {sentence}" for sentence in missing]
    return units, notes


def _picture(
    content_hash: str,
    picture: Callable[[str], Image | None],
    looks: Mapping[str, str],
    look: Callable[[str], tuple[str, Image] | None],
) -> Image | None:
    """A picture that is still there by itself, or as the look that it was."""
    image, name = picture(content_hash), looks.get(content_hash)
    found = look(name) if image is None and name is not None else None
    return found[1] if found is not None and found[0].startswith(content_hash) else image


def _items(
    references: Sequence[HashedReference],
    picture: Callable[[str], Image | None],
    kind: str,
    missing: list[str],
    unit: Pasted,
    look: Callable[[str], tuple[str, Image] | None],
    folder: Callable[[FolderMark], tuple[str, str] | None],
) -> list[dict[str, Any]]:
    """The pictures that are still there as API items; ``missing`` gets sentences on those that are not."""
    items: list[dict[str, Any]] = []
    named = 0
    for reference in references:
        if (mark := unit.folders.get(reference.content_hash)) is not None:
            there = folder(mark)
            if there is None or not there[1].startswith(reference.content_hash):
                missing.append(mark.gone(None if there is None else there[1]))
            if there is None:
                named += 1
                continue
            items.append({**replace(mark, name=there[0]).item, "weight": reference.weight})
        elif reference.content_hash == START:
            items.append({START: True, "weight": reference.weight})
        elif (image := _picture(reference.content_hash, picture, unit.looks, look)) is not None:
            items.append({"image": image, "weight": reference.weight})
        else:
            if (name := unit.looks.get(reference.content_hash)) is not None:
                named += 1
                missing.append(f"the look “{name}” is not here as it was: add it, or another one.")
            continue
        if reference.at is not None:
            items[-1]["at"] = reference.at
        for part, content_hash in (("mask", reference.mask_hash), ("region", reference.region_hash)):
            if content_hash is not None and (found_part := picture(content_hash)) is not None:
                items[-1][part] = found_part
            elif content_hash is not None:
                missing.append(f"the {part} of a {kind} cannot be restored from the parameters: draw it again.")
    gone = len(references) - len(items) - named
    if gone:
        of = f"its {kind}" if len(references) == 1 else f"{gone} of its {len(references)} {kind}s"
        missing.append(f"{of} cannot be restored from the parameters: add the picture again.")
    return items
