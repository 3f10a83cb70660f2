"""What happens where the device's memory runs out, at each place at which the library needs some.

On a card the memory is really taken: the process is held to what it has, and the holes in that are filled. On the CPU
the same exception is raised there instead, so that everything but the exhaustion itself is run.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import unets
from .bench import Bench
from .job import Jobs, jobs
from .measure import Deviation, Row, is_out_of_memory, nbytes, reason
from .run import Part


class Scarcity:
    """The device's memory, taken and given back."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.ballast: list[Tensor] = []
        self.taken = False

    def take(self) -> None:
        """From now on nothing of more than 4 KiB can be allocated. On the CPU, raises at once."""
        self.taken = True
        if not self.bench.is_card:
            raise torch.cuda.OutOfMemoryError("stand-in for a card whose memory is full")
        device = self.bench.device
        self.bench.tidy()
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved(device) / total, device)
        for exponent in (26, 21, 20, 18, 16, 14, 12):
            while True:
                try:
                    self.ballast.append(torch.empty(2**exponent, dtype=torch.uint8, device=device))
                except torch.cuda.OutOfMemoryError:
                    break

    def give(self) -> None:
        self.ballast.clear()
        if self.bench.is_card:
            torch.cuda.set_per_process_memory_fraction(1.0, self.bench.device)
        self.bench.tidy()


@contextmanager
def before_first(owner: Any, name: str, act: Callable[[], None]) -> Iterator[None]:
    """``act`` just before ``owner.name`` is called for the first time in here."""
    original, waiting = vars(owner)[name], [act]
    function = original.__func__ if isinstance(original, classmethod) else original

    def wrapped(*args: Any, **options: Any) -> Any:
        while waiting:
            waiting.pop()()
        return function(*args, **options)

    setattr(owner, name, classmethod(wrapped) if isinstance(original, classmethod) else wrapped)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def before_middle_block(made: Jobs, act: Callable[[], None]) -> Iterator[None]:
    """``act`` in the middle of the UNet's call, when half of the layers have had their image attention."""
    handle = made.scene.unet.get_submodule("middle_block").register_forward_pre_hook(lambda *_: act())
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class Place:
    name: str
    at: Callable[[Jobs, Callable[[], None]], Any]


def places() -> list[Place]:
    """Where the library needs memory of the device, in the order of a job."""
    from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
    from lib_ipadapter.encode.clip_image import ImageEncoder
    from lib_ipadapter.jobs import prepare

    return [
        Place("the encoder's move", lambda made, act: before_first(ImageEncoder, "to", act)),
        Place("encoding", lambda made, act: before_first(ImageEncoder, "encode", act)),
        Place("projecting", lambda made, act: before_first(prepare, "build", act)),
        Place("keys and values", lambda made, act: before_first(KeysValues, "project", act)),
        Place("gathering", lambda made, act: before_first(ImagePrompt, "gather", act)),
        Place("sampling", before_middle_block),
    ]


def parts(bench: Bench) -> Generator[Part, None, None]:
    scene = bench.scene(unets.SD15, all_layers=True)
    with ExitStack() as stack:
        made = stack.enter_context(jobs(bench, scene))
        resources = made.resources()
        job = made.generation(resources)
        plain, wanted = scene.plain(), made.step(job)
        job.detach()
        del job, resources
        for place in places():
            yield Part(
                f"no memory at {place.name}",
                partial(_at, bench, made, place, plain, wanted),
                needs=8,
            )  # fmt: skip


def _same(value: Tensor, wanted: Tensor) -> str:
    return "bit-identical" if torch.equal(value, wanted) else f"off by {Deviation.of(value, wanted)}"


def _at(bench: Bench, made: Jobs, place: Place, plain: Tensor, wanted: Tensor) -> Iterator[Row]:
    figure, scene, resources, scarcity = f"no memory at {place.name}", made.scene, made.resources(), Scarcity(bench)
    log = logging.getLogger("ip-adapter")
    before, level = bench.allocated(), log.level
    log.setLevel(logging.ERROR)  # the warning that the encoder works on the CPU is expected here
    job = None
    try:
        with place.at(made, scarcity.take):
            job = made.generation(resources)
            outcome = f"no exception; its step is {_same(made.step(job), wanted)}"
    except Exception as error:
        kind = "the user's sentence" if hasattr(error, "status_code") else "no sentence for the user"
        outcome = f"{reason(error)[:90]} ({kind})" if not is_out_of_memory(error) else f"OutOfMemoryError ({kind})"
    finally:
        scarcity.give()
        log.setLevel(level)
    if not scarcity.taken:
        yield Row(figure, "failed: the job never came to that place")
        return
    gc.collect()
    kept_in_memory = 0 if bench.is_card else _main_memory(resources)
    held = bench.allocated() - before - kept_in_memory
    if job is not None:
        job.detach()
    left = bench.allocated() - before - kept_in_memory
    yield Row(f"{figure}: the caller gets", outcome)
    yield Row(f"{figure}: left on the device", nbytes(left), f"{nbytes(held)} until the job was detached")
    yield Row(f"{figure}: hooks left in the UNet", str(scene.hooks), f"a plain step is {_same(scene.plain(), plain)}")
    again = made.generation(resources)
    try:
        yield Row(f"{figure}: the next job's step", _same(made.step(again), wanted))
    finally:
        again.detach()


def _main_memory(resources: Any) -> int:
    """What the library keeps in main memory between jobs, which on the CPU is the device too."""
    encoder = 0 if resources._encoder is None else resources._encoder[-1].nbytes
    return resources.cache.nbytes + encoder + sum(weights.nbytes for weights in resources._adapters.values())
