"""How a unit's fields are declared.

Each field of ``Unit`` stands once, with a ``Setting`` in its metadata. Parsing, the panel, parameters, plots' axes,
cache keys and the documentation follow from these declarations. A number or a choice more is one field more in
``Unit``, and whatever uses its value.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from .kinds import Choice, Kind, Wording

# The headings below which folded controls stand.
TRANSFERS, WHERE, WHEN, EXPERT = GROUPS = ("What transfers", "Where", "When", "Expert")


@dataclass(frozen=True)
class PanelPlace:
    """Where and how the panel shows a field: in the row ``place`` ("model", "weight" and "sight" are in sight,
    "advanced" is folded, "strip" is a strip that the page's script draws), there by ``order``. ``key`` is the control's
    name where it is not the field's: a second control's.

    ``group`` is the heading of a folded one, one of GROUPS; ``needs`` is what it has no effect without: the
    page's script (panel/purpose.js) knows these words, and hides the control meanwhile.
    """

    label: str
    tooltip: str
    place: str = "advanced"
    order: int = 99
    step: float = 0.01
    placeholder: str = ""
    key: str = ""
    group: str = ""
    needs: str = ""


@dataclass(frozen=True)
class Setting:
    """One field of a unit: its kind, its places in the panel, and its sentence in the documentation.

    ``changes_tokens`` is false for what acts only after the image tokens are made; all else is part of their cache
    key. ``variants`` are the kinds of adapters that alone have this field, none for all; ``not_for`` are those for
    which it means nothing: the panel does not show it for them, and a job that sets it is refused. A text in the place
    of a number, as the panel writes a curve, belongs to the last of its ``panel`` controls.
    """

    kind: Kind
    panel: tuple[PanelPlace, ...] = ()
    about: str = ""
    changes_tokens: bool = True
    variants: tuple[str, ...] = ()
    not_for: tuple[str, ...] = ()
    name: str = ""
    default: Any = None
    is_required: bool = False

    def called(self, wording: Wording, value: object = None) -> str:
        """What a sentence calls the field, or of several controls the one that holds such a ``value``."""
        if wording is Wording.API or not self.panel:
            return self.name
        return f"“{self.panel[-1 if isinstance(value, str) else 0].label}”"

    def parse(self, settings: Mapping[str, Any], wording: Wording = Wording.API) -> Any:
        """The checked value of the field in an API object, the default where it is left out. Raises UnitError."""
        if self.name not in settings:
            return self.default
        value = settings[self.name]
        return self.kind.parse(value, self.called(wording, value), wording)


def declared(
    kind: Kind,
    *panel: PanelPlace,
    about: str = "",
    changes_tokens: bool = True,
    variants: tuple[str, ...] = (),
    not_for: tuple[str, ...] = (),
) -> Mapping[str, Setting]:
    """The metadata of a dataclass's field that is a setting."""
    return {"setting": Setting(kind, panel, about, changes_tokens, variants, not_for)}


def settings_of(cls: type) -> Mapping[str, Setting]:
    """The declared settings of a unit's class by name, in their order."""
    key: Any = cls
    return _settings_of(key)


@functools.cache
def _settings_of(cls: Any) -> Mapping[str, Setting]:
    return {
        one.name: replace(
            one.metadata["setting"],
            name=one.name,
            default=None if one.default is MISSING else one.default,
            is_required=one.default is MISSING,
        )
        for one in fields(cls)
        if "setting" in one.metadata
    }


def meaningless(cls: type, variant: str) -> tuple[str, ...]:
    """The fields of a unit's class that mean nothing for adapters of ``variant``."""
    return tuple(name for name, setting in settings_of(cls).items() if variant in setting.not_for)


def choices_of(cls: type, name: str) -> tuple[str, ...]:
    """The values of a field that has some to choose from, none for any other field."""
    kind = settings_of(cls)[name].kind
    return kind.choices if isinstance(kind, Choice) else ()
