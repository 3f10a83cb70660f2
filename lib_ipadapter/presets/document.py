"""What a preset looks like in the database and in an export: names, and documents with hashes in the place of pictures.

A document is ``{"version", "needs", "name", "units"}``, and ``"kept"``, a running number, if it is a generation's.
``needs`` is the oldest version of this format whose readers understand it; what they do not know they keep. In the
place of each picture stands ``sha256:<content hash>``, which no base64 text can be; this will be so in every version,
because it is by these hashes that an older one knows which pictures a newer one's presets need.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from PIL import Image

from ..encode.picture import Mask, Picture, Pictures
from ..errors import IPAdapterError, PictureError, UnitError
from ..names import FORBIDDEN, MAX_NAME
from ..reference import as_picture
from ..unit import MAX_UNITS, Unit

VERSION = 1

MAX_DEPTH = 32  # lists and objects within one another
MAX_DOCUMENT = 32 << 20  # bytes of one preset, pictures aside

HASH_PREFIX = "sha256:"
_HASH = re.compile(HASH_PREFIX + "[0-9a-f]{64}")


class PresetError(IPAdapterError):
    """A name, a preset or an import that cannot be used."""


class UnknownPreset(PresetError):
    http_status = 404


class PresetExists(PresetError):
    http_status = 409


class StorageError(PresetError):
    """The disk's fault or the database's, not the preset's."""

    http_status = 500


# Names


def checked_name(name: object, of: str = "preset") -> str:
    """``name`` in Unicode's composed form, without blanks around it. Raises PresetError for what is no name; ``of``
    what it would be the name, it says."""
    if isinstance(name, str):
        text = unicodedata.normalize("NFC", name)
        if not FORBIDDEN.search(text):
            text = text.strip()
            if 1 <= len(text) <= MAX_NAME and text not in (".", ".."):
                return text
    raise PresetError(
        f"The name of a {of} has 1 to {MAX_NAME} characters, none of them /, \\ or a control character, and is not "
        "“.” or “..”: choose another name."
    )


def key(name: str) -> str:
    """What a name is looked for by; the same whatever its case and Unicode form."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def already_there(names: Sequence[str]) -> PresetExists:
    shown = ", ".join(f"“{name}”" for name in names[:5]) + (" and others" if len(names) > 5 else "")
    return PresetExists(
        f"There is a preset {shown} already: choose another name, or overwrite it."
        if len(names) == 1
        else f"There are presets {shown} already: rename them, or overwrite them."
    )


# Documents


MASKS = ("mask", "region", "region_mask")


def with_pictures(unit: Mapping[str, Any], change: Callable[[Any, str], Any]) -> dict[str, Any]:
    """A copy of ``unit`` with ``change(picture, place)`` for each picture, wherever an API object may hold one; the
    place of a mask ends in one of ``MASKS``."""

    def item(value: Any, where: str) -> Any:
        if isinstance(value, Mapping):
            value = as_picture(value)
            parts = [part for part in ("image", "mask", "region") if value.get(part) is not None]
            return {**value, **{part: change(value[part], f"{where}: {part}") for part in parts}}
        return value if value is None else change(value, where)

    changed = dict(unit)
    for field in ("image", "images", "negative_images", "region_mask", "keypoints_image"):
        value = changed.get(field)
        if isinstance(value, (list, tuple)):
            changed[field] = [item(part, f"{field}[{i}]") for i, part in enumerate(value)]
        elif value is not None:
            changed[field] = item(value, field)
    return changed


def document_of(name: str, units: Sequence[object]) -> tuple[dict[str, Any], dict[str, Callable[[], Image.Image]]]:
    """The document of ``units`` (API objects, or units), and its pictures by their content hashes. Raises PresetError
    and PictureError with the unit's number."""
    if not isinstance(units, (list, tuple)):
        raise PresetError("The units of a preset are missing: give a list of units.")
    if len(units) > MAX_UNITS:
        raise PresetError(f"A preset of {len(units)} units is too long: give at most {MAX_UNITS}.")
    pictures: dict[str, Callable[[], Image.Image]] = {}
    decoded = Pictures()

    def hashed(value: Any, where: str) -> str:
        try:
            picture = decoded.of(Mask if where.endswith(MASKS) else Picture, value)
        except PictureError as error:
            raise type(error)(f"{where}: {error.detail}") from None
        pictures[picture.content_hash] = lambda: picture.image.convert("RGB")
        return HASH_PREFIX + picture.content_hash

    written_units = []
    for number, unit in enumerate(units, 1):
        try:
            if isinstance(unit, Unit):
                unit = unit.to_object()
            if not isinstance(unit, Mapping):
                raise PresetError("it is no object with model, images and so on: give one.")
            written_units.append(with_pictures(unit, hashed))
        except IPAdapterError as error:
            raise error.in_unit(number) from None
    if problem := unbounded(written_units):
        raise PresetError(f"The units hold a value that cannot be stored ({problem}): leave it out.")
    return {"version": VERSION, "needs": VERSION, "name": name, "units": written_units}, pictures


def unbounded(value: Any) -> str:
    """What in a value of JSON other programs could not read or write again, "" if there is nothing: numbers of more
    than 64 bits or beyond all limits, and lists and objects within one another without end."""
    level = [value]
    for _ in range(MAX_DEPTH):
        if any(type(one) is int and abs(one) >= 1 << 63 for one in level):
            return "a whole number of more than 64 bits"
        if any(isinstance(one, float) and not isfinite(one) for one in level):
            return "a number that is not finite"
        level = [
            part
            for one in level if isinstance(one, (Mapping, list, tuple))
            for part in (one.values() if isinstance(one, Mapping) else one)
        ]  # fmt: skip
        if not level:
            return ""
    return f"more than {MAX_DEPTH} levels of lists and objects"


def check_storable(units: object) -> None:
    """Raises UnitError, with the unit's number, for values that no generation would accept. What is missing, a model
    or a picture, may be missing in a preset; pictures are looked at when they are stored."""
    for number, settings in enumerate(units if isinstance(units, list) else [], 1):
        try:
            Unit.parse(_completed(settings) if isinstance(settings, Mapping) else settings)
        except UnitError as error:
            raise error.in_unit(number) from None


def _completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The unit with something in the place of what it may lack, and enabled, so that everything else is checked."""
    unit = dict(settings)
    model, enabled = unit.get("model"), unit.get("enabled", True)
    if model is None or (isinstance(model, str) and not model.strip()):
        unit["model"] = "any"
    if isinstance(enabled, bool):
        unit["enabled"] = True
    if unit.get("image") is None and unit.get("images") in (None, [], ()):
        unit["images"] = ["any"]
    return unit


def to_json(value: Any) -> bytes:
    """Raises PresetError for what JSON cannot hold."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PresetError(f"The units hold a value that cannot be stored ({error}): leave it out.") from None


def written(document: dict[str, Any]) -> bytes:
    data = to_json(document)
    if len(data) > MAX_DOCUMENT:
        raise PresetError(
            f"Preset “{document['name']}” is larger than {MAX_DOCUMENT >> 20} MiB without its pictures: leave "
            "something out."
        )
    return data


def understood(raw: bytes, name: str) -> dict[str, Any]:
    """A file's document in this version's form. Raises PresetError, for a damaged one or one from the future."""
    try:
        document = json.loads(raw) if len(raw) <= MAX_DOCUMENT else None
    except (ValueError, RecursionError):
        document = None
    return checked_document(document, f"“{name}”")


def checked_document(document: Any, shown: str) -> dict[str, Any]:
    """``document``, with a good name and with units whose pictures are content hashes. ``shown``: for errors."""
    damaged = PresetError(f"Preset {shown} is damaged: delete the preset and save it again.")
    if not isinstance(document, dict):
        raise damaged
    version, needs = versions(document)
    if version < 1:
        raise damaged
    newer = PresetError(
        f"Preset {shown} was saved by a newer version of the extension (format {version}, this one reads up to "
        f"{VERSION}): update the extension to use it."
    )
    if needs > VERSION:
        raise newer
    try:
        name, units = checked_name(document["name"]), document["units"]
        if not isinstance(units, list) or len(units) > MAX_UNITS or not all(isinstance(u, dict) for u in units):
            raise ValueError("units")
        units = [with_pictures(unit, _checked_hash) for unit in units]
        if problem := unbounded(units):
            raise ValueError(problem)
    except (LookupError, TypeError, ValueError, AttributeError, PresetError):
        raise (newer if version > VERSION else damaged) from None
    return {**document, "name": name, "units": units}


def versions(document: Mapping[str, Any]) -> tuple[int, int]:
    """The version that wrote a document, and the oldest one that understands it; 0 for a version that is none."""
    version, needs = document.get("version"), document.get("needs", 1)
    return version if type(version) is int else 0, needs if type(needs) is int else 0


def _checked_hash(value: Any, _where: str) -> str:
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise ValueError("no content hash of a picture")
    return value


def content_hashes(document: Mapping[str, Any]) -> set[str]:
    """The content hashes of a checked document's pictures."""
    found = set()

    def see(value: str, _where: str) -> str:
        found.add(value[len(HASH_PREFIX) :])
        return value

    for unit in document["units"]:
        with_pictures(unit, see)
    return found


def reference_hashes(document: Mapping[str, Any]) -> list[str]:
    """The content hashes of a checked document's references, in its order, each once: no masks."""
    found: dict[str, None] = {}

    def see(value: str, where: str) -> str:
        if not where.endswith(MASKS):
            found[value[len(HASH_PREFIX) :]] = None
        return value

    for unit in document["units"]:
        with_pictures(unit, see)
    return list(found)
