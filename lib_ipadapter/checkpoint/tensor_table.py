"""What every container's reader puts out: where in a file a tensor lies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

AGAIN = "Download it again."
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
    """Where a tensor lies in its file: ``nbytes`` from ``position``, in them ``shape`` by ``stride`` (in numbers)."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    position: int
    nbytes: int


def is_sizes(shape: Iterable[object], *more: object) -> bool:
    """Whether all of these are whole numbers from zero up (JSON's true is none)."""
    return all(type(n) is int and n >= 0 for n in (*shape, *more))


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
