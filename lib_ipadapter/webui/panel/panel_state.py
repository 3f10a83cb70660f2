"""The panel's sheet: the settings of all units as one text in the page, and how it becomes API objects and back.

The page has one set of controls for all units (editor.py). Those that are gradio's components hold the values of the
unit that is shown; everything else is in the sheet, which also says which one is shown. The page sets both in one go,
so that a press of *Generate* at any moment finds them together. Pictures stay on the server, in the session, under
keys; the sheet has the keys.

``{"shown": 1, "units": [{"images": [item, …], field: its control's value, …}, …]}``; what a unit lacks is at its
default. ``"images"`` are its references and its negative references, ``"region"`` is its region mask's key. ``"wide"``
says whether its weight's slider has the whole range.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...checkpoint.catalog import Catalog
from ...encode.picture import decode, decode_mask
from ...errors import IPAdapterError, UnitError
from ...unit import MAX_REFERENCES, MAX_UNITS, NOT_YET, Unit
from ...weighting import peak
from . import reference_cards as refs
from .controls import BY_FIELD, COMPONENTS, CONTROLS, CURVE, NARROW, named
from .reference_cards import Item, Pictures

REGION = "region"  # a unit's entry: the key of its region mask
DAMAGED = "IP-Adapter: the panel's settings have not arrived as they should: reload the page."
GONE = (
    "{} of its {} references {} not on the server any more (the WebUI has been restarted, or the page is an old one): "
    "reload the page, or remove the references and add them again."
)
WAITING = "a reference is still on its way: wait until its picture is shown, or remove it."


@dataclass
class Sheet:
    shown: int = 1
    units: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def blank(cls, count: int, **settings: Any) -> Sheet:
        """Units with these ``settings`` only."""
        return cls(1, [dict(settings) for _ in range(count)])

    @classmethod
    def parse(cls, text: str) -> Sheet:
        """Raises UnitError for what no page of ours has written."""
        try:
            found = json.loads(text)
            units = [{**unit, "images": [_item(one) for one in unit.get("images", ())]} for unit in found["units"]]
            if not (isinstance(found["shown"], int) and 1 <= found["shown"] <= len(units) <= MAX_UNITS):
                raise ValueError(found["shown"])
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UnitError(DAMAGED) from None
        return cls(found["shown"], units)

    def text(self) -> str:
        return json.dumps({"shown": self.shown, "units": self.units}, ensure_ascii=False)

    def used(self) -> set[str]:
        """The keys of all units' pictures."""
        return {key for unit in self.units for key in _keys(unit)}

    @property
    def unit(self) -> dict[str, Any]:
        """The one that is shown."""
        return self.units[self.shown - 1]

    @property
    def items(self) -> list[Item]:
        """Of the unit that is shown."""
        items: list[Item] = self.unit.get("images", [])
        return items


def _keys(unit: Mapping[str, Any]) -> set[str]:
    """Of a unit's references, their masks and its region mask."""
    items = unit.get("images", ())
    keys = {key for item in items for key in (item["key"], item.get("mask"))} | {unit.get(REGION)}
    return {key for key in keys if key}


def _item(one: Any) -> Item:
    item = {"key": str(one["key"]), "weight": _weight(one.get("weight", 1.0))}
    if one.get("mask"):
        item["mask"] = str(one["mask"])
    if one.get("negative"):
        item["negative"] = True
    if one.get("controlnet") is not None:
        item["controlnet"] = int(one["controlnet"])
    if one.get("waiting"):
        item["waiting"] = True
    return item


def _weight(value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and -1 <= value <= 3 else 1.0


# The page's values -> API objects


@dataclass(frozen=True)
class Arriving:
    """What the page has put into the inbox: a picture under its key. None when it holds a receipt, or nothing yet."""

    key: str
    data: str

    @classmethod
    def parse(cls, text: str | None) -> Arriving | None:
        try:
            found = json.loads(text or "{}")
            return cls(str(found["key"]), str(found["data"])) if "data" in found else None
        except (ValueError, TypeError, KeyError):
            raise UnitError(DAMAGED) from None


def objects(
    text: str, inbox: str | None, pictures: Pictures | None, *values: Any, complete: bool = False
) -> list[dict[str, Any]]:
    """The page's values (``values``: one for each of COMPONENTS) -> an API object for each unit, without what has no
    value. Raises UnitError (unit named) where a picture is not there, which does not matter for a unit that is
    disabled, unless all is to be ``complete``.
    """
    sheet, arriving = Sheet.parse(text), Arriving.parse(inbox)
    sheet.unit.update(zip((control.field for control in COMPONENTS), values, strict=True))
    found = []
    for number, unit in enumerate(sheet.units, 1):
        settings = {c.field: c.read(unit.get(c.field, c.default)) for c in CONTROLS}
        settings = {name: value for name, value in settings.items() if value is not None}
        if CURVE in settings:
            settings["weight"] = settings.pop(CURVE)
        try:
            settings |= _pictures(unit, _Session(pictures or {}, arriving))
        except IPAdapterError as error:
            if settings["enabled"] or complete:
                raise error.in_unit(number) from None
            settings["images"] = []
        found.append(settings)
    return found


@dataclass(frozen=True)
class _Session:
    """The pictures of a session, and the one that is just arriving: it may not have been taken out of the inbox."""

    pictures: Pictures
    arriving: Arriving | None

    def get(self, key: str) -> Any:
        """A picture, None where it is not there."""
        if key not in self.pictures and self.arriving is not None and self.arriving.key == key:
            return decode(self.arriving.data)
        return self.pictures.get(key)

    def mask(self, key: str, of: str) -> Any:
        found = self.get(key)
        if found is None:
            raise UnitError(f"the mask of {of} is not on the server: wait a moment, or draw it again.")
        return found


def _pictures(unit: Mapping[str, Any], session: _Session) -> dict[str, Any]:
    """The fields of an API object that hold pictures."""
    items = unit.get("images", [])
    found = {"images": _images([item for item in items if not item.get("negative")], session)}
    if negatives := _images([item for item in items if item.get("negative")], session):
        found["negative_images"] = negatives
    if unit.get(REGION):
        found["region_mask"] = session.mask(unit[REGION], "the region")
    return found


def _images(items: Sequence[Item], session: _Session) -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = []
    missing = []
    for item in items:
        settings = {"weight": item["weight"]}
        if "mask" in item:
            settings["mask"] = session.mask(item["mask"], "a reference")
        if "controlnet" in item:
            images.append({"controlnet": item["controlnet"], **settings})
        elif (picture := session.get(item["key"])) is not None:
            images.append({"image": picture, **settings})
        else:
            missing.append(item)
    if any(item.get("waiting") for item in missing):
        raise UnitError(WAITING)
    if missing:
        raise UnitError(GONE.format(len(missing), len(items), "is" if len(missing) == 1 else "are"))
    return images


# API objects -> the page's values


def take(text: str, inbox: str, pictures: Pictures | None) -> tuple[str, Pictures]:
    """The key of the picture in ``inbox``, and the session's pictures with it, without those that no unit has any more.

    Raises IPAdapterError for what is no usable picture, and for one too many in a unit.
    """
    sheet, arriving = Sheet.parse(text), Arriving.parse(inbox)
    if arriving is None:
        raise UnitError(DAMAGED)
    unit = next((unit for unit in sheet.units if arriving.key in _keys(unit)), None)
    kept = {key: picture for key, picture in (pictures or {}).items() if key in sheet.used()}
    if unit is None:  # removed before it was here
        return arriving.key, kept
    if arriving.key in [item["key"] for item in unit["images"][MAX_REFERENCES:]]:
        raise IPAdapterError(f"A unit has at most {MAX_REFERENCES} references: remove one first.")
    return arriving.key, {**kept, arriving.key: decode(arriving.data)}


def receipt(key: str | None) -> str:
    """What is left in the inbox for the page: the key of the picture that was taken out, None if it was refused."""
    return json.dumps({"taken": key})


def entry(unit: Mapping[str, Any] | None, catalog: Catalog) -> tuple[dict[str, Any], Pictures, list[str]]:
    """An API object (None: an empty unit) as it stands in the sheet, its pictures, and sentences on what cannot be
    shown. Its pictures are PIL images or anything else that ``decode`` takes."""
    if not unit or set(unit) <= {"enabled"}:
        return {}, {}, []
    items, pictures, notes = _items(unit)
    made: dict[str, Any] = {control.field: control.default for control in CONTROLS}
    for name in unit:
        if name in ("model", "image", "images", "negative_images", "region_mask"):
            continue
        if name in BY_FIELD:
            try:
                value = getattr(Unit.parse({"enabled": False, **_pair(unit, name)}), name)
                if name == "weight" and isinstance(value, tuple):
                    made[CURVE], value = BY_FIELD[CURVE].show(value), peak(value)
                made[name] = BY_FIELD[name].show(value)
            except UnitError as error:
                notes.append(error.detail)
        elif unit[name] != NOT_YET.get(name):
            notes.append(f"{name} has no place in this panel and was left out.")
    made["enabled"] = unit.get("enabled", True) is not False
    made["model"] = BY_FIELD["model"].show(_listed(unit.get("model"), catalog))
    made["images"] = items
    if unit.get("region_mask") is not None:
        try:
            made[REGION] = refs.new_key()
            pictures[made[REGION]] = decode_mask(unit["region_mask"]).convert("RGB")
        except IPAdapterError as error:
            del made[REGION]
            notes.append(f"the region mask was left out. {error}")
    if not NARROW[0] <= made["weight"] <= NARROW[1]:
        made["wide"] = True
    return made, pictures, notes


def _listed(model: Any, catalog: Catalog) -> str | None:
    """A model as the list calls it; one that is not here stays, and the line below the list says so."""
    if not isinstance(model, str) or not named(model):
        return None
    try:
        return catalog.find(model).name
    except IPAdapterError:
        return model


def _pair(unit: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A field with those that only make sense together with it."""
    together = ("start", "end") if name in ("start", "end") else (name,)
    return {key: unit[key] for key in together if key in unit and key != "enabled"}


def _items(unit: Mapping[str, Any]) -> tuple[list[Item], Pictures, list[str]]:
    given = unit.get("images")
    given = [unit["image"]] if given is None and unit.get("image") is not None else given or []
    items: list[Item] = []
    pictures: Pictures = {}
    notes = []
    both = [(one, False) for one in given] + [(one, True) for one in unit.get("negative_images") or ()]
    for one, is_negative in both:
        one = one if isinstance(one, Mapping) else {"image": one}
        item: Item = {"key": refs.new_key(), "weight": _weight(one.get("weight", 1.0))}
        if is_negative:
            item["negative"] = True
        try:
            if one.get("mask") is not None:
                mask = decode_mask(one["mask"]).convert("RGB")
                item["mask"] = refs.new_key()
                pictures[item["mask"]] = mask
            if one.get("controlnet") is not None:
                item["controlnet"] = int(one["controlnet"])
            else:
                pictures[item["key"]] = decode(one.get("image"))
            items.append(item)
        except (IPAdapterError, ValueError, TypeError) as error:
            notes.append(f"a reference was left out. {error}")
    return items, pictures, notes
