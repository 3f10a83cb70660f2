"""Listing a large folder of adapters: the first time each header is read, the second time none."""

from __future__ import annotations

import json
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path

from lib_ipadapter.checkpoint.catalog import Catalog

from ..gpu.measure import AtMost, Row, Spread, ms

FIRST, AGAIN = AtMost(4.0, ms), AtMost(0.3, ms)


def hollow_adapter(path: Path, widths: list[int], context: int = 768, embedding: int = 1024) -> None:
    """A base adapter whose tensors are holes in the file, which take no place on the disk: its header is whole."""
    shapes: dict[str, tuple[int, ...]] = {
        f"ip_adapter.{2 * i + 1}.to_{name}_ip.weight": (width, context)
        for i, width in enumerate(widths) for name in "kv"
    }  # fmt: skip
    shapes |= {"image_proj.proj.weight": (4 * context, embedding), "image_proj.proj.bias": (4 * context,)}
    shapes |= {"image_proj.norm.weight": (context,), "image_proj.norm.bias": (context,)}
    header, offset = {}, 0
    for key, shape in shapes.items():
        end = offset + 2 * prod(shape)
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + offset)


def measure(small: bool) -> Iterator[Row]:
    count, rounds = (50, 2) if small else (5000, 7)
    widths = [320] * 6 + [640] * 6 + [1280] * 4
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(count):
            place = folder / "models" / f"folder {number % 50}"
            place.mkdir(parents=True, exist_ok=True)
            hollow_adapter(place / f"{number}.safetensors", widths)

        def listed() -> float:
            started = time.perf_counter()
            catalog = Catalog([folder / "models"], [], folder / "memory.json")
            catalog.refresh()
            taken = time.perf_counter() - started
            if len(catalog.adapters) != count:
                raise RuntimeError(f"{len(catalog.adapters)} of {count} adapters were listed")
            return taken

        first = listed()
        again = Spread.of([listed() for _ in range(rounds)])
    figure = f"listing {count:,} adapters"
    yield Row(f"{figure}, first time", ms(first), "every header read", 1, FIRST.of_number(first))
    yield Row(
        f"{figure}, once known, in a new process", ms(again.median), again.said(ms), again.count,
        AGAIN.of_number(again.median),
    )  # fmt: skip
