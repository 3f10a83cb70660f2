"""What a unit is for, in a person's words: each purpose with the settings that make it so.

The published defaults stand in one table; presets/purpose_defaults.py keeps those that a person puts in their place.
Adapters for FLUX have purposes of their own, since no weight type means anything to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import flux_fields
from .errors import UnitError, printable
from .fields import settings_of
from .kinds import Wording
from .unit import Unit, conflicts

Settings = Mapping[str, Any]
FIELDS = ("weight_type", "weight", "composition_weight", "start", "end")  # what a purpose sets of a unit
REDUX_FIELDS = ("downsampling", "weight", "start", "end")  # and of one for FLUX Redux
STABLE = ("",)  # the adapters for Stable Diffusion, in the place of a variant's name
BESIDE = ("xlabs", "instantx")  # FLUX' adapters that attend beside the model's own attention
# The field by whose value a unit's purpose is told, by the variants that have more than one.
TELLING = {"": "weight_type", "redux": "downsampling"}


@dataclass(frozen=True)
class Purpose:
    """``about`` is its tooltip, ``settings`` the published default of each of ``fields`` that is not the unit's own.
    ``faces``: its adapter is one for faces. ``kinds`` are the variants of FLUX' adapters that it is for, "" all other
    adapters; ``begins``: units of these have it from their first reference on."""

    name: str
    label: str
    about: str
    settings: Settings
    faces: bool = False
    kinds: tuple[str, ...] = STABLE
    begins: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """What it sets of a unit."""
        return REDUX_FIELDS if self.kinds == flux_fields.REDUX else FIELDS

    @property
    def published(self) -> dict[str, Any]:
        """Its published default of all of these."""
        return {**{name: settings_of(Unit)[name].default for name in self.fields}, **self.settings}


PURPOSES = (
    Purpose(
        "everything", "Everything", "What the reference shows, how it is arranged, and its style.",
        {"weight_type": "linear", "weight": 0.7}, kinds=(*STABLE, *BESIDE), begins=True,
    ),
    Purpose(
        "style", "Style", "The reference's colours, light and manner; what is shown comes from the prompt.",
        {"weight_type": "style transfer", "weight": 1.0},
    ),
    Purpose(
        "composition", "Composition", "Where things stand in the reference; their look comes from the prompt.",
        {"weight_type": "composition", "weight": 0.8, "end": 0.8},
    ),
    Purpose(
        "both", "Style + composition", "The reference's style and its arrangement, without what it shows.",
        {"weight_type": "style and composition", "weight": 1.0, "composition_weight": 0.8},
    ),
    Purpose(
        "face", "Face", "The person whose face the reference shows.",
        {"weight_type": "linear", "weight": 0.8}, faces=True,
    ),
    # How closely, at the whole weight: InvokeAI's image influence "highest", "medium" and "lowest". A unit begins with
    # the middle one, as nodes for ComfyUI do: at the first one, little is left to the prompt.
    Purpose(
        "whole", "Whole picture", "All of the reference: a variation of it, in which the prompt changes little.",
        {"downsampling": 1}, kinds=flux_fields.REDUX,
    ),
    Purpose(
        "variation", "Variation", "What the reference shows, and roughly where; the rest comes from the prompt.",
        {"downsampling": 3}, kinds=flux_fields.REDUX, begins=True,
    ),
    Purpose(
        "mood", "Style and mood", "The reference's colours, light and mood; what is shown comes from the prompt.",
        {"downsampling": 5}, kinds=flux_fields.REDUX,
    ),
)  # fmt: skip
BY_NAME = {purpose.name: purpose for purpose in PURPOSES}


def checked(settings: object, purpose: Purpose) -> dict[str, Any]:
    """A value for each field of ``purpose``. Raises UnitError for what a unit could not have, and where one is missing
    or more are given."""
    if not isinstance(settings, Mapping) or set(settings) != set(purpose.fields):
        raise UnitError(f"a purpose's default holds {', '.join(purpose.fields)}: send all of them, and nothing else.")
    own = settings_of(Unit)
    values = {name: own[name].parse(settings, Wording.PANEL) for name in purpose.fields}
    if isinstance(values["weight"], tuple):
        raise UnitError("a purpose's weight is one number: leave “Weight over the steps” empty to keep it.")
    others = {name: setting.default for name, setting in own.items()}
    for _, sentence in conflicts({**others, **values}, Wording.PANEL):
        raise UnitError(sentence)
    if values["weight"] < 0 and purpose.kinds == flux_fields.NOT_NEGATIVE:
        raise UnitError(f"{own['weight'].called(Wording.PANEL)} is {values['weight']:g}: give 0 or more to FLUX Redux.")
    return values


def known(name: str) -> Purpose:
    """The purpose of that name. Raises UnitError where there is none."""
    if name not in BY_NAME:
        raise UnitError(f"there is no purpose “{printable(str(name))}”: known are {', '.join(BY_NAME)}.")
    return BY_NAME[name]
