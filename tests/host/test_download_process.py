"""Downloads of published files, from a stand-in of the hub."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest

from lib_ipadapter.checkpoint.folders import ENDINGS, PARTIAL
from lib_ipadapter.downloads import child, desk, problems, published, transfer
from lib_ipadapter.downloads.desk import Desk
from lib_ipadapter.downloads.published import Published
from lib_ipadapter.errors import CheckpointError
from tests.helpers.hub import Hub, listed, serving, small
from tests.helpers.paths import ROOT

DATA = random.Random(1).randbytes(5_000_000)
OTHER = random.Random(2).randbytes(300_000)
FILE, SECOND = small("one.safetensors", DATA), small("two.safetensors", OTHER, "")
HALF = 3_000_000


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    listed(monkeypatch, FILE, SECOND)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as (made, address):
        made.files = {FILE.path: DATA, SECOND.path: OTHER}
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models" / "ipadapter"


@pytest.fixture
def made(hub: Hub, folder: Path) -> Iterator[SimpleNamespace]:
    """A desk, and how often it has told of a file that has come."""
    arrived: list[list[str]] = []
    one = Desk(lambda file: folder, lambda: arrived.append(sorted(path.name for path in folder.iterdir())))
    yield SimpleNamespace(desk=one, arrived=arrived)
    one.cancel()
    one.wait(10)


def fetched(made: SimpleNamespace, *names: str) -> list[dict]:
    made.desk.start(names or (FILE.name,))
    made.desk.wait(60)
    state = made.desk.state()
    assert not state["running"]
    return state["files"]


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_whole_files_take_their_names(made: SimpleNamespace, folder: Path) -> None:
    one, two = fetched(made, FILE.name, SECOND.name)
    assert (one["state"], two["state"], one["done"]) == ("done", "done", len(DATA))
    assert (folder / FILE.name).read_bytes() == DATA and (folder / SECOND.name).read_bytes() == OTHER
    assert sorted(os.listdir(folder)) == [FILE.name, SECOND.name]  # nothing else is left
    assert made.arrived[-1] == [FILE.name, SECOND.name]
    assert fetched(made)[0]["state"] == "done"  # it is here: nothing is asked for


def test_what_broke_off_goes_on(made: SimpleNamespace, hub: Hub, folder: Path) -> None:
    hub.stop_after = HALF
    (one,) = fetched(made)
    assert one["state"] == "failed" and not (folder / FILE.name).exists() and made.arrived == []
    assert "the connection to 127.0.0.1 broke off after 2.1 MB: try again, and it goes on" in one["problem"]
    hub.stop_after, hub.sent = None, 0
    (one,) = fetched(made)
    assert one["state"] == "done" and (folder / FILE.name).read_bytes() == DATA
    assert hub.gets()[-1] == "bytes=2097152-" and hub.sent == len(DATA) - 2**21


def test_another_file_than_the_published_one_is_deleted(made: SimpleNamespace, hub: Hub, folder: Path) -> None:
    hub.files[FILE.path] = DATA[:-1] + b"?"
    (one,) = fetched(made)
    assert "is not the published file (another SHA-256) and has been deleted" in one["problem"]
    assert os.listdir(folder) == []
    hub.files[FILE.path] = DATA
    assert fetched(made)[0]["state"] == "done"


def test_more_than_the_published_file_is_not_taken(
    made: SimpleNamespace, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "LOOK", 0.02)
    hub.files[FILE.path] = DATA * 3
    hub.stop_after, hub.hold = len(DATA) * 2, True
    (one,) = fetched(made)
    assert "is larger than the published file and has been deleted" in one["problem"]
    assert not list(folder.rglob("*.incomplete"))


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (404, "EntryNotFound", "127.0.0.1 has no models/one.safetensors in maker/files (it answered 404): set HF_END"),
        (404, "RevisionNotFound", "has no models/one.safetensors in maker/files (it answered 404)"),
        (401, "RepoNotFound", "gives this file only to who is logged in (it answered 401): set HF_TOKEN"),
        (403, "GatedRepo", "gives this file only to who is logged in (it answered 403): set HF_TOKEN"),
        (500, "", "127.0.0.1 cannot give the file now (it answered 500): try again in a few minutes"),
    ],
)
def test_what_a_server_answers_is_told(
    status: int, code: str, sentence: str, made: SimpleNamespace, hub: Hub, folder: Path
) -> None:
    hub.status, hub.error_code = status, code
    (one,) = fetched(made)
    assert one["state"] == "failed" and one["problem"].startswith("one.safetensors: ")
    assert sentence in one["problem"]
    assert not (folder / FILE.name).exists()


def test_no_connection_and_no_password_in_sentences(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://anna:geheim@127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_geheim")
    (one,) = fetched(made)
    assert "127.0.0.1 cannot be reached, or breaks off at once: see that this machine is online" in one["problem"]
    assert "geheim" not in one["problem"] + caplog.text and "anna" not in one["problem"] + caplog.text


def test_offline_mode_is_honoured(made: SimpleNamespace, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (one,) = fetched(made)
    assert "started in offline mode (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set)" in one["problem"]
    assert hub.asked == []


def test_a_token_goes_along(made: SimpleNamespace, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    assert fetched(made, SECOND.name)[0]["state"] == "done"
    assert set(hub.tokens) == {"Bearer hf_abc"}


def test_too_little_disk_is_told_before(made: SimpleNamespace, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=desk.SPARE + 1_000_000))
    with pytest.raises(CheckpointError, match=r"205 MB are needed in .*ipadapter, and its disk has 201 MB left: make"):
        made.desk.start([FILE.name, SECOND.name])
    assert hub.asked == [] and made.desk.state()["files"] == []
    assert fetched(made, SECOND.name)[0]["state"] == "done"


def test_a_disk_that_fills_up_and_a_folder_that_cannot_be_written(tmp_path: Path, made: SimpleNamespace) -> None:
    full = child.problem(OSError(28, "No space left on device"))
    assert "is full: make room" in problems.sentence(full["problem"], full["told"], FILE, tmp_path)
    closed = child.problem(PermissionError(13, "Permission denied", "/secret"))
    sentence = problems.sentence(closed["problem"], closed["told"], FILE, tmp_path)
    assert "cannot be written (Permission denied): let the WebUI write there" in sentence
    (tmp_path / "models").write_bytes(b"")  # a file in the folder's place
    with pytest.raises(CheckpointError, match=r"the folder .*ipadapter cannot be made"):
        made.desk.start([FILE.name])


def test_a_file_of_that_name_is_never_overwritten(made: SimpleNamespace, hub: Hub, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / FILE.name).write_bytes(b"a person's own")
    (one,) = fetched(made)
    assert "another file of this name lies in" in one["problem"] and hub.asked == []
    assert (folder / FILE.name).read_bytes() == b"a person's own"


def test_two_presses_are_one_download(made: SimpleNamespace, hub: Hub) -> None:
    hub.stop_after, hub.hold = HALF, True
    made.desk.start([FILE.name])
    until(lambda: made.desk.state()["done"])
    made.desk.start([FILE.name, SECOND.name])
    made.desk.start([FILE.name])
    state = made.desk.state()
    assert [one["file"] for one in state["files"]] == [FILE.name, SECOND.name]
    assert [one["state"] for one in state["files"]] == ["coming", "waiting"] and state["running"]
    assert state["size"] == len(DATA) + len(OTHER) and 0 < state["done"] < len(DATA)
    hub.go.set()
    made.desk.wait(60)
    assert [one["state"] for one in made.desk.state()["files"]] == ["done", "done"]
    assert len([path for method, path, _ in hub.asked if method == "GET" and FILE.name in path]) == 1


def test_a_download_is_called_off_and_goes_on(made: SimpleNamespace, hub: Hub, folder: Path) -> None:
    hub.stop_after, hub.hold = HALF, True
    made.desk.start([FILE.name, SECOND.name])
    until(lambda: made.desk.state()["done"] >= 2**21)
    until(lambda: made.desk.state()["speed"] > 0)
    pid = made.desk._orders[0].transfer._process.pid
    made.desk.cancel()
    made.desk.wait(10)
    state = made.desk.state()
    assert [one["state"] for one in state["files"]] == ["cancelled", "cancelled"] and not state["running"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert os.listdir(folder) == [PARTIAL] and made.arrived == []
    with pytest.MonkeyPatch.context() as patch:  # what came before says nothing of an attempt that brings nothing
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        assert "127.0.0.1 cannot be reached, or breaks off at once" in fetched(made)[0]["problem"]
    hub.go.set()
    hub.stop_after = None
    assert fetched(made)[0]["state"] == "done"
    assert hub.gets()[-1] == "bytes=2097152-"


def test_a_cancel_at_the_last_moment_is_too_late(
    made: SimpleNamespace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has its name already: it is told as it is, and looked for."""
    listen = transfer._listen

    def slow(process: subprocess.Popen[bytes], answers: transfer.queue.SimpleQueue[bytes]) -> None:
        until(lambda: (folder / SECOND.name).exists() and process.poll() is not None)
        made.desk.cancel()
        listen(process, answers)

    monkeypatch.setattr(transfer, "_listen", slow)
    made.desk.start([SECOND.name])
    made.desk.wait(60)
    (one,) = made.desk.state()["files"]
    assert one["state"] == "done" and made.arrived == [[SECOND.name]]


def test_a_cancel_while_the_process_is_told_what_to_fetch(
    made: SimpleNamespace, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancelled(order: object) -> str:
        if isinstance(order, dict):
            made.desk.cancel()
        return json.JSONEncoder().encode(order)

    monkeypatch.setattr(transfer, "json", SimpleNamespace(dumps=cancelled, loads=json.loads))
    (one,) = fetched(made)
    assert one["state"] == "cancelled" and "problem" not in one and hub.asked == []


def test_others_can_ask_while_a_process_is_ended(
    made: SimpleNamespace, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.stop_after, hub.hold = HALF, True
    made.desk.start([FILE.name])
    until(lambda: made.desk.state()["done"])
    end, is_free = transfer.Transfer.cancel, []

    def cancel(one: transfer.Transfer) -> None:
        is_free.append(not made.desk._lock.locked())
        end(one)

    monkeypatch.setattr(transfer.Transfer, "cancel", cancel)
    made.desk.cancel()
    assert is_free == [True]
    hub.go.set()


def test_what_has_come_of_a_file_goes_once_it_lies_there(made: SimpleNamespace, hub: Hub, folder: Path) -> None:
    hub.stop_after = HALF
    assert fetched(made)[0]["state"] == "failed" and (folder / PARTIAL).exists()
    left = [path for path in folder.rglob("*") if path.is_dir()]
    assert left and not [path for path in left if path.suffix in ENDINGS]  # others would take it for a model
    (folder / FILE.name).write_bytes(DATA)  # by hand
    assert fetched(made)[0]["state"] == "done" and os.listdir(folder) == [FILE.name]


@pytest.mark.parametrize("there", [DATA, OTHER], ids=["right", "another"])
def test_another_webui_with_this_folder_may_be_sooner(
    folder: Path, monkeypatch: pytest.MonkeyPatch, there: bytes
) -> None:
    target, partial = folder / FILE.name, folder / PARTIAL / "one"

    def downloaded(order: dict, partial: Path) -> str:
        target.write_bytes(there)
        (partial / "come").write_bytes(DATA)
        return str(partial / "come")

    monkeypatch.setattr(child, "downloaded", downloaded)
    order = {"target": str(target), "partial": str(partial), "sha256": FILE.sha256}
    if there == DATA:
        child.fetch(order, lambda told: None)
        assert os.listdir(folder) == [FILE.name]
    else:
        with pytest.raises(child.Taken):
            child.fetch(order, lambda told: None)
    assert target.read_bytes() == there


@pytest.mark.parametrize(("there", "state"), [(DATA, "done"), (OTHER, "failed")], ids=["right", "another"])
def test_another_webui_that_was_sooner_takes_away_what_has_come(
    made: SimpleNamespace, hub: Hub, folder: Path, there: bytes, state: str
) -> None:
    hub.stop_after, hub.hold = HALF, True
    made.desk.start([FILE.name])
    until(lambda: made.desk.state()["done"])
    (folder / FILE.name).write_bytes(there)
    shutil.rmtree(folder / PARTIAL)
    hub.go.set()
    made.desk.wait(60)
    assert [one["state"] for one in made.desk.state()["files"]] == [state]
    assert (folder / FILE.name).read_bytes() == there


def test_the_process_ends_with_the_webui(hub: Hub, folder: Path) -> None:
    hub.stop_after, hub.hold = HALF, True
    code = (
        "import sys, time; from pathlib import Path\n"
        "from lib_ipadapter.downloads.published import Published\n"
        "from lib_ipadapter.downloads.transfer import Transfer\n"
        "import json, threading\n"
        f"file = Published(*json.loads(sys.argv[1]))._replace(source=('maker/files', {FILE.revision!r}))\n"
        "one = Transfer(file, Path(sys.argv[2]))\n"
        "threading.Thread(target=one.run, daemon=True).start()\n"
        "while one._process is None: time.sleep(0.01)\n"
        "print(one._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, json.dumps(FILE), str(folder)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        until(lambda: hub.sent)
        parent.kill()
        parent.wait(10)

    def is_gone() -> bool:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        return state == "Z"  # nobody has asked how it ended

    until(is_gone, 10)


def test_a_process_that_ends_by_itself_is_told(made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BEGIN", "import os; os._exit(7)")
    assert "the process that fetches it has ended (code 7): try again" in fetched(made)[0]["problem"]
    monkeypatch.setattr(sys, "executable", "")
    assert (
        "no process can be started to fetch it (there is no Python to start): download" in fetched(made)[0]["problem"]
    )


def test_other_errors_are_words_of_ours(tmp_path: Path) -> None:
    told = child.problem(RuntimeError("http://anna:geheim@mirror failed"))
    assert told == {"problem": "other", "told": "RuntimeError"}
    assert "it could not be fetched (RuntimeError): try again" in problems.sentence(
        "other", "RuntimeError", FILE, tmp_path
    )
    lacking = child.problem(ModuleNotFoundError("no", name="huggingface_hub"))
    assert "huggingface_hub cannot be used" in problems.sentence(lacking["problem"], lacking["told"], FILE, tmp_path)
    assert child.problem(ConnectionResetError(104, "reset"))["problem"] == "connection"


def test_only_files_of_the_table_can_be_had(made: SimpleNamespace) -> None:
    for name in ("../../etc/passwd", "three.safetensors", ""):
        with pytest.raises(
            CheckpointError, match="is none of the files that can be downloaded: choose one of one.safet"
        ):
            made.desk.start([name])


def test_a_partial_file_is_no_model(folder: Path) -> None:
    from lib_ipadapter.checkpoint.folders import model_files

    inside = folder / PARTIAL / FILE.name / "snapshots"
    inside.mkdir(parents=True)
    (inside / FILE.name).write_bytes(b"half")
    (folder / SECOND.name).write_bytes(b"whole")
    assert [found.path.name for found in model_files(folder, folder, set())] == [SECOND.name]


# The table


def test_the_table_is_whole() -> None:
    files = published.PUBLISHED
    assert len({file.name for file in files}) == len({file.sha256 for file in files}) == len(files)
    for file in files:
        assert len(file.sha256) == 64 and set(file.sha256) <= set("0123456789abcdef"), file.name
        assert len(file.revision) == 40 and file.base in ("", "SD1.5", "SDXL"), file.name
        assert Path(file.name).name == file.name and not set(file.needs) - set(published.BY_NAME), file.name
        is_face = "face" in file.what.lower() and file.path.endswith(".bin")
        assert file.name.endswith(".safetensors") or is_face, file.name
        assert file.size is None or file.size > 4e7, file.name
        assert file.link.startswith("https://huggingface.co/")


@pytest.mark.parametrize("base", ["SD1.5", "SDXL"])
def test_a_starter_comes_with_its_encoder(base: str) -> None:
    first = published.starter(base)
    assert isinstance(first, Published) and first.needs == ("CLIP-ViT-H-14.safetensors",)
    assert published.starter("SD2.x") is None


# Versions of the library


@pytest.mark.parametrize(("version", "is_asked_to_resume"), [("0.16.4", True), ("0.25.2", False), ("2.4.0", False)])
def test_older_versions_are_asked_to_go_on(
    version: str, is_asked_to_resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those before 0.23 begin anew otherwise; later ones warn of the word, and the latest do not know it."""
    asked: list[dict] = []

    def older(repo_id: str, filename: str, *, revision: str, cache_dir: str, resume_download: bool = False) -> str:
        asked.append({"resume_download": resume_download})
        return "path"

    def latest(repo_id: str, filename: str, *, revision: str, cache_dir: str) -> str:
        asked.append({"resume_download": False})
        return "path"

    function = latest if version.startswith("2.") else older
    constants = SimpleNamespace(DOWNLOAD_CHUNK_SIZE=10 * 2**20)
    library = SimpleNamespace(
        __version__=version, hf_hub_download=function, constants=constants, file_download=SimpleNamespace()
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    order = {"repo": "maker/files", "path": "one", "revision": "main"}
    assert child.downloaded(order, tmp_path) == "path"
    assert asked == [{"resume_download": is_asked_to_resume}] and constants.DOWNLOAD_CHUNK_SIZE == child.PIECE


def test_what_has_come_whole_and_not_been_named_is_no_obstacle(made: SimpleNamespace, hub: Hub, folder: Path) -> None:
    """The process was ended between its last byte and the file's first name."""
    hub.stop_after = HALF
    fetched(made)
    (left,) = (folder / PARTIAL).rglob("*.incomplete")
    left.write_bytes(DATA)
    hub.stop_after = None
    assert fetched(made)[0]["state"] == "done" and (folder / FILE.name).read_bytes() == DATA


@pytest.mark.parametrize("can_rename", [True, False])
def test_the_latest_versions_go_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_rename: bool) -> None:
    """They write into a file of a new name each time, and delete it when they fail."""
    if not can_rename:  # as where a file that is open keeps its name

        def refused(*_: object) -> None:
            raise PermissionError(13, "in use")

        monkeypatch.setattr(child.os, "replace", refused)
        monkeypatch.setattr(child.os, "link", refused)
    breaks = [True]

    def http_get(url: str, temp_file: BinaryIO, *, resume_size: int = 0, _nb_retries: int = 5) -> None:
        temp_file.write(DATA[resume_size : HALF if breaks[0] else len(DATA)])
        if breaks.pop():
            raise ConnectionResetError(104, "reset")

    def download(name: str) -> bytes:
        with (tmp_path / f"abc.{name}.incomplete").open("wb") as stream:
            try:
                child._going_on(http_get)(url="…", temp_file=stream)
            finally:
                stream.flush()
                left.append(Path(stream.name).read_bytes())
                Path(stream.name).unlink()
        return left[-1]

    left: list[bytes] = []
    with pytest.raises(ConnectionResetError):
        download("1234")
    assert [path.name for path in tmp_path.iterdir()] == ["abc.kept.incomplete"]
    (tmp_path / "other.5678.incomplete").write_bytes(b"of another content" * 10**6)
    breaks.append(False)
    assert download("9abc") == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["other.5678.incomplete"]


def test_a_library_without_that_function_is_left_alone() -> None:
    def get(url: str, path: str) -> None: ...

    assert child._going_on(get) is get
