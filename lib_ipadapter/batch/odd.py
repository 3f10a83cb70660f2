"""What a row may hold that no request can: values that JSON does not have, or nobody can mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from ..errors import printable
from .problems import RowError

DEEPEST = 32  # lists and objects in one another
LARGEST = 2**64


def check_values(row: Mapping[str, Any]) -> None:
    """Raises RowError that names the field, for the first value that is none of JSON's, of a size that nobody can mean,
    or a text with half a character."""
    for name, value in row.items():
        for depth, one in _within(name, value):
            if why := _wrong(one, depth):
                raise RowError(f"{printable(str(name))[:100]} {why}")


def _within(name: Any, value: Any) -> Iterator[tuple[int, Any]]:
    """A field's name and all values in it, with their depth, without recursion."""
    yield 0, name
    left = [(0, value)]
    while left:
        depth, one = left.pop()
        yield depth, one
        if isinstance(one, Mapping):
            left += [(depth + 1, part) for pair in one.items() for part in pair]
        elif isinstance(one, list):
            left += [(depth + 1, part) for part in one]


def _wrong(value: Any, depth: int) -> str:
    if depth > DEEPEST:
        return f"is more than {DEEPEST} levels deep: make it flatter."
    if isinstance(value, str):
        return "holds half a character: write it anew, as UTF-8." if _is_half(value) else ""
    if isinstance(value, (int, float)):
        is_sane = abs(value) <= LARGEST if isinstance(value, int) else isfinite(value)
        return "" if is_sane else "holds a number beyond all bounds: correct it."
    if value is None or isinstance(value, (Mapping, list)):
        return ""
    return f"holds a value of the kind {type(value).__name__}: write it as text or as a number."


def _is_half(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
