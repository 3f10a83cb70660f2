"""Injected faults, kills, hostile files and requests, with their counts; all against the miniature WebUI or the store
of presets in this process and its children."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from ..gpu import scarcity
from ..gpu.bench import Bench
from ..gpu.measure import Row, nbytes
from ..gpu.run import Section, run

COUNTS = {"requests": 1500, "files": 300, "archives": 100}
FEW = {"requests": 10, "files": 10, "archives": 4}
KILLS, WRITERS = 100, 4


def measure(small: bool) -> Iterator[Row]:
    yield from _full_device()
    yield from _presets(2 if small else KILLS)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("DEMO_HOST_DATA", str(Path(folder) / "data"))
        from .. import reliability

        for name, count, tally, grown in reliability.tried(Path(folder), FEW if small else COUNTS, seed=0):
            pictures, refused = tally.answers[200], sum(n for status, n in tally.answers.items() if status >= 400)
            wrong = f"; first: {tally.wrong[0][:120]}" if tally.wrong else ""
            yield Row(
                f"{count:,} hostile {name}: wrong", f"{len(tally.wrong)}{wrong}",
                f"{pictures:,} answers of 200, {refused:,} refusals; own memory {nbytes(grown)} more", count,
                _none(len(tally.wrong) + (grown > reliability.MEMORY)),
            )  # fmt: skip


def _none(wrong: int) -> str:
    return f"none: {'missed' if wrong else 'met'}"


def _full_device() -> Iterator[Row]:
    """Where the library needs memory of the device, the exception of one that has none."""
    torch.set_num_threads(1)
    found: list[Row] = []
    bench = Bench(torch.device("cpu"), small=True, budget=300)
    with bench, contextlib.redirect_stderr(io.StringIO()):
        run(
            bench,
            [Section("scarcity", "Out of memory", 1, scarcity.parts)],
            300,
            lambda _section, row: found.append(row),
        )
    failed = [row for row in found if not row.measured]
    yield from failed
    hooks = [row for row in found if "hooks left" in row.figure]
    after = [row for row in found if row.figure.endswith("the next job's step")]
    bad = [row for row in hooks if (row.value, row.spread) != ("0", "a plain step is bit-identical")]
    bad += [row for row in after if row.value != "bit-identical"]
    places = ", ".join(row.figure.removeprefix("no memory at ").split(":")[0] for row in hooks)
    yield Row(
        "no memory on the device, injected: hooks left, or another picture afterwards", str(len(bad)), places,
        len(hooks), _none(len(bad) + len(failed)),
    )  # fmt: skip


def _presets(kills: int) -> Iterator[Row]:
    from .. import presets

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        bad = presets.write_at_once(Path(folder), WRITERS)
        yield Row(
            f"{WRITERS} processes changing presets at once: lost or wrong", str(bad), "", WRITERS * 60, _none(bad)
        )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        lost = presets.kill_rounds(Path(folder), kills, seed=0)
    yield Row("a process that changes presets killed (SIGKILL): lost or half", str(lost), "", kills, _none(lost))
