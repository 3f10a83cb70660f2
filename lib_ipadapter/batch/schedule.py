"""Which row goes where next. Knows no clock, no file and no Ray: it is told what happens, and says what to do.

Rows stand in a line, sorted by checkpoint, adapters and references, and a WebUI takes a stretch of it at a time: what
goes together stays together, fast WebUIs take more stretches, and stretches get shorter towards the end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

STRETCH = 64  # rows that a WebUI takes at most at a time
SLOTS = 2  # requests that a WebUI is sent at a time: it works on one, and the next is there when it is done
TRIES = 4  # the first, and three elsewhere
DEATHS = 3  # of WebUIs over one row, after which it waits until all others are done
LAST_DEATHS = 8  # and after which it is given up

AT_A_TIME = 500  # rows that are given up together

OpenRows = Callable[[int, int, int], list[int]]  # after, last, count -> positions


@dataclass
class Section:
    """The rows of one checkpoint and the same adapters: positions ``first`` to ``last``, of which ``left`` are in
    nobody's stretch. ``checkpoint``: its number, the same in all sections of one."""

    first: int
    last: int
    left: int
    checkpoint: int = 0
    taken_to: int = field(init=False)

    def __post_init__(self) -> None:
        self.taken_to = self.first - 1


@dataclass
class Endpoint:
    """A WebUI: its stretch of the line, and what it is working on, the oldest first."""

    name: str
    slots: int = SLOTS
    is_up: bool = False
    is_blamed: bool = False  # whether a row is suspected for its last end, or has kept it too long
    section: Section | None = None
    stretch: deque[int] = field(default_factory=deque)
    flying: list[int] = field(default_factory=list)
    lacks: set[int] = field(default_factory=set)  # first positions of sections that it cannot make

    @property
    def room(self) -> int:
        return self.slots - len(self.flying) if self.is_up else 0


@dataclass
class Troubles:
    """What a row has gone through."""

    failed: int = 0
    deaths: int = 0
    places: set[str] = field(default_factory=set)


class Schedule:
    """``sections``, in order: first and last position, number of open rows, and checkpoint of each; ``open_rows`` gives
    the next ones."""

    def __init__(self, sections: Sequence[tuple[int, ...]], open_rows: OpenRows) -> None:
        self._sections = [Section(*one) for one in sections]
        self._firsts = [one.first for one in self._sections]
        self._open_rows = open_rows
        self.endpoints: dict[str, Endpoint] = {}
        self._troubles: dict[int, Troubles] = {}
        self._returned: list[int] = []
        self._deferred: list[int] = []
        self._resting: set[int] = set()

    @property
    def is_finished(self) -> bool:
        busy = any(one.flying or one.stretch for one in self.endpoints.values())
        waiting = self._returned or self._deferred or self._resting
        return not (busy or waiting or any(one.left for one in self._sections))

    @property
    def has_untried(self) -> bool:
        """Whether there are rows that nobody has been given yet."""
        return any(one.stretch for one in self.endpoints.values()) or any(one.left for one in self._sections)

    def tries(self, position: int) -> int:
        """How often a row has been tried, this time included."""
        troubles = self._troubles.get(position)
        return 1 if troubles is None else 1 + troubles.failed + troubles.deaths

    # endpoints

    def add(self, name: str, slots: int = SLOTS) -> None:
        self.endpoints.setdefault(name, Endpoint(name, slots))

    def up(self, name: str) -> None:
        endpoint = self.endpoints[name]
        endpoint.is_up, endpoint.is_blamed = True, False
        endpoint.lacks.clear()  # it has been asked anew what it has

    def down(self, name: str) -> None:
        """It takes nothing for now. What it is working on is told one by one."""
        endpoint = self.endpoints[name]
        endpoint.is_up = False
        self._returned += endpoint.stretch
        endpoint.stretch.clear()

    def remove(self, name: str) -> None:
        self.down(name)
        self._returned += self.endpoints.pop(name).flying

    # what happens to rows

    def done(self, name: str, position: int) -> None:
        """It is made, or refused: it needs nobody any more."""
        self._landed(name, position)
        self._troubles.pop(position, None)

    def rest(self, name: str, position: int) -> None:
        """It cannot be sent now, and nobody gets it until it is woken."""
        self._landed(name, position)
        self._resting.add(position)

    def wake(self, position: int) -> None:
        self._resting.remove(position)
        self._returned.append(position)

    def failed(self, name: str, position: int) -> bool:
        """It failed for no reason of its own. Whether it is given up."""
        self._landed(name, position)
        troubles = self._troubles.setdefault(position, Troubles())
        troubles.failed += 1
        troubles.places.add(name)
        return self._again(position, troubles)

    def lost(self, name: str, position: int) -> bool:
        """Its WebUI went away. Whether the row is given up: it may have been the reason, if it was being worked on."""
        endpoint = self.endpoints[name]
        was_first = endpoint.flying[:1] == [position] and not endpoint.is_blamed
        self._landed(name, position)
        if not was_first:
            self._returned.append(position)
            return False
        endpoint.is_blamed = True
        troubles = self._troubles.setdefault(position, Troubles())
        troubles.deaths += 1
        return self._again(position, troubles)

    def late(self, name: str, position: int) -> bool:
        """It has taken too long. Whether it is given up: only the first in line has, others stood behind it."""
        endpoint = self.endpoints[name]
        was_first = endpoint.flying[:1] == [position] and not endpoint.is_blamed
        if was_first:
            endpoint.is_blamed = True
            return self.failed(name, position)
        self._landed(name, position)
        self._returned.append(position)
        return False

    def lacking(self, name: str, position: int) -> None:
        """It does not have what the row needs, so it gets no row of that checkpoint with those adapters."""
        self._landed(name, position)
        endpoint = self.endpoints[name]
        endpoint.lacks.add(self._section_of(position).first)
        self._returned += [position, *endpoint.stretch]
        endpoint.stretch.clear()
        endpoint.section = None

    def hopeless(self) -> list[int]:
        """Rows that no WebUI has the means for, some at a time: they are the schedule's no more."""
        found: list[int] = []
        lacked = [one.lacks for one in self.endpoints.values()]
        for first in sorted(set.intersection(*lacked)) if lacked else ():
            section = self._section_of(first)
            if section.left:
                found += self._opened(section, AT_A_TIME)
            for line in (self._returned, self._deferred):
                found += [one for one in line if section.first <= one <= section.last]
                line[:] = [one for one in line if not section.first <= one <= section.last]
        for position in found:
            self._troubles.pop(position, None)
        return found

    def _again(self, position: int, troubles: Troubles) -> bool:
        if troubles.failed >= TRIES or troubles.deaths >= LAST_DEATHS:
            del self._troubles[position]
            return True
        (self._deferred if troubles.deaths >= DEATHS else self._returned).append(position)
        return False

    def _landed(self, name: str, position: int) -> None:
        self.endpoints[name].flying.remove(position)

    # what goes where

    def next(self) -> list[tuple[str, int]]:
        """What to send now, to whom."""
        orders: list[tuple[str, int]] = []
        for endpoint in sorted(self.endpoints.values(), key=lambda one: len(one.flying)):
            while endpoint.room > 0 and (position := self._pick(endpoint)) is not None:
                endpoint.flying.append(position)
                orders.append((endpoint.name, position))
        return orders

    def _pick(self, endpoint: Endpoint) -> int | None:
        if any(position in endpoint.flying for position in self._suspects()):
            return None  # nothing beside a row that may be the reason of deaths
        for place, position in enumerate(self._returned):
            if self._welcome(endpoint, position):
                return self._returned.pop(place)
        if not endpoint.stretch:
            self._take_stretch(endpoint)
        if endpoint.stretch:
            return endpoint.stretch.popleft()
        return self._deferred_row(endpoint)

    def _suspects(self) -> list[int]:
        return [position for position, one in self._troubles.items() if one.deaths >= DEATHS]

    def _welcome(self, endpoint: Endpoint, position: int) -> bool:
        """Whether a row is tried here: elsewhere than before, if anybody else is there."""
        first = self._section_of(position).first
        if first in endpoint.lacks:
            return False
        troubles = self._troubles.get(position)
        if troubles is None or endpoint.name not in troubles.places:
            return True
        others = (one for one in self.endpoints.values() if one.is_up and first not in one.lacks)
        return all(one.name in troubles.places for one in others)

    def _take_stretch(self, endpoint: Endpoint) -> None:
        section = endpoint.section
        if section is None or not section.left:
            section = self._best_section(endpoint)
        endpoint.section = section
        if section is None:
            self._take_from_others(endpoint)
            return
        workers = sum(1 for one in self.endpoints.values() if one.section is section)
        count = max(1, min(STRETCH, section.left // (2 * workers)))
        endpoint.stretch.extend(self._opened(section, count))

    def _opened(self, section: Section, count: int) -> list[int]:
        found = self._open_rows(section.taken_to, section.last, count)
        section.left = section.left - len(found) if found else 0
        section.taken_to = found[-1] if found else section.last
        return found

    def _best_section(self, endpoint: Endpoint) -> Section | None:
        """One of the checkpoint that it has, as long as that has rows; then of that with the most rows left for each
        WebUI that would be at it, and among those by the same rule."""
        now = endpoint.section
        others = [one.section for one in self.endpoints.values() if one is not endpoint and one.section is not None]
        able = [one for one in self._sections if one.left and one.first not in endpoint.lacks]
        at_it = Counter(one.first for one in others)
        at_checkpoint, left = Counter(one.checkpoint for one in others), Counter[int]()
        for one in able:
            left[one.checkpoint] += one.left

        def worth(one: Section) -> tuple[bool, float, float]:
            of_checkpoint = left[one.checkpoint] / (1 + at_checkpoint[one.checkpoint])
            return (
                now is not None and one.checkpoint == now.checkpoint,
                of_checkpoint,
                one.left / (1 + at_it[one.first]),
            )

        return max(able, key=worth, default=None)

    def _take_from_others(self, endpoint: Endpoint) -> None:
        """The later half of the longest stretch that this one can make."""

        def can(other: Endpoint) -> bool:
            return bool(other.stretch) and self._section_of(other.stretch[0]).first not in endpoint.lacks

        others = [one for one in self.endpoints.values() if one is not endpoint and can(one)]
        longest = max(others, key=lambda one: len(one.stretch), default=None)
        if longest is not None:
            for _ in range((len(longest.stretch) + 1) // 2):
                endpoint.stretch.appendleft(longest.stretch.pop())

    def _deferred_row(self, endpoint: Endpoint) -> int | None:
        """A row over which WebUIs have died: alone, and when nothing else is left."""
        if endpoint.flying or self._returned or any(one.left for one in self._sections):
            return None
        suspects = set(self._suspects())
        if any(set(one.flying) - suspects or one.stretch for one in self.endpoints.values()):
            return None
        for place, position in enumerate(self._deferred):
            if self._welcome(endpoint, position):
                return self._deferred.pop(place)
        return None

    def _section_of(self, position: int) -> Section:
        return self._sections[bisect_right(self._firsts, position) - 1]
