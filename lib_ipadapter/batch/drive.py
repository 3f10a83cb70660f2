"""The run itself: sends what the schedule says, keeps what comes back, and ends when every row has ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from . import crew as told
from .crew import Crew, Landed, Work
from .keep import Keep, result_of
from .ledger import FAILED, REFUSED, Ledger, Made, Result
from .problems import BatchError, BrokenReference, PassingFault, RowError
from .say import plain
from .schedule import Schedule

NOBODY_HAS = "no WebUI of the run has the checkpoint and the adapters that it needs: put them there."
ONLY_REFUSED = 1.0  # seconds in which rows that cannot be sent are gone through before anything else is looked at


class Watcher(Protocol):
    """Who is told how it goes."""

    def ended(self, table: str, result: Result, number: int) -> None:
        """A position has ended."""

    def trouble(self, sentence: str) -> None:
        """Something that a person might like to know."""


class Tasks(Protocol):
    """What is sent for a position."""

    table: str

    def work(self, position: int) -> Work:
        """Raises RowError for one that cannot be done."""

    def keep(self, work: Work, outcome: told.Outcome) -> list[Made]:
        """Give what came its final place. Raises DiskError."""

    def number(self, position: int) -> int:
        """What people call it."""


class Drive:
    """Brings all open positions of a table to their end."""

    def __init__(
        self, ledger: Ledger, keep: Keep, crew: Crew, tasks: Tasks, watcher: Watcher, up: Sequence[str] = ()
    ) -> None:
        self._keep, self._crew, self._tasks, self._watcher = keep, crew, tasks, watcher
        table = tasks.table

        def open_rows(after: int, last: int, count: int) -> list[int]:
            return ledger.open(table, after, last, count)

        self.schedule = Schedule(ledger.sections(table), open_rows)
        self.up: set[str] = set()
        for name in crew.names():
            self.schedule.add(name)
        for name in up:
            self._is_up(name)

    def run(self) -> None:
        """Raises BatchError when there is no WebUI any more, or a disk does not take what is given to it."""
        try:
            while not self.schedule.is_finished:
                self._send()
                for event in self._crew.wait():
                    self._take(event)
                self._keep.flush()
                self._give_up_hopeless()
        finally:
            self._keep.flush(now=True)

    def _send(self) -> None:
        """Give out work until everybody has enough of it. Rows that cannot be sent make room for others at once; after
        a while of nothing but those it is looked what has come meanwhile."""
        end = time.monotonic() + ONLY_REFUSED
        while True:
            is_all_sent = True
            for endpoint, position in self.schedule.next():
                is_all_sent &= self._sent(endpoint, position)
            if is_all_sent or time.monotonic() >= end:
                return
            self._keep.flush()

    def _sent(self, endpoint: str, position: int) -> bool:
        """Whether a row could be sent; the others have ended by that."""
        try:
            work = self._tasks.work(position)
        except (RowError, PassingFault) as error:
            self.schedule.done(endpoint, position)
            state = error.state if isinstance(error, BrokenReference) else REFUSED
            state = FAILED if isinstance(error, PassingFault) else state
            self._record(Result(position, state, sentence=error.detail, finished=time.time()))
            return False
        self._crew.send(endpoint, work)
        return True

    def _is_up(self, name: str) -> None:
        self.schedule.add(name)
        self.schedule.up(name)
        self.up.add(name)

    def _take(self, event: told.Event) -> None:
        if isinstance(event, Landed):
            self._landed(event)
        elif isinstance(event, told.Up):
            self._is_up(event.endpoint)
        elif event.endpoint in self.schedule.endpoints:
            self.up.discard(event.endpoint)
            sentence = plain(event.sentence)
            if sentence:
                self._watcher.trouble(f"{event.endpoint}: {sentence}")
            if isinstance(event, told.Down):
                self.schedule.down(event.endpoint)
                return
            self.schedule.remove(event.endpoint)
            if not self.schedule.endpoints:
                raise BatchError(f"no WebUI is left ({event.endpoint}: {sentence}) Then begin the run again.")

    def _landed(self, event: Landed) -> None:
        name, position, outcome = event.endpoint, event.work.position, event.outcome
        if name not in self.schedule.endpoints or position not in self.schedule.endpoints[name].flying:
            return  # of one that has gone: the row is somebody else's by now
        tries, is_over = self.schedule.tries(position), False
        if outcome.kind == told.DONE:
            made = self._tasks.keep(event.work, outcome)
            self.schedule.done(name, position)
            self._record(result_of(position, name, outcome, tries, made))
        elif outcome.kind == told.REFUSED:
            self.schedule.done(name, position)
            self._end(REFUSED, name, position, tries, outcome)
        elif outcome.kind == told.LACKING:
            self.schedule.lacking(name, position)
        elif outcome.kind == told.FAILED:
            is_over = self.schedule.failed(name, position)
        elif outcome.kind == told.LATE:
            is_over = self.schedule.late(name, position)
        else:
            is_over = self.schedule.lost(name, position)
        if is_over:
            self._end(FAILED, name, position, tries, outcome)

    def _end(self, state: str, name: str, position: int, tries: int, outcome: told.Outcome) -> None:
        self._record(Result(position, state, name, tries, plain(outcome.sentence), outcome.seconds, time.time()))

    def _give_up_hopeless(self) -> None:
        for position in self.schedule.hopeless():
            self._record(Result(position, FAILED, sentence=NOBODY_HAS, finished=time.time()))

    def _record(self, result: Result) -> None:
        self._keep.record(result, self._tasks.table)
        self._watcher.ended(self._tasks.table, result, self._tasks.number(result.position))
