"""What the catalogue's files are called, which of them a name means, and how their sizes are written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from ..errors import CheckpointError, printable
from .entries import Entry
from .folders import ENDINGS
from .tensor_table import NAME_LIMIT

FEW = 8  # names in a sentence
_Entry = TypeVar("_Entry", bound=Entry)


def _names(entry: Entry) -> list[str]:
    """What a file may be called, from its stem to its whole path."""
    folder, whole = str(entry.folder), str(entry.path)  # by text: pathlib takes ten times as long
    inside = (whole if folder == "." else whole[len(folder) :]).replace(os.sep, "/").strip("/")
    bare, (stem, ending) = os.path.splitext(inside)[0], os.path.splitext(os.path.basename(inside))
    names = [stem, bare, stem + ending, inside]
    for above in _parts_above(folder):
        names += (above + bare, above + inside)
    return [printable(name).strip() for name in names]


@lru_cache(maxsize=64)
def _parts_above(folder: str) -> tuple[str, ...]:
    """A folder's name with ever more of those above it, each with a slash at its end."""
    found, above = [], ""
    for part in reversed(Path(folder).parts):
        above = f"{part.strip(os.sep)}/{above}"
        found.append(above)
    return tuple(found)


def named(entries: Sequence[_Entry]) -> list[_Entry]:
    """The entries by name, each under its shortest name that no other has."""
    choices = [_names(entry) for entry in entries]
    bearers: Counter[str] = Counter()
    for names in choices:
        bearers.update({name.casefold() for name in names})
    named: list[_Entry] = []
    alike: Counter[str] = Counter()  # files whose names differ in what cannot be shown alone
    for entry, names in zip(entries, choices, strict=True):
        unique = next((name for name in names if bearers[name.casefold()] == 1), None)
        if unique is None:
            alike[names[-1]] += 1
            unique = f"{names[-1]} ({alike[names[-1]]})"
        named.append(replace(entry, name=unique))
    return sorted(named, key=lambda entry: (entry.name.casefold(), entry.name))


def matching(entries: Sequence[_Entry], wanted: str) -> _Entry | None:
    """The entry that ``wanted`` (in lower case) means. CheckpointError if it could be one of several folders'."""
    for entry in entries:
        if entry.name.casefold() == wanted:
            return entry
    found = [entry for entry in entries if wanted in map(str.casefold, _names(entry))]
    if len({entry.path.with_suffix("") for entry in found}) > 1:
        raise CheckpointError(
            f"{shown(wanted)} means several files: choose one of {few([entry.name for entry in found])}."
        )
    return min(found, key=lambda entry: ENDINGS.index(entry.path.suffix.lower()), default=None)


def few(names: Sequence[str]) -> str:
    """Some names, and how many more there are, for a sentence."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(name[:NAME_LIMIT] for name in names[:FEW]) + more


def shown(name: str) -> str:
    text = repr(str(name))
    return text if len(text) <= 100 else f"{text[:97]}…"


def size(count: int) -> str:
    """Bytes as people read them: "98 MB", "2.5 GB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 0.1):.{0 if count >= 1e7 else 1}f} MB"
