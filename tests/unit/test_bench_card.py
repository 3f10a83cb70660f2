"""The run for cards: what it keeps where its time ends, a device fails or there is too little room."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest
import torch

from benchmarks.bench.rotation import in_turns
from benchmarks.gpu import bench as benching
from benchmarks.gpu import memory, report, steps
from benchmarks.gpu.__main__ import BUDGET
from benchmarks.gpu.bench import Bench, Scene
from benchmarks.gpu.compiled import TINY
from benchmarks.gpu.measure import Row, nbytes
from benchmarks.gpu.report import CARDS, Machine
from benchmarks.gpu.run import Part, Section, run
from benchmarks.gpu.sections import SECTIONS
from lib_ipadapter.attend import merged
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.lora import LAYERS, linear

CPU = torch.device("cpu")
FACE = "1 face unit with its LoRA"


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
    return bench.scene(TINY)


@pytest.fixture(autouse=True)
def room(monkeypatch) -> list[bool]:
    """Whether there is room for a LoRA in the weights, whatever this machine has, and other tests have compiled."""
    there = [True]
    monkeypatch.setattr(merged, "has_plenty", lambda _device, _nbytes: there[0])
    monkeypatch.setattr(merged, "has_compiled", lambda: False)
    return there


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


@pytest.mark.parametrize(("base", "cases", "targets"), [
    ("SD1.5", tuple(steps.CASES), steps.TARGETS), ("SDXL", steps.SDXL_CASES, steps.SDXL_TARGETS),
])  # fmt: skip
def test_what_has_a_target_comes_first_and_has_time_for_its_pairs(
    base: str, cases: tuple[str, ...], targets: dict, bench: Bench, monkeypatch
) -> None:
    given: list[float] = []
    pairs = bench.pairs
    monkeypatch.setattr(bench, "pairs", lambda *some, seconds: given.append(seconds) or pairs(*some, seconds=seconds))
    some = [part for part in steps._of(bench, base, TINY, cases) if part.figure.partition("², ")[2] in cases]
    judged = [[row for row in part.run() if row.target] for part in some]
    assert [bool(rows) for rows in judged] == [i < len(targets) for i in range(len(cases))]
    assert given == [steps.LONG] * len(targets) + [steps.SHORT] * (len(cases) - len(targets))


# --- faults


def test_a_device_that_fails_for_good_ends_the_run_with_what_there_is(bench: Bench, monkeypatch) -> None:
    """An error of CUDA that stays is met by whatever waits for the device, too."""
    broken: list[bool] = []

    def faulty() -> Iterator[Row]:
        yield Row("before", "1")
        broken.append(True)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def tidy() -> None:
        if broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(bench, "tidy", tidy)
    told: list[tuple[str, Row]] = []
    ended: list[str] = []
    sections = [
        Section("good", "Good", 1, lambda _: (part for part in [Part("fine", lambda: [Row("fine", "1")])])),
        Section("bad", "Bad", 1, lambda _: (part for part in [Part("faulty", faulty), Part("no", list)])),
        Section("never", "Never", 1, lambda _: (part for part in [Part("no", list)])),
    ]
    run(bench, sections, 60, lambda one, row: told.append((one.name, row)), lambda one: ended.append(one.name))
    assert ended == ["good", "bad"]
    assert [(name, row.figure, row.measured) for name, row in told] == [
        ("good", "fine", True), ("bad", "before", True), ("bad", "faulty", False), ("bad", "Bad, the rest", False),
    ]  # fmt: skip
    assert "illegal memory access" in told[-1][1].value and "the run ends" in told[-1][1].value


def test_what_was_measured_before_a_stop_is_written(bench: Bench, tmp_path, capsys) -> None:
    def stopped() -> Iterator[Row]:
        raise KeyboardInterrupt
        yield

    parts = [Part("fine", lambda: [Row("fine", "1 ms")]), Part("stopped", stopped)]
    section = Section("steps", "Steps", 1, lambda _: (part for part in parts))
    document, machine = tmp_path / "m.md", Machine("Card A", "2.11.0", "80 GiB")
    document.write_text("\n".join(CARDS.marks), "utf-8")
    printed = report.Printed()
    kept = report.Kept(document, machine, "measure --only", printed)
    with pytest.raises(KeyboardInterrupt):
        run(bench, [section], 60, printed.tell, kept)
    assert "| fine | 1 ms |" in document.read_text("utf-8") and kept.failures == []
    assert [path.name for path in tmp_path.iterdir()] == ["m.md"]

    kept = report.Kept(tmp_path / "none" / "m.md", machine, "measure --only", printed)
    kept(section)
    assert len(kept.failures) == 1 and kept.failures[0] in capsys.readouterr().err


def test_what_a_section_leaves_behind_is_cleared_up_or_told(bench: Bench) -> None:
    def parts(_bench: Bench) -> Iterator[Part]:
        try:
            yield Part("fine", lambda: [Row("fine", "1")])
            yield Part("endless", lambda: 1 / 0)
            bench.until = 0.0
            yield Part("late", list)
        finally:
            raise OSError("the folder is not empty")

    found: list[Row] = []
    run(bench, [Section("a", "A", 1, parts)], 60, lambda _section, row: found.append(row))
    assert [row.figure for row in found] == ["fine", "endless", "late", "A, the rest", "A, clearing up"]


# --- a LoRA in the weights


def test_a_loras_rows_tell_whether_it_was_merged(bench: Bench, scene: Scene, room: list[bool]) -> None:
    def told() -> dict[str, Row]:
        rows = steps._with(bench, scene, "case", steps.CASES[FACE], steps.SDXL_TARGETS[FACE])
        return {row.figure.removeprefix("case"): row for row in rows}

    whole = told()
    assert all(row.measured for row in whole.values()) and whole[": with / without"].target
    room[0] = False
    beside = told()
    assert beside.keys() == whole.keys() - {": the step in which the LoRA is merged, longer by"}
    assert beside[": with / without"].value.startswith("left out: too little memory")
    assert beside[", the LoRA beside the layers: with / without"].measured


def test_memory_is_that_of_merged_weights_and_says_so(bench: Bench, scene: Scene, room: list[bool]) -> None:
    """What is kept between steps are merged weights, where there is room, and the LoRA's own numbers where not."""
    face = steps.CASES[FACE](scene)
    lora = face[0].lora
    assert lora is not None
    fp32 = 2 * lora.nbytes  # of the fp16 in main memory
    weights = sum(
        linear(one, name).weight.nbytes
        for layer in cross_attention_layers(scene.unet)
        for one in (layer.module, layer.self_attention)
        for name in LAYERS
    )
    with bench:
        during, after = memory.measured_step(bench, scene, "case", face)
        assert during.spread == f"kept between steps {nbytes(face[0].kv.nbytes + weights)}, its LoRA in the weights"
        assert after.value == "0 B"
        room[0] = False
        during, after = memory.measured_step(bench, scene, "case", face)
        assert during.spread.startswith(f"kept between steps {nbytes(face[0].kv.nbytes + fp32)}, its LoRA beside")
        assert after.value == "0 B"
        during, _ = memory.measured_step(bench, scene, "case", steps.CASES["1 base unit"](scene))
        assert "LoRA" not in during.spread


# --- whose time it is


@pytest.mark.parametrize(("own", "bound"), [(0.004, True), (0.001, False)])
def test_times_of_giving_the_card_its_work_are_told_as_such(own: float, bound: bool, bench: Bench, monkeypatch) -> None:
    """``own``: what Python takes for a step, whose kernels end after 4.2 ms at the soonest."""
    now, done = [0.0], [0.0]

    def step() -> None:
        done[0] = max(now[0], done[0]) + 0.0042
        now[0] += own

    def wait(_device: torch.device) -> None:
        now[0] = max(now[0], done[0])

    monkeypatch.setattr(Bench, "is_card", True)
    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    monkeypatch.setattr(benching, "time", SimpleNamespace(perf_counter=lambda: now[0], monotonic=lambda: now[0]))
    scene = SlowScene(0.0)
    scene.plain = step
    rows = [
        bench.plain(scene, "plain"),
        bench.pairs(scene, [], seconds=5).compared("pairs"),
        bench.paired("paired", step, step),
        in_turns(bench, dict.fromkeys("ab", lambda: bench.seconds(step)), 5).compared("turns", "a", "b"),
    ]
    assert [row.spread.endswith("; bound by launching") for row in rows] == [bound] * len(rows)
    monkeypatch.setattr(Bench, "is_card", False)
    assert "launching" not in bench.plain(scene, "on the CPU, which computes as it is given").spread


# --- the document of a run that was cut short


STEPS = Section("steps", "Steps", 1, lambda _bench: (part for part in ()))
WHOLE = [
    Row("plain", "1 ms", "95 %: 1 ms to 1 ms", 20),
    Row("a unit: with / without", "1.010", "95 %: 1.0 to 1.1", 40, "≤ 1.06: met"),
    Row("a unit, its LoRA beside | it: with / without", "1.100"),
    Row("a unit in a region: with / without", "1.020"),
    Row("gone by now", "5 ms"),
    Row("theirs", "left out: diffusers is not installed"),
]


@pytest.fixture
def told(tmp_path, monkeypatch) -> Callable[..., list[Row]]:
    """The document's rows after a run, of these rows and with these details of the machine."""
    document = tmp_path / "m.md"
    document.write_text("\n".join(CARDS.marks), "utf-8")

    def after(rows: list[Row], version: str, details: str = "80 GiB") -> list[Row]:
        monkeypatch.setattr(report, "__version__", version)
        assert report.write(document, Machine("Card A", "2.11.0", details), {STEPS: rows}, "measure --only") is None
        text = document.read_text("utf-8")
        assert text.count("GiB") == text.count(details) == 1
        return report.rows_of(text)

    return after


def test_a_table_can_be_read_again(told) -> None:
    assert told(WHOLE, "1") == WHOLE


def test_a_run_that_was_cut_short_keeps_what_it_did_not_come_to(told) -> None:
    told(WHOLE, "1", "80 GiB, cuDNN 1")
    rest = Row("Steps, the rest", "left out: no time left")
    rows = told([Row("plain", "2 ms"), rest], "2", "80 GiB, cuDNN 2")
    assert [row.figure for row in rows[:2]] == ["plain", "Steps, the rest"] and rows[0].value == "2 ms"
    assert [(row.figure, row.value) for row in rows[2:]] == [(row.figure, row.value) for row in WHOLE[1:5]]
    assert all(", version 1" in row.spread for row in rows[2:])
    assert rows[2].target == "≤ 1.06: met" and rows[2].spread.startswith("95 %: 1.0 to 1.1; of ")
    assert told([Row("plain", "3 ms"), rest], "3")[2:] == rows[2:]  # the older date stays


def test_a_figure_that_was_not_measured_keeps_the_older_one(told) -> None:
    told(WHOLE, "1")
    rows = told([Row("plain", "2 ms"), Row("a unit", "left out: stopped after 8 s, its time was over"), WHOLE[3]], "2")
    assert [(row.figure, row.value) for row in rows] == [
        ("plain", "2 ms"), ("a unit: with / without", "1.010"),
        ("a unit, its LoRA beside | it: with / without", "1.100"), ("a unit in a region: with / without", "1.020"),
    ]  # fmt: skip
    assert [", version 1" in row.spread for row in rows] == [False, True, True, False]
    rows = told([Row("plain", "3 ms"), Row("a unit: with / without", "failed: NO EFFECT"), WHOLE[3]], "3")
    assert [row.value for row in rows] == ["3 ms", "failed: NO EFFECT", "1.010", "1.100", "1.020"]


def test_what_is_gone_goes_with_a_run_that_came_to_its_end(told) -> None:
    told(WHOLE, "1")
    assert told([Row("plain", "2 ms"), WHOLE[-1]], "2") == [Row("plain", "2 ms"), WHOLE[-1]]
    assert told([Row("failed: all", "left out: no time left")], "3") == [Row("plain", "2 ms"), WHOLE[-1]]


def test_a_part_whose_rows_nobody_knows_may_stand_for_any(told) -> None:
    told(WHOLE, "1")
    rows = told([Row("plain", "2 ms"), Row("units, all of them", "failed: no memory")], "2")
    assert [row.figure for row in rows[2:]] == [row.figure for row in WHOLE[1:5]]


# --- beside diffusers


def test_diffusers_own_and_ours_are_timed_in_the_same_rounds(bench: Bench) -> None:
    (part,) = [part for part in steps.parts(bench) if "diffusers" in part.figure and part.figure.startswith("SD1.5")]
    theirs, below = part.run()
    assert theirs.figure == f"{part.figure}: with / without" and float(theirs.value) > 0 and theirs.count == 2
    assert below.figure == f"{part.figure}: our ratio / theirs" and float(below.value) > 0
    assert below.target == "≤ 1: not shown (2 of 20 pairs)"


@pytest.mark.parametrize("error", [ImportError("cannot import name 'X'"), RuntimeError("Failed to import\nX")])
def test_a_diffusers_that_cannot_be_imported_is_left_out(error: Exception, bench: Bench, scene: Scene, monkeypatch):
    class Broken(ModuleType):
        __path__ = ()  # type: ignore[assignment]

        def __getattr__(self, name: str) -> object:
            raise error

    broken = Broken("diffusers")
    broken.__spec__ = importlib.util.spec_from_loader("diffusers", None)
    monkeypatch.setitem(sys.modules, "diffusers", broken)
    (row,) = steps._beside_theirs(bench, scene, "theirs")
    assert row.figure == "theirs" and row.value.startswith("left out: diffusers cannot be imported: ")
    assert not row.measured and str(error).splitlines()[0] in row.value
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    (row,) = steps._beside_theirs(bench, scene, "theirs")
    assert row.value == "left out: diffusers is not installed"
