"""The panel's state: the settings of all units as one text in the page, and how it becomes API objects.

The page has one set of controls for all units (editor.py). Those that are gradio's components hold the values of the
unit that is shown; everything else is in the state, which also says which one is shown. The page sets both in one go,
so that a press of *Generate* at any moment finds them together. Pictures stay on the server (picture_pool.py) under
keys; the state has the keys.

``{"shown": 1, "units": [{"images": [item, …], field: its control's value, …}, …]}``; what a unit lacks is at its
default. ``"images"`` are its references, its negative references and the picture that its keypoints are taken from,
``"region"`` is its region mask's key. ``"wide"`` says whether its weight's slider has the whole range.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...encode.picture import Picture
from ...errors import IPAdapterError, UnitError
from ...kinds import is_number
from ...presets.document import HASH_PREFIX
from ...reference import AT, FOLDER, MAX_REFERENCES, START, WEIGHT
from ...unit import MAX_UNITS
from . import look_row
from .controls import COMPONENTS, CONTROLS, CURVE
from .picture_pool import HeldPictures, Intake, PagePictures, changed, now
from .reference_cards import AT_KEY, Item, Look, remember

REGION = "region"  # a unit's entry: the key of its region mask
DAMAGED = "IP-Adapter: the panel's settings have not arrived as they should: reload the page."
GONE = (
    "{} of its {} references {} not on the server any more (the WebUI has been restarted, or the page is an old one): "
    "reload the page, or remove the references and add them again."
)
KEPT = 256  # pictures that no unit has any more, the last of them, which stay for an undo
# What a unit has in the place of a reference, by the part of the page's state: its field of an API object, and what it
# means. The page's buttons are called "Negative" and "Pose".
LONE = {
    "negative": (
        "negative_images",
        "Only negative references: a unit moves away from them while it moves towards a reference. Add one, or press "
        "“Negative” on one of these again.",
    ),
    "pose": (
        "keypoints_image",
        "Only a picture for the pose: add a reference whose face counts, or press “Pose” on this one again.",
    ),
}
WAITING = "a reference is still on its way: wait until its picture is shown, or remove it."


@dataclass
class PanelState:
    shown: int = 1
    units: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def blank(cls, count: int, **settings: Any) -> PanelState:
        """Units with these ``settings`` only."""
        return cls(1, [dict(settings) for _ in range(count)])

    @classmethod
    def parse(cls, text: str) -> PanelState:
        """Raises UnitError for what no page of ours has written."""
        try:
            state = json.loads(text)
            units = [{**unit, "images": _items(unit.get("images", ()))} for unit in state["units"]]
            if not (isinstance(state["shown"], int) and 1 <= state["shown"] <= len(units) <= MAX_UNITS):
                raise ValueError(state["shown"])
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UnitError(DAMAGED) from None
        return cls(state["shown"], units)

    def text(self) -> str:
        return json.dumps({"shown": self.shown, "units": self.units}, ensure_ascii=False)

    def used(self) -> set[str]:
        """The keys of all units' pictures."""
        return {key for unit in self.units for key in _keys(unit)}

    def still_used(self, held: HeldPictures) -> HeldPictures:
        """Of a session's pictures those that units have."""
        used = self.used()
        return {key: one for key, one in held.items() if key in used}

    def kept(self, held: HeldPictures) -> HeldPictures:
        """Of a session's pictures those that units have, and before them the last ones that they had, which an undo in
        the page may bring back."""
        used = self.still_used(held)
        return {**dict([one for one in held.items() if one[0] not in used][-KEPT:]), **used}

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
    """Of a unit's references, their masks and regions, and its region mask."""
    items = unit.get("images", ())
    keys = {key for item in items for key in (item["key"], item.get("mask"), item.get(REGION))} | {unit.get(REGION)}
    return {key for key in keys if key}


def _item(one: Any) -> Item:
    item = {"key": str(one["key"]), "weight": reference_weight(one.get("weight", 1.0))}
    if one.get("mask"):
        item["mask"] = str(one["mask"])
    if one.get(REGION):
        item[REGION] = str(one[REGION])
    if is_number(one.get(AT_KEY), AT.low, AT.high):
        item[AT_KEY] = float(one[AT_KEY])
    if one.get("negative"):
        item["negative"] = True
    if one.get("pose"):
        item["pose"] = True
    if one.get("controlnet") is not None:
        item["controlnet"] = int(one["controlnet"])
    if one.get(START):
        item[START] = True
    if one.get("waiting"):
        item["waiting"] = True
    return item


def _items(given: Sequence[Any]) -> list[Item]:
    """A unit's references. Beside those with a place over time others, which have been added since, are at the end."""
    items = [_item(one) for one in given]
    if not any(AT_KEY in item for item in items if is_positive(item)):
        return items
    return [{AT_KEY: AT.high, **item} if is_positive(item) else item for item in items]


def is_positive(item: Item) -> bool:
    """Whether it is a reference: none that the picture moves away from, and none of whose face only the pose counts."""
    return not item.get("negative") and not item.get("pose")


def reference_weight(value: Any) -> float:
    """A reference's weight; 1 for what is none."""
    return float(value) if is_number(value, WEIGHT.low, WEIGHT.high) else 1.0


# The page's values -> API objects


@dataclass(frozen=True)
class Arriving:
    """What the page has put into the inbox: a picture under its key, or ``sha256:`` and the content hash of one that
    the store of presets has, or ``look:`` and the name of a look. None when it holds a receipt, or nothing yet."""

    key: str
    data: str

    def picture(self) -> Any:
        """What ``decode`` takes. Raises IPAdapterError for one that is named, and is no longer kept."""
        if self.data.startswith(look_row.PREFIX):
            return look_row.picture(self.data[len(look_row.PREFIX) :])
        if not self.data.startswith(HASH_PREFIX):
            return self.data
        from .. import process

        picture = process.store().picture(self.data[len(HASH_PREFIX) :])
        if picture is None:
            raise UnitError("This picture is no longer among the presets and kept generations: add its file again.")
        return picture

    @classmethod
    def parse(cls, text: str | None) -> Arriving | None:
        try:
            content = json.loads(text or "{}")
            return cls(str(content["key"]), str(content["data"])) if "data" in content else None
        except (ValueError, TypeError, KeyError):
            raise UnitError(DAMAGED) from None


def objects(
    text: str, inbox: str | None, held: HeldPictures | None, *values: Any, complete: bool = False
) -> list[dict[str, Any]]:
    """The page's values (``values``: one for each of COMPONENTS) -> an API object for each unit, without what has no
    value. Raises UnitError (unit named) where a picture is not there, which does not matter for a unit that is
    disabled, unless all is to be ``complete``.
    """
    state, arriving = PanelState.parse(text), Arriving.parse(inbox)
    state.unit.update(zip((control.field for control in COMPONENTS), values, strict=True))
    objects = []
    for number, unit in enumerate(state.units, 1):
        values_read = {control.field: control.read(unit.get(control.field, control.default)) for control in CONTROLS}
        settings = {name: value for name, value in values_read.items() if value is not None}
        if CURVE in settings:
            settings["weight"] = settings.pop(CURVE)
        folder = settings.pop(FOLDER, None)
        try:
            settings |= _pictures(unit, _Session(PagePictures(held), arriving))
        except IPAdapterError as error:
            if settings["enabled"] or complete:
                raise error.in_unit(number) from None
            settings["images"] = []
        if folder is not None:
            settings["images"] = [*settings["images"], folder]
        objects.append(settings)
    return objects


def shown_object(state: PanelState, held: HeldPictures | None) -> dict[str, Any] | None:
    """The unit that is shown as an API object; None where it has no references, or they are not all there yet."""
    unit = {**state.unit, "enabled": True}
    values = [unit.get(control.field, control.default) for control in COMPONENTS]
    try:
        (shown,) = objects(PanelState(1, [unit]).text(), None, held, *values)
    except IPAdapterError:
        return None
    return shown if shown["images"] and "model" in shown else None


def is_ready(text: str, *values: Any) -> bool:
    """Whether a unit is enabled and has something in the place of references. ``values`` as for ``objects``."""
    try:
        state = PanelState.parse(text)
    except UnitError:
        return False
    state.unit.update(zip((control.field for control in COMPONENTS), values, strict=True))
    return any(unit.get("enabled", True) and (unit["images"] or unit.get(FOLDER)) for unit in state.units)


@dataclass(frozen=True)
class _Session:
    """The pictures of a session, and the one that is just arriving: it may not have been taken out of the inbox."""

    pictures: PagePictures
    arriving: Arriving | None

    def get(self, key: str) -> Any:
        """A picture, None where it is not there."""
        picture = self.pictures.get(key)
        if picture is None and self.arriving is not None and self.arriving.key == key:
            return Picture.of(self.arriving.picture())
        return picture

    def mask(self, key: str, of: str) -> Any:
        mask = self.get(key)
        if mask is None:
            raise UnitError(f"the mask of {of} is not on the server: wait a moment, or draw it again.")
        return mask


def _pictures(unit: Mapping[str, Any], session: _Session) -> dict[str, Any]:
    """The fields of an API object that hold pictures."""
    items = unit.get("images", [])
    fields: dict[str, Any] = {"images": _images([item for item in items if is_positive(item)], session)}
    if negatives := _images([item for item in items if item.get("negative")], session):
        fields["negative_images"] = negatives
    if poses := [item for item in items if item.get("pose")]:
        fields["keypoints_image"] = _pose(poses, session)
    if unit.get(REGION):
        fields["region_mask"] = session.mask(unit[REGION], "the region")
    return fields


def _pose(items: Sequence[Item], session: _Session) -> Any:
    """The picture that keypoints are taken from."""
    if len(items) > 1:
        raise UnitError("more than one reference is for the pose: leave “Pose” pressed on one of them alone.")
    (pose,) = _images(items, session)
    if "image" not in pose or "mask" in pose:
        what = "is the start picture" if START in pose else "is ControlNet's"
        what = "has a mask, which does not count there" if "mask" in pose else what
        raise UnitError(f"the reference for the pose {what}: add the picture itself, without a mask.")
    return pose["image"]


def _images(items: Sequence[Item], session: _Session) -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = []
    missing = []
    for item in items:
        settings = {"weight": item["weight"]}
        if "mask" in item:
            settings["mask"] = session.mask(item["mask"], "a reference")
        if REGION in item and is_positive(item):
            settings["region"] = session.mask(item[REGION], "a reference's region")
        if AT_KEY in item and is_positive(item):
            settings[AT_KEY] = item[AT_KEY]
        if "controlnet" in item:
            images.append({"controlnet": item["controlnet"], **settings})
        elif START in item:
            images.append({START: True, **settings})
        elif (picture := session.get(item["key"])) is not None:
            images.append({"image": picture, **settings})
        else:
            missing.append(item)
    if any(item.get("waiting") for item in missing):
        raise UnitError(WAITING)
    if missing:
        raise UnitError(GONE.format(len(missing), len(items), "is" if len(missing) == 1 else "are"))
    return images


# Pictures that come in


def take(text: str, inbox: str, held: HeldPictures | None, look: Look | None = None) -> tuple[str, HeldPictures]:
    """The key of the picture in ``inbox``, and the session's pictures with it, as ``PanelState.kept`` has them.
    ``look``: how the shown unit's references are seen.

    Raises IPAdapterError for what is no usable picture, for one too many in a unit, and for more pixels than one page
    may have.
    """
    state, arriving, before = PanelState.parse(text), Arriving.parse(inbox), now(held)
    if arriving is None:
        raise UnitError(DAMAGED)
    unit = next((unit for unit in state.units if arriving.key in _keys(unit)), {})  # removed before it was here: kept
    kept = state.kept(before)
    items = [item["key"] for item in unit.get("images", ())]
    if arriving.key in items[MAX_REFERENCES:]:
        raise IPAdapterError(f"A unit has at most {MAX_REFERENCES} references: remove one first.")
    look = look or Look(None, unit.get("crop", Look.crop))
    picture = Intake(state.still_used(before).values()).picture(
        arriving.picture(), (lambda picture, image: remember(picture, image, look)) if arriving.key in items else None
    )
    return arriving.key, changed(held, before, {**kept, arriving.key: picture})


def wanted(inbox: str) -> str | None:
    """The key of a picture that the page wants to have, if that is what stands in the inbox."""
    try:
        key = json.loads(inbox or "{}").get("wanted")
    except (ValueError, AttributeError):
        return None
    return str(key) if key else None


def receipt(*, taken: str | None = None, problem: str = "", whole: str | None = None) -> str:
    """What is left in the inbox for the page: the key of the picture that was ``taken`` out, or the ``problem`` for
    which it was refused, or the address of one that it wanted."""
    told = {"taken": taken, "problem": problem, "whole": whole}
    return json.dumps({name: value for name, value in told.items() if value})
