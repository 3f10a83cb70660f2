"""What a unit is for, in a person's words: each purpose with the settings that make it so.

The published defaults stand in one table; presets/purpose_defaults.py keeps those that a person puts in their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import UnitError, printable
from .fields import settings_of
from .kinds import Wording
from .unit import Unit, conflicts

Settings = Mapping[str, Any]
FIELDS = ("weight_type", "weight", "composition_weight", "start", "end")  # what a purpose sets of a unit


@dataclass(frozen=True)
class Purpose:
    """``about`` is its tooltip, ``settings`` the published default of each of FIELDS that is not the unit's own.
    ``faces``: its adapter is one for faces."""

    name: str
    label: str
    about: str
    settings: Settings
    faces: bool = False

    @property
    def published(self) -> dict[str, Any]:
        """Its published default of all FIELDS."""
        return {**_own_defaults(), **self.settings}


PURPOSES = (
    Purpose(
        "everything", "Everything", "What the reference shows, how it is arranged, and its style.",
        {"weight_type": "linear", "weight": 0.7},
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
)  # fmt: skip
BY_NAME = {purpose.name: purpose for purpose in PURPOSES}


def _own_defaults() -> dict[str, Any]:
    return {name: settings_of(Unit)[name].default for name in FIELDS}


def checked(settings: object) -> dict[str, Any]:
    """A value for each of FIELDS. Raises UnitError for what a unit could not have, or where one is missing."""
    if not isinstance(settings, Mapping) or set(settings) != set(FIELDS):
        raise UnitError(f"a purpose's default holds {', '.join(FIELDS)}: send all of them, and nothing else.")
    own = settings_of(Unit)
    values = {name: own[name].parse(settings, Wording.PANEL) for name in FIELDS}
    if isinstance(values["weight"], tuple):
        raise UnitError("a purpose's weight is one number: leave “Weight over the steps” empty to keep it.")
    others = {name: setting.default for name, setting in own.items()}
    for _, sentence in conflicts({**others, **values}, Wording.PANEL):
        raise UnitError(sentence)
    return values


def known(name: str) -> str:
    """The name of a purpose. Raises UnitError where there is none."""
    if name not in BY_NAME:
        raise UnitError(f"there is no purpose “{printable(str(name))}”: known are {', '.join(BY_NAME)}.")
    return name
