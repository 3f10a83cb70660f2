"""Which of the ControlNets for SDXL is InstantID's network of keypoints: all have the same shapes, so names decide."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import CheckpointError
from .control import FILE
from .entries import Entry, KeypointsEntry, UnusableEntry
from .names import few

SAVE_AS = "control_instant_id_sdxl.safetensors"
_OWN = re.compile(r"instant|controlnetmodel")
_OTHERS = re.compile(
    r"(?<![a-z])(?:canny|depth|openpose|pose|tile|scribble|lineart|soft_?edge|hed|sketch|mlsd|seg|normal|inpaint|blur"
    r"|recolor|gray|luminance|bright|qr|union|promax|shuffle|upscale|mistoline|animal|hand)"
)
_ITS_NAME = re.compile(r"instant.*control|control.*instant|controlnetmodel")  # not its adapter's
_NO_NAME = "diffusion_pytorch_model"  # what diffusers calls all of them, each in a folder of its own


def chosen(entries: Sequence[KeypointsEntry], unusable: Sequence[UnusableEntry], folder: Path | str) -> KeypointsEntry:
    """InstantID's network: the first one whose name or folder says so, else the only one that is no other by its name.

    Raises CheckpointError where there is none, with what is wrong with it if it is among the ``unusable`` files by its
    name, or the file to get and the ``folder`` for it, and where several may be it.
    """
    for place in (_name, _place):  # a file's own name says more than its folders'
        named = [entry for entry in entries if _OWN.search(place(entry)) and not _OTHERS.search(_name(entry))]
        if named:
            return named[0]
    unnamed = [entry for entry in entries if not _OTHERS.search(_name(entry))]
    if len(unnamed) == 1:
        return unnamed[0]
    if unnamed:
        raise CheckpointError(
            "which of these ControlNets is InstantID's network of keypoints, nothing but a name can tell, and theirs "
            f"do not: {few([entry.name for entry in unnamed])}. Save InstantID's as {SAVE_AS}, and refresh the list of "
            "models."
        )
    if damaged := [entry for entry in unusable if _ITS_NAME.search(_name(entry))]:
        raise CheckpointError(
            f"InstantID's network of keypoints: {damaged[0].name} cannot be used. {damaged[0].problem}"
        )
    others = ""
    if entries:
        theirs = "are for something else, by their names" if len(entries) > 1 else "is for something else, by its name"
        others = f" ({few([entry.name for entry in entries])} {theirs})"
    raise CheckpointError(
        f"InstantID's network of keypoints is missing{others}: download {FILE}, put it into {folder} as {SAVE_AS}, and "
        "refresh the list of models."
    )


def _place(entry: Entry) -> str:
    """Its name, and those of the folders that it lies in."""
    return "/".join((entry.folder.name, *entry.path.relative_to(entry.folder).parts)).casefold()


def _name(entry: Entry) -> str:
    """Its name, or its folder's where it has none of its own."""
    name = entry.path.stem.casefold()
    return entry.path.parent.name.casefold() if name.startswith(_NO_NAME) else name
