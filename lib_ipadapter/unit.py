"""Unit and Reference: the validated settings of one slot = one API object = one preset entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .errors import UnitError

MAX_UNITS = 10
MAX_REFERENCES = 64  # of one unit: their tokens meet in every attention layer
CHOICES = {
    "combine": ("concat", "average"),
    "hires": ("both", "base", "hires"),
    "batch": ("same", "per image"),
}
# Fields of the contract that this version knows by name only: their default changes nothing, so it is accepted.
NOT_YET: dict[str, Any] = {
    "weight_type": "linear",
    "layer_weights": None,
    "composition_weight": 1.0,
    "crop": "center",
    "embeds_scaling": "V only",
    "region_mask": None,
    "negative_images": [],
    "subtract_prompt": "",
    "noise": 0.0,
    "variant": "auto",
    "face_index": "largest",
    "faceid_v2_weight": 1.0,
    "lora_strength": 1.0,
}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _number(settings: Mapping[str, Any], name: str, low: float, high: float, default: float, where: str = "") -> float:
    value = settings.get(name, default)
    allowed = f"a number from {low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UnitError(f"{where}{name} is {_shown(value)}: give {allowed}.")
    if not low <= value <= high:  # NaN and infinities end here too
        raise UnitError(f"{where}{name} is {_shown(value)}: give {allowed}.")
    return float(value)


def _choice(settings: Mapping[str, Any], name: str) -> str:
    allowed = CHOICES[name]
    value = settings.get(name, allowed[0])
    if value not in allowed or not isinstance(value, str):
        raise UnitError(f"{name} is {_shown(value)}: choose one of {', '.join(map(repr, allowed))}.")
    return value


def _flag(settings: Mapping[str, Any], name: str, default: bool) -> bool:
    value = settings.get(name, default)
    if not isinstance(value, bool):
        raise UnitError(f"{name} is {_shown(value)}: give true or false.")
    return value


@dataclass(frozen=True)
class Reference:
    """One reference picture, not yet decoded: base64 text from the API, or a picture from the panel.

    ``controlnet``: the number of the ControlNet unit whose picture it takes when a job begins; ``image`` is None then.
    """

    image: Any
    weight: float = 1.0
    controlnet: int | None = None

    @classmethod
    def parse(cls, item: object, where: str) -> Reference:
        """``item``: a picture, ``{"image": …, "weight": 1.0}``, or ``{"controlnet": 1, "weight": 1.0}``.

        ``where`` begins the sentence of an error.
        """
        if not isinstance(item, Mapping):
            item = {"image": item}
        if item.get("mask") is not None:
            raise UnitError(f"{where}mask is not available in this version: leave it out.")
        unknown = sorted(map(str, set(item) - {"image", "controlnet", "weight", "mask"}))
        if unknown:
            raise UnitError(
                f"{where}unknown field {_shown(unknown[0])}: a reference has image (or controlnet) and weight."
            )
        image, weight = item.get("image"), _number(item, "weight", -1, 3, 1.0, where)
        if item.get("controlnet") is not None:
            return cls(None, weight, cls._controlnet(item["controlnet"], image, where))
        if image is None or (isinstance(image, str) and not image.strip()):
            raise UnitError(f"{where}the picture is missing: give a PNG, JPEG or WebP as base64.")
        return cls(image, weight)

    @staticmethod
    def _controlnet(number: Any, image: Any, where: str) -> int:
        if image is not None:
            raise UnitError(f"{where}image and controlnet are both given: leave one out.")
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise UnitError(f"{where}controlnet is {_shown(number)}: give the number of a ControlNet unit, from 1 on.")
        return number


@dataclass(frozen=True)
class Unit:
    """One adapter with its references. The fields are api.md's, in the order in which infotext shows them."""

    model: str
    references: tuple[Reference, ...]
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    combine: str = "concat"
    hires: str = "both"
    batch: str = "same"
    influence_map: bool = False
    keypoints_weight: float = 1.0
    enabled: bool = True

    @classmethod
    def parse(cls, settings: object) -> Unit:
        """One API object -> Unit. Raises UnitError with the field's name, what it holds and what it may hold.

        A disabled unit may lack its model and its references.
        """
        if not isinstance(settings, Mapping):
            raise UnitError(
                f'a unit is an object such as {{"model": …, "images": […]}}, not {_shown(settings)}: see the API page.'
            )
        known = [*(f.name for f in fields(cls) if f.name != "references"), "image", "images", *NOT_YET]
        for name in settings:
            if name not in known:
                raise UnitError(f"unknown field {_shown(name)}: known are {', '.join(known)}.")
        for name, default in NOT_YET.items():
            value = settings.get(name, default)
            if type(value) is bool or value != default:
                raise UnitError(f"{name} is not available in this version: leave it out.")
        enabled = _flag(settings, "enabled", True)
        start, end = _number(settings, "start", 0, 1, 0.0), _number(settings, "end", 0, 1, 1.0)
        if start >= end:
            raise UnitError(f"start is {start:g} and end is {end:g}: no step lies between; make start less than end.")
        return cls(
            model=cls._model(settings, enabled),
            references=cls._references(settings, enabled),
            weight=_number(settings, "weight", -1, 3, 1.0),
            start=start,
            end=end,
            combine=_choice(settings, "combine"),
            hires=_choice(settings, "hires"),
            batch=_choice(settings, "batch"),
            influence_map=_flag(settings, "influence_map", False),
            keypoints_weight=_number(settings, "keypoints_weight", 0, 2, 1.0),
            enabled=enabled,
        )

    @staticmethod
    def _model(settings: Mapping[str, Any], enabled: bool) -> str:
        model = settings.get("model")
        if not enabled and model is None:
            return ""
        if model is None or (isinstance(model, str) and not model.strip() and enabled):
            raise UnitError("model is missing: name an adapter as the list of models shows it.")
        if not isinstance(model, str):
            raise UnitError(f"model is {_shown(model)}: give the name of an adapter as the list of models shows it.")
        return model.strip()

    @staticmethod
    def _references(settings: Mapping[str, Any], enabled: bool) -> tuple[Reference, ...]:
        if settings.get("image") is not None and settings.get("images") is not None:
            raise UnitError("image and images are both given: put every picture into images.")
        items = settings.get("images")
        single = items is None
        if single:
            items = [settings["image"]] if settings.get("image") is not None else []
        if not isinstance(items, (list, tuple)):
            raise UnitError(f"images is {_shown(items)}: give a list of pictures, or a single one as image.")
        if len(items) > MAX_REFERENCES:
            raise UnitError(f"images holds {len(items)} pictures: give at most {MAX_REFERENCES}.")
        if not items and enabled:
            raise UnitError("it has no reference picture: add one to images, or disable the unit.")
        if not enabled:
            return ()
        return tuple(
            Reference.parse(item, "" if single else f"images[{i}]: ") for i, item in enumerate(items)
        )

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults, references and ``enabled`` aside, in the table's order."""
        plain = (f for f in fields(self) if f.name not in ("model", "references", "enabled"))
        return {f.name: getattr(self, f.name) for f in plain if getattr(self, f.name) != f.default}


def parse_units(objects: list[object]) -> list[tuple[int, Unit]]:
    """API objects -> (number, unit) of the enabled ones, numbers counted from 1. Errors name the unit."""
    if len(objects) > MAX_UNITS:
        raise UnitError(f"IP-Adapter: more than {MAX_UNITS} units are given: leave out what exceeds {MAX_UNITS}.")
    units = []
    for number, settings in enumerate(objects, 1):
        try:
            units.append((number, Unit.parse(settings)))
        except UnitError as error:
            raise error.in_unit(number) from None
    return [(number, unit) for number, unit in units if unit.enabled]
