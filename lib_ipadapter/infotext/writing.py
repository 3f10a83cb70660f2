"""Units -> the generation parameters that the WebUI writes into pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol

from ..checkpoint.entries import AdapterEntry
from ..encode.folders import HASH_LENGTH, FolderMark
from ..fields import settings_of
from ..reference import START
from ..unit import Unit

# What the entries call pictures.
REFERENCES, NEGATIVE, REGION, POSE = "references", "negative_images", "region_mask", "keypoints_image"
REGIONS, EVERYWHERE = "regions", "-"  # of single references, in their order
TIMES = "at"  # where each stands over time
LOOKS, BETWEEN = "looks", " / "  # the names of references that are looks; no name has a slash in it
FOLDERS, BETWEEN_FOLDERS = "folders", " | "  # those of references that are folders, with what of them is used


class ReferenceAtWork(Protocol):
    """A reference by its content hash, with its weight, the content hashes of its mask and its region, its name if it
    is a look, the folder that it lies in if it came with that, and where it stands over time if it is a keyframe."""

    @property
    def content_hash(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def mask_hash(self) -> str | None: ...

    @property
    def look(self) -> str: ...

    @property
    def region_hash(self) -> str | None: ...

    @property
    def folder(self) -> FolderMark | None: ...

    @property
    def at(self) -> float | None: ...


class UnitAtWork(Protocol):
    """A unit with its number, its adapter's entry in the catalogue, and its pictures' content hashes."""

    @property
    def number(self) -> int: ...

    @property
    def unit(self) -> Unit: ...

    @property
    def adapter(self) -> AdapterEntry: ...

    @property
    def references(self) -> Sequence[ReferenceAtWork]: ...

    @property
    def negatives(self) -> Sequence[ReferenceAtWork]: ...

    @property
    def region_hash(self) -> str | None: ...

    @property
    def pose_hash(self) -> str | None: ...


def entry_name(number: int) -> str:
    """What a unit's entry is called."""
    return f"IP-Adapter {number}"


def parameters(units: Sequence[UnitAtWork]) -> dict[str, str]:
    """The entries ``IP-Adapter n`` for ``p.extra_generation_params``: model, fields that differ from their defaults,
    and the pictures' content hashes (with their own weight after a star, their mask's hash after an @). The start
    picture is a word there: it is another one wherever the entry goes."""
    entries = {}
    for one in units:
        settings = settings_of(type(one.unit))
        values = {"model": one.adapter.name}
        values |= {name: settings[name].kind.to_text(value) for name, value in one.unit.changed().items()}
        if one.negatives:
            values[NEGATIVE] = _hashes(one.negatives)
        if one.region_hash:
            values[REGION] = one.region_hash[:HASH_LENGTH]
        if one.pose_hash:
            values[POSE] = one.pose_hash[:HASH_LENGTH]
        if looks := _looks([*one.references, *one.negatives]):
            values[LOOKS] = looks
        if folders := _folders(one.references):
            values[FOLDERS] = folders
        own = _one_of_each_folder(one.references)
        if any(reference.region_hash for reference in own):
            hashes = (reference.region_hash for reference in own)
            values[REGIONS] = " ".join(EVERYWHERE if name is None else name[:HASH_LENGTH] for name in hashes)
        times = [reference.at for reference in one.references if reference.at is not None]
        if times and len(times) == len(one.references):
            values[TIMES] = " ".join(repr(at).removesuffix(".0") for at in times)
        values[REFERENCES] = _hashes(one.references)
        entries[entry_name(one.number)] = ", ".join(f"{name}: {quoted(text)}" for name, text in values.items())
    return entries


def quoted(text: str) -> str:
    """A value as it stands in "name: value, name: value"; JSON where it would break that form."""
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ',:"\n') else text


def _hashes(references: Sequence[ReferenceAtWork]) -> str:
    """A folder's references are one, with the hash of its content."""
    return " ".join(
        (
            one.folder.content_hash[:HASH_LENGTH]
            if one.folder is not None
            else (START if one.content_hash == START else one.content_hash[:HASH_LENGTH])
        )
        + (f"*{one.weight:g}" if one.weight != 1 else "")
        + (f"@{one.mask_hash[:HASH_LENGTH]}" if one.mask_hash else "")
        for one in _one_of_each_folder(references)
    )


def _one_of_each_folder(references: Sequence[ReferenceAtWork]) -> list[ReferenceAtWork]:
    """The references, but of each folder only the first."""
    return [
        one
        for one, before in zip(references, [None, *references], strict=False)
        if one.folder is None or before is None or before.folder is not one.folder
    ]


def _folders(references: Sequence[ReferenceAtWork]) -> str:
    """ "0123456789ab styles/oil | cdef01234567~7+12 photos": the marks of folders."""
    return BETWEEN_FOLDERS.join(dict.fromkeys(one.folder.text for one in references if one.folder is not None))


def _looks(references: Sequence[ReferenceAtWork]) -> str:
    """ "0123456789ab Oil / cdef01234567 Ink": the content hashes of looks, and their names."""
    named = {one.content_hash[:HASH_LENGTH]: one.look for one in references if one.look}
    return BETWEEN.join(f"{content_hash} {name}" for content_hash, name in named.items())
