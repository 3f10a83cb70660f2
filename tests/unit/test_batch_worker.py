"""What a worker makes of its WebUI's answers, over HTTP on loopback, without Ray."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lib_ipadapter.batch import client
from lib_ipadapter.batch import worker as worker_module
from lib_ipadapter.batch.crew import DONE, FAILED, LACKING, LATE, LOST, MAKE, REFUSED, Work
from lib_ipadapter.batch.worker import Config, Worker
from tests.helpers.fixed_host import FixedHost

ROUTE = "/sdapi/v1/txt2img"


@pytest.fixture
def host() -> Iterator[FixedHost]:
    made = FixedHost(0, 0.0)
    threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def worker_of(host: FixedHost, timeout: float = 30.0, patience: float = 5.0) -> Worker:
    return Worker(Config("a", f"http://127.0.0.1:{host.server_address[1]}", timeout=timeout, patience=patience))


def work(prompt: str = "cat", route: str = ROUTE, needs: tuple[str, ...] = ()) -> Work:
    return Work(MAKE, 1, route, {"prompt": prompt, "seed": 1}, "000000001", needs=needs)


def test_the_time_of_a_row_does_not_run_while_it_waits_in_line(host: FixedHost) -> None:
    host.seconds = 0.6
    worker = worker_of(host, timeout=0.9)
    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(lambda one: worker.do(work(one), {}), ("cat", "dog")))
    assert [one.kind for one in outcomes] == [DONE, DONE]


def test_after_a_late_answer_nothing_is_sent_until_the_webui_is_idle(host: FixedHost) -> None:
    host.seconds = 1.2
    worker = worker_of(host, timeout=0.3)
    begun = time.monotonic()
    assert worker.do(work(), {}).kind == LATE
    assert time.monotonic() - begun < 1
    assert worker.until_up() == (True, "")
    assert time.monotonic() - begun >= 1.2


def test_a_webui_that_stays_at_a_late_request_is_given_up_with_its_reason(host: FixedHost) -> None:
    host.seconds = 1.5
    worker = worker_of(host, timeout=0.2, patience=0.6)
    assert worker.do(work(), {}).kind == LATE
    is_up, sentence = worker.until_up()
    assert not is_up and "still at work" in sentence


@pytest.mark.parametrize(
    ("status", "kind"), [(400, REFUSED), (422, REFUSED), (404, FAILED), (405, FAILED), (413, FAILED), (500, FAILED)]
)
def test_only_an_answer_on_the_request_itself_refuses_a_row(host: FixedHost, status: int, kind: str) -> None:
    assert worker_of(host).do(work(f"status {status}"), {}).kind == kind


@pytest.mark.parametrize(("status", "kind"), [(502, LOST), (503, LOST), (521, LOST), (504, LATE), (524, LATE)])
def test_a_proxy_that_waits_no_longer_is_no_webui_that_has_gone(host: FixedHost, status: int, kind: str) -> None:
    worker = worker_of(host)
    outcome = worker.do(work(f"status {status}"), {})
    assert outcome.kind == kind and str(status) in outcome.sentence
    assert ("a proxy" in outcome.sentence and "raise its timeout" in outcome.sentence) == (kind == LATE)
    assert worker.until_up() == (True, "")


def test_a_proxy_without_an_answer_to_a_question_has_no_webui_behind_it(host: FixedHost) -> None:
    host.models_status = 504
    assert worker_of(host, patience=0.3).until_up() == (False, "it answers 504, for 0 s: start it, or leave it out.")


def test_a_webui_without_the_extension_has_no_adapter_and_one_that_could_not_be_asked_may(host: FixedHost) -> None:
    for status, kind in ((404, LACKING), (500, DONE), (200, DONE)):
        host.models_status = status
        worker = worker_of(host, patience=1)
        assert worker.until_up() == (True, "")
        assert worker.do(work(needs=("adapter",)), {}).kind == kind
        assert worker.do(work(), {}).kind == DONE


def test_a_webui_that_is_starting_has_its_own_routes_before_those_of_the_extension(host: FixedHost) -> None:
    host.registering = 2
    worker = worker_of(host)
    assert worker.until_up() == (True, "") and not host.registering
    assert worker.do(work(needs=("adapter",)), {}).kind == DONE


def test_one_without_the_extension_is_not_waited_for_longer_than_extensions_take(
    host: FixedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.models_status = 404
    monkeypatch.setattr(worker_module, "REGISTERS", 0.3)
    begun = time.monotonic()
    assert worker_of(host, patience=60).until_up() == (True, "")
    assert 0.3 <= time.monotonic() - begun < 20
    assert worker_of(host, patience=0.3).until_up() == (True, "")  # nor given up for that


def test_an_answer_that_is_too_large_is_the_rows_own_fault(host: FixedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = worker_of(host)
    assert worker.until_up() == (True, "")
    monkeypatch.setattr(client, "MAX_ANSWER", 100)
    outcome = worker.do(work(), {})
    assert outcome.kind == REFUSED and "ask for fewer pictures" in outcome.sentence


def test_half_a_character_in_an_answer_is_written_down_as_another(host: FixedHost) -> None:
    prompt = "a \udcff cat"
    outcome = worker_of(host).do(work(prompt), {})
    assert outcome.kind == DONE and outcome.parts[0].infotext.startswith("a ? cat\nSteps")


def test_logs_go_to_no_folder_that_somebody_else_has_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ours = worker_module._elsewhere("run")
    assert ours.name == "ip-adapter-batch-run" and worker_module._elsewhere("run") == ours
    ours.chmod(0o770)
    open_to_others = worker_module._elsewhere("run")
    ours.rmdir()
    ours.symlink_to(open_to_others)
    for other in (open_to_others, worker_module._elsewhere("run")):
        assert other != ours and other.parent == tmp_path and other.stat().st_mode & 0o777 == 0o700
    ours.unlink()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert worker_module._elsewhere("run") != ours


def test_questions_tell_what_is_not_there_from_what_could_not_be_asked(host: FixedHost) -> None:
    worker = worker_of(host)
    assert worker.ask("/ip-adapter/presets/kept")[0] == DONE
    assert worker.ask("/ip-adapter/presets/none")[0] == REFUSED
    host.models_status = 500
    assert worker.ask("/ip-adapter/models")[0] == LOST
