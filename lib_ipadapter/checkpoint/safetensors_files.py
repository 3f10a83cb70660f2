"""safetensors files, by the library of that name: it checks a header and reads tensors; its errors become sentences.

The library bounds tensors to the file: no two of them overlap, nothing lies between them, and none reaches beyond the
end. Only how much of a header it is shown is bounded here.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .tensor_table import AGAIN, DTYPES, TABLE_LIMIT, Table, TensorEntry, check_names, is_sizes


def library() -> Any:
    """safetensors, imported when it is first needed; its types lack half of what it has."""
    try:
        return importlib.import_module("safetensors")
    except ImportError as error:
        raise CheckpointError(
            "This file is read by the Python package safetensors, which is missing: install it with pip and restart "
            "the WebUI."
        ) from error


@contextmanager
def opened_by_library(path: str | Path, framework: str) -> Iterator[Any]:
    """The library's own handle of a file whose header it accepts. ``framework``: "numpy", or "pt" for tensors.

    Raises CheckpointError for all other files, and OSError where the file cannot be read.
    """
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(TABLE_LIMIT, size - 8):
        raise CheckpointError(
            f"This file's header claims {length:,} bytes, but the file has {size:,} and {TABLE_LIMIT:,} are allowed: "
            f"it is cut short or damaged. {AGAIN}"
        )
    try:
        handle = library().safe_open(os.fspath(path), framework=framework)
    except library().SafetensorError as error:
        raise CheckpointError(_sentence(str(error), path, size)) from None
    with handle as opened:
        yield opened


def table(path: str | Path) -> Table:
    """The tensors and texts in a file's header; no tensor is read. Raises like ``opened_by_library``."""
    with opened_by_library(path, "numpy"):
        return accepted(path)


def accepted(path: str | Path) -> Table:
    """The table of a file that the library has just accepted. Read once more, as the JSON that it is: the library tells
    dtypes since 0.4 only, and shapes by looking through all tensors for each one."""
    header = _header(path)
    metadata = header.pop("__metadata__", None) or {}
    check_names(header)
    entries = {}
    for name, told in header.items():
        shape, dtype = told["shape"], str(told["dtype"])[:40]
        if not is_sizes(shape):
            raise CheckpointError(f"This file's header gives {name[:80]} sizes that no tensor has. {AGAIN}")
        known, _ = DTYPES.get(dtype, (dtype.lower(), None))
        entries[name] = TensorEntry(known, tuple(shape))
    return Table(entries, metadata)


def _header(path: str | Path) -> dict[str, Any]:
    """The header of a file whose length was checked, as JSON."""
    with open(path, "rb") as file:
        text = file.read(min(int.from_bytes(file.read(8), "little"), TABLE_LIMIT))
    header: dict[str, Any] = json.loads(text)
    return header


def _sentence(error: str, path: str | Path, size: int) -> str:
    """What is wrong with a file of ``size`` bytes that the library refuses, for users."""
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):  # it is no header at all
        told = _fault_in_header(path, size)
        if told is not None:
            return told
    what = error.rsplit(": ", 1)[-1]
    return (
        f"This file's header is damaged, or newer than safetensors {library().__version__} ({what[:80]}). Download it "
        "again, or get it in fp16."
    )


def _fault_in_header(path: str | Path, size: int) -> str | None:
    """What a file's header, compared with itself and with its ``size``, says is wrong; None where it says nothing.

    By the numbers and not by the library's error, whose words are others in each of its versions.
    """
    header = _header(path)
    header.pop("__metadata__", None)
    end = 0
    for name, told in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, until = told["data_offsets"]
        if not is_sizes(told["shape"], begin, until):
            return None
        if begin != end or until < begin:
            return f"This file's header contradicts itself at {name[:80]}: it is damaged. {AGAIN}"
        _, width = DTYPES.get(str(told["dtype"]), ("", None))
        if width is not None and prod(told["shape"]) * width != until - begin:
            return f"This file's header contradicts itself: sizes and data of a tensor differ. {AGAIN}"
        end = until
    with open(path, "rb") as file:
        wanted = 8 + int.from_bytes(file.read(8), "little") + end
    if size > wanted:
        return f"This file goes on after its tensors: it has {size:,} bytes instead of {wanted:,}. {AGAIN}"
    if size < wanted:
        return f"This file is cut short: it has {size:,} of {wanted:,} bytes. Download it again to the end."
    return None


def name_for_library(path: str | Path, descriptor: int) -> str:
    """What the library can open the file by: torch, which maps it, takes no name that is not UTF-8."""
    name = os.fspath(path)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return f"/dev/fd/{descriptor}" if sys.platform != "win32" else name
    return name
