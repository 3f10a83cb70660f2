"""API objects as entries of the panel's state: presets, parameters and ControlNet's units that go into the panel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...checkpoint.catalog import Catalog
from ...errors import IPAdapterError, UnitError
from ...reference import AT, FOLDER, START, as_picture
from ...unit import KEYPOINTS_WINDOW, WINDOW, conflicts
from ...weighting import peak
from . import reference_cards
from .controls import BY_FIELD, CONTROLS, CURVE, NARROW, model_name
from .panel_state import REGION, reference_weight
from .picture_pool import HeldPictures, Intake
from .reference_cards import AT_KEY, Item

ELSEWHERE = (
    "model",
    "image",
    "images",
    "negative_images",
    "region_mask",
    "keypoints_image",
)  # fields that are no mere values


def entry(
    unit: Mapping[str, Any] | None, catalog: Catalog, intake: Intake
) -> tuple[dict[str, Any], HeldPictures, list[str]]:
    """An API object (None: an empty unit) as it stands in the panel's state, its pictures, and sentences on what cannot
    be shown. Its pictures are PIL images or anything else that ``decode`` takes; ``intake`` takes them."""
    if not unit or set(unit) <= {"enabled"}:
        return {}, {}, []
    items, pictures, notes, folder = _items(unit, intake)
    shown = _shown_values(unit, notes)
    shown[FOLDER] = BY_FIELD[FOLDER].show(folder)
    shown["enabled"] = unit.get("enabled", True) is not False
    shown["model"] = BY_FIELD["model"].show(_listed(unit.get("model"), catalog))
    shown["images"] = items
    if unit.get("region_mask") is not None:
        try:
            mask = intake.mask(unit["region_mask"])
            shown[REGION] = reference_cards.new_key()
            pictures[shown[REGION]] = mask
        except IPAdapterError as error:
            notes.append(f"the region mask was left out. {error}")
    if not NARROW[0] <= shown["weight"] <= NARROW[1]:
        shown["wide"] = True
    return shown, pictures, notes


def _shown_values(unit: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Every control's value for a unit; ``notes`` gets sentences on what cannot be shown."""
    shown: dict[str, Any] = {control.field: control.default for control in CONTROLS}
    parsed = {name: control.setting.default for name, control in BY_FIELD.items()}
    for name, value in unit.items():
        if name in ELSEWHERE or name == "enabled":
            continue
        if name in (CURVE, FOLDER) or name not in BY_FIELD:
            notes.append(f"{name} has no place in this panel and was left out.")
            continue
        try:
            parsed[name] = BY_FIELD[name].setting.parse({name: value})
        except UnitError as error:
            notes.append(error.detail)
    for names, sentence in conflicts(parsed):
        if names in (WINDOW, KEYPOINTS_WINDOW):  # what else does not go together can be seen in the panel
            notes.append(sentence)
            parsed |= {name: BY_FIELD[name].setting.default for name in names}
    for name, value in parsed.items():
        if name == "weight" and isinstance(value, tuple):
            shown[CURVE], value = BY_FIELD[CURVE].show(value), peak(value)
        if name != CURVE:
            shown[name] = BY_FIELD[name].show(value)
    return shown


def _listed(model: Any, catalog: Catalog) -> str | None:
    """A model as the list calls it; one that is not here stays, and the line below the list says so."""
    if not isinstance(model, str) or not model_name(model):
        return None
    try:
        return catalog.find(model).name
    except IPAdapterError:
        return model


def _items(
    unit: Mapping[str, Any], intake: Intake
) -> tuple[list[Item], HeldPictures, list[str], Mapping[str, Any] | None]:
    """A unit's references and negative references, their pictures and masks by keys, sentences on what cannot be
    shown, and the item of its folder."""
    given = unit.get("images")
    given = [unit["image"]] if given is None and unit.get("image") is not None else given or []
    items: list[Item] = []
    pictures: HeldPictures = {}
    notes = []
    folders = [one for one in given if isinstance(one, Mapping) and isinstance(one.get(FOLDER), str)]
    notes += ["a unit has one folder in this panel: the others were left out."] * (len(folders) > 1)
    if folders and folders[0].get("region") is not None:
        notes.append("the region of its folder has no place in this panel and was left out: draw the unit's instead.")
    given = [one for one in given if one not in folders] if folders else given
    pose = unit.get("keypoints_image")
    both = [(one, "") for one in given] + [(one, "negative") for one in unit.get("negative_images") or ()]
    both += [] if pose is None else [(pose, "pose")]
    for one, role in both:
        one = as_picture(one) if isinstance(one, Mapping) else {"image": one}
        item: Item = {"key": reference_cards.new_key(), "weight": reference_weight(one.get("weight", 1.0))}
        if role:
            item[role] = True
        try:
            for part in (part for part in ("mask", REGION) if one.get(part) is not None):
                mask = intake.mask(one[part])
                item[part] = reference_cards.new_key()
                pictures[item[part]] = mask
            if one.get(AT_KEY) is not None and not role:
                item[AT_KEY] = AT.parse(one[AT_KEY], AT_KEY)
            if one.get("controlnet") is not None:
                item["controlnet"] = int(one["controlnet"])
            elif one.get(START) is True:
                item[START] = True
            else:
                pictures[item["key"]] = intake.picture(one.get("image"))
            items.append(item)
        except (IPAdapterError, ValueError, TypeError) as error:
            notes.append(f"a reference was left out. {error}")
    return items, pictures, notes, folders[0] if folders else None
