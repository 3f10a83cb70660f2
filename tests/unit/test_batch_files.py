"""Files of a run that change, go, or lie on a disk that fails for a while."""

from __future__ import annotations

import builtins
import errno
import time
from pathlib import Path
from typing import Any

import pytest

from lib_ipadapter.batch.crew import DONE, Outcome, Work
from lib_ipadapter.batch.drive import Drive
from lib_ipadapter.batch.given import Sources
from lib_ipadapter.batch.keep import Keep
from lib_ipadapter.batch.ledger import REFERENCES, REFUSED, ROWS, Ledger, Result
from lib_ipadapter.batch.paths import Files
from lib_ipadapter.batch.plan import plan, plan_again, prepare
from lib_ipadapter.batch.problems import BatchError, RowError
from lib_ipadapter.batch.request import Reader
from lib_ipadapter.batch.status import LEDGER
from lib_ipadapter.batch.tasks import ReferenceTasks, RowTasks
from tests.unit.test_batch_drive import Silent, ToldCrew, part, states
from tests.unit.test_batch_rows import make_plan, reader  # noqa: F401  # a fixture

START = [{"init_images": ["photos/one.png"], "mask": "photos/two.png"}, {}]
UNIT = [{"units": [{"model": "Plus", "image": "photos/one.png"}]}, {}]


def drive(tmp_path: Path, ledger: Ledger, table: str = ROWS, patience: float = 0.2) -> Drive:
    """All rows, with answers that are as asked."""
    keep, sources = Keep(tmp_path / "out", ledger, sure=False), Sources(Files(tmp_path / "jobs"), tmp_path / "given")

    def answer(endpoint: str, work: Work) -> Outcome:
        return Outcome(DONE, parts=[part(work.name.encode())])

    tasks = (RowTasks if table == ROWS else ReferenceTasks)(ledger, keep, sources)
    return Drive(ledger, keep, ToldCrew("ab", answer), tasks, Silent(), patience=patience)


def failing(monkeypatch: pytest.MonkeyPatch, code: int, seconds: float = 60.0) -> None:
    real, end = builtins.open, time.monotonic() + seconds

    def broken(path: Any, *more: Any, **named: Any) -> Any:
        if str(path).endswith("one.png") and time.monotonic() < end:
            raise OSError(code, "as the disk says")
        return real(path, *more, **named)

    monkeypatch.setattr(builtins, "open", broken)


@pytest.mark.parametrize("lines", [START, UNIT])
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_disk_that_fails_for_a_while_refuses_no_row(
    tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch, code: int, lines: list[dict[str, Any]]  # noqa: F811
) -> None:  # fmt: skip
    ledger = make_plan(tmp_path, reader, lines)
    with monkeypatch.context() as patched:
        failing(patched, code)
        drive(tmp_path, ledger, REFERENCES).run()
        drive(tmp_path, ledger).run()
        assert states(ledger) == {1: "failed", 2: "done"}
        other = Ledger(tmp_path / "other" / LEDGER, sure=False)
        prepare(other, tmp_path / "jobs" / "jobs.jsonl", None)
        fresh = Reader(reader._facts, Sources(Files(tmp_path / "jobs"), tmp_path / "given"))
        with pytest.raises(BatchError, match="cannot be read now"):
            plan(other, tmp_path / "jobs" / "jobs.jsonl", fresh, None)
        assert not other.is_planned and other.counts() == {}
    ledger.reopen()
    drive(tmp_path, ledger, REFERENCES).run()
    drive(tmp_path, ledger).run()
    assert states(ledger) == {1: "done", 2: "done"}


@pytest.mark.parametrize(("table", "lines"), [(ROWS, START * 300), (REFERENCES, UNIT)])
def test_rows_wait_for_a_share_that_is_away_for_a_while(
    tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch, table: str, lines: list[dict[str, Any]]  # noqa: F811
) -> None:  # fmt: skip
    ledger = make_plan(tmp_path, reader, lines)
    made = drive(tmp_path, ledger, table, patience=30)
    failing(monkeypatch, errno.ESTALE, 0.3)
    made._rest = 0.1
    made.run()
    assert set(ledger.counts(table)) == {"done"}
    (sentence,) = made._watcher.troubles  # type: ignore[attr-defined]
    assert "one.png cannot be read now" in sentence


@pytest.mark.parametrize("patience", [0.0, 0.2])
def test_a_share_that_stays_away_ends_the_run_and_its_rows_stay_open_however_slow_the_others_are(
    tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch, patience: float  # noqa: F811
) -> None:  # fmt: skip
    ledger = make_plan(tmp_path, reader, START * 300)
    failing(monkeypatch, errno.EIO)
    with pytest.raises(BatchError, match="one.png cannot be read now .*see to the disk"):
        drive(tmp_path, ledger, patience=patience).run()
    assert set(ledger.counts()) <= {"open", "done"} and ledger.counts()["open"] >= 300


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_start_picture_or_mask_that_has_changed_since_the_plan_is_told(
    tmp_path: Path, reader: Reader, name: str  # noqa: F811
) -> None:  # fmt: skip
    ledger = make_plan(tmp_path, reader, START)
    (tmp_path / "jobs" / "photos" / f"{name}.png").write_bytes(b"another picture")
    drive(tmp_path, ledger).run()
    (row, _) = ledger.every_row()
    assert row["state"] == REFUSED and f"{name}.png has changed" in row["sentence"]


def test_a_path_that_leads_outside_by_now_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "a.png").write_bytes(b"a")
    assert Files(folder).find("a.png") == ["a.png"]
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to(tmp_path / "secret.png")
    for read in (Files(folder).read, Files(folder).sha256):
        with pytest.raises(RowError, match="outside"):
            read("a.png")
    assert Files(folder, outside=True).read("a.png") == b"secret"


def test_a_reference_that_is_gone_from_the_disk_is_made_again(tmp_path: Path, reader: Reader) -> None:  # noqa: F811
    ledger = make_plan(tmp_path, reader, UNIT)
    keep = Keep(tmp_path / "out", ledger, sure=False)
    for gone in (True, False):
        drive(tmp_path, ledger, REFERENCES).run()
        (file,) = (tmp_path / "out" / "references").rglob("*.safetensors")
        if gone:
            file.unlink()
        keep.look_at_references()
        assert ledger.counts(REFERENCES) == ({"open": 1} if gone else {"done": 1})
    ledger.record([Result(position, DONE) for position in (1, 2)])
    file.unlink()
    keep.look_at_references()  # nobody needs it any more
    assert ledger.counts(REFERENCES) == {"done": 1}


def test_a_reference_that_is_there_already_is_not_made_again(tmp_path: Path, reader: Reader) -> None:  # noqa: F811
    ledger = make_plan(tmp_path, reader, UNIT)
    keep = Keep(tmp_path / "out", ledger, sure=False)
    ((_, key),) = ledger.references_in("open")
    keep.reference_file(key).parent.mkdir(parents=True)
    keep.reference_file(key).write_bytes(b"x")
    keep.look_at_references()
    assert ledger.counts(REFERENCES) == {"done": 1}


@pytest.mark.parametrize("per_shard", [0, 2])
def test_refused_rows_can_be_planned_again_with_the_same_seeds(
    tmp_path: Path, reader: Reader, per_shard: int  # noqa: F811
) -> None:  # fmt: skip
    jobs = tmp_path / "jobs" / "jobs.jsonl"
    lines = [{"init_images": ["late.png"]}, {}, {"units": [{"model": "Plus", "image": "late.png"}]}, {"steps": 0}]
    ledger = make_plan(tmp_path, reader, lines)
    ledger.put(shards=str(per_shard))
    drive(tmp_path, ledger).run()
    assert states(ledger) == {1: "refused", 2: "done", 3: "refused", 4: "refused"}
    before = {row["number"]: row["seed"] for row in ledger.every_row()}
    made = next(row for row in ledger.every_row() if row["number"] == 2)
    (tmp_path / "jobs" / "late.png").write_bytes((tmp_path / "jobs" / "photos" / "one.png").read_bytes())
    plan_again(ledger, jobs, reader)
    assert states(ledger) == {1: "open", 2: "done", 3: "open", 4: "refused"}
    assert {row["number"]: row["seed"] for row in ledger.every_row()} == before
    assert next(row for row in ledger.every_row() if row["number"] == 2) == made
    assert not per_shard or {(first - 1) % per_shard for first, *_ in ledger.sections()[1:2]} == {0}
    drive(tmp_path, ledger, REFERENCES).run()
    drive(tmp_path, ledger).run()
    assert states(ledger) == {1: "done", 2: "done", 3: "done", 4: "refused"}
    plan_again(ledger, jobs, reader)
    assert states(ledger)[4] == "refused" and sum(ledger.counts().values()) == 4
