"""Folders of references, and units that have what is in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lib_ipadapter.encode import folders
from lib_ipadapter.encode.folders import FolderMark, FolderPictures, KnownFiles, fingerprint, listed
from lib_ipadapter.unit import Unit, parse_units
from tests.helpers.files import picture


def fill(folder: Path, *seeds: int, name: str = "{}.png") -> Path:
    """``folder`` with the pictures of these seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, seed in enumerate(seeds):
        picture(seed).save(folder / name.format(place))
    return folder


def of_folder(folder: Path, known: KnownFiles | None = None, region: str | None = None, **settings: Any) -> Unit:
    """A unit with all pictures of ``folder``."""
    known = known or KnownFiles()
    files = listed(folder, lambda path: False, known).files
    pictures, names = folders.pictures_of(files, known)
    item = {"folder": str(folder), **({} if region is None else {"region": region})}
    (made,) = parse_units([{"model": "base", "images": [item], **settings}])
    mark = FolderMark(fingerprint(files, known), folder.name)
    return replace(made, references=(replace(made.references[0], image=FolderPictures(mark, pictures, names)),))
