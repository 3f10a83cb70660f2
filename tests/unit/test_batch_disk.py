"""Disks that are full, or closed, while a run writes: no row is to blame, and the same command goes on."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib_ipadapter import replace_file
from lib_ipadapter.batch import keep as keeping
from lib_ipadapter.batch import run as running
from lib_ipadapter.batch import shards
from lib_ipadapter.batch.__main__ import main
from lib_ipadapter.batch.crew import DONE, Outcome, Part, Work
from lib_ipadapter.batch.keep import COMING, Keep
from lib_ipadapter.batch.ledger import Ledger, Result
from lib_ipadapter.batch.problems import DiskError, RowError, disk_error
from lib_ipadapter.batch.request import Reader
from lib_ipadapter.batch.shards import Packer
from lib_ipadapter.batch.status import LEDGER
from lib_ipadapter.batch.webui import Start
from lib_ipadapter.batch.worker import RUN_ID, Config, Worker
from tests.helpers.fixed_host import FixedHost, png
from tests.unit.test_batch_drive import ToldCrew, rows_of
from tests.unit.test_batch_rows import ANSWERS, reader  # noqa: F401  # a fixture

FULL = (errno.ENOSPC, "has no room left", "make room there")
CLOSED = (errno.EROFS, "cannot be written to", "make it writable")


def picture_of(endpoint: str, work: Work) -> Outcome:
    data = png(b"abc", {"name": work.name})
    return Outcome(DONE, parts=[Part("png", "", len(data), data=data)])


class AskedCrew(ToldCrew):
    """One WebUI that also says what it has."""

    def __init__(self) -> None:
        super().__init__("a", picture_of)

    def ask(self, name: str, route: str) -> Any:
        if route not in ANSWERS:
            raise RowError("there is no such thing.")
        return ANSWERS[route]


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command as it is, with a crew that answers at once, and no manifest."""

    @contextlib.contextmanager
    def crew(self: Any, keep: Keep) -> Iterator[AskedCrew]:
        yield AskedCrew()

    monkeypatch.setattr(running.Run, "_crew", crew)
    monkeypatch.setattr(running, "write_manifest", lambda ledger, folder: folder / "manifest.parquet")


def full_after(monkeypatch: pytest.MonkeyPatch, code: int, times: int, module: Any = keeping) -> None:
    """Files cannot be given their names any more, after so many."""
    left, real = [times], os.replace

    def replace(source: Any, target: Any) -> None:
        if ".png" in str(target):
            if not left[0]:
                raise OSError(code, os.strerror(code), str(source), None, str(target))
            left[0] -= 1
        real(source, target)

    monkeypatch.setattr(module.os, "replace", replace)


@pytest.mark.parametrize(("code", "what", "remedy"), [FULL, CLOSED])
def test_a_disk_that_takes_no_picture_ends_the_run_with_one_sentence_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_ray: None, capsys: Any, code: int, what: str, remedy: str
) -> None:
    (tmp_path / "jobs.jsonl").write_text("\n".join(json.dumps({"prompt": str(one)}) for one in range(6)))
    command = ["run", str(tmp_path / "jobs.jsonl"), "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patched:
        full_after(patched, code, 3)
        assert main(command) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "out") in last and what in last and remedy in last and "the same command" in last
    counts = Ledger(tmp_path / "out" / LEDGER, reads_only=True).counts()
    assert counts == {"done": 3, "open": 3}
    assert main(command) == 0
    assert Ledger(tmp_path / "out" / LEDGER, reads_only=True).counts() == {"done": 6}


def test_a_ledger_that_is_full_names_its_folder_and_keeps_what_it_has(tmp_path: Path) -> None:
    ledger = rows_of(tmp_path, [("one", "")] * 50)
    ledger.record([Result(1, DONE)])
    (pages,) = ledger._base.execute("PRAGMA page_count").fetchone()
    ledger._base.execute(f"PRAGMA max_page_count = {pages}")
    for _ in range(2):  # a transaction that broke off does not stand in the way of the next
        with pytest.raises(DiskError, match=f"{tmp_path} has no room left .*make room there"):
            ledger.record([Result(position, "refused", sentence="x" * 5000) for position in range(2, 40)])
    assert ledger.counts() == {"open": 49, "done": 1}
    ledger._base.execute("PRAGMA max_page_count = 100000")
    ledger.record([Result(2, DONE)])
    assert ledger.counts() == {"open": 48, "done": 2}


def test_a_ledger_that_may_only_be_read_is_no_ledger_of_another_program(tmp_path: Path) -> None:
    ledger = rows_of(tmp_path, [("one", "")])
    ledger._base.execute("PRAGMA query_only = 1")
    with pytest.raises(DiskError, match="cannot be written to"):
        ledger.record([Result(1, DONE)])
    assert "make room" in disk_error(tmp_path, sqlite3.OperationalError("database or disk is full")).detail


def test_a_worker_whose_disk_is_full_gives_the_picture_to_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / RUN_ID).write_text("run")
    Keep(tmp_path, rows_of(tmp_path, [("one", "")]), sure=False).clear()
    host = FixedHost(0, 0.0)
    threading.Thread(target=host.serve_forever, args=(0.05,), daemon=True).start()
    worker = Worker(Config("a", f"http://127.0.0.1:{host.server_address[1]}", folder=str(tmp_path), run_id="run"))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    try:
        work = Work("make", 1, "/sdapi/v1/txt2img", {"prompt": "cat", "seed": 1}, "000000001")
        assert [part.data for part in worker.do(work, {}).parts] == [b""]
        assert len(list((tmp_path / COMING).iterdir())) == 1
        monkeypatch.setattr(keeping.os, "fsync", full)
        outcome = worker.do(work, {})
        assert outcome.kind == DONE and outcome.parts[0].data.startswith(b"\x89PNG") and not outcome.parts[0].coming
        assert len(list((tmp_path / COMING).iterdir())) == 1  # the half file is gone
        monkeypatch.undo()
        (tmp_path / COMING).rename(tmp_path / "away")  # the driver has ended
        assert worker.do(work, {}).parts[0].data and not (tmp_path / COMING).exists()
    finally:
        host.shutdown()
        host.server_close()


def test_a_webui_whose_log_cannot_be_written_is_given_up_with_the_folder_and_not_with_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / RUN_ID).write_text("run")
    (tmp_path / "logs").write_text("a file in the way")
    worker = Worker(Config("a", start=Start(str(tmp_path)), folder=str(tmp_path), run_id="run", patience=5))
    is_up, sentence = worker.until_up()
    assert not is_up and f"{tmp_path}" in sentence and "--webui" not in sentence


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_picture_that_cannot_be_kept_while_rows_are_read_refuses_none(
    tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch, code: int  # noqa: F811
) -> None:  # fmt: skip
    def full(source: Any, target: Any) -> None:
        raise OSError(code, os.strerror(code))

    text = base64.b64encode(png(b"abc", {})).decode()
    monkeypatch.setattr(replace_file.os, "replace", full)
    with pytest.raises(DiskError, match=str(tmp_path / "given")):
        reader.read({"init_images": [f"data:image/png;base64,{text}"]})
    monkeypatch.undo()
    assert reader.read({"init_images": [f"data:image/png;base64,{text}"]})[1] == []


def test_a_tar_file_for_which_there_is_no_room_leaves_nothing_half_and_all_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = rows_of(tmp_path, [("one", "")] * 4)
    keep = Keep(tmp_path, ledger, sure=False)
    for number in range(1, 5):
        made = keep.picture(number, 0, Part("png", "", 3, data=b"abc"))
        ledger.record([Result(number, DONE, pictures=[made])])

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shards.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            Packer(ledger, tmp_path, 2).pack(5)
    assert list((tmp_path / "shards").iterdir()) == [] and len(list((tmp_path / "pictures").rglob("*.png"))) == 4
    assert Packer(ledger, tmp_path, 2).pack(5) == 2


def test_a_jobs_file_that_cannot_be_read_is_named_and_not_the_runs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_ray: None, capsys: Any
) -> None:
    real = Path.open

    def closed(path: Path, *more: Any, **named: Any) -> Any:
        if path.stem == "jobs":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *more, **named)

    names = ("jobs.csv", "jobs.jsonl")
    for name in names:
        (tmp_path / name).write_text("prompt\n")
    monkeypatch.setattr(Path, "open", closed)
    for name in names:
        for more in ([], ["--dry-run"]):
            assert main(["run", str(tmp_path / name), "--out", str(tmp_path / "out"), *more]) == 1
            told = capsys.readouterr().err
            assert f"{tmp_path / name} cannot be read (Permission denied)" in told and "written" not in told


def test_what_is_no_disk_is_not_called_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_ray: None, capsys: Any
) -> None:
    def gone(self: Any) -> int:
        raise ConnectionError("no cluster")

    monkeypatch.setattr(running.Run, "run", gone)
    assert main(["run", "jobs.csv", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "a connection is gone (no cluster): give the same command again.\n"
    ledger = rows_of(tmp_path, [("one", "")])
    ledger._base.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(tmp_path / LEDGER, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DiskError, match=f"{tmp_path} is in use .database is locked.: close what"):
        ledger.record([Result(1, DONE)])


@pytest.mark.parametrize(
    "given", [["--webui-args", "--a 'b"], ["--timeout", "nan"], ["--timeout", "inf"], ["--patience", "nan"]]
)
def test_what_the_command_line_cannot_mean_is_a_sentence(tmp_path: Path, capsys: Any, given: list[str]) -> None:
    assert main(["run", str(tmp_path / "jobs.csv"), "--out", str(tmp_path / "out"), *given]) == 1
    assert given[0] in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_run_whose_tar_files_cannot_be_written_leaves_a_manifest_and_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_ray: None, capsys: Any
) -> None:
    written: list[dict[str, int]] = []
    monkeypatch.setattr(running, "write_manifest", lambda ledger, folder: written.append(ledger.counts()) or folder)
    (tmp_path / "jobs.jsonl").write_text("{}\n{}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "shards").write_text("a file in the way")
    assert main(["run", str(tmp_path / "jobs.jsonl"), "--out", str(tmp_path / "out"), "--shards", "1"]) == 1
    assert str(tmp_path / "out") in capsys.readouterr().err and written == [{"done": 2}]


def test_a_picture_that_has_gone_is_made_again_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_ray: None, capsys: Any
) -> None:
    (tmp_path / "jobs.jsonl").write_text("{}\n{}")
    command = ["run", str(tmp_path / "jobs.jsonl"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(running, "packing", lambda path, per_shard: contextlib.nullcontext())
    assert main([*command, "--shards", "0"]) == 0
    (tmp_path / "out" / "pictures" / "000000" / "000000001.png").unlink()
    assert main([*command, "--shards", "2"]) == 3
    assert "1 done, 1 open" in capsys.readouterr().err
    assert main(command) == 0
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "jobs.jsonl").write_text("{}")
    (tmp_path / "file").write_text("")
    for out, words in (("file", "is a file: name a folder"), ("file/out", "does not play along")):
        assert main(["run", str(tmp_path / "jobs.jsonl"), "--out", str(tmp_path / out)]) == 1
        told = capsys.readouterr().err
        assert str(tmp_path / "file") in told and words in told and "Traceback" not in told
