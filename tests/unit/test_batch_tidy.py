"""What kills have left in a run's folder goes when the run that was taken up ends."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from lib_ipadapter.batch.crew import DONE, Outcome, Part, Work
from lib_ipadapter.batch.keep import Keep
from lib_ipadapter.batch.ledger import REFERENCES, Ledger
from lib_ipadapter.batch.lock import NAME
from lib_ipadapter.batch.packing import packing
from lib_ipadapter.batch.plan import per_shard, settle_shards
from lib_ipadapter.batch.problems import BatchError
from lib_ipadapter.batch.shards import Packer
from lib_ipadapter.batch.status import LEDGER
from lib_ipadapter.batch.tidy import tidied
from tests.unit.test_batch_drive import drive, part, rows_of


class Killed(BaseException):
    """The command is no more."""


def answer(endpoint: str, work: Work) -> Outcome:
    if work.kind == "encode":
        return Outcome(DONE, parts=[part(work.name.encode())])
    data = work.name.encode()
    return Outcome(DONE, parts=[Part("png", "", len(data), data=data)])


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def run(folder: Path, shards: int, rubbish: bool) -> set[str]:
    """Four rows with two references; with ``rubbish`` a command before it was killed with all that can be left."""
    ledger = rows_of(folder, [("one", ""), ("one", "there"), ("two", "there"), ("two", "")])
    ledger.put(planned="1", shards=str(shards))
    keep = Keep(folder, ledger, sure=False)
    if rubbish:
        with pytest.raises(Killed), tidied(folder, ledger, keep):
            (folder / "coming" / "000000001.abcdef").write_bytes(b"half")
            key = next(iter(ledger.reference_keys()))
            for name in (
                ".run.id.0123", ".sheet.html.0123", ".manifest.parquet.77", f"given/aa/.{'a' * 64}.0123",
                "shards/.000000.tar.77", "shards/000007.tar", "pictures/000000/000000001-2.png",
                "pictures/000000/.000000002.png.0123", "pictures/000005/000005123.png",
                str(keep.beside(keep.reference_file(key)).relative_to(folder)),
            ):  # fmt: skip
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(b"half")
            for name in ("notes.txt", ".gitignore", "pictures/000000/favourites.txt"):
                (folder / name).write_text("a person's own")
            raise Killed
    with tidied(folder, ledger, keep):
        drive(folder, ledger, answer, table=REFERENCES).run()
        with packing(folder / LEDGER, per_shard(ledger)):
            drive(folder, ledger, answer).run()
        Packer(ledger, folder, per_shard(ledger)).pack(100)
    ledger.close()
    return listing(folder)


def test_what_a_person_keeps_beside_pictures_stays(tmp_path: Path) -> None:
    own = (
        "pictures/000000/000000001.txt", "pictures/000000/000000001.json", "pictures/000000/000000001.caption",
        "pictures/000000/000000001.png.bak", "shards/000000.tar.gz", "shards/000000.tar.idx",
    )  # fmt: skip
    for name in own:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a person's own")
    (tmp_path / "pictures" / "to sort").mkdir()
    run(tmp_path, 2, rubbish=True)
    assert listing(tmp_path) >= {*own, "pictures/to sort"}


@pytest.mark.parametrize("is_left", [False, True])
def test_references_that_may_only_be_read_end_no_run_that_was_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, is_left: bool
) -> None:
    ledger = rows_of(out := tmp_path / "out", [("one", "there")])
    keep = Keep(out, ledger, sure=False, references=tmp_path / "shared")
    beside = keep.beside(keep.reference_file(next(iter(ledger.reference_keys()))))
    beside.parent.mkdir(parents=True)
    if is_left:
        beside.write_bytes(b"half")
    with pytest.raises(Killed), tidied(out, ledger, keep):
        raise Killed
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if tmp_path / "shared" in path.parents:  # told before it is looked whether there is anything
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        real(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink)
        with tidied(out, ledger, keep):
            pass
    assert (f"{beside.parent} cannot be written to" in capsys.readouterr().err) == is_left
    with tidied(out, ledger, keep):
        pass
    assert not beside.exists()


@pytest.mark.parametrize("shards", [0, 2])
def test_a_run_that_was_killed_and_taken_up_leaves_what_one_without_kills_leaves(tmp_path: Path, shards: int) -> None:
    want = run(tmp_path / "calm", shards, rubbish=False)
    got = run(tmp_path / "wild", shards, rubbish=True)
    own = {"notes.txt", ".gitignore", "pictures/000000/favourites.txt", "given", "given/aa", "shards"}
    own |= {"pictures", "pictures/000000"} if shards else set()
    assert got - own == want - own and {"notes.txt", ".gitignore"} <= got
    tops = {name.partition("/")[0] for name in want}
    assert tops == {"references", LEDGER, "shards" if shards else "pictures"} | ({"pictures"} if shards else set())


def test_what_is_there_in_the_end_stands_in_the_page(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "batch.md").read_text(encoding="utf8")
    table = page.partition("| in FOLDER | |")[2].partition("\n\n")[0]
    for name in (LEDGER, NAME, "run.id", "manifest.parquet", "sheet.html", "references/", "given/", "logs/"):
        assert f"`{name}`" in table, name


def test_tar_files_of_two_kinds_are_never_mixed(tmp_path: Path) -> None:
    ledger = rows_of(tmp_path, [("one", "")] * 6)
    settle_shards(ledger, 3)
    assert ledger.get("shards") is None  # it is not planned yet
    ledger.put(planned="1", shards="0")
    settle_shards(ledger, 3)  # none has been written: the command's word counts
    settle_shards(ledger, None)
    assert per_shard(ledger) == 3
    drive(tmp_path, ledger, answer).run()
    Packer(ledger, tmp_path, 3).pack(1)
    settle_shards(ledger, 3)
    for other in (0, 2, 1000):
        with pytest.raises(BatchError, match="has tar files of 3 rows: leave --shards out"):
            settle_shards(ledger, other)
    assert per_shard(ledger) == 3 and json.loads(ledger.get("shards") or "") == 3


def test_a_ledger_that_is_closed_leaves_no_journal(tmp_path: Path) -> None:
    ledger = rows_of(tmp_path, [("one", "")])
    reader = Ledger(tmp_path / LEDGER, reads_only=True)
    ledger.close()
    reader.close()
    assert listing(tmp_path) == {LEDGER}
