"""What ControlNet calls the files and preprocessors of IP-Adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from string import hexdigits
from typing import Any

from ....checkpoint.catalog import Catalog
from ....checkpoint.entries import AdapterEntry

PASSES = {"Both": "both", "Low res only": "base", "High res only": "hires"}
MAX_WEIGHT = 2.0


@dataclass(frozen=True)
class Translated:
    """Settings for the other side, and sentences on what could not come along."""

    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def label_hash(file: Path) -> str | None:
    """The 8 digits that ControlNet's list shows behind a file's name: the WebUI's old, partial hash."""
    try:
        with open(file, "rb") as stream:
            stream.seek(0x100000)
            return hashlib.sha256(stream.read(0x10000)).hexdigest()[:8]
    except OSError:
        return None


def _parts(label: str) -> tuple[str, str | None]:
    """ "Name [01234567]" -> name in lower case, hash."""
    label = label.strip()
    name, bracket, digits = label.removesuffix("]").rpartition("[")
    if not (label.endswith("]") and bracket and digits and set(digits) <= set(hexdigits)):
        return label.casefold(), None
    return name.strip().casefold(), digits.casefold()


def adapter(label: str, catalog: Catalog) -> AdapterEntry | None:
    """The adapter that ControlNet calls ``label``, None if it is not in the catalogue: same name, same hash."""
    stem, digits = _parts(label)
    named = [entry for entry in catalog.adapters if entry.path.stem.casefold() == stem]
    return next((entry for entry in named if digits is None or label_hash(entry.path) == digits), None)


def label(file: Path, labels: Iterable[str]) -> str | None:
    """What ControlNet calls a file of ours, None if it does not list it."""
    named = [one for one in labels if _parts(one)[0] == file.stem.casefold()]
    digits = label_hash(file) if named else None
    return next((one for one in named if _parts(one)[1] in (None, digits)), None)
