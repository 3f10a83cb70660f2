"""The defaults of units' purposes that a person has put in the place of the published ones, in a small JSON file.

``{purpose: {field: value}}``; what cannot be read of it counts as not there.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import IPAdapterError, UnitError, printable
from ..purposes import BY_NAME, PURPOSES, Settings, checked, known
from ..replace_file import replace_file

MAX_BYTES = 16_384  # of the file


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
                found[name] = checked(content.get(name), BY_NAME[name])
            except UnitError:  # of another version, or written by hand
                continue
        return found

    def all(self) -> dict[str, dict[str, Any]]:
        """Every purpose's default, in the table's order."""
        return {purpose.name: purpose.published for purpose in PURPOSES} | self.kept()

    def keep(self, name: str, settings: object) -> None:
        """Make ``settings`` the default of a purpose. Raises IPAdapterError for what can be none, and where the file
        cannot be written."""
        values = checked(settings, known(name))
        with self._lock:
            self._write({**self.kept(), name: values})

    def forget(self, name: str) -> None:
        """Go back to the published default. Raises IPAdapterError where the file cannot be written."""
        with self._lock:
            kept = self.kept()
            if kept.pop(known(name).name, None) is not None:
                self._write(kept)

    def _write(self, kept: Mapping[str, Settings]) -> None:
        try:
            replace_file(self.file, json.dumps(kept, indent=1))
        except OSError as error:
            raise IPAdapterError(
                f"{printable(str(self.file))} cannot be written ({error.strerror or error}): make its folder writable."
            ) from None
