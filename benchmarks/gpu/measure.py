"""Numbers and what is said of them: rows of the table, medians with their interval, deviations, bytes, times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure, its value, its spread or what it is compared with, of how many pairs, and what
    its target is and whether it is met."""

    figure: str
    value: str
    spread: str = ""
    count: int | None = None
    target: str = ""

    @property
    def measured(self) -> bool:
        """Whether it says something of the card, and not why there is nothing to say."""
        return not self.value.startswith(("failed: ", "left out: "))


@dataclass(frozen=True)
class Spread:
    """The median of some numbers between ``low`` and ``high``."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """With the 95 % interval of the median: the order statistics between which it lies with that probability,
        whatever the distribution (the sign test's interval). Below six numbers no such pair exists: then the extremes.
        """
        ordered, n = sorted(values), len(values)
        tails = [sum(math.comb(n, k) for k in range(cut + 1)) / 2**n for cut in range(n // 2)]
        cut = max((i for i, tail in enumerate(tails) if tail <= 0.025), default=0)
        return cls(statistics.median(ordered), ordered[cut], ordered[n - 1 - cut], n)

    def said(self, show: Callable[[float], str]) -> str:
        what = "95 %" if self.count >= 6 else "extremes"
        return f"{what}: {show(self.low)} to {show(self.high)}"


ENOUGH = 40  # pairs below which nothing is said of a target
MET, MISSED, NOT_SHOWN = "met", "missed", "not shown"


@dataclass(frozen=True)
class AtMost:
    """A target: a figure's largest value, said in words by ``show``."""

    limit: float
    show: Callable[[float], str]

    def of_spread(self, found: Spread, enough: int = ENOUGH) -> str:
        """Met where the whole 95 % interval of the median is within the limit, missed where all of it is beyond."""
        if found.count < enough:
            return self._said(f"{NOT_SHOWN} ({found.count} of {enough} pairs)")
        if found.high <= self.limit:
            return self._said(MET)
        return self._said(MISSED if found.low > self.limit else NOT_SHOWN)

    def of_number(self, found: float) -> str:
        """Of a count, which has no spread."""
        return self._said(MET if found <= self.limit else MISSED)

    def _said(self, verdict: str) -> str:
        return f"≤ {self.show(self.limit)}: {verdict}"


@dataclass(frozen=True)
class Deviation:
    """How far a tensor is from a reference: mean and largest difference, in shares of the reference's."""

    mean: float
    largest: float

    @classmethod
    def of(cls, value: Tensor, reference: Tensor) -> Deviation:
        value, reference = value.double(), reference.double()
        off, size = (value - reference).abs(), reference.abs()
        return cls(float(off.mean() / size.mean()), float(off.max() / size.max()))

    @property
    def finite(self) -> bool:
        return math.isfinite(self.mean) and math.isfinite(self.largest)

    def __str__(self) -> str:
        return f"{self.mean:.1e} (max {self.largest:.1e})" if self.finite else "NaN or infinity"


def effect(with_it: Tensor, without: Tensor) -> float:
    """How much the adapter changes the UNet's output: mean difference in shares of the plain output's mean size."""
    return Deviation.of(with_it, without).mean


LAUNCHING = 0.9  # share of the time above which it is that of giving the card its work


def launched(shares: Sequence[float]) -> str:
    """What is said behind times whose ``shares`` went by before the card had all of its work: they are Python's, and on
    a faster card they would be the same."""
    return "; bound by launching" if shares and statistics.median(shares) > LAUNCHING else ""


def effect_said(found: float, reference: float) -> str:
    """An effect beside what it is in fp32 without tricks; loud where it is missing."""
    if not found > 0.01 * reference:
        return f"NO EFFECT ({found:.2g}, in fp32 {reference:.2g})"
    return f"effect {found:.3f} (fp32 {reference:.3f})"


def share(value: float) -> str:
    """A limit of a ratio, without zeros that say nothing."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if abs(seconds) < 0.9995 else f"{seconds:.2f} s"


def ratio(value: float) -> str:
    return f"{value:.3f}"


def nbytes(count: float) -> str:
    if abs(count) < 1024:
        return f"{count:.0f} B"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"


def reason(error: BaseException) -> str:
    """An exception in one line: its type, and the first line of what it says."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = {"PIL": "pillow"}.get(error.name.split(".")[0], error.name.split(".")[0])
        first = f"{error.name} is not installed: python -m pip install {package}"
    return f"{type(error).__name__}: {first}"[:240]


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError)
