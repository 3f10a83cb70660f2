"""Tables {name: shape} of a file's tensors: reading them, laying them out, and naming what is in them.

Imports no torch: recognising a file needs none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .refusals import INSTEAD, RefusedAdapter

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


def linear(name: str, rows: int, columns: int) -> dict[str, Shape]:
    """The tensors of a linear layer with bias."""
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def layer_norm(name: str, width: int) -> dict[str, Shape]:
    """The tensors of a layer norm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def dims(shapes: Shapes, key: str, rank: int) -> Shape:
    """The shape of an adapter's tensor ``key``. RefusedAdapter unless it is there with ``rank`` sizes above zero."""
    if key not in shapes:
        raise RefusedAdapter(f"This IP-Adapter lacks {key}: the file is incomplete, so download it again.")
    if len(shapes[key]) != rank or 0 in shapes[key]:
        raise RefusedAdapter(
            f"This IP-Adapter's {key} has shape {shapes[key]}, where {rank} sizes above zero belong. "
            "The file is damaged or changed: download the original again."
        )
    return shapes[key]


def under(shapes: Shapes, prefix: str) -> dict[str, Shape]:
    """What begins with ``prefix``, by names without it."""
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def some(keys: Iterable[str]) -> str:
    """The first three names in order, and how many more there are, for a sentence."""
    keys = sorted(keys)
    return ", ".join(key[:80] for key in keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def check_same(found: Shapes, wanted: Shapes) -> None:
    """RefusedAdapter unless the tensors found are exactly those wanted."""
    damaged = "The file is damaged or changed: download the original again."
    if missing := [key for key in wanted if key not in found]:
        raise RefusedAdapter(f"This IP-Adapter lacks {some(missing)}. {damaged}")
    if surplus := [key for key in found if key not in wanted]:
        raise RefusedAdapter(
            f"This IP-Adapter holds {some(surplus)}, which no architecture known to this version has: {INSTEAD}"
        )
    for key, shape in wanted.items():
        if found[key] != shape:
            raise RefusedAdapter(f"This IP-Adapter's {key} has shape {found[key]}, where {shape} fits. {damaged}")
