"""Orders that the page gives to the bar of presets."""

from __future__ import annotations

import html
import json
import time
from pathlib import Path

import torch

from demo.start import Host
from tests.helpers.files import unit
from tests.helpers.panel import panel_of, put_in
from tests.host.test_page_memory import event


def test_orders_of_the_preset_bar(host: Host, store, monkeypatch, tmp_path) -> None:
    """What is said, asked, shown in the list and kept of the file, after each order that the page can give."""
    import gradio as gr

    from lib_ipadapter.presets.store import StorageError

    made = panel_of(host)
    values, _ = put_in(made, [{"model": "base", "weight": 0.5}])
    nothing, _ = put_in(made, [])

    def give(chosen: str | None = None, file=None, units=values, **order):
        said, chosen, kept, *shown = made.bar.follow(json.dumps(order), chosen, file, *units)
        asked = json.loads(html.unescape(said.split("data-order='")[1].split("'")[0])) if "data-order" in said else None
        return html.unescape(said), asked, chosen.get("value", "as it was"), kept, shown

    def full(*_args, **_more) -> None:
        raise StorageError("The disk is full: make room.")

    untouched = gr.update()
    said, asked, chosen, kept, shown = give(ask="save")
    assert asked == {"do": "save", "about": "", "name": ""} and "Save all units as" in said
    assert (chosen, kept) == ("as it was", None) and all(value == untouched for value in shown)
    said, asked, *_ = give(do="save", about="", name="", units=nothing)
    assert "nothing to save" in said and asked["do"] == "save" and store.names() == []
    assert give(do="save", about="", name=" <b>'One' ")[1:3] == (None, "<b>'One'")
    assert store.load("<b>'One'")[0]["weight"] == 0.5

    said, asked, chosen, *_ = give(do="save", about="", name="<B>'one'")
    assert "“<B>'one'” exists. Overwrite it?" in said and asked["do"] == "overwrite" and chosen == "as it was"
    with monkeypatch.context() as patch:
        patch.setattr(store, "save", full)
        said, again, *_ = give(**asked)
        assert "The disk is full" in said and again == asked  # the name is not to be typed again
    other, _ = put_in(made, [{"model": "base", "weight": 0.25}])
    assert "Saved" in give(**asked, units=other)[0] and store.load("<b>'One'")[0]["weight"] == 0.25

    for order in ({"ask": "rename"}, {"ask": "delete"}, {"do": "load"}):
        assert "Choose a preset first." in give(**order)[0]
    store.save("Two", [{"model": "base"}])
    asked = give("Two", ask="rename")[1]
    assert asked == {"do": "rename", "about": "Two", "name": "Two"}
    asked = give("Two", **{**asked, "name": "<b>'one'"})[1]
    assert asked["do"] == "rename over" and asked["about"] == "Two"
    assert give("Two", **asked)[2] == "<b>'one'" and store.names() == ["<b>'one'"]

    exported = give("<b>'one'", do="export")[3]
    file = exported.with_name("mine.zip")
    file.write_bytes(exported.read_bytes())
    said, chosen, kept = made.bar._import(file, None)
    assert "Overwrite them?" in said and kept == file  # told by itself: gradio 4 takes an update for a new component
    for order in (
        {"ask": "save"},
        {"do": "load"},
        {"do": "save", "about": "", "name": ""},
        {"do": "keep purpose", "purpose": "style", "values": {}},
    ):
        assert give(None, file, nothing, **order)[3] == file
    with monkeypatch.context() as patch:
        patch.setattr(store, "import_", full)
        said, asked, _, kept, _ = give(do="import over", about="", name="", file=file)
        assert "The disk is full" in said and asked["do"] == "import over" and kept == file
    assert give(do="import over", about="", name="", file=None)[0].count("import it again") == 1
    said, _, _, kept, _ = give(do="import over", about="", name="", file=file)
    assert "Imported “<b>'one'”." in said and kept is None and not file.exists()
    (tmp_path / "bad.zip").write_bytes(b"PK")
    assert "no export of presets" in made.bar._import(tmp_path / "bad.zip", None)[0]
    assert not (tmp_path / "bad.zip").exists()

    assert give("<b>'one'", do="cancel")[:4] == ("", None, "as it was", None)
    said, _, _, _, shown = give("<b>'one'", do="load")
    assert "Loaded “<b>'one'”." in said and len(shown) == len(made.targets) and shown[0] is True
    assert give("<b>'one'", do="delete", about="<b>'one'", name="")[2] is None and store.names() == []


def test_of_exchanged_files_nothing_stays(host: Host, store, monkeypatch) -> None:
    """Of exports and uploads: when their time is over, at the end of the process, and of what gradio knows."""
    from lib_ipadapter.webui.panel import exchanged_files

    bar = panel_of(host).bar
    store.save("One", [{"model": "base"}])

    def export() -> Path:
        _, _, path, *_ = bar.follow(json.dumps({"do": "export"}), None, None)
        answer = bar.file.postprocess(path)
        assert Path(answer["name"]) == path and str(path) in bar.file.temp_files and path.is_file()
        return path

    def gone(path: Path) -> bool:
        return not path.parent.exists() and str(path) not in bar.file.temp_files

    def named(path: Path) -> dict:
        return {"name": str(path), "orig_name": path.name, "data": None, "is_file": True}

    first = export()
    assert export() != first and first.exists()  # somebody may be about to fetch it
    now = time.monotonic()
    monkeypatch.setattr(exchanged_files.time, "monotonic", lambda: now + exchanged_files.SENT + 1)
    second = export()
    assert gone(first) and second.exists()

    upload = Path(bar.file.DEFAULT_TEMP_DIR) / "some-hash" / "up.zip"
    upload.parent.mkdir(parents=True, exist_ok=True)
    upload.write_bytes(second.read_bytes())
    path = bar.file.preprocess(named(upload))
    assert "Overwrite them?" in bar._import(path, None)[0] and upload.exists()  # it waits for an answer
    assert bar.file.preprocess(named(second)) == second
    assert bar.file.preprocess(named(Path(__file__))) is None  # no other file of this machine
    bar.files.delete_all()
    assert gone(second) and gone(upload) and bar.file.postprocess(upload) is None
    assert bar.file.preprocess(named(upload)) is None and bar.file.preprocess(None) is None


def test_files_are_deleted_at_the_end_and_when_their_time_is_over(host: Host, store, monkeypatch) -> None:
    from lib_ipadapter.webui.panel import exchanged_files

    at_end = []
    monkeypatch.setattr(exchanged_files.atexit, "register", at_end.append)
    monkeypatch.setattr(exchanged_files, "SENT", -0.9)  # and a second more
    files = panel_of(host).bar.files
    assert at_end == [files.delete_all]
    path = files.write("a.zip", b"")
    end = time.monotonic() + 20
    while path.parent.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_look_is_kept_of_the_unit_that_was_asked_about(host: Host, monkeypatch, tmp_path) -> None:
    """Whatever unit is shown when the question is answered; and no other file comes where one could not be written."""
    from lib_ipadapter.encode import stored
    from lib_ipadapter.presets.looks import Looks
    from lib_ipadapter.webui import process

    looks = Looks(tmp_path / "looks")
    monkeypatch.setattr(process, "looks", lambda: looks)
    made = panel_of(host)
    both, _ = put_in(made, [unit(seeds=(1,)), unit(seeds=(2,))])
    want = {n: host.client.post("/ip-adapter/embeddings", json=unit(seeds=(n,))).content for n in (1, 2)}

    def give(shown: int, file=None, **order):
        state = {**json.loads(both[0]), "shown": shown}
        said, _, kept, *_ = made.bar.follow(json.dumps(order), None, file, json.dumps(state), *both[1:])
        asked = json.loads(html.unescape(said.split("data-order='")[1].split("'")[0])) if "data-order" in said else None
        return html.unescape(said), asked, kept

    def holds(name: str, n: int) -> bool:
        one, other = stored.read(looks.file(name)), stored.read(want[n])
        return torch.equal(one.references[0]["pooled"], other.references[0]["pooled"])

    said, asked, _ = give(1, ask="keep look")
    assert "the references of unit 1 as the look" in said
    assert "Kept the look “a”." in give(2, **{**asked, "name": "a"})[0]
    assert holds("a", 1)
    said, asked, _ = give(1, **{**give(2, ask="keep look")[1], "name": "a"})
    assert asked["do"] == "keep look over"
    give(1, **asked)
    assert holds("a", 2)
    for number in (0, len(json.loads(both[0])["units"]) + 1, -1, None, "1", True, 1.0):
        said, *_ = give(1, do="keep look", about="", name="b", unit=number)
        assert "The panel has no such unit any more: press Keep as look at the unit that you mean." in said, number
    assert [one.name for one in looks.all()] == ["a"]

    pending = tmp_path / "pending.zip"
    said, _, kept = give(1, pending, do="export look", name="gone")
    assert "There is no look “gone”" in said and kept is None
    assert give(1, pending, do="delete look", about="gone", name="")[2] == pending
    assert give(1, pending, do="export look", name="a")[2].suffix == ".safetensors"


def test_pages_of_other_sites_give_no_orders(host: Host) -> None:
    """Neither by a request from there, nor by one that tells of another one."""
    from lib_ipadapter.webui import process

    store = process.store()  # the one of the running page
    store.save("mine", [{"model": "base"}])
    foreign = {"Origin": "https://evil.example"}

    def send(order: str, headers: dict[str, str] | None = None, chosen: str | None = None, **more: object) -> str:
        """What stands in the line of notes then."""
        number = event(host, "txt2img_ip_adapter_preset_order", "change")
        others = len(host.blocks.config["dependencies"][number]["inputs"]) - 2
        body = {"fn_index": number, "session_hash": "s", "data": [order, chosen, *[None] * others], **more}
        answer = host.client.post("/run/predict", json=body, headers=headers or {})
        assert answer.status_code == 200, answer.text
        return html.unescape(answer.json()["data"][0])

    order = json.dumps({"do": "delete", "about": "mine", "name": "mine", "stamp": "s"})
    assert "another site" in send(order, headers=foreign)
    assert "does not say where" in send(order, headers=foreign, request={"headers": {}})
    question = json.dumps({"ask": "delete", "stamp": "s"})
    assert "mine" in store.names() and "Delete “mine”?" in send(question, foreign, "mine")
    assert "Deleted “mine”." in send(order)
    assert "mine" not in store.names()
