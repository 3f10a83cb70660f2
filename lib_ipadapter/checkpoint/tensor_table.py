"""What every container's reader puts out: a file's tensors by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import CheckpointError

AGAIN = "Download it again."
# Bounds of what is believed of a file before anything is computed with it. A whole SDXL checkpoint has some 2,500
# tensors, of 4 sizes at most, in a table below 1 MB.
TABLE_LIMIT = 8_000_000  # bytes of a table of tensors
NAMES_LIMIT = 50_000  # tensors in a file
KEY_LIMIT = 500  # characters of a tensor's name
RANK_LIMIT = 32  # sizes of a tensor
SIZE_LIMIT = 2**48  # of one size, stride or offset
NAME_LIMIT = 200  # characters of a text in a header that stands for a name
KEPT_METADATA = ("image_encoder", "activation", "resolution")  # the texts in a header that recognition asks for
TOO_MANY = f"This file claims more tensors than any model has: it is damaged. {AGAIN}"

# safetensors' names of the types, torch's names, and bytes per number.
DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}


@dataclass(frozen=True)
class TensorEntry:
    """What a file's table says of a tensor: torch's name of its dtype, and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StoredTensor(TensorEntry):
    """A tensor in a file of torch's: ``nbytes`` from ``position``, in them ``shape`` by ``stride`` (in numbers)."""

    stride: tuple[int, ...]
    position: int
    nbytes: int


class Table(NamedTuple):
    """A file's tensors, and the texts in its header (none in files of torch's)."""

    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def is_sizes(sizes: object, *more: object) -> bool:
    """Whether ``sizes`` is a bounded list of whole numbers from zero up (JSON's true is none), and so are ``more``."""
    if not isinstance(sizes, (tuple, list)) or len(sizes) > RANK_LIMIT:
        return False
    return all(type(n) is int and 0 <= n < SIZE_LIMIT for n in (*sizes, *more))


def check_names(names: Iterable[str]) -> None:
    """Raises CheckpointError for more names, or longer ones, than those of any model's tensors."""
    for count, name in enumerate(names, 1):
        if count > NAMES_LIMIT or len(name) > KEY_LIMIT:
            raise CheckpointError(TOO_MANY)
