"""The run itself: sends what the schedule says, keeps what comes back, and ends when every row has ended."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from . import crew as told
from .crew import Crew, Landed, Work
from .keep import Keep, result_of
from .ledger import FAILED, REFUSED, Ledger, Made, Result
from .problems import BatchError, BrokenReference, PassingFault, RowError
from .say import plain
from .schedule import TRIES, Schedule

NOBODY_HAS = "no WebUI of the run has the checkpoint and the adapters that it needs: put them there."
REST = 10.0  # seconds before files that a disk does not give now are read again, at most
RESTING = 64  # rows with such files, while which nothing else is sent: it may be the whole disk
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
    """Brings all open positions of a table to their end. ``patience``: seconds for a disk that does not give files."""

    def __init__(
        self, ledger: Ledger, keep: Keep, crew: Crew, tasks: Tasks, watcher: Watcher, up: Sequence[str] = (),
        patience: float = 600.0,
    ) -> None:  # fmt: skip
        self._keep, self._crew, self._tasks, self._watcher = keep, crew, tasks, watcher
        table = tasks.table

        def open_rows(after: int, last: int, count: int) -> list[int]:
            return ledger.open(table, after, last, count)

        self.schedule = Schedule(ledger.sections(table), open_rows)
        self.up: set[str] = set()
        self._patience, self._rest = patience, min(REST, patience / TRIES)
        self._ungiven: dict[int, float] = {}  # since when files of a position are not given
        self._resting: deque[tuple[float, int]] = deque()  # until when
        self._given = 0.0  # when files were given last
        for name in crew.names():
            self.schedule.add(name)
        for name in up:
            self._is_up(name)

    def run(self) -> None:
        """Raises BatchError when there is no WebUI any more, or a disk gives no files or takes none."""
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
        while self._resting and self._resting[0][0] <= time.monotonic():
            self.schedule.wake(self._resting.popleft()[1])
        while len(self._resting) < RESTING:
            is_all_sent = True
            for endpoint, position in self.schedule.next():
                is_all_sent &= self._sent(endpoint, position)
            if is_all_sent or time.monotonic() >= end:
                return
            self._keep.flush()

    def _sent(self, endpoint: str, position: int) -> bool:
        """Whether a row could be sent; the others have ended by that, or rest."""
        try:
            work = self._tasks.work(position)
        except PassingFault as error:
            self._not_given(endpoint, position, error)
            return False
        except RowError as error:
            self.schedule.done(endpoint, position)
            state = error.state if isinstance(error, BrokenReference) else REFUSED
            self._record(Result(position, state, sentence=error.detail, finished=time.time()))
            return False
        self._ungiven.pop(position, None)
        if work.files:
            self._given = time.monotonic()
        self._crew.send(endpoint, work)
        return True

    def _not_given(self, endpoint: str, position: int, error: PassingFault) -> None:
        """Files of a row are tried again after a rest, for as long as a disk is waited for. Then the row has failed,
        where other files have been given meanwhile; where none have and many rows wait, the disk has, and they stay
        open. Until either is known, other rows are tried first, however few of them are sent in the time."""
        now = time.monotonic()
        if not self._ungiven:
            self._watcher.trouble(plain(error.detail))
        since = self._ungiven.setdefault(position, now)
        is_over, none_given, many = now - since >= self._patience, self._given < since, len(self._ungiven) >= RESTING
        if is_over and none_given and many:
            raise error
        if not is_over or (none_given and self.schedule.has_untried):
            self.schedule.rest(endpoint, position)
            self._resting.append((now + self._rest, position))
            return
        self.schedule.done(endpoint, position)
        self._record(Result(position, FAILED, sentence=error.detail, finished=time.time()))

    def _is_up(self, name: str) -> None:
        self.schedule.add(name)
        self.schedule.up(name)
        self.up.add(name)

    def _take(self, event: told.Event) -> None:
        if isinstance(event, Landed):
            self._landed(event)
        elif isinstance(event, told.Up):
            self._is_up(event.endpoint)
        else:
            self.up.discard(event.endpoint)
            sentence = plain(event.sentence)
            if sentence:
                self._watcher.trouble(f"{event.endpoint}: {sentence}")
            is_known = event.endpoint in self.schedule.endpoints  # one that joined later is, once it has been up
            if isinstance(event, told.Down):
                if is_known:
                    self.schedule.down(event.endpoint)
                return
            if is_known:
                self.schedule.remove(event.endpoint)
            if not self._crew.names() and (sentence or not self.schedule.endpoints):
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
        self._ungiven.pop(result.position, None)
        self._keep.record(result, self._tasks.table)
        self._watcher.ended(self._tasks.table, result, self._tasks.number(result.position))
