"""What a run makes of a crew's answers, without Ray: who lacks what, who is late, what a disk does not give."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lib_ipadapter.batch.crew import DONE, FAILED, LACKING, Down, Event, Gone, Landed, Outcome, Part, Up, Work
from lib_ipadapter.batch.drive import Drive
from lib_ipadapter.batch.facts import has_all
from lib_ipadapter.batch.given import Sources
from lib_ipadapter.batch.keep import Keep
from lib_ipadapter.batch.ledger import REFERENCES, Ledger, Planned, Result
from lib_ipadapter.batch.paths import Files
from lib_ipadapter.batch.problems import BatchError
from lib_ipadapter.batch.tasks import ReferenceTasks, RowTasks

Answer = Callable[[str, Work], Outcome]


class Silent:
    def __init__(self) -> None:
        self.troubles: list[str] = []

    def ended(self, table: str, result: Result, number: int) -> None:
        pass

    def trouble(self, sentence: str) -> None:
        self.troubles.append(sentence)


class ToldCrew:
    """WebUIs that answer at once, with what ``answer`` says."""

    def __init__(self, names: Sequence[str], answer: Answer) -> None:
        self._names, self._answer = names, answer
        self._events: list[Event] = [Up(name) for name in names]
        self.waits = 0  # each may take a quarter of a second in which nothing comes

    def names(self) -> Sequence[str]:
        return self._names

    def send(self, endpoint: str, work: Work) -> None:
        self._events.append(Landed(endpoint, work, self._answer(endpoint, work)))

    def wait(self) -> Sequence[Event]:
        self.waits += 1
        events, self._events = self._events, []
        return events


def part(data: bytes) -> Part:
    return Part("safetensors", hashlib.sha256(data).hexdigest(), len(data), data=data)


def rows_of(folder: Path, asked: Sequence[tuple[str, str]]) -> Ledger:
    """A ledger with a row for each checkpoint and adapter ("" for none), and a reference for each adapter."""
    ledger = Ledger(folder / "run.sqlite3", sure=False)
    planned = []
    for number, (checkpoint, adapter) in enumerate(asked, 1):
        needs = [adapter] if adapter else []
        request = {
            "route": "txt2img",
            "body": {},
            "needs": needs,
            "checkpoint": checkpoint,
            "references": [],
            "sha256": {},
        }
        reference = {"unit": {"model": adapter}, "sources": {}, "sha256": {}}
        row = Planned(number, "", checkpoint, adapter, json.dumps(request), number, needs=adapter)
        planned.append((row, {f"{number:064}": reference} if adapter else {}))
    ledger.plan(planned)
    return ledger


def drive(
    folder: Path, ledger: Ledger, answer: Answer, names: str = "ab", table: str = "rows", crew: ToldCrew | None = None
) -> Drive:
    keep, sources = Keep(folder, ledger, sure=False), Sources(Files(folder), folder / "given")
    tasks = (RowTasks if table == "rows" else ReferenceTasks)(ledger, keep, sources)
    return Drive(ledger, keep, crew or ToldCrew(names, answer), tasks, Silent())


def states(ledger: Ledger) -> dict[int, str]:
    return {row["number"]: row["state"] for row in ledger.every_row()}


def who_has(have: dict[str, set[str]]) -> Answer:
    def answer(endpoint: str, work: Work) -> Outcome:
        has = has_all(work.needs, work.checkpoint, have[endpoint], {"one", "two"})
        return Outcome(DONE if has else LACKING)

    return answer


def test_an_adapter_that_nobody_has_ends_its_own_rows_and_no_others_of_the_checkpoint(tmp_path: Path) -> None:
    asked = [("one", adapter) for adapter in ("", "there", "nowhere", "only b") for _ in range(3)] + [("two", "there")]
    ledger = rows_of(tmp_path, asked)
    drive(tmp_path, ledger, who_has({"a": {"there"}, "b": {"there", "only b"}})).run()
    assert [state for _, state in sorted(states(ledger).items())] == ["done"] * 6 + ["failed"] * 3 + ["done"] * 4


def test_references_of_an_adapter_that_nobody_has_end_no_others(tmp_path: Path) -> None:
    ledger = rows_of(tmp_path, [("one", adapter) for adapter in ("nowhere", "there", "only b") for _ in range(5)])

    def answer(endpoint: str, work: Work) -> Outcome:
        outcome = who_has({"a": {"there"}, "b": {"there", "only b"}})(endpoint, work)
        return outcome if outcome.kind == LACKING else Outcome(DONE, parts=[part(b"x")])

    drive(tmp_path, ledger, answer, table=REFERENCES).run()
    assert ledger.counts(REFERENCES) == {"done": 10, "failed": 5}


def test_rows_that_cannot_be_sent_wait_for_nobody(tmp_path: Path) -> None:
    """Of 5,000 rows all but each hundredth have a start picture that has gone since they were planned."""
    ledger, count = rows_of(tmp_path, [("one", "")] * 5000), 5000
    gone = json.dumps({"route": "img2img", "body": {"init_images": [{"$file": "gone.png"}]}, "needs": [],
                       "checkpoint": "one", "references": [], "sha256": {}})  # fmt: skip
    ledger._base.execute("UPDATE rows SET request = ? WHERE number % 100 > 0", (gone,))
    crew = ToldCrew("ab", lambda endpoint, work: Outcome(DONE))
    begun = time.monotonic()
    drive(tmp_path, ledger, crew._answer, crew=crew).run()
    assert ledger.counts() == {"refused": 4950, "done": 50}
    assert (time.monotonic() - begun) / count < 0.01
    assert crew.waits < 100  # and not one for each four rows


class Joined(ToldCrew):
    """The only WebUI is given up while that of a node that has joined is being started."""

    def __init__(self, later: Event) -> None:
        super().__init__("a", lambda endpoint, work: Outcome(DONE))
        self._told: list[tuple[str, Event]] = [("b", Gone("a", "tired.")), ("b" * isinstance(later, Up), later)]
        self._events = []

    def wait(self) -> Sequence[Event]:
        if not self._told:
            return super().wait()
        self._names, event = self._told.pop(0)
        return [event]


def test_a_webui_of_a_node_that_joined_later_makes_the_rows_of_the_one_that_is_gone(tmp_path: Path) -> None:
    ledger = rows_of(tmp_path, [("one", "")] * 3)
    made = drive(tmp_path, ledger, None, crew=Joined(Up("b")))  # type: ignore[arg-type]
    made.run()
    assert ledger.counts() == {"done": 3} and made._watcher.troubles == ["a: tired."]  # type: ignore[attr-defined]


def test_a_webui_that_joined_later_and_never_came_up_is_told(tmp_path: Path) -> None:
    made = drive(tmp_path, rows_of(tmp_path, [("one", "")]), None, crew=Joined(Gone("b", "no card.")))  # type: ignore[arg-type]
    with pytest.raises(BatchError, match=r"no WebUI is left \(b: no card\."):
        made.run()
    assert made._watcher.troubles == ["a: tired.", "b: no card."]  # type: ignore[attr-defined]


def test_what_steers_a_terminal_is_neither_told_nor_written_down(tmp_path: Path) -> None:
    ledger = rows_of(tmp_path, [("one", "")])
    crew = ToldCrew("a", lambda endpoint, work: Outcome(FAILED, "\x1b[31mout of\x1b]0;owned\x07 luck\x1b[0m.\n"))
    made = drive(tmp_path, ledger, crew._answer, crew=crew)
    crew._events.append(Down("a", "it\x1b[2J ends."))
    crew._events.append(Up("a"))
    made.run()
    assert next(ledger.every_row())["sentence"] == "out of luck.?"
    assert made._watcher.troubles == ["a: it ends."]  # type: ignore[attr-defined]
