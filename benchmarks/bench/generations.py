"""A process's memory after many generations in the miniature WebUI, each with other references and units."""

from __future__ import annotations

import base64
import io
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..gpu.measure import AtMost, Row, nbytes, share
from .own_memory import own_memory

LIMIT = AtMost(1.01, share)
EARLY, LATE = 20, 200


def picture(rng: random.Random) -> str:
    pixels = np.random.default_rng(rng.randrange(2**31)).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def units(rng: random.Random) -> list[dict[str, Any]]:
    """One to three units of new pictures."""
    return [
        {
            "model": rng.choice(("base", "plus", "full-face")), "weight": rng.uniform(0.2, 1.2),
            "images": [picture(rng) for _ in range(rng.randint(1, 4))], "combine": rng.choice(("concat", "average")),
        }
        for _ in range(rng.randint(1, 3))
    ]  # fmt: skip


def measure(small: bool) -> Iterator[Row]:
    early, late = (2, 4) if small else (EARLY, LATE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("DEMO_HOST_DATA", str(Path(folder) / "data"))
        from tests.helpers.host import Hosts, ask

        hosts, rng = Hosts(Path(folder)), random.Random(0)
        host = hosts.get("plain")
        from lib_ipadapter.webui import process

        kept: dict[int, tuple[int, int]] = {}
        for number in range(1, late + 1):
            ask(host, *units(rng), steps=2)
            if number in (early, late):
                kept[number] = own_memory(), process.resources().cache.nbytes
        hosts.close()
    (first, first_cache), (last, last_cache) = kept[early], kept[late]
    grown = (last - last_cache) / (first - first_cache)
    beside = (
        f"{nbytes(first)} and {nbytes(last)}, of which remembered embeddings, which have a bound, "
        f"{nbytes(first_cache)} and {nbytes(last_cache)}"
    )
    yield Row(
        f"main memory after {late} generations / after {early}, new references and units each time",
        f"{grown:.4f}", beside, 1, LIMIT.of_number(grown),
    )  # fmt: skip
