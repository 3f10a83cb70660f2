"""A process's memory after many generations in the miniature WebUI, each with other references and units."""

from __future__ import annotations

import base64
import io
import multiprocessing
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..gpu.measure import AtMost, Row, nbytes, share
from .own_memory import keep_no_spare, own_memory

LIMIT = AtMost(1.01, share)
Units = list[dict[str, Any]]


@dataclass(frozen=True)
class Length:
    """After how many generations memory is read, and how many MB the extension may remember: so few that they are full
    before the first reading. What grows from then on has no bound."""

    early: int
    late: int
    bound: int


WHOLE, SMALL = Length(20, 200, 8), Length(2, 4, 1)


@dataclass(frozen=True)
class Memory:
    """Bytes of a process, and of what the extension remembers in it, after the early and after the late generation."""

    own: tuple[int, int]
    remembered: tuple[int, int]

    @property
    def grown(self) -> float:
        first, last = self.own
        return last / first


def picture(rng: random.Random) -> str:
    pixels = np.random.default_rng(rng.randrange(2**31)).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def units(rng: random.Random) -> Units:
    """One to three units of new pictures."""
    return [
        {
            "model": rng.choice(("base", "plus", "full-face")), "weight": rng.uniform(0.2, 1.2),
            "images": [picture(rng) for _ in range(rng.randint(1, 4))], "combine": rng.choice(("concat", "average")),
        }
        for _ in range(rng.randint(1, 3))
    ]  # fmt: skip


def no_units(_rng: random.Random) -> Units:
    return []


def series(folder: Path, length: Length, drawn: Callable[[random.Random], Units]) -> Memory:
    """This process's memory over so many generations of a host of its own, each with units as they are ``drawn``."""
    keep_no_spare()
    os.environ["DEMO_HOST_DATA"] = str(folder / "data")
    from tests.helpers.host import Hosts, ask

    hosts, rng = Hosts(folder), random.Random(0)
    host = hosts.get("plain")
    from lib_ipadapter.webui import process

    host.client.post("/sdapi/v1/options", json={"ip_adapter_cache_mb": length.bound}).raise_for_status()
    kept: dict[int, tuple[int, int]] = {}
    for number in range(1, length.late + 1):
        ask(host, *drawn(rng), steps=2)
        if number in (length.early, length.late):
            kept[number] = own_memory(), process.resources().cache.nbytes
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            raise SystemExit("nobody waits for these figures any more")
    hosts.close()
    (first, first_remembered), (last, last_remembered) = kept[length.early], kept[length.late]
    return Memory((first, last), (first_remembered, last_remembered))


def _send(series_of: tuple[Path, Length, Callable[[random.Random], Units]], to: Connection) -> None:
    to.send(series(*series_of))


@contextmanager
def beside(*series_of: Any) -> Iterator[Callable[[], Memory]]:
    """What waits for the ``series`` that goes on meanwhile in a process of its own."""
    spawning = multiprocessing.get_context("spawn")
    receiving, sending = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_send, args=(series_of, sending), daemon=True)
    process.start()
    sending.close()  # the other process has it: where that ends early, nothing more can come

    def found() -> Memory:
        try:
            memory: Memory = receiving.recv()
        except EOFError:
            process.join()
            raise RuntimeError(f"the process without units ended with {process.exitcode}") from None
        return memory

    try:
        yield found
    finally:
        process.kill()
        process.join()


def measure(small: bool) -> Iterator[Row]:
    length = SMALL if small else WHOLE
    with tempfile.TemporaryDirectory() as name:
        (plain_folder := Path(name) / "plain").mkdir()
        (folder := Path(name) / "units").mkdir()
        with beside(plain_folder, length, no_units) as found:
            ours, plain = series(folder, length, units), found()
    yield Row(
        f"main memory after {length.late} generations / after {length.early}, new references and units each time",
        f"{ours.grown:.4f}", told(ours, plain, length), 1, LIMIT.of_number(ours.grown),
    )  # fmt: skip


def told(ours: Memory, plain: Memory, length: Length) -> str:
    own, remembered, without = (" and ".join(map(nbytes, one)) for one in (ours.own, ours.remembered, plain.own))
    return (
        f"{own}, of which what is remembered of references, at most {length.bound} MiB by its setting, {remembered}; "
        f"the same requests without units: {plain.grown:.4f}, {without}"
    )
