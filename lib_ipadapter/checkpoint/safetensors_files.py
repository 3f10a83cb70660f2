"""safetensors files, by the library of that name: it checks a header, and this makes its errors our sentences.

The library bounds tensors to the file: no two of them overlap, nothing lies between them, and none reaches beyond the
end. Only how much of a header it is shown is bounded here.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .tensor_table import AGAIN, DTYPES, TABLE_LIMIT, Table, TensorEntry, check_names, is_sizes

library: Any = importlib.import_module("safetensors")  # its types lack half of what it has
# The library's errors about what a header says.
_SENTENCES = {
    "InvalidOffset": f"This file's header contradicts itself at {{where}}: it is damaged. {AGAIN}",
    "TensorInvalidInfo": f"This file's header contradicts itself: sizes and data of a tensor differ. {AGAIN}",
    "ValidationOverflow": f"This file's header contradicts itself: a tensor is larger than any. {AGAIN}",
}


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
        handle = library.safe_open(os.fspath(path), framework=framework)
    except library.SafetensorError as error:
        raise CheckpointError(_sentence(str(error), path, size)) from None
    with handle as opened:
        yield opened


def table(path: str | Path) -> Table:
    """The tensors and texts in a file's header; no tensor is read. Raises like ``opened_by_library``."""
    with opened_by_library(path, "numpy") as handle:
        return Table(entries(handle, path), handle.metadata() or {})


def entries(handle: Any, path: str | Path) -> dict[str, TensorEntry]:
    """The tensors that the library's handle of ``path`` tells of."""
    names = list(handle.keys())
    check_names(names)
    parts = {name: handle.get_slice(name) for name in names}
    if parts and not hasattr(next(iter(parts.values())), "get_dtype"):  # before safetensors 0.4
        header = _header(path)
        dtypes = {name: str(header[name]["dtype"]) for name in names}
    else:
        dtypes = {name: str(part.get_dtype()) for name, part in parts.items()}
    found = {}
    for name, part in parts.items():
        shape = part.get_shape()
        if not is_sizes(shape):
            raise CheckpointError(f"This file's header gives {name[:80]} sizes that no tensor has. {AGAIN}")
        dtype, _ = DTYPES.get(dtypes[name], (dtypes[name].lower(), None))
        found[name] = TensorEntry(dtype, tuple(shape))
    return found


def _header(path: str | Path) -> dict[str, Any]:
    """The header of a file whose length was checked, as JSON."""
    with open(path, "rb") as file:
        text = file.read(min(int.from_bytes(file.read(8), "little"), TABLE_LIMIT))
    header: dict[str, Any] = json.loads(text)
    return header


def _sentence(error: str, path: str | Path, size: int) -> str:
    """The library's error, for users."""
    what = error.rsplit(": ", 1)[-1]
    name, _, rest = what.partition("(")
    if name == "MetadataIncompleteBuffer":
        wanted = _wanted_size(path)
        if wanted is not None and size > wanted:
            return f"This file goes on after its tensors: it has {size:,} bytes instead of {wanted:,}. {AGAIN}"
        of = "too few" if wanted is None else f"{size:,} of {wanted:,}"
        return f"This file is cut short: it has {of} bytes. Download it again to the end."
    if name in _SENTENCES:
        return _SENTENCES[name].format(where=rest.rstrip(")").strip('"')[:80] or "a tensor")
    return (
        f"This file's header is damaged, or newer than safetensors {library.__version__} ({what[:80]}). Download it "
        "again, or get it in fp16."
    )


def _wanted_size(path: str | Path) -> int | None:
    """How many bytes the file should have by its header; None where that cannot be told."""
    try:
        header = _header(path)
        header.pop("__metadata__", None)
        end: int = max(entry["data_offsets"][1] for entry in header.values())
        with open(path, "rb") as file:
            return 8 + int.from_bytes(file.read(8), "little") + end
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        return None


def name_for_library(path: str | Path, descriptor: int) -> str:
    """What the library can open the file by: torch, which maps it, takes no name that is not UTF-8."""
    name = os.fspath(path)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return f"/dev/fd/{descriptor}" if sys.platform != "win32" else name
    return name
