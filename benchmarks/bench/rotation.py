"""Several things timed in turns, so that each can be compared with each within a round, whatever else the machine does
meanwhile."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..gpu.bench import Bench
from ..gpu.measure import ENOUGH, AtMost, Row, Spread, launched, ratio

SAID_EVERY = 60.0  # seconds between words on how far it is


@dataclass
class Rounds:
    """Seconds by name, one for each round."""

    taken: dict[str, list[float]] = field(default_factory=dict)
    launching: list[float] = field(default_factory=list)  # of each round's last call, which is another one in turns

    def seconds(self, name: str) -> Spread:
        return Spread.of(self.taken[name])

    def ratios(self, name: str, other: str) -> list[float]:
        return [one / base for one, base in zip(self.taken[name], self.taken[other], strict=True)]

    def longer(self, name: str, other: str) -> list[float]:
        return [one - base for one, base in zip(self.taken[name], self.taken[other], strict=True)]

    def compared(self, figure: str, name: str, other: str, target: AtMost | None = None) -> Row:
        """What ``name`` takes in shares of ``other``, with the interval of the rounds' median."""
        found = Spread.of(self.ratios(name, other))
        told = "" if target is None else target.of_spread(found)
        return Row(figure, ratio(found.median), found.said(ratio) + launched(self.launching), found.count, told)


def in_turns(
    bench: Bench, calls: Mapping[str, Callable[[], float]], seconds: float, most: int = ENOUGH, what: str = ""
) -> Rounds:
    """``calls``, each of which gives the seconds that count, for ``most`` rounds or as many as ``seconds`` hold, but
    for at least one. Each round begins with another one, and every other round goes the other way."""
    names, found = list(calls), Rounds({name: [] for name in calls})
    said = time.monotonic()
    most, least = (2, 2) if bench.small else (most, 1)
    for number in bench.turns(most, seconds, least):
        for name, taken in _round(calls, ordered(names, number)).items():
            found.taken[name].append(taken)
        found.launching.append(bench.launching)
        if time.monotonic() - said > SAID_EVERY:
            said = time.monotonic()
            print(f"  {what}: {number + 1} of {most} rounds, {bench.left:.0f} s left", file=sys.stderr, flush=True)
    return found


def _round(calls: Mapping[str, Callable[[], float]], names: Sequence[str]) -> dict[str, float]:
    """One of each; a round that is cut short counts for none."""
    return {name: calls[name]() for name in names}


def ordered(names: Sequence[str], number: int) -> list[str]:
    """The order of round ``number``: in pairs of rounds there and back, each pair from another one on."""
    first = (number // 2) % len(names)
    turned = [*names[first:], *names[:first]]
    return turned[::-1] if number % 2 else turned
