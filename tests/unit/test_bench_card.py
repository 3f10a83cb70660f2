"""The run for cards: what it keeps where its time ends, a device fails or there is too little room."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from benchmarks.gpu import steps, unets
from benchmarks.gpu.__main__ import BUDGET
from benchmarks.gpu.bench import Bench, Scene
from benchmarks.gpu.measure import Row
from benchmarks.gpu.run import Part, Section, run
from benchmarks.gpu.sections import SECTIONS

CPU = torch.device("cpu")


class SlowScene:
    """Steps that take a while."""

    def __init__(self, seconds: float) -> None:
        self.plain: Callable[[], None] = lambda: time.sleep(seconds)

    @contextmanager
    def injected(self, _prompts: object) -> Iterator[Callable[[], None]]:
        yield self.plain


@pytest.fixture
def bench() -> Bench:
    return Bench(CPU, small=True)


@pytest.fixture
def scene(bench: Bench) -> Scene:
    return bench.scene(unets.SD15)


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


def test_a_sections_seconds_are_those_of_the_default_budget() -> None:
    assert sum(section.seconds for section in SECTIONS) == BUDGET


@pytest.mark.parametrize(("base", "sizes", "cases", "targets"), [
    ("SD1.5", unets.SD15, tuple(steps.CASES), steps.TARGETS),
    ("SDXL", unets.SDXL, steps.SDXL_CASES, steps.SDXL_TARGETS),
])  # fmt: skip
def test_what_has_a_target_comes_first_and_has_time_for_its_pairs(
    base: str, sizes: unets.Sizes, cases: tuple[str, ...], targets: dict, bench: Bench, monkeypatch
) -> None:
    given: list[float] = []
    pairs = bench.pairs
    monkeypatch.setattr(bench, "pairs", lambda *some, seconds: given.append(seconds) or pairs(*some, seconds=seconds))
    some = [part for part in steps._of(bench, base, sizes, cases) if part.figure.partition("², ")[2] in cases]
    judged = [[row for row in part.run() if row.target] for part in some]
    assert [bool(rows) for rows in judged] == [i < len(targets) for i in range(len(cases))]
