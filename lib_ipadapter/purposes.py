"""What a unit is for, in a person's words: each purpose with the settings that make it so.

The published defaults stand in one table. Defaults that a person has put in their place are kept in a small JSON file,
``{purpose: {field: value}}``; what cannot be read of it counts as not there.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import IPAdapterError, UnitError, printable
from .fields import settings_of
from .kinds import Wording
from .unit import Unit, conflicts

Settings = Mapping[str, Any]
FIELDS = ("weight_type", "weight", "composition_weight", "start", "end")  # what a purpose sets of a unit
MAX_BYTES = 16_384  # of the file


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


class PurposeDefaults:
    """Each purpose's default: the one that a person has put there, else the published one. ``file`` keeps the former;
    it is read anew each time, since another process may have written it. Thread-safe."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()

    def kept(self) -> dict[str, dict[str, Any]]:
        """The defaults that stand in the place of published ones, by purpose."""
        try:
            with self.file.open("rb") as opened:
                content = json.loads(opened.read(MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        found = {}
        for name in BY_NAME if isinstance(content, dict) else ():
            try:
                found[name] = checked(content.get(name))
            except UnitError:  # of another version, or written by hand
                continue
        return found

    def all(self) -> dict[str, dict[str, Any]]:
        """Every purpose's default, in the table's order."""
        return {purpose.name: purpose.published for purpose in PURPOSES} | self.kept()

    def keep(self, name: str, settings: object) -> None:
        """Make ``settings`` the default of a purpose. Raises IPAdapterError for what can be none, and where the file
        cannot be written."""
        values = checked(settings)
        with self._lock:
            self._write({**self.kept(), _known(name): values})

    def forget(self, name: str) -> None:
        """Go back to the published default. Raises IPAdapterError where the file cannot be written."""
        with self._lock:
            kept = self.kept()
            if kept.pop(_known(name), None) is not None:
                self._write(kept)

    def _write(self, kept: Mapping[str, Settings]) -> None:
        """Beside it, then into its place in one step."""
        temporary = None
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=self.file.parent, prefix=f".{self.file.name}.", delete=False
            ) as opened:
                temporary = opened.name
                json.dump(kept, opened, indent=1)
            os.replace(temporary, self.file)
        except OSError as error:
            if temporary is not None and os.path.exists(temporary):
                os.unlink(temporary)
            raise IPAdapterError(
                f"{printable(str(self.file))} cannot be written ({error.strerror or error}): make its folder writable."
            ) from None


def _known(name: str) -> str:
    if name not in BY_NAME:
        raise UnitError(f"there is no purpose “{printable(str(name))}”: known are {', '.join(BY_NAME)}.")
    return name
