"""The run without Ray and without clocks: simulated WebUIs of different speeds, and kills at random moments.

The ledger, the files and the schedule are the real ones. A kill of the driver is an error that comes out of any of the
places at which it hands on or writes down, after which nothing of it is left but its folder.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib_ipadapter.batch import ledger as states
from lib_ipadapter.batch.crew import DONE, FAILED, LOST, REFUSED, Down, Event, Landed, Outcome, Part, Up, Work
from lib_ipadapter.batch.drive import Drive
from lib_ipadapter.batch.given import Sources
from lib_ipadapter.batch.keep import Keep
from lib_ipadapter.batch.ledger import Ledger, Planned, Result
from lib_ipadapter.batch.paths import Files
from lib_ipadapter.batch.tasks import RowTasks
from lib_ipadapter.batch.tidy import tidied

SPEEDS = (1.0, 1.0, 2.5, 0.4)  # seconds of simulated time for a row
AWAY = 5.0  # seconds that a WebUI takes to start again
KINDS = ("driver", "worker", "WebUI")


class Killed(BaseException):
    """The driver is no more."""


class Fate:
    """Which kill comes when. ``left``: how many are to come; ``every``: events between them, in the mean."""

    def __init__(self, seed: int, kills: int, every: float) -> None:
        self.random, self.left, self._every = random.Random(seed), kills, every
        self.done: Counter[str] = Counter()

    def strikes(self, kind: str) -> bool:
        rare = 8.0 if kind == "driver" else 1.0  # it costs what is not written down yet
        if not self.left or self.random.random() * self._every * rare >= 1:
            return False
        self.left -= 1
        self.done[kind] += 1
        return True


class SimulatedCrew:
    """Answers follow from the request; time passes from one answer to the next."""

    def __init__(self, fate: Fate, end: Callable[[], None], speeds: Sequence[float] = SPEEDS) -> None:
        self._end = end  # what dies with the driver
        self._fate, self._speeds = fate, {f"host {i}": speed for i, speed in enumerate(speeds)}
        self._now, self._count = 0.0, 0
        self._coming: list[tuple[float, int, Event]] = []
        self._busy_to = dict.fromkeys(self._speeds, 0.0)
        self._flying: dict[str, list[Work]] = {name: [] for name in self._speeds}
        for name in self._speeds:
            self._add(0.0, Up(name))

    def names(self) -> list[str]:
        return list(self._speeds)

    def send(self, endpoint: str, work: Work) -> None:
        self._may_end()
        self._busy_to[endpoint] = max(self._now, self._busy_to[endpoint]) + self._speeds[endpoint]
        self._flying[endpoint].append(work)
        self._add(self._busy_to[endpoint], Landed(endpoint, work, answer_to(work)))

    def wait(self) -> list[Event]:
        self._may_end()
        if not self._coming:
            return []
        self._now, _, event = heapq.heappop(self._coming)
        if not isinstance(event, Landed):
            return [event]
        for kind in KINDS[1:]:
            if self._fate.strikes(kind):
                return self._kill(event.endpoint)
        self._flying[event.endpoint].remove(event.work)
        return [event]

    def _may_end(self) -> None:
        if self._fate.strikes("driver"):
            self._end()
            raise Killed

    def _kill(self, name: str) -> list[Event]:
        """All that it is working on is lost, in the order in which it came."""
        lost, self._flying[name] = self._flying[name], []
        self._coming = [one for one in self._coming if not (isinstance(one[2], Landed) and one[2].endpoint == name)]
        heapq.heapify(self._coming)
        self._busy_to[name] = self._now + AWAY
        self._add(self._now + AWAY, Up(name))
        return [*(Landed(name, work, Outcome(LOST, "killed.")) for work in lost), Down(name)]

    def _add(self, when: float, event: Event) -> None:
        self._count += 1
        heapq.heappush(self._coming, (when, self._count, event))


def answer_to(work: Work) -> Outcome:
    prompt = work.body["prompt"]
    if "refuse" in prompt:
        return Outcome(REFUSED, "it cannot be done: leave it.")
    if "fail" in prompt:
        return Outcome(FAILED, "out of luck.")
    data = hashlib.sha256(json.dumps(work.body, sort_keys=True).encode()).digest()
    return Outcome(DONE, parts=[Part("png", hashlib.sha256(data).hexdigest(), len(data), prompt, data=data)])


class FragileKeep(Keep):
    """Its process may end before or after a file has its name, and before or after a commit."""

    def __init__(self, folder: Path, ledger: Ledger, fate: Fate) -> None:
        super().__init__(folder, ledger, sure=False)
        self._fate, self._is_dead = fate, False

    def picture(self, number: int, index: int, part: Part) -> states.Made:
        self._may_end()
        made = super().picture(number, index, part)
        self._may_end()
        return made

    def flush(self, now: bool = False) -> int:
        if self._is_dead:
            return 0
        self._may_end()
        count = super().flush(now or self._fate.random.random() < 0.5)
        self._may_end()
        return count

    def _may_end(self) -> None:
        if self._fate.strikes("driver"):
            self._is_dead = True
            raise Killed

    def end(self) -> None:
        self._is_dead = True


class Silent:
    def ended(self, table: str, result: Result, number: int) -> None:
        pass

    def trouble(self, sentence: str) -> None:
        pass


def planned(count: int) -> list[tuple[Planned, dict[str, Any]]]:
    """Rows of three checkpoints; one of 50 is refused, one of 70 fails everywhere."""
    rows = []
    for number in range(1, count + 1):
        what = "refuse" if number % 50 == 7 else "fail" if number % 70 == 9 else "cat"
        body = {"prompt": f"{what} {number}"}
        request = {"route": "txt2img", "body": body, "needs": [], "checkpoint": "", "references": [], "sha256": {}}
        rows.append((Planned(number, "", f"model {number % 3}", "", json.dumps(request), number * 7), {}))
    return rows


def run(folder: Path, rows: int, fate: Fate) -> dict[int, tuple[str, str]]:
    """Runs to the end, as often as it is killed; state and content of each row. Raises AssertionError where a file is
    missing, too many or not what the ledger says."""
    ledger = Ledger(folder / "run.sqlite3", sure=False)
    ledger.plan(planned(rows))
    ledger.close()
    while True:
        ledger = Ledger(folder / "run.sqlite3", sure=False)
        keep = FragileKeep(folder, ledger, fate)
        tasks = RowTasks(ledger, keep, Sources(Files(folder), folder / "given"))
        try:
            with tidied(folder, ledger, keep):
                Drive(ledger, keep, SimulatedCrew(fate, keep.end), tasks, Silent()).run()
            break
        except Killed:
            continue
        finally:
            ledger.close()
    return checked(folder)


def checked(folder: Path) -> dict[int, tuple[str, str]]:
    ledger = Ledger(folder / "run.sqlite3", reads_only=True)
    found: dict[int, tuple[str, str]] = {}
    files = set()
    for row in ledger.every_row():
        content = ""
        for picture in json.loads(row["pictures"]):
            data = (folder / picture["file"]).read_bytes()
            content = hashlib.sha256(data).hexdigest()
            assert content == picture["sha256"]
            files.add(picture["file"])
        assert row["number"] not in found
        found[row["number"]] = row["state"], content
    ledger.close()
    on_disk = {str(path.relative_to(folder)) for path in (folder / "pictures").rglob("*") if path.is_file()}
    assert on_disk == files
    return found


def compare(folder: Path, rows: int, kills: int, seed: int = 1, every: float = 4.0) -> Counter[str]:
    """A run with kills beside one without. Raises AssertionError where they differ; how many of each kind came."""
    calm, wild = folder / "calm", folder / "wild"
    for one in (calm, wild):
        shutil.rmtree(one, ignore_errors=True)
    fate = Fate(seed, kills, every)
    want, got = run(calm, rows, Fate(seed, 0, every)), run(wild, rows, fate)
    assert sorted(want) == list(range(1, rows + 1))
    differs = [number for number in want if want[number] != got[number]]
    left = {str(path.relative_to(calm)) for path in calm.rglob("*")}
    left ^= {str(path.relative_to(wild)) for path in wild.rglob("*")}
    assert not left, sorted(left)[:5]
    assert not differs, (len(differs), differs[:5], [(want[one], got[one]) for one in differs[:5]])
    return fate.done
