"""What is told while a run goes on: one line that is written over on a terminal, else a line a row."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TextIO

from .ledger import DONE, REFERENCES, ROWS, Result
from .say import plain, say

SPAN = 300.0  # seconds over which the rate is taken
SAMPLES = 1000
EVERY = 0.2  # seconds between lines on a terminal
OVER = "\r\x1b[K"  # what follows takes the place of the terminal's last line
WORDS = {ROWS: "rows", REFERENCES: "references"}


class Progress:
    """``total`` and ``ended``: rows of the whole run, and of those how many had ended when it began."""

    def __init__(self, table: str, total: int, ended: int, out: TextIO = sys.stderr) -> None:
        self._table, self._total, self._ended, self._out = table, total, ended, out
        self._troubled = 0
        self._is_terminal = out.isatty()
        self._samples: deque[tuple[float, int]] = deque([(time.monotonic(), ended)], SAMPLES)
        self._shown = 0.0

    def ended(self, table: str, result: Result, number: int) -> None:
        self._ended += 1
        self._troubled += result.state != DONE
        now = time.monotonic()
        self._samples.append((now, self._ended))
        while len(self._samples) > 2 and self._samples[0][0] < now - SPAN:
            self._samples.popleft()
        if not self._is_terminal:
            say(f"{WORDS[table][:-1]} {number}: {told(result)} ({self.line()})", self._out)
        elif now - self._shown > EVERY or self._ended == self._total:
            self._shown = now
            say(f"{OVER}{self.line()}", self._out, end="")

    def trouble(self, sentence: str) -> None:
        say(f"{OVER if self._is_terminal else ''}{plain(sentence)}", self._out)

    def line(self) -> str:
        """How far it is, how fast, and how long it will take."""
        (then, before), (now, after) = self._samples[0], self._samples[-1]
        rate = (after - before) / (now - then) if now > then else 0.0
        left = f", {duration((self._total - self._ended) / rate)} left" if rate else ""
        troubled = f", {self._troubled:,} not done" if self._troubled else ""
        return f"{self._ended:,} of {self._total:,} {WORDS[self._table]}{troubled}, {per_time(rate)}{left}"

    def close(self) -> None:
        if self._is_terminal:
            say("", self._out)


def told(result: Result) -> str:
    """What has become of a row, in words."""
    if result.state == DONE:
        again = f", at try {result.tries}" if result.tries > 1 else ""
        return f"done in {result.seconds:.1f} s at {plain(result.endpoint)}{again}"
    return f"{result.state}: {plain(result.sentence)}"


def per_time(rate: float) -> str:
    """``rate`` in rows a second."""
    return f"{rate:.1f} a second" if rate >= 1 else f"{rate * 60:.1f} a minute" if rate else "none yet"


def duration(seconds: float) -> str:
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
