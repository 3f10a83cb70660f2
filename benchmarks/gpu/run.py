"""Sections one after the other within the time: what fails or finds no time becomes a row, and the run goes on."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType

from .bench import Bench, OutOfTime
from .measure import Row, reason

REST, MODELS = "the rest", "making its models"  # rows that stand for any others of a section


@dataclass(frozen=True)
class Part:
    """A few rows that are measured together. ``needs``: seconds below which it is not begun; ``most``: seconds after
    which it is stopped."""

    figure: str
    run: Callable[[], Iterable[Row]]
    needs: float = 1.0
    most: float = math.inf


@dataclass(frozen=True)
class Section:
    """``seconds``: what is set aside for it, of the default budget or as a share of another one; it may have more where
    those before it leave time."""

    name: str
    about: str
    seconds: float
    parts: Callable[[Bench], Generator[Part, None, None]]


def run(
    bench: Bench,
    sections: Sequence[Section],
    budget: float,
    tell: Callable[[Section, Row], None],
    finished: Callable[[Section], None] = lambda section: None,
) -> None:
    """Run ``sections`` in order. Every row goes to ``tell`` as soon as it is there, every section, when it is over, to
    ``finished``; so does one in which the run ends, because it is stopped or nothing more can be done on the device."""
    total = sum(section.seconds for section in sections)
    for i, section in enumerate(sections):
        reserved = budget * sum(later.seconds for later in sections[i + 1 :]) / total
        bench.until = bench.deadline - reserved
        try:
            for row in _section(bench, section):
                tell(section, row)
        except DeviceFailed as failure:
            tell(section, Row(f"{section.about}, {REST}", f"failed: {failure}; the run ends with it"))
            return
        finally:
            finished(section)


class DeviceFailed(Exception):
    """The device cannot even be waited for: an error of CUDA that stays, say, which whatever comes later meets too."""


def _section(bench: Bench, section: Section) -> Iterator[Row]:
    parts = section.parts(bench)
    yield from _rows(bench, section, parts)
    try:
        parts.close()  # a section that was cut short takes its files away
    except Exception as error:
        yield Row(f"{section.about}, clearing up", f"failed: {reason(error)}")
    _tidy(bench)


def _tidy(bench: Bench) -> None:
    try:
        bench.tidy()
    except Exception as error:
        raise DeviceFailed(reason(error)) from None


def _rows(bench: Bench, section: Section, parts: Generator[Part, None, None]) -> Iterator[Row]:
    while True:
        part = None  # its UNet is let go of before the next part's is made
        if bench.left < 1:
            yield Row(f"{section.about}, {REST}", "left out: no time left")
            return
        coming: list[Part] = []
        yield from _guarded(bench, f"{section.about}, {MODELS}", partial(_take, parts, coming))
        if not coming:
            return
        part = coming.pop()
        if bench.left < (0 if bench.small else part.needs):
            yield Row(part.figure, f"left out: no time left (it needs {part.needs:.0f} s)")
            continue
        yield from _guarded(bench, part.figure, part.run, part.most)


def _take(parts: Iterator[Part], into: list[Part]) -> Iterable[Row]:
    """Put the next part, if there is one, into a list. Making it may make a UNet, and so fail; it gives no rows."""
    into.extend(part for part in (next(parts, None),) if part is not None)
    return ()


def _guarded(bench: Bench, figure: str, measure: Callable[[], Iterable[Row]], most: float = math.inf) -> Iterator[Row]:
    """The rows that ``measure`` gives, with one more that says why it stopped where it stopped early."""
    rows, failure = _until_fault(bench, measure, most)
    yield from rows
    if failure is not None:
        yield Row(figure, failure)
        _tidy(bench)  # after the exception, which holds frames and so tensors, is gone


def _until_fault(bench: Bench, measure: Callable[[], Iterable[Row]], most: float) -> tuple[list[Row], str | None]:
    """The rows that ``measure`` gives, and why it stopped where it stopped early. No generator: it would be left while
    its time is running."""
    rows: list[Row] = []
    started = time.monotonic()
    try:
        with _stopped_after(min(bench.left, most)):
            for row in measure():
                rows.append(row)  # noqa: PERF402 - those before a fault count
    except OutOfTime:
        return rows, f"left out: stopped after {time.monotonic() - started:.0f} s, its time was over"
    except Exception as error:
        return rows, f"failed: {reason(error)}"
    return rows, None


@contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in here after ``seconds``, where the system can (not on Windows, only in the main thread)."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
