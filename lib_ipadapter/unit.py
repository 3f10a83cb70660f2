"""Unit and Reference: the validated settings of one slot = one API object = one preset entry."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from .errors import UnitError
from .weighting import INVERTING, SCALINGS, WEIGHT_TYPES, Curve, LayerWeights

MAX_UNITS = 10
MAX_REFERENCES = 64  # of one unit: their tokens meet in every attention layer
MAX_WORDS = 1000  # characters of subtract_prompt
CHOICES = {
    "weight_type": WEIGHT_TYPES,
    "crop": ("center", "top", "bottom", "left", "right", "pad", "stretch", "tile"),
    "combine": ("concat", "average", "add", "subtract", "norm average", "max", "min"),
    "embeds_scaling": SCALINGS,
    "hires": ("both", "base", "hires"),
    "batch": ("same", "per image"),
}
PICTURES = ("references", "negative_references", "region_mask")  # the fields that hold pictures
WEIGHT, LAYER = (-1, 3), (-5, 5)  # what a weight, and a layer's factor, may be
# Fields of the contract that this version knows by name only: their default changes nothing, so it is accepted.
NOT_YET: dict[str, Any] = {
    "variant": "auto",
    "face_index": "largest",
    "faceid_v2_weight": 1.0,
    "lora_strength": 1.0,
}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _is_number(value: object, low: float, high: float) -> bool:
    """Whether it is one from ``low`` to ``high``; NaN and infinities are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _number(settings: Mapping[str, Any], name: str, low: float, high: float, default: float, where: str = "") -> float:
    value = settings.get(name, default)
    if not _is_number(value, low, high):
        raise UnitError(f"{where}{name} is {_shown(value)}: give a number from {low:g} to {high:g}.")
    return float(value)


def _words(text: str) -> list[list[float]]:
    """ "0:1 0.6:0.2", or "1, 0.5": its words' numbers. Raises ValueError for what is none."""
    return [[float(part) for part in word.split(":")] for word in text.replace(",", " ").split()]


def _weight(settings: Mapping[str, Any]) -> float | Curve:
    value = settings.get("weight", 1.0)
    low, high = WEIGHT
    if _is_number(value, low, high):
        return float(value)
    points = value
    if isinstance(value, str):
        try:
            points = _words(value)
        except ValueError:
            points = None
        if points and len(points[0]) == 1:  # a number as text is a slip, as in every other field
            points = None
    good = isinstance(points, (list, tuple)) and len(points) > 0 and all(
        isinstance(point, (list, tuple)) and len(point) == 2
        and _is_number(point[0], 0, 1) and _is_number(point[1], low, high)
        for point in points
    )  # fmt: skip
    if not good:
        raise UnitError(
            f"weight is {_shown(value)}: give a number from {low:g} to {high:g}, or a curve of such over the steps, "
            "such as [[0, 1.0], [0.6, 0.2]]."
        )
    curve = tuple((float(share), float(weight)) for share, weight in points)
    if any(later[0] < earlier[0] for earlier, later in pairwise(curve)):
        raise UnitError(f"weight is {_shown(value)}: give the points of the curve from the first step to the last.")
    return curve[0][1] if len({weight for _, weight in curve}) == 1 else curve


def _layer_weights(settings: Mapping[str, Any]) -> LayerWeights | None:
    value = settings.get("layer_weights")
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    low, high = LAYER
    wrong = UnitError(
        f"layer_weights is {_shown(value)}: give a list with a number from {low:g} to {high:g} for each transformer "
        'block (16 in SD1.5, 11 in SDXL), or some of them as {"5": 0.4, "6": 1.0}.'
    )
    try:
        words = _words(value) if isinstance(value, str) else _layer_words(value)
    except (ValueError, TypeError):
        raise wrong from None
    if not words or len({len(word) for word in words}) > 1 or not all(_is_number(w[-1], low, high) for w in words):
        raise wrong
    if len(words[0]) == 1:
        return tuple(float(factor) for (factor,) in words)
    if len(words[0]) > 2 or not all(_is_number(block, 0, 1000) and block == int(block) for block, _ in words):
        raise wrong
    return dict(sorted((int(block), float(factor)) for block, factor in words))


def _layer_words(value: Any) -> list[list[Any]]:
    if isinstance(value, Mapping):
        return [[int(str(block)), factor] for block, factor in value.items()]
    return [[factor] for factor in value]


def _text(settings: Mapping[str, Any], name: str, longest: int) -> str:
    value = settings.get(name, "")
    if not isinstance(value, str) or len(value) > longest:
        raise UnitError(f"{name} is {_shown(value)}: give a text of at most {longest} characters.")
    return value.strip()


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


def _picture(settings: Mapping[str, Any], name: str, where: str = "") -> Any:
    """A mask, not yet decoded; None for none."""
    value = settings.get(name)
    if isinstance(value, str) and not value.strip():
        raise UnitError(f"{where}{name} is empty: give a picture as base64, or leave it out.")
    if isinstance(value, (bool, int, float, list, tuple, Mapping)):
        raise UnitError(f"{where}{name} is {_shown(value)}: give a picture as base64, or leave it out.")
    return value


@dataclass(frozen=True)
class Reference:
    """One reference picture, not yet decoded: base64 text from the API, or a picture from the panel.

    ``mask``: None, or a picture that is white where the reference counts. ``controlnet``: the number of the ControlNet
    unit whose picture it takes when a job begins; ``image`` is None then.
    """

    image: Any
    weight: float = 1.0
    controlnet: int | None = None
    mask: Any = None

    @classmethod
    def parse(cls, item: object, where: str) -> Reference:
        """``item``: a picture, ``{"image": …, "weight": 1.0, "mask": …}``, or ``{"controlnet": 1, "weight": 1.0}``.

        ``where`` begins the sentence of an error.
        """
        if not isinstance(item, Mapping):
            item = {"image": item}
        unknown = sorted(map(str, set(item) - {"image", "controlnet", "weight", "mask"}))
        if unknown:
            raise UnitError(
                f"{where}unknown field {_shown(unknown[0])}: a reference has image (or controlnet), weight and mask."
            )
        image, weight = item.get("image"), _number(item, "weight", *WEIGHT, 1.0, where)
        mask = _picture(item, "mask", where)
        if item.get("controlnet") is not None:
            return cls(None, weight, cls._controlnet(item["controlnet"], image, where), mask)
        if image is None or (isinstance(image, str) and not image.strip()):
            raise UnitError(f"{where}the picture is missing: give a PNG, JPEG or WebP as base64.")
        return cls(image, weight, None, mask)

    @staticmethod
    def _controlnet(number: Any, image: Any, where: str) -> int:
        if image is not None:
            raise UnitError(f"{where}image and controlnet are both given: leave one out.")
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise UnitError(f"{where}controlnet is {_shown(number)}: give the number of a ControlNet unit, from 1 on.")
        return number


@dataclass(frozen=True)
class Unit:
    """One adapter with its references. The fields are api.md's, in the order in which infotext shows them.

    ``references`` are its ``images``, ``negative_references`` its ``negative_images``. ``region_feather`` is the
    softness of the region's edge, as a share of the picture's shorter side; ``boost`` the strength of what a "precise"
    weight type turns against, None for the type's own. ``number`` is the place among the job's units, counted from 1 (0
    outside a job); it is no setting.
    """

    model: str
    references: tuple[Reference, ...]
    weight: float | Curve = 1.0
    start: float = 0.0
    end: float = 1.0
    weight_type: str = "linear"
    layer_weights: LayerWeights | None = None
    composition_weight: float = 1.0
    boost: float | None = None
    crop: str = "center"
    combine: str = "concat"
    embeds_scaling: str = "V only"
    region_mask: Any = None
    region_feather: float = 0.0
    negative_references: tuple[Reference, ...] = ()
    subtract_prompt: str = ""
    noise: float = 0.0
    hires: str = "both"
    batch: str = "same"
    influence_map: bool = False
    keypoints_weight: float = 1.0
    enabled: bool = True
    number: int = 0

    @classmethod
    def parse(cls, settings: object, number: int = 0) -> Unit:
        """One API object -> Unit. Raises UnitError with the field's name, what it holds and what it may hold.

        A disabled unit may lack its model and its references.
        """
        if not isinstance(settings, Mapping):
            raise UnitError(
                f'a unit is an object such as {{"model": …, "images": […]}}, not {_shown(settings)}: see the API page.'
            )
        own = (f.name for f in fields(cls) if f.name not in ("references", "negative_references", "number"))
        known = [*own, "image", "images", "negative_images", *NOT_YET]
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
        weight_type, layer_weights = _choice(settings, "weight_type"), _layer_weights(settings)
        if layer_weights is not None and weight_type not in ("linear", *INVERTING):
            raise UnitError(
                f"weight_type is “{weight_type}” and layer_weights are given too, which take its place: leave one out."
            )
        boost = settings.get("boost")
        return cls(
            model=cls._model(settings, enabled),
            references=cls._references(settings, enabled),
            weight=_weight(settings),
            start=start,
            end=end,
            weight_type=weight_type,
            layer_weights=layer_weights,
            composition_weight=_number(settings, "composition_weight", *LAYER, 1.0),
            boost=None if boost is None else _number(settings, "boost", *LAYER, 1.0),
            crop=_choice(settings, "crop"),
            combine=_choice(settings, "combine"),
            embeds_scaling=_choice(settings, "embeds_scaling"),
            region_mask=_picture(settings, "region_mask"),
            region_feather=_number(settings, "region_feather", 0, 1, 0.0),
            negative_references=cls._negative(settings, enabled),
            subtract_prompt=_text(settings, "subtract_prompt", MAX_WORDS),
            noise=_number(settings, "noise", 0, 1, 0.0),
            hires=_choice(settings, "hires"),
            batch=_choice(settings, "batch"),
            influence_map=_flag(settings, "influence_map", False),
            keypoints_weight=_number(settings, "keypoints_weight", 0, 2, 1.0),
            enabled=enabled,
            number=number,
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
        if not items and enabled:
            raise UnitError("it has no reference picture: add one to images, or disable the unit.")
        return _parsed(items, "images", enabled, single)

    @staticmethod
    def _negative(settings: Mapping[str, Any], enabled: bool) -> tuple[Reference, ...]:
        items = settings.get("negative_images", [])
        if not isinstance(items, (list, tuple)):
            raise UnitError(f"negative_images is {_shown(items)}: give a list of pictures.")
        return _parsed(items, "negative_images", enabled)

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults, pictures and ``enabled`` aside, in the table's order."""
        shown = (f for f in fields(self) if f.name not in ("model", "enabled", "number", *PICTURES))
        return {f.name: getattr(self, f.name) for f in shown if getattr(self, f.name) != f.default}

    def token_settings(self) -> tuple[Hashable, ...]:
        """The settings that image tokens depend on, pictures and the adapter aside: part of their cache key."""
        return (self.crop, self.combine, self.batch, self.noise, self.subtract_prompt)


def _parsed(items: Sequence[object], name: str, enabled: bool, single: bool = False) -> tuple[Reference, ...]:
    if len(items) > MAX_REFERENCES:
        raise UnitError(f"{name} holds {len(items)} pictures: give at most {MAX_REFERENCES}.")
    if not enabled:
        return ()
    return tuple(Reference.parse(item, "" if single else f"{name}[{i}]: ") for i, item in enumerate(items))


def parse_units(objects: Sequence[object]) -> list[Unit]:
    """API objects -> the enabled units, numbered by their places from 1 on. Errors name the unit."""
    if len(objects) > MAX_UNITS:
        raise UnitError(f"IP-Adapter: more than {MAX_UNITS} units are given: leave out what exceeds {MAX_UNITS}.")
    units = []
    for number, settings in enumerate(objects, 1):
        try:
            units.append(Unit.parse(settings, number))
        except UnitError as error:
            raise error.in_unit(number) from None
    return [unit for unit in units if unit.enabled]
