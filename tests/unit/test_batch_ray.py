"""What becomes of workers that Ray finds no place for, or no room, with a stand-in for Ray."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lib_ipadapter.batch import ray_crew
from lib_ipadapter.batch.crew import DONE, Outcome
from lib_ipadapter.batch.drive import Drive
from lib_ipadapter.batch.everybody import Everybody
from lib_ipadapter.batch.given import Sources
from lib_ipadapter.batch.keep import Keep
from lib_ipadapter.batch.paths import Files
from lib_ipadapter.batch.problems import BatchError, NoAnswer
from lib_ipadapter.batch.ray_crew import RayCrew
from lib_ipadapter.batch.run import share_of
from lib_ipadapter.batch.tasks import RowTasks
from lib_ipadapter.batch.webui import Start
from lib_ipadapter.batch.worker import Config
from tests.unit.test_batch_drive import Silent, rows_of


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class ObjectStoreFullError(RayError):
    pass


class OutOfDiskError(RayError):
    pass


class Call:
    """An answer to come; None: it never does."""

    def __init__(self, answer: Callable[[], Any] | None) -> None:
        self.answer = answer


class Actor:
    def __init__(self, answers: dict[str, Callable[..., Any]], is_placed: bool) -> None:
        self._answers, self._is_placed = answers, is_placed
        self._waiting: list[tuple[Call, Callable[[], Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def remote(*given: Any) -> Call:
            def answer() -> Any:
                return self._answers[name](*given)

            call = Call(answer if self._is_placed else None)
            if not self._is_placed:
                self._waiting.append((call, answer))
            return call

        return SimpleNamespace(remote=remote)

    def place(self) -> None:
        self._is_placed = True
        for call, answer in self._waiting:
            call.answer = answer


class StandIn(ModuleType):
    """A cluster with so many GPUs, of which others hold some."""

    def __init__(self, gpus: int, held: float = 0.0) -> None:
        super().__init__("ray")
        self.gpus, self.held = gpus, held
        self.exceptions = SimpleNamespace(
            RayError=RayError, RayTaskError=RayTaskError, ObjectStoreFullError=ObjectStoreFullError,
            OutOfDiskError=OutOfDiskError,
        )  # fmt: skip
        self.answers: dict[str, Callable[..., Any]] = {
            "is_there": lambda: True, "until_up": lambda: (True, ""),
            "do_with": lambda work, keys, held: Outcome(DONE),
        }  # fmt: skip
        self.killed = 0
        self.hired: list[Actor] = []

    def remote(self, num_gpus: float = 0.0, **_: Any) -> Any:
        def hire(config: Config) -> Actor:
            is_placed = num_gpus <= self.gpus - self.held
            self.held += num_gpus if is_placed else 0
            self.hired.append(Actor(self.answers, is_placed))
            return self.hired[-1]

        return lambda kind: SimpleNamespace(remote=hire)

    def wait(self, calls: Sequence[Call], num_returns: int, timeout: float, fetch_local: bool) -> Any:
        ready = [call for call in calls if call.answer is not None][:num_returns]
        if not ready:
            time.sleep(min(timeout, 0.01))
        return ready, []

    def get(self, call: Call, timeout: float = 0.0) -> Any:
        assert call.answer is not None
        return call.answer()

    def kill(self, actor: Actor) -> None:
        self.killed += 1

    def free(self) -> None:
        """Others hold one GPU less, and the first worker that has waited for one has it."""
        next(actor for actor in self.hired if not actor._is_placed).place()

    def shutdown(self) -> None:
        pass

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeManagerAddress": "host", "NodeID": "0123456789", "Alive": True, "Resources": {"GPU": self.gpus}}]

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": self.gpus}

    def available_resources(self) -> dict[str, float]:
        return {"GPU": self.gpus - self.held}


def crew_of(monkeypatch: pytest.MonkeyPatch, ray: StandIn, webuis: int, gpus: float = 1.0) -> RayCrew:
    monkeypatch.setitem(sys.modules, "ray", ray)
    configs = [
        (Config(f"WebUI {number}", patience=0.3), {"num_gpus": gpus} if gpus else {}) for number in range(webuis)
    ]
    return RayCrew(configs, lambda key: b"")


def crew_of_cluster(monkeypatch: pytest.MonkeyPatch, ray: StandIn) -> RayCrew:
    """With a WebUI for each GPU."""
    strategies = ModuleType("ray.util.scheduling_strategies")
    strategies.NodeAffinitySchedulingStrategy = lambda node, soft: node  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, strategies.__name__, strategies)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(ray_crew, "NEW_NODES", 0.0)
    return RayCrew([], lambda key: b"", (Config("", patience=0.3), Start("webui")))


def drive(folder: Path, crew: RayCrew, rows: int = 20) -> Drive:
    ledger = rows_of(folder, [("one", "")] * rows)
    keep = Keep(folder, ledger, sure=False)
    return Drive(ledger, keep, crew, RowTasks(ledger, keep, Sources(Files(folder), folder / "given")), Silent())


def test_webuis_without_a_gpu_are_given_up_with_one_sentence_and_the_others_make_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = StandIn(gpus=3, held=1.0)
    crew = crew_of(monkeypatch, ray, 5)
    made = drive(tmp_path, crew)
    end = time.monotonic() + 30
    while len(crew.names()) > 2 and time.monotonic() < end:
        for event in crew.wait():
            made._take(event)
    made.run()
    assert made._keep._ledger.counts() == {"done": 20}
    assert crew.names() == ["WebUI 0", "WebUI 1"] and ray.killed == 3
    (sentence,) = made._watcher.troubles  # type: ignore[attr-defined]
    assert "3 of 5 WebUIs have found no GPU within 0 s (the cluster has 3, and 0 of them free)" in sentence


def until(made: Drive, condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        for event in made._crew.wait():
            made._take(event)


def test_a_webui_of_a_cluster_without_a_gpu_takes_part_when_one_becomes_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = StandIn(gpus=3, held=2.0)
    crew = crew_of_cluster(monkeypatch, ray)
    made = drive(tmp_path, crew)
    until(made, lambda: len(crew.names()) == 1)
    (sentence,) = made._watcher.troubles  # type: ignore[attr-defined]
    assert "2 of 3 WebUIs have found no GPU" in sentence and "; they take part when one becomes free." in sentence
    everybody = Everybody(crew, print)
    everybody.up = crew.names()
    assert everybody.others() == [] and not ray.killed  # nobody waits for them
    ray.free()
    until(made, lambda: len(made.up) == 2)
    made.run()
    assert made._keep._ledger.counts() == {"done": 20} and len(made._keep._ledger.by_endpoint()) == 2
    assert len(made._watcher.troubles) == 1 and len(ray.hired) == 3  # type: ignore[attr-defined]
    crew.close()
    assert ray.killed == 3


def test_a_webui_whose_node_goes_while_nobody_waits_for_it_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = StandIn(gpus=2, held=1.0)
    crew = crew_of_cluster(monkeypatch, ray)
    made = drive(tmp_path, crew)
    until(made, lambda: len(crew.names()) == 1)

    def gone() -> Any:
        raise RayError("its node has gone")

    ray.hired[1]._answers = {**ray.answers, "is_there": gone}
    ray.free()
    made.run()
    assert made._keep._ledger.counts() == {"done": 20} and len(crew.names()) == 1
    assert ray.killed == 1 and len(ray.hired) == 2 and len(made._watcher.troubles) == 1  # type: ignore[attr-defined]


def test_where_nobody_has_a_gpu_nobody_is_promised_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn(gpus=2, held=2.0)
    crew = crew_of_cluster(monkeypatch, ray)
    with pytest.raises(BatchError, match="2 of 2 WebUIs have found no GPU") as caught:
        drive(tmp_path, crew).run()
    assert "take part" not in caught.value.detail
    crew.close()
    assert ray.killed == 2


def test_a_plan_that_takes_longer_than_patience_gives_up_nobody_who_has_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = StandIn(gpus=2)
    crew = crew_of(monkeypatch, ray, 3)
    time.sleep(0.4)  # nobody asks the crew while all files are read
    made = drive(tmp_path, crew)
    made.run()
    assert crew.names() == ["WebUI 0", "WebUI 1"] and ray.killed == 1
    assert made._keep._ledger.counts() == {"done": 20}


@pytest.mark.parametrize(("gpus", "words"), [(1.0, "2 of 2 WebUIs have found no GPU"), (0.0, "found no computer")])
def test_a_run_in_which_no_worker_has_a_place_ends_and_its_rows_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: float, words: str
) -> None:
    ray = StandIn(gpus=0 if gpus else -1)
    monkeypatch.setattr(ray_crew, "PLACED", 0.4)
    crew = crew_of(monkeypatch, ray, 2, gpus)
    made = drive(tmp_path, crew)
    with pytest.raises(BatchError, match=words):
        made.run()
    assert not made.schedule.is_finished
    with pytest.raises(BatchError, match=words):
        Everybody(crew_of(monkeypatch, ray, 2, gpus), print).first()


def test_patience_is_not_for_the_process_of_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn(gpus=-1)
    crew = crew_of(monkeypatch, ray, 1, 0.0)
    end = time.monotonic() + 0.6  # of patience there is half of that
    while time.monotonic() < end:
        assert crew.wait() == []
    crew._actors["WebUI 0"]._is_placed = True
    for call in crew._calls:
        call.answer = lambda: True
    made = drive(tmp_path, crew)
    made.run()
    assert made._keep._ledger.counts() == {"done": 20} and not ray.killed


@pytest.mark.parametrize("fault", [RayTaskError(OutOfDiskError("full")), ObjectStoreFullError("full")])
def test_where_ray_has_no_room_no_row_is_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    ray = StandIn(gpus=1)

    def full(*_: Any) -> Any:
        raise fault

    ray.answers["do_with"] = ray.answers["ask"] = full
    crew = crew_of(monkeypatch, ray, 1)
    made = drive(tmp_path, crew)
    with pytest.raises(BatchError, match="Ray has no room .*/tmp/ray"):
        made.run()
    assert made._keep._ledger.counts() == {"open": 20}
    with pytest.raises(BatchError, match="Ray has no room") as caught:
        crew.ask("WebUI 0", "/")
    assert not isinstance(caught.value, NoAnswer)


@pytest.mark.parametrize("kind", [OutOfDiskError, ObjectStoreFullError])
def test_where_ray_has_no_room_for_a_requests_pictures_no_row_is_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    ray = StandIn(gpus=1)
    crew = crew_of(monkeypatch, ray, 1)
    made = drive(tmp_path, crew)

    def full(*_: Any) -> Any:
        raise kind("full")

    crew._actors["WebUI 0"].do_with = SimpleNamespace(remote=full)  # it is the driver that puts them there
    with pytest.raises(BatchError, match="Ray has no room .*/tmp/ray"):
        made.run()
    assert made._keep._ledger.counts() == {"open": 20}


@pytest.mark.parametrize("gpus", range(9))
def test_gpus_are_shared_so_that_every_webui_has_a_place(gpus: int) -> None:
    for webuis in range(1, 40):
        share = share_of(gpus, webuis).get("num_gpus")
        assert (share is None) == (not gpus)
        if share is not None:
            places = int(10_000 / round(share * 10_000)) * gpus
            assert 0 < share <= 1 and places >= webuis, (gpus, webuis, share)


def test_work_that_was_under_way_is_an_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has ended and finds no place again: what it had is made by the one that is left."""
    ray = StandIn(gpus=2)
    crew = crew_of(monkeypatch, ray, 2)
    first = crew._actors["WebUI 0"]
    answers = dict(ray.answers)

    def ended(*_: Any) -> Any:
        first._is_placed = False  # its GPU is somebody else's by now
        raise RayError("ended")

    first._answers = {**answers, "do_with": ended}
    made = drive(tmp_path, crew)
    made.run()
    assert made.schedule.is_finished and made._keep._ledger.counts() == {"done": 20}
