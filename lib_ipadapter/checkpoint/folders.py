"""The disk: which files below a folder may be models."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")  # of two files alike but for it, the first is meant

DEPTH_LIMIT = 32  # folders within folders
PARTIAL = ".ip-adapter-partial"  # a folder for what is not here whole yet; nothing in it is a model


def partial_folder(folder: Path, name: str) -> Path:
    """Where the file ``name`` of ``folder`` comes until it is whole. It has no model's ending: other extensions' lists
    take a folder that has one for a model, and ControlNet does not start then."""
    return folder / PARTIAL / f"{name}.partial"


class FoundFile(NamedTuple):
    """A file with a model's ending. ``problem`` is there if it is plain without opening it that it is no use."""

    path: Path
    folder: Path
    size: int
    mtime_ns: int
    problem: str | None = None


def model_files(directory: Path, root: Path, seen: set[str], depth: int = 0) -> Iterator[FoundFile]:
    """Model files below ``directory``. ``seen``: directories visited, links resolved, so that links cannot loop and
    folders within folders are not listed twice. ``depth``: how many folders below ``root`` it is."""
    real = os.path.realpath(directory)
    if real in seen or depth > DEPTH_LIMIT:
        return
    seen.add(real)
    try:
        with os.scandir(directory) as listing:
            items = sorted(listing, key=lambda item: item.name)
    except OSError:  # a folder that is not there, or not for us, has no models
        return
    for item in items:
        is_model = os.path.splitext(item.name)[1].lower() in ENDINGS
        path = directory / item.name
        try:
            status = item.stat()
        except OSError as error:
            if is_model:
                what = "a link to a file that is not there" if item.is_symlink() else f"not readable ({error.strerror})"
                yield FoundFile(path, root, 0, 0, f"This file is {what}: download the model again.")
            continue
        if stat.S_ISDIR(status.st_mode):
            if item.name == PARTIAL:
                continue
            if is_model:
                yield FoundFile(path, root, 0, 0, "This is a folder with a model's name: look for the file inside it.")
            yield from model_files(path, root, seen, depth + 1)
        elif is_model and not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            yield FoundFile(path, root, 0, 0, "This is a pipe or a device, not a file: put the model's file here.")
        elif is_model:
            yield FoundFile(path, root, status.st_size, status.st_mtime_ns)
