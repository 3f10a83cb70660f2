"""The process that finds faces: where its packages are, what is said without them, and what may happen to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lib_ipadapter.encode.faces import packages, process
from lib_ipadapter.encode.faces.finder import InsightFace
from lib_ipadapter.encode.faces.process import Environment, environments
from lib_ipadapter.errors import CheckpointError, PictureError
from tests.helpers.face_pack import astronaut, environment, finder, noise, photo, write_networks, write_pack
from tests.setup import faces as setup

Made = Callable[..., InsightFace]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    """Makes finders over a pack of no use, with stand-ins for the packages, and ends their processes."""
    finders = []
    write_pack(tmp_path / "packs" / "buffalo_l")

    def make(*environments: Environment, **settings) -> InsightFace:
        settings = {"environments": lambda folder: list(environments), **settings}
        one = InsightFace(lambda: [tmp_path / "packs"], tmp_path / "own", tmp_path / "cache", **settings)
        finders.append(one)
        return one

    yield make
    for one in finders:
        one.end()


def loaded(calls: Path) -> list[list]:
    return [json.loads(line) for line in calls.read_text().splitlines()]


def refusal(one: InsightFace) -> str:
    with pytest.raises(CheckpointError) as refused:
        one.find(astronaut(), "buffalo_l")
    return refused.value.detail


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# Where the packages are


def test_the_command_is_for_this_python_and_the_folder(tmp_path: Path, made: Made) -> None:
    said = refusal(made(Environment("an empty place", (str(tmp_path),))))
    assert said == (
        "faces need the packages insightface and onnxruntime, which are not installed. Press “install face analysis” "
        "in Settings, IP-Adapter (no restart is needed), or run  "
        f'"{sys.executable}" -m pip install --target "{tmp_path / "own"}" --no-deps --upgrade --prefer-binary '
        f'--disable-pip-version-check -r "{packages.REQUIREMENTS}"'
    )


def test_onnxruntime_alone_is_not_enough(tmp_path: Path, made: Made) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    said = refusal(made(Environment("a place", (str(tmp_path),))))
    assert said.startswith("faces need the package insightface, which is not installed. Press")


def test_insightface_alone_is_not_enough(tmp_path: Path, made: Made) -> None:
    """It says so by an error of its own at its import."""
    (tmp_path / "insightface").mkdir()
    (tmp_path / "insightface" / "__init__.py").write_text("raise ImportError('Unable to import onnxruntime')")
    said = refusal(made(Environment("an empty place", ()), Environment("a place", (str(tmp_path),))))
    assert said.startswith("faces need the package onnxruntime, which is not installed. Press")


def test_a_folder_of_its_own_that_is_broken_has_to_go_first(tmp_path: Path, made: Made) -> None:
    """The button leaves one alone that has what is listed."""
    broken, _ = write_networks(tmp_path / "own")
    (tmp_path / "own" / "onnxruntime" / "__init__.py").write_text("raise ImportError('damaged')")
    assert "damaged. Press" in refusal(made(broken))
    (tmp_path / "own" / packages.STAMP).write_bytes(packages.REQUIREMENTS.read_bytes())
    assert f"damaged. Delete the folder {tmp_path / 'own'} and press “install" in refusal(made(broken))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise ImportError('first line\\nDLL load failed: a part')", "ImportError: DLL load failed: a part. "),
        ("import onnx_that_is_not_there", "ModuleNotFoundError: No module named 'onnx_that_is_not_there'. "),
        ("raise AttributeError('_ARRAY_API not found')", "AttributeError: _ARRAY_API not found. "),
        ("import sys; sys.exit(3)", "SystemExit: 3. "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("package", ["onnxruntime", "insightface"])
def test_a_package_that_is_there_and_cannot_be_imported(
    tmp_path: Path, made: Made, package: str, code: str, why: str
) -> None:
    broken, _ = write_networks(tmp_path / "broken")
    (tmp_path / "broken" / package / "__init__.py").write_text(code)
    said = refusal(made(broken))
    assert said.startswith(
        f"{package} in a stand-in cannot be imported: {why}Press “install face analysis” in Settings"
    )
    assert f'--target "{tmp_path / "own"}"' in said


def test_a_package_that_ends_the_process(tmp_path: Path, made: Made) -> None:
    broken, _ = write_networks(tmp_path / "broken")
    code = "import os, sys; print('Illegal instruction', file=sys.stderr, flush=True); os._exit(4)"
    (tmp_path / "broken" / "onnxruntime" / "__init__.py").write_text(code)
    assert refusal(made(broken)).startswith(
        "insightface in a stand-in cannot be imported: the process ended by itself (code 4: Illegal instruction). Press"
    )


def test_a_package_that_never_ends_its_import(tmp_path: Path, made: Made, monkeypatch) -> None:
    monkeypatch.setattr(process, "START", 1.0)
    slow, _ = write_networks(tmp_path / "slow")
    (tmp_path / "slow" / "onnxruntime" / "__init__.py").write_text("import time; time.sleep(60)")
    assert "cannot be imported: the process did not answer within 1 seconds. Press" in refusal(made(slow))


def test_one_that_works_is_taken_after_those_that_do_not(tmp_path: Path, made: Made) -> None:
    broken, _ = write_networks(tmp_path / "broken")
    (tmp_path / "broken" / "insightface" / "__init__.py").write_text("raise ImportError('no')")
    works, calls = write_networks(tmp_path / "works")
    one = made(Environment("an empty place", (str(tmp_path),)), broken, works)
    assert len(one.find(astronaut(), "buffalo_l").faces) == 1 and len(loaded(calls)) == 2


def test_the_hosts_packages_come_before_the_folder_of_its_own(tmp_path: Path) -> None:
    host, *more = environments(tmp_path)
    assert not more and str(Path(torch.__file__).parents[1]) in host.paths
    (tmp_path / "insightface").mkdir()
    (tmp_path / "insightface" / "__init__.py").touch()
    assert environments(tmp_path) == [host, Environment(str(tmp_path), (str(tmp_path),))]


def test_packages_that_are_installed_later_are_found(tmp_path: Path, made: Made) -> None:
    places = [Environment("an empty place", (str(tmp_path),))]
    one = made(environments=lambda folder: places)
    refusal(one)
    places.append(write_networks(tmp_path / "works")[0])
    assert one.find(astronaut(), "buffalo_l").faces


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the process that is started."""
    started: list[int] = []

    class Counted(subprocess.Popen):
        def __init__(self, *arguments, **settings) -> None:
            super().__init__(*arguments, **settings)
            started.append(self.pid)

    monkeypatch.setattr(subprocess, "Popen", Counted)
    return started


def test_that_there_are_no_packages_is_remembered_for_a_while(tmp_path: Path, made: Made, monkeypatch) -> None:
    started = counted(monkeypatch)
    one = made(Environment("an empty place", (str(tmp_path),)))
    said = refusal(one)
    assert refusal(one) == said and len(started) == 1
    one.end()
    assert refusal(one) == said and len(started) == 2
    with one.ended():
        pass
    assert refusal(one) == said and len(started) == 3
    now = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert refusal(one) == said and len(started) == 4


@pytest.mark.parametrize(
    "where", [{"load": "raise TypeError('no providers')"}, {"detect": "1 / 0"}, {"detect": "os._exit(7)"}]
)  # fmt: skip
def test_one_whose_packages_fail_at_work_gives_way_to_the_next(tmp_path: Path, made: Made, caplog, where: dict) -> None:
    fails, _ = write_networks(tmp_path / "fails", **where)
    works, calls = write_networks(tmp_path / "works")
    one = made(replace(fails, name="the WebUI's own packages"), works, idle=0.3)
    assert one.find(astronaut(), "buffalo_l").faces
    first = loaded(calls)[0][2]
    until = time.monotonic() + 20
    while is_running(first) and time.monotonic() < until:
        time.sleep(0.05)
    asked = (tmp_path / "fails" / "calls").exists() and len(loaded(tmp_path / "fails" / "calls"))
    assert one.find(astronaut(), "buffalo_l").faces and loaded(calls)[-1][2] != first
    assert ((tmp_path / "fails" / "calls").exists() and len(loaded(tmp_path / "fails" / "calls"))) == asked
    [line] = [record.message for record in caplog.records if "a stand-in" in record.message]
    assert "the WebUI's own packages" in line


def test_a_file_that_no_packages_can_read_is_tried_in_each_once(tmp_path: Path, made: Made, monkeypatch) -> None:
    started = counted(monkeypatch)
    one, other = (
        write_networks(tmp_path / name, load="raise ValueError('no network')")[0] for name in ("one", "other")
    )
    both = made(one, replace(other, name="another"))
    for _ in range(2):
        assert refusal(both).startswith("det_10g.onnx of the face pack buffalo_l in ")
    assert len(started) == 2


def test_one_that_works_is_kept_where_the_next_does_not_start(tmp_path: Path, made: Made, monkeypatch) -> None:
    started = counted(monkeypatch)
    fails, calls = write_networks(tmp_path / "fails", recognise="1 / 0")
    one = made(fails, Environment("an empty place", ()))
    for _ in range(2):
        assert "ZeroDivisionError" in refusal(one)
    assert len(started) == 2 and len({pid for _, _, pid in loaded(calls)}) == 1


@pytest.mark.downloads
def test_the_tests_own_environment_has_no_insightface() -> None:
    """So what is used by the other tests is the folder of its own, as the library chooses it."""
    files = setup.ready()
    one = finder(environments=process.environments)
    try:
        found = one.find(photo("person_a_1"), "buffalo_l")
    finally:
        one.end()
    assert len(found.faces) == 1 and environments(files.packages)[1].paths == (str(files.packages),)


def test_a_pack_is_looked_for_before_anything_is_started(tmp_path: Path, made: Made) -> None:
    works, calls = write_networks(tmp_path / "works")
    with pytest.raises(CheckpointError, match="pack antelopev2 is missing"):
        made(works).find(astronaut(), "antelopev2")
    assert not calls.exists()


# What it does


def test_networks_are_loaded_once_and_asked_for_their_own_pack(tmp_path: Path, made: Made) -> None:
    write_pack(tmp_path / "packs" / "antelopev2", "antelopev2")
    works, calls = write_networks(tmp_path / "works")
    code = tmp_path / "works" / "insightface" / "model_zoo.py"
    code.write_text(code.read_text().replace('"det" in file', '("det_10g" in file or "scrfd" in file)'))
    one = made(works)
    for pack in ("buffalo_l", "antelopev2", "buffalo_l"):
        [face] = one.find(astronaut(), pack).faces
        assert face.box == (10, 10, 40, 40) and face.landmarks[2] == (25, 28) and face.embedding.sum() == 512
    names = [name for name, _, _ in loaded(calls)]
    assert names == ["det_10g.onnx", "w600k_r50.onnx", "scrfd_10g_bnkps.onnx", "glintr100.onnx"]


def test_a_network_that_is_replaced_is_read_anew(tmp_path: Path, made: Made) -> None:
    works, calls = write_networks(tmp_path / "works")
    one = made(works)
    seen = [one.identity("buffalo_l")]
    one.find(astronaut(), "buffalo_l")
    (tmp_path / "packs" / "buffalo_l" / "w600k_r50.onnx").write_bytes(b"another network")
    seen.append(one.identity("buffalo_l"))
    for _ in range(2):
        one.find(astronaut(), "buffalo_l")
    assert [name for name, _, _ in loaded(calls)] == ["det_10g.onnx", "w600k_r50.onnx", "w600k_r50.onnx"]
    assert len({*seen, one.identity("antelopev2")}) == 3 and one.identity("antelopev2") is None
    assert seen[1] == one.identity("buffalo_l")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("np.full((1, 512), np.nan, np.float32)", "not 512 finite numbers"), ("np.ones((1, 128))", "not 512"),
        ("np.zeros((1, 512))", "not 512"), ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)  # fmt: skip
def test_embeddings_that_are_of_no_use(tmp_path: Path, made: Made, answer: str, why: str) -> None:
    works, _ = write_networks(tmp_path / "works", recognise=f"return {answer}")
    said = refusal(made(works))
    place = tmp_path / "packs" / "buffalo_l"
    assert said.startswith(f"w600k_r50.onnx of the face pack buffalo_l in {place} cannot be used (")
    assert why in said and said.endswith("/v0.7/buffalo_l.zip and put the file from it there.")


@pytest.mark.parametrize("points", ["np.full((1, 5, 2), np.nan)", "np.ones((1, 5, 2))", "np.full((1, 5, 2), np.inf)"])
def test_faces_without_an_extent_are_none(tmp_path: Path, made: Made, points: str) -> None:
    works, _ = write_networks(tmp_path / "works", detect=f"return np.array([[1, 1, 9, 9, 0.9]]), {points}")
    with pytest.raises(PictureError, match="no face was found"):
        made(works).find(astronaut(), "buffalo_l")


def test_a_detector_without_landmarks(tmp_path: Path, made: Made) -> None:
    works, _ = write_networks(tmp_path / "works", detect="return np.array([[1, 1, 9, 9, 0.9]]), None")
    assert "det_10g.onnx of the face pack buffalo_l" in (said := refusal(made(works))) and "finds no landmarks" in said


def test_very_many_faces_are_not_all_recognised(tmp_path: Path, made: Made) -> None:
    detect = (
        "n = np.arange(500.0)[:, None]\n"
        "        points = np.array([[15, 20], [35, 20], [25, 28], [18, 34], [32, 34]])[None] + np.zeros((500, 1, 1))\n"
        "        return np.hstack([n * 0, n * 0, 1 + n / 2, 1 + n / 2, n * 0 + 0.9]), points"
    )
    works, _ = write_networks(tmp_path / "works", detect=detect)
    faces = made(works).find(astronaut(), "buffalo_l").faces
    assert len(faces) == 64 and min(face.area for face in faces) > 200**2


def test_networks_are_asked_to_work_on_the_cpu_alone(made: Made, tmp_path: Path) -> None:
    works, calls = write_networks(tmp_path / "works")
    assert len(made(works).find(astronaut(), "buffalo_l").faces) == 1
    assert {tuple(providers) for _, providers, _ in loaded(calls)} == {("CPUExecutionProvider",)}


def test_a_request_is_bounded(tmp_path: Path) -> None:
    works, _ = write_networks(tmp_path / "works")
    one = process.Process(works)
    try:
        with pytest.raises(ValueError, match="more than a request may have"):
            one.ask({"work": "detect"}, bytes(64 * 2**20 + 1), 5)
    finally:
        one.end()


# What may happen to it


def test_one_that_was_killed_is_started_again(tmp_path: Path, made: Made) -> None:
    works, calls = write_networks(tmp_path / "works")
    one = made(works)
    one.find(astronaut(), "buffalo_l")
    os.kill(loaded(calls)[0][2], signal.SIGKILL)
    assert one.find(astronaut(), "buffalo_l").faces
    assert len({pid for _, _, pid in loaded(calls)}) == 2


@pytest.mark.downloads
def test_one_that_is_killed_at_work_is_started_again() -> None:
    one = finder(environments=lambda folder: [environment()])
    try:
        before = one.find(astronaut(), "buffalo_l").faces
        assert one._process is not None
        victim = one._process.pid
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(one.find, noise(), "buffalo_l")  # seconds of work
            time.sleep(0.5)
            assert not work.done()
            os.kill(victim, signal.SIGKILL)
            with pytest.raises(PictureError, match="no face was found"):
                work.result(120)
        again = one.find(astronaut(), "buffalo_l").faces
        assert one._process is not None and one._process.pid != victim and not is_running(victim)
        assert before == again and torch.equal(before[0].embedding, again[0].embedding)
    finally:
        one.end()


def test_one_that_always_ends_is_told_and_not_tried_for_ever(tmp_path: Path, made: Made, caplog) -> None:
    works, calls = write_networks(
        tmp_path / "works", detect="print('bad_alloc', file=sys.stderr, flush=True); os._exit(7)"
    )
    assert refusal(made(works)) == (
        "the process that finds faces ended by itself (code 7: bad_alloc) while it worked with det_10g.onnx of the "
        "face pack buffalo_l: close other programs and try again, or download "
        "https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip again."
    )
    assert len(loaded(calls)) == 2 and "the process that finds faces ended by itself" in caplog.text


def test_one_that_does_not_answer_is_ended(tmp_path: Path, made: Made, monkeypatch) -> None:
    works, calls = write_networks(tmp_path / "works", detect="time.sleep(60)")
    one = made(works)
    monkeypatch.setattr(process, "WORK", 1.0)
    start = time.monotonic()
    assert "did not answer within 1 seconds while it worked with det_10g.onnx" in refusal(one)
    assert time.monotonic() - start < 20
    assert len(loaded(calls)) == 1 and not is_running(loaded(calls)[0][2])


def test_one_that_does_not_listen_is_ended(tmp_path: Path, made: Made, monkeypatch) -> None:
    """A picture is more than a pipe holds: whoever writes it would wait."""
    works, _ = write_networks(tmp_path / "works")
    with (tmp_path / "works" / "onnxruntime" / "__init__.py").open("a") as module:
        module.write("import sys, threading, time\nread = sys.stdin.buffer\n")
        module.write(
            "sys.stdin = type('Deaf', (), {'buffer': type('B', (), {'readline': lambda *_: time.sleep(60)})()})\n"
        )
    one = made(works)
    monkeypatch.setattr(process, "WORK", 1.0)
    assert "did not answer within 1 seconds" in refusal(one)


def test_one_that_nobody_needs_goes(tmp_path: Path, made: Made) -> None:
    works, calls = write_networks(tmp_path / "works")
    one = made(works, idle=0.5)
    one.find(astronaut(), "buffalo_l")
    pid = loaded(calls)[0][2]
    until = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(pid) and one._process is None
    assert one.find(astronaut(), "buffalo_l").faces and loaded(calls)[-1][2] != pid


def test_one_that_is_needed_stays(tmp_path: Path, made: Made) -> None:
    works, calls = write_networks(tmp_path / "works")
    one = made(works, idle=1.0)
    for _ in range(6):
        one.find(astronaut(), "buffalo_l")
        time.sleep(0.3)
    assert len({pid for _, _, pid in loaded(calls)}) == 1
    assert sum(getattr(thread, "interval", None) == 1.0 for thread in threading.enumerate()) == 1  # one of them waits


def test_ending_ends_the_process(tmp_path: Path, made: Made) -> None:
    works, calls = write_networks(tmp_path / "works")
    one = made(works)
    one.end()  # there is none yet
    one.find(astronaut(), "buffalo_l")
    one.end()
    assert not is_running(loaded(calls)[0][2])


def test_nothing_is_found_while_it_has_to_be_ended(tmp_path: Path, made: Made) -> None:
    works, calls = write_networks(tmp_path / "works")
    one = made(works)
    one.find(astronaut(), "buffalo_l")
    with ThreadPoolExecutor(1) as pool:
        with one.ended():
            assert not is_running(loaded(calls)[0][2])
            work = pool.submit(one.find, astronaut(), "buffalo_l")
            time.sleep(1)
            assert not work.done() and len(loaded(calls)) == 2
        assert work.result(60).faces and len(loaded(calls)) == 4


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_no_process_outlives_a_beginning_that_is_broken_off(tmp_path: Path, monkeypatch, error) -> None:
    started = counted(monkeypatch)

    def fail(self) -> None:
        raise error

    monkeypatch.setattr(process.Process, "_answer", fail)
    with pytest.raises(error):
        process.Process(write_networks(tmp_path / "works")[0])
    assert len(started) == 1 and not is_running(started[0])


def test_an_answer_that_nobody_has_read_is_not_the_next_ones(tmp_path: Path, made: Made, monkeypatch) -> None:
    works, calls = write_networks(tmp_path / "works")
    one, answer = made(works), process.Process._answer
    one.find(astronaut(), "buffalo_l")

    def interrupted(self) -> dict:
        raise KeyboardInterrupt

    monkeypatch.setattr(process.Process, "_answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.find(astronaut(), "buffalo_l")
    monkeypatch.setattr(process.Process, "_answer", answer)
    assert one.find(astronaut(), "buffalo_l").faces
    assert len({pid for _, _, pid in loaded(calls)}) == 2 and not is_running(loaded(calls)[0][2])


def test_it_goes_with_the_webui(tmp_path: Path, made: Made) -> None:
    """Whose end closes its input, however it comes."""
    works, _ = write_networks(tmp_path / "works")
    one = process.Process(works)
    assert one._process.stdin is not None
    one._process.stdin.close()
    assert one._process.wait(20) == 0
    one.end()


def test_many_threads_may_ask(tmp_path: Path, made: Made) -> None:
    colour = "return np.array([[0, 0, 9, 9, 0.9]]), np.arange(10.0).reshape(1, 5, 2) ** 1.5 + float(picture[0, 0, 0])"
    works, calls = write_networks(tmp_path / "works", detect=f"time.sleep(0.01); {colour}")
    one = made(works)
    barrier = threading.Barrier(8)

    def ask(number: int) -> float:
        picture = noise((40, 40))
        picture.putpixel((0, 0), (0, 0, number))
        barrier.wait()
        return one.find(picture, "buffalo_l").faces[0].landmarks[0][0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == list(range(8))
    assert len({pid for _, _, pid in loaded(calls)}) == 1
