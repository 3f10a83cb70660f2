"""The WebUIs of a run before anything is sent to them: who is up, and questions to all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .crew import Down, Event, Gone, Landed, Outcome, Up, Work
from .problems import BatchError
from .say import plain


class Asked(Protocol):
    """A crew whose WebUIs can be asked."""

    def names(self) -> Sequence[str]: ...

    def send(self, endpoint: str, work: Work) -> None: ...

    def wait(self) -> Sequence[Event]: ...

    def ask(self, name: str, route: str) -> Any:
        """A route's JSON. Raises RowError where the WebUI refuses, NoAnswer where there is none."""


class Everybody:
    """``up``: those that are ready. ``tell``: who hears of those that are given up."""

    def __init__(self, crew: Asked, tell: Callable[[str], None]) -> None:
        self._crew, self._tell = crew, tell
        self.up: list[str] = []

    def first(self) -> list[str]:
        """Waits for the first WebUI, and names all that are ready then. Raises BatchError when there is none."""
        while not self.up:
            self._wait()
        return list(self.up)

    def others(self) -> list[str]:
        """Waits for one more WebUI; none where all are ready, or given up."""
        before = set(self.up)
        while set(self._crew.names()) - before:
            self._wait()
            if found := [name for name in self.up if name not in before]:
                return found
        return []

    def ask(self, name: str, route: str) -> Any:
        return self._crew.ask(name, route)

    def made(self, work: Work) -> Outcome:
        """One piece of work, by whoever can do it."""
        outcome = Outcome("", "no WebUI is there any more: begin again.")
        for name in self.up:
            self._crew.send(name, work)
            outcome = self._landed(work)
            if outcome.kind in ("done", "refused"):
                break
        return outcome

    def _landed(self, work: Work) -> Outcome:
        while True:
            for event in self._wait():
                if isinstance(event, Landed) and event.work is work:
                    return event.outcome

    def _wait(self) -> Sequence[Event]:
        """What has happened, with ``up`` as it is by that. All events count that come together."""
        events = self._crew.wait()
        for event in events:
            if isinstance(event, Up) and event.endpoint not in self.up:
                self.up.append(event.endpoint)
            elif isinstance(event, (Down, Gone)) and event.endpoint in self.up:
                self.up = [name for name in self.up if name != event.endpoint]
        gone = [event for event in events if isinstance(event, Gone)]
        told = [f"{event.endpoint}: {plain(event.sentence)}" for event in gone if event.sentence]
        if gone and not self._crew.names():
            raise BatchError(f"no WebUI is there ({'; '.join(told)})")
        for sentence in told:
            self._tell(sentence)
        return events
