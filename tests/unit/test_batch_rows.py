"""From a line of a jobs file to a request, its complaints, and what is written down of it."""

from __future__ import annotations

import base64
import errno
import json
import struct
import time
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from lib_ipadapter.batch import check as check_module
from lib_ipadapter.batch import jobs_file
from lib_ipadapter.batch import packing as packing_module
from lib_ipadapter.batch.check import Check
from lib_ipadapter.batch.client import AUTH, Answer, auth_of, checked_url, variable
from lib_ipadapter.batch.crew import Outcome, Work
from lib_ipadapter.batch.facts import Facts
from lib_ipadapter.batch.given import Sources
from lib_ipadapter.batch.jobs_file import Row, rows
from lib_ipadapter.batch.ledger import DONE, FAILED, PATIENCE, REFUSED, Ledger, Made, Result
from lib_ipadapter.batch.packing import packing
from lib_ipadapter.batch.paths import MAX_FOUND, Files
from lib_ipadapter.batch.pictures import ending, with_parameters
from lib_ipadapter.batch.plan import _planned, plan, prepare, seed_of
from lib_ipadapter.batch.problems import BatchError, RowError
from lib_ipadapter.batch.request import FILE, REFERENCE, SCRIPT, Reader
from lib_ipadapter.batch.shards import Packer
from lib_ipadapter.batch.sheet import Sheet
from lib_ipadapter.batch.status import LEDGER, lines, status
from lib_ipadapter.batch.webui import environment_of
from lib_ipadapter.batch.worker import Config, filled
from tests.helpers.fixed_host import PRESET, png

ANSWERS = {
    "/ip-adapter/models": {
        "adapters": [{"name": "Plus", "variant": "plus"}, {"name": "instant", "variant": "instantid"}]
    },
    "/sdapi/v1/sd-models": [
        {"title": "sd15.safetensors [ab12]", "model_name": "sd15"},
        {"title": "xl", "model_name": "xl"},
    ],
    "/sdapi/v1/options": {"sd_model_checkpoint": "sd15.safetensors [ab12]"},
    "/ip-adapter/presets/kept": {"units": [{**PRESET[0], "model": "Plus"}]},
}


class Told:
    """WebUIs of which each says something of its own; those of ``later`` are ready when they are waited for."""

    def __init__(self, answers: dict[str, dict[str, Any]], later: tuple[str, ...] = ()) -> None:
        self._answers, self._later = answers, list(later)

    def first(self) -> list[str]:
        return [name for name in self._answers if name not in self._later]

    def others(self) -> list[str]:
        return [self._later.pop(0)] if self._later else []

    def ask(self, name: str, route: str) -> Any:
        if route not in self._answers[name]:
            raise RowError("there is no such thing.")
        if isinstance(answer := self._answers[name][route], Exception):
            raise answer
        return answer


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    folder = tmp_path / "jobs"
    (folder / "photos").mkdir(parents=True)
    for name in ("one", "two"):
        (folder / "photos" / f"{name}.png").write_bytes(png(b"abc", {"name": name}))
    return Reader(Facts(Told({"a": ANSWERS})), Sources(Files(folder), tmp_path / "given"))


def units_of(request: Any) -> list[dict[str, Any]]:
    return request.body["alwayson_scripts"][SCRIPT]["args"]


def test_csv_json_lines_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        'prompt,seed,enable_hr,cfg_scale,unit.images,override_settings\n"12, cats",3,true,6.5,,"{""a"": 1}"\n'
        '007,,,,"[""x""]",\n'
    )
    want = [
        {"prompt": "12, cats", "seed": 3, "enable_hr": True, "cfg_scale": 6.5, "override_settings": {"a": 1}},
        {"prompt": "007", "unit.images": ["x"]},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({**row, "eta": None}) for row in want) + "\n\n")
    assert list(rows(tmp_path / "a.csv")) == list(rows(tmp_path / "a.jsonl")) == list(enumerate(want, 1))


def test_a_line_that_is_no_row_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n[1]\n{"prompt": NaN}\n{"prompt": "b"}\n')
    found = dict(rows(tmp_path / "a.jsonl"))
    assert found[1] == {"prompt": "a"} and found[4] == {"prompt": "b"}
    assert isinstance(found[2], str) and isinstance(found[3], str)
    (tmp_path / "a.csv").write_text("prompt,prompt\n1,2\n")
    with pytest.raises(BatchError, match="does not name its columns"):
        list(rows(tmp_path / "a.csv"))
    with pytest.raises(BatchError, match="no jobs file"):
        list(rows(tmp_path / "a.txt"))


def test_a_number_of_few_bytes_is_the_one_that_was_written() -> None:
    for kind, texts in (
        ("f", ("0.7", "0.1", "3e38", "1.17549e-38", "16777215", "-0.55")),
        ("e", ("0.7", "0.3", "65500")),
    ):
        for text in texts:
            (few,) = struct.unpack(kind, struct.pack(kind, float(text)))
            assert jobs_file._shortest(few, kind) == float(text), text
    assert jobs_file._shortest(65504.0, "e") == 65500.0 and jobs_file._shortest(float("inf"), "f") == float("inf")


def test_references_become_embeddings_that_are_asked_for_once(reader: Reader) -> None:
    one, problems = reader.read({"prompt": "a", "unit.model": "plus.safetensors", "unit.images": "photos/*.png"})
    assert problems == []
    other, _ = reader.read({"units": [{"model": "plus.safetensors", "image": "photos/one.png", "weight": 0.5}]})
    first = units_of(one)[0]["images"][0]["embeddings"][REFERENCE]
    assert len(one.references) == 2 and first in one.references
    assert list(other.references) == [first] and units_of(other)[0]["weight"] == 0.5
    cropped, _ = reader.read({"units": [{"model": "plus.safetensors", "image": "photos/one.png", "crop": "top"}]})
    assert list(cropped.references) != [first]


@pytest.mark.parametrize(
    "unit",
    [{"model": "Plus", "noise": 0.2}, {"model": "instant"}, {"model": "Plus", "crop": "tile", "batch": "per image"}],
)
def test_what_embeddings_cannot_do_keeps_its_pictures(reader: Reader, unit: dict[str, Any]) -> None:
    request, problems = reader.read({"units": [{**unit, "images": ["photos/one.png"]}]})
    assert problems == [] and request.references == {}
    assert units_of(request)[0]["images"] == [{"image": {FILE: "photos/one.png"}}]


def test_a_preset_with_what_differs(reader: Reader) -> None:
    request, problems = reader.read({"preset": "kept", "unit.weight": 0.2})
    assert problems == []
    (unit,) = units_of(request)
    assert unit["weight"] == 0.2 and unit["model"] == "Plus" and len(request.references) == 1
    (asked,) = request.references.values()
    assert asked["sources"]["image"].startswith("given:")
    changed, _ = reader.read({"preset": "kept", "unit.image": "photos/one.png"})
    (asked,) = changed.references.values()
    assert asked["sources"] == {"image": "photos/one.png"}
    _, problems = reader.read({"preset": "kept", "unit2.weight": 1})
    assert "has 1 units" in problems[0]
    _, problems = reader.read({"preset": "other"})
    assert "preset 'other'" in problems[0]


def test_everything_that_is_wrong_with_a_row_is_told(reader: Reader) -> None:
    _, problems = reader.read({
        "promt": "a", "seed": "x", "mask_blur": 3, "save_images": True, "checkpoint": "sd9", "width": 10**9,
        "units": [{"model": "nobody", "image": "photos/one.png"}, {"model": "Plus", "image": "photos/three.png"},
                  {"model": "Plus", "image": "photos/one.png", "weigth": 1}],
    })  # fmt: skip
    text = "\n".join(problems)
    for part in (
        "unknown field 'promt'", "seed is no whole number", "mask_blur belongs to img2img", "save_images", "'sd9'",
        "width is 1000000000", "unit 1: there is no adapter 'nobody'", "unit 2: there is no file photos/three.png",
        "unit 3: unknown field",
    ):  # fmt: skip
        assert part in text, (part, text)


@pytest.mark.parametrize(
    "path", ["../secret.png", "/etc/hostname", "photos/../../secret.png", "out/secret.png", "../*.png"]
)
def test_no_path_leads_out_of_the_folder_unless_it_is_allowed(reader: Reader, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "jobs" / "out").symlink_to(tmp_path)
    _, problems = reader.read({"units": [{"model": "Plus", "image": path}]})
    assert problems and "outside of the jobs file's folder" in problems[0]
    _, problems = reader.read({"init_images": [path]})
    assert problems and "outside" in problems[0]
    open_to_all = Files(tmp_path / "jobs", outside=True)
    assert open_to_all.find(path)


def test_a_row_cannot_name_a_file_in_the_runs_own_words(reader: Reader) -> None:
    for row in (
        {"override_settings": {"a": {FILE: "/etc/passwd"}}},
        {"units": [{"model": "Plus", "images": [{"image": {FILE: "/etc/passwd"}}]}]},
        {"script_args": [{REFERENCE: "../../x"}]},
    ):
        assert "run's own words" in reader.read(row)[1][0]


def test_patterns_are_bounded(tmp_path: Path) -> None:
    for number in range(MAX_FOUND + 1):
        (tmp_path / f"{number}.png").touch()
    with pytest.raises(RowError, match="more than 64"):
        Files(tmp_path).find("*.png")
    with pytest.raises(RowError, match="finds no file"):
        Files(tmp_path).find("*.jpg")


def test_every_row_names_its_checkpoint_also_the_one_that_is_loaded(reader: Reader) -> None:
    for row, want in (({}, "sd15"), ({"checkpoint": "XL"}, "xl"), ({"checkpoint": "sd15.safetensors"}, "sd15")):
        request, problems = reader.read(row)
        assert problems == [] and request.checkpoint == want
        assert request.body["override_settings"] == {"sd_model_checkpoint": want}


def make_plan(tmp_path: Path, reader: Reader, lines: list[dict[str, Any]], seed: str | None = "s") -> Ledger:
    jobs = tmp_path / "jobs" / "jobs.jsonl"
    jobs.write_text("\n".join(map(json.dumps, lines)))
    ledger = Ledger(tmp_path / "out" / LEDGER, sure=False)
    prepare(ledger, jobs, seed)
    plan(ledger, jobs, reader, None)
    return ledger


def test_rows_that_go_together_stand_together_and_seeds_are_written_down(tmp_path: Path, reader: Reader) -> None:
    unit = {"model": "Plus", "image": "photos/one.png"}
    asked = [
        {"checkpoint": "xl", "seed": 5},
        {},
        {"units": [unit]},
        {"seed": -1},
        {"checkpoint": "xl"},
        {"units": [unit]},
    ]
    ledger = make_plan(tmp_path, reader, asked)
    assert ledger.sections() == [(1, 2, 2, 1), (3, 4, 2, 1), (5, 6, 2, 2)]
    order = [ledger.row(position) for position in range(1, 7)]
    assert [number for number, _, _ in order] == [2, 4, 3, 6, 1, 5]
    seeds = {number: seed for number, seed, _ in order}
    assert seeds[1] == 5 and seeds[2] == seed_of("s", 2) and len(set(seeds.values())) == 6
    with pytest.raises(BatchError, match="another --seed"):
        prepare(ledger, tmp_path / "jobs" / "jobs.jsonl", "t")
    (tmp_path / "jobs" / "jobs.jsonl").write_text("{}")
    with pytest.raises(BatchError, match="another jobs file"):
        prepare(ledger, tmp_path / "jobs" / "jobs.jsonl", None)


def test_a_plan_that_breaks_off_leaves_nothing_of_it(tmp_path: Path, reader: Reader) -> None:
    ledger = make_plan(tmp_path, reader, [{}, {}])

    def broken() -> Any:
        yield from ()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.plan(broken())
    assert ledger.counts() == {"open": 2}


def finished(tmp_path: Path, reader: Reader) -> Ledger:
    """Four rows: done, refused, failed, done with a name that is markup."""
    ledger = make_plan(tmp_path, reader, [{}, {}, {}, {"id": "<b>"}])
    results = []
    for position, state in enumerate((DONE, REFUSED, FAILED, DONE), 1):
        made = []
        if state == DONE:
            file = tmp_path / "out" / f"pictures/{position:09}.png"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(png(bytes([position] * 3), {}))
            made = [Made(f"pictures/{position:09}.png", "", file.stat().st_size, "a <cat>")]
        results.append(Result(position, state, "http://host", 1, f"{state}.", 1.0, 100.0 + position, made))
    ledger.record(results)
    return ledger


def test_status_and_contact_sheet_tell_what_is_written_down(tmp_path: Path, reader: Reader) -> None:
    ledger = finished(tmp_path, reader)
    told = status(tmp_path / "out")
    assert told["rows"] == {DONE: 2, REFUSED: 1, FAILED: 1} and told["by_endpoint"] == {"http://host": [2, 2.0]}
    assert "row 2 refused: refused." in lines(told) and "row 3 failed: failed." in lines(told)
    page = Sheet(tmp_path / "out").write(ledger, "4 of 4").read_text()
    assert page.count("<img") == 2 and "pictures/000000004.png" in page
    assert "&lt;b&gt;" in page and "<b>" not in page and "a <cat>" not in page
    with pytest.raises(BatchError, match="folder of no run"):
        status(tmp_path)


def test_shards_hold_what_ended_and_a_run_that_broke_off_is_taken_up(tmp_path: Path, reader: Reader) -> None:
    import tarfile

    ledger, out = finished(tmp_path, reader), tmp_path / "out"
    packer = Packer(ledger, out, 2)
    packer._ledger.clean_shard = lambda number: None  # type: ignore[method-assign]  # the end comes before that
    kept = {path.name: path.read_bytes() for path in (out / "pictures").iterdir()}
    assert packer.pack(5, is_last=True) == 2
    with tarfile.open(out / "shards" / "000000.tar") as shard:
        assert shard.getnames() == ["000000001.png", "000000001.json"]
        assert shard.extractfile("000000001.png").read() == kept["000000001.png"]  # type: ignore[union-attr]
    (out / "pictures" / "000000001.png").write_bytes(kept["000000001.png"])
    del packer._ledger.clean_shard
    assert Packer(ledger, out, 2).pack(5, is_last=True) == 0
    assert not list((out / "pictures").iterdir()) and ledger.shards() == {0: True, 1: True}
    assert Sheet(out).write(ledger, "").read_text().count("data:image/jpeg;base64,") == 2


def test_shards_are_written_beside_the_run(tmp_path: Path, reader: Reader) -> None:
    ledger, out = finished(tmp_path, reader), tmp_path / "out"
    with packing(out / LEDGER, 2):
        end = time.monotonic() + 30
        while len(ledger.shards()) < 1 and time.monotonic() < end:
            time.sleep(0.01)
    assert ledger.shards() == {0: True} and len(list((out / "shards").iterdir())) == 1


def test_shards_are_written_beside_the_run_also_after_a_disk_has_failed_once(
    tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, out = finished(tmp_path, reader), tmp_path / "out"
    real, failed = Packer._add, []

    def add(self: Packer, *given: Any) -> None:
        if not failed:
            failed.append(True)
            raise OSError(errno.ESTALE, "as the disk says")
        real(self, *given)

    monkeypatch.setattr(Packer, "_add", add)
    monkeypatch.setattr(packing_module, "EVERY", 0.01)
    with packing(out / LEDGER, 2):
        end = time.monotonic() + 10
        while not ledger.shards() and time.monotonic() < end:
            time.sleep(0.01)
    assert failed and ledger.shards() == {0: True}


def test_a_row_whose_picture_has_gone_is_open_again_and_all_others_are_packed(tmp_path: Path, reader: Reader) -> None:
    ledger, out = finished(tmp_path, reader), tmp_path / "out"
    (out / "pictures" / "000000001.png").unlink()
    assert Packer(ledger, out, 2).pack(5, is_last=True) == 1 and ledger.shards() == {1: True}
    assert ledger.counts() == {"open": 1, DONE: 1, REFUSED: 1, FAILED: 1}
    assert next(ledger.every_row())["pictures"] == "[]" and Packer(ledger, out, 2).pack(5, is_last=True) == 0


def test_a_stretch_with_a_row_that_failed_waits_for_the_end_of_the_run(tmp_path: Path, reader: Reader) -> None:
    ledger, out = finished(tmp_path, reader), tmp_path / "out"
    assert Packer(ledger, out, 2).pack(5) == 1 and list(ledger.shards()) == [0]
    assert Packer(ledger, out, 2).pack(5, is_last=True) == 1 and list(ledger.shards()) == [0, 1]


def test_a_stretch_of_which_much_failed_is_packed_when_its_rows_are_made(tmp_path: Path, reader: Reader) -> None:
    import tarfile

    ledger, out = make_plan(tmp_path, reader, [{}] * 60), tmp_path / "out"
    (out / "pictures").mkdir()

    def end(position: int, state: str) -> None:
        file = out / f"pictures/{position:09}.png"
        if state == DONE:
            file.write_bytes(b"made")
        made = [Made(f"pictures/{file.name}", "", 4)] if state == DONE else []
        ledger.record([Result(position, state, pictures=made)])

    failed = {3, 24, 25, *range(41, 61)}
    for position in range(1, 61):
        end(position, FAILED if position in failed else DONE)
    assert Packer(ledger, out, 20).pack(5, is_last=True) == 1 and ledger.shards() == {0: True}
    ledger.reopen()
    for position in failed:
        end(position, DONE)
    assert Packer(ledger, out, 20).pack(5) == 2
    with tarfile.open(out / "shards" / "000001.tar") as shard:
        assert len(shard.getnames()) == 40
    assert [path.name for path in (out / "pictures").iterdir()] == ["000000003.png"]


def test_failed_rows_are_open_again_and_refused_ones_are_not(tmp_path: Path, reader: Reader) -> None:
    ledger = finished(tmp_path, reader)
    ledger.reopen()
    assert ledger.counts() == {"open": 1, DONE: 2, REFUSED: 1}


def test_half_a_picture_is_none_and_parameters_are_put_where_they_lack() -> None:
    whole = png(b"abc", {})
    assert ending(whole) == "png" and ending(whole[:-1]) is None and ending(b"<html>") is None
    broken = bytearray(whole)
    broken[-20] ^= 1
    assert ending(bytes(broken)) is None
    told = with_parameters(whole, "a cat, ünïcode")
    assert ending(told) == "png" and b"iTXtparameters" in told and with_parameters(told, "other") == told
    from io import BytesIO

    from PIL import Image

    assert Image.open(BytesIO(told)).info["parameters"] == "a cat, ünïcode"


def test_a_body_is_filled_where_it_stands_for_files() -> None:
    body = {"a": [{FILE: "x"}], "b": {"embeddings": {REFERENCE: "k"}}, "c": 1}
    assert filled(body, {"x": b"1"}, {"k": b"2"}) == {
        "a": [base64.b64encode(b"1").decode()], "b": {"embeddings": base64.b64encode(b"2").decode()}, "c": 1,
    }  # fmt: skip


def test_passwords_come_from_the_environment_and_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BatchError, match="holds a password") as caught:
        checked_url("http://anna:secret@host:7860")
    assert "secret" not in str(caught.value)
    monkeypatch.setenv(AUTH, "anna:all")
    monkeypatch.setenv(variable("http://host:7860"), "anna:one")
    assert variable("http://host:7860") == f"{AUTH}_HOST_7860"
    assert auth_of("http://host:7860") == "anna:one" and auth_of("http://other:7860") == "anna:all"
    assert "one" not in repr(Config("http://host:7860", auth="anna:one"))


@pytest.mark.parametrize("text", ["ftp://host", "http://", "http://host:99999999", "http://host?x=1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BatchError, match="no address"):
        checked_url(text)


def test_addresses_are_told_apart() -> None:
    assert checked_url("127.0.0.1:7860/") == "http://127.0.0.1:7860"
    assert checked_url("http://[::1]:7860") == "http://[::1]:7860"


def test_a_row_that_was_made_after_its_shard_keeps_its_file(tmp_path: Path, reader: Reader) -> None:
    ledger, out = finished(tmp_path, reader), tmp_path / "out"
    packer = Packer(ledger, out, 4)
    packer._ledger.clean_shard = lambda number: None  # type: ignore[method-assign]  # the end comes before that
    assert packer.pack(is_last=True) == 1
    del packer._ledger.clean_shard
    ledger.reopen()
    late = out / "pictures" / "000000003.png"
    late.write_bytes(b"late")
    ledger.record([Result(3, DONE, pictures=[Made("pictures/000000003.png", "", 4)])])
    Packer(ledger, out, 4)
    assert late.read_bytes() == b"late" and ledger.shards() == {0: True}


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


ODD = [
    ({"init_images": ["x" * 300]}, "x"),
    ({"init_images": ["x" * 300 + "/*.png"]}, "pattern"),
    ({"init_images": ["a***/b"]}, "pattern"),
    ({"init_images": ["[a-/**b"]}, ""),
    ({"init_images": ["/" * 5000 + "*"]}, ""),
    ({"seed": 10**400}, "seed"),
    ({"cfg_scale": 10**400}, "cfg_scale"),
    ({"override_settings": {"a": 10**400}}, "override_settings"),
    ({"override_settings": {"a": nested(900)}}, "deep"),
    ({"override_settings": {"a": nested(100_000)}}, "deep"),
    ({"units": nested(100_000)}, "deep"),
    ({"prompt": b"bytes"}, "prompt"),
    ({"override_settings": {"a": b"bytes"}}, "override_settings"),
    ({"styles": [datetime(2026, 1, 1)]}, "styles"),
    ({"id": datetime(2026, 1, 1)}, "id"),
    ({"id": Decimal("1.5")}, "id"),
    ({"prompt": "half \ud83d"}, "prompt"),
    ({"id": "half \ud83d"}, "id"),
    ({"init_images": ["half \ud83d.png"]}, "init_images"),
    ({"override_settings": {"\ud83d": 1}}, "override_settings"),
    ({"half \ud83d": 1}, ""),
    ({"preset": "half \ud83d"}, "preset"),
    ({"init_images": [{"a": 1}]}, "init_images"),
    ({"eta": float("inf")}, "eta"),
    ({"override_settings": {"a": float("nan")}}, "override_settings"),
    ({"unit99999999999999999999.model": "x"}, "unit"),
    ({"unit٣.model": "x"}, ""),
    ({"unit²": "x"}, ""),
]


@pytest.mark.parametrize(("row", "part"), ODD, ids=range(len(ODD)))
def test_an_odd_row_is_refused_and_is_written_down(tmp_path: Path, reader: Reader, row: Row, part: str) -> None:
    request, problems = reader.read(row)
    assert problems and all(part in one for one in problems[:1])
    ledger = Ledger(tmp_path / "odd" / LEDGER, sure=False)
    ledger.plan([(_planned(1, request, problems, "s"), {})])
    assert ledger.counts() == {REFUSED: 1}
    json.dumps([request.stored(), *problems]).encode()


def test_what_no_rule_foresees_is_a_sentence_too(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("x")

    monkeypatch.setattr(reader, "_own", broken)
    assert "ZeroDivisionError" in reader.read({})[1][0]
    check = Check(reader)
    monkeypatch.setattr(reader, "read", broken)
    check.read(1, {})
    assert "ZeroDivisionError" in check.complaints.lines()[0]


def checked(
    tmp_path: Path, reader: Reader, asked: list[Row], made: Callable[[Work], Outcome], gone: str = ""
) -> list[str]:
    """What a dry run says of these rows; ``gone``: a file that goes before the trials."""
    check = Check(reader)
    for number, row in enumerate(asked, 1):
        check.read(number, row)
    if gone:
        (tmp_path / "jobs" / gone).unlink()
    check.probe(made, Sources(Files(tmp_path / "jobs"), tmp_path / "given").read)
    return check.lines()


def test_a_trial_speaks_for_all_rows_with_the_same_checkpoint_and_adapters(tmp_path: Path, reader: Reader) -> None:
    row = {"checkpoint": "xl", "units": [{"model": "Plus", "image": "photos/one.png"}]}

    def made(work: Work) -> Outcome:
        return Outcome(REFUSED, "it does not fit.") if work.needs else Outcome(DONE)

    assert checked(tmp_path, reader, [row] * 500 + [{}], made) == [
        "rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 488 more: it does not fit.",
        "501 rows: 500 cannot be done as they are.",
    ]
    assert checked(tmp_path, reader, [row, {}], lambda work: Outcome(DONE)) == []


@pytest.mark.parametrize(("kind", "sums"), [(DONE, 1), (REFUSED, 3)])
def test_where_a_file_has_gone_before_the_trial_the_next_row_is_tried(
    tmp_path: Path, reader: Reader, kind: str, sums: int
) -> None:
    asked: list[Row] = [{"init_images": [f"photos/{name}.png"]} for name in ("one", "two", "two")]
    first, *others, last = checked(tmp_path, reader, asked, lambda work: Outcome(kind, "no."), "photos/one.png")
    assert first.startswith("row 1: ") and "photos/one.png" in first
    assert others == ["rows 2, 3: no."] * (kind == REFUSED)
    assert last == f"3 rows: {sums} cannot be done as they are."


def test_what_is_not_tried_is_told(tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "MAX_PROBES", 1)
    found = checked(tmp_path, reader, [{}, {"checkpoint": "xl"}, {}, {"checkpoint": "xl"}], lambda work: Outcome(DONE))
    assert found == [
        "rows 2, 4: other pairs of a checkpoint and adapters than the 1 that are tried: whether they fit is not known.",
        "4 rows: nothing is wrong with what was tried.",
    ]


def test_each_checkpoint_is_loaded_once_for_the_trials(tmp_path: Path, reader: Reader) -> None:
    tried: list[str] = []

    def made(work: Work) -> Outcome:
        tried.append(work.checkpoint)
        return Outcome(DONE)

    unit = {"units": [{"model": "Plus", "image": "photos/one.png"}]}
    asked: list[Row] = [{}, {"checkpoint": "xl"}, unit, {"checkpoint": "xl", **unit}]
    assert checked(tmp_path, reader, asked, made) == [] and tried == ["sd15", "sd15", "xl", "xl"]


@pytest.mark.parametrize(
    ("body", "want"),
    [
        ({"detail": [{"loc": None, "msg": "bad"}]}, "bad"),
        ({"detail": [{"loc": ["body", "steps"], "msg": "bad"}, {"msg": None}, 3]}, "steps: bad; None; 3"),
        ({"detail": []}, "the WebUI answers 422."),
        ([1], "the WebUI answers 422."),
        ({"detail": {"a": 1}}, "{'a': 1}"),
    ],
)
def test_any_answer_has_a_sentence(body: Any, want: str) -> None:
    assert Answer(422, json.dumps(body).encode()).sentence == want


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_file_that_is_no_utf8_is_told(tmp_path: Path, name: str) -> None:
    lines = {"a.csv": "prompt\na cat\nü\n", "a.jsonl": '{"prompt": "a cat"}\n{"prompt": "ü"}\n'}
    (tmp_path / name).write_bytes(lines[name].encode("latin1"))
    with pytest.raises(BatchError, match="no UTF-8"):
        list(rows(tmp_path / name))


def test_status_of_a_run_that_is_being_planned_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / LEDGER, sure=False)
    monkeypatch.setitem(PATIENCE, True, 0.05)
    ledger._base.execute("BEGIN EXCLUSIVE")  # what a plan of many rows comes to
    with pytest.raises(BatchError, match="being planned right now"):
        status(tmp_path)


def test_a_webui_gets_no_passwords_and_nothing_of_rays() -> None:
    own = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1", AUTH: "a:b", f"{AUTH}_HOST_1": "a:b", "RAY_ADDRESS": "x",
           "OMP_NUM_THREADS": "1", "PYTHONPATH": "x"}  # fmt: skip
    kept = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1"}
    assert environment_of(own, "") == kept
    assert environment_of(own, "8") == {**kept, "OMP_NUM_THREADS": "8"}
