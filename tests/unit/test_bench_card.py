"""The run for cards: what it keeps where its time ends, a device fails or there is too little room."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.measure import Row
from benchmarks.gpu.run import Part, Section, run

CPU = torch.device("cpu")


class SlowScene:
    """Steps that take a while."""

    def __init__(self, seconds: float) -> None:
        self.plain: Callable[[], None] = lambda: time.sleep(seconds)

    @contextmanager
    def injected(self, _prompts: object) -> Iterator[Callable[[], None]]:
        yield self.plain


def rows_of(bench: Bench, *parts: Part) -> list[Row]:
    """What a run of these parts tells."""
    found: list[Row] = []
    section = Section("name", "About", 1, lambda _bench: (part for part in parts))
    run(bench, [section], 60, lambda _section, row: found.append(row))
    return found


# --- time


def test_what_is_measured_in_turns_ends_before_the_section_and_counts() -> None:
    bench = Bench(CPU, budget=2.6)
    part = Part("steps", lambda: [bench.pairs(SlowScene(0.02), [], seconds=60).compared("steps")])
    (row,) = rows_of(bench, part)
    assert row.measured and 3 <= row.count < 40

    bench = Bench(CPU, budget=2.6)
    part = Part("calls", lambda: [bench.paired("calls", *[lambda: time.sleep(0.08)] * 2)])
    (row,) = rows_of(bench, part)
    assert row.measured and 1 <= row.count < 20
