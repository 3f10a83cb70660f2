"""The models of the panel's units: chosen by itself, exchanged with the checkpoint, listed, and told."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.start import Host
from lib_ipadapter.attend.layers import Topology
from lib_ipadapter.errors import IPAdapterError
from tests.helpers.checkpoint_files import LORA, write
from tests.helpers.files import picture, write_adapter
from tests.helpers.host import difference, make
from tests.helpers.panel import from_panel, panel_args, panel_of, put_in
from tests.helpers.unets import sd_unet, sdxl_unet

OWN = "a, b: c"  # a "plus": what a unit of the host's takes by itself


@pytest.fixture
def used(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What was used last, in a file of the test's own."""
    from lib_ipadapter.presets.used_models import UsedModels
    from lib_ipadapter.webui import process

    made = UsedModels(tmp_path / "used.json")
    monkeypatch.setattr(process, "used_models", lambda: made)
    return made


@pytest.fixture
def checkpoint(host: Host, used, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the checkpoint that is there, by the base's name; None for none."""
    from lib_ipadapter.attend.layers import cross_attention_layers
    from lib_ipadapter.webui import host as hosts

    unets = {"SD1.5": sd_unet, "SDXL": sdxl_unet}

    def load(base: str | None) -> Topology | None:
        topology = None if base is None else Topology.of(cross_attention_layers(unets[base]()))
        monkeypatch.setattr(type(hosts.current()), "present_topology", lambda _self: topology)
        return topology

    return load


@pytest.fixture
def more(host: Host, folder: Path) -> Iterator[Path]:
    """The folder of adapters, to put files into; they are gone afterwards."""
    from lib_ipadapter.webui import process

    before = {*folder.iterdir()}
    yield folder
    for file in {*folder.iterdir()} - before:
        file.unlink()
    process.resources().catalog.refresh()


def drawn(editor: Any, model: str, *units: dict, shown: int = 1) -> tuple[dict[str, Any], str, str]:
    """What the page's script gets when cards are drawn, what is said, and the lines below the list."""
    text = json.dumps({"shown": shown, "units": units})
    _, _, details, said, *_ = editor._drawn("stamp", text, {}, model)
    settled = json.loads(html.unescape(re.search("data-settled='([^']*)'", details)[1]))
    return settled, said if isinstance(said, str) else "", details.split("<div class='ip-adapter-settled'")[0]


def test_a_page_begins_with_a_model_that_fits(checkpoint) -> None:
    for base, model in (("SD1.5", OWN), ("SDXL", "wide"), (None, "None")):
        checkpoint(base)
        editor = panel_of(None).editor
        assert editor.controls["model"].value == model
        units = json.loads(editor.state.value)["units"]
        assert [unit.get("model", "None") for unit in units] == [model] * 3
        (settled, said, _) = drawn(editor, model, *units)
        assert not said and all(before == now for _, before, now, _ in settled["units"])


def test_what_was_used_last_comes_first(checkpoint, used) -> None:
    checkpoint("SD1.5")
    used.note("SD1.5", ["base"])
    used.note("SDXL", ["instant-id"])
    assert panel_of(None).editor.controls["model"].value == "base"
    checkpoint("SDXL")
    assert panel_of(None).editor.controls["model"].value == "wide"  # InstantID lacks its pack and its network


def test_what_was_used_last_reaches_a_page_that_is_opened_later(checkpoint, used) -> None:
    """The panel is built when the WebUI starts."""
    checkpoint("SD1.5")
    editor = panel_of(None).editor
    unit = json.loads(editor.state.value)["units"][0]
    used.note("SD1.5", ["base"])
    with_picture, by_hand = {**unit, "images": [{"key": "k", "weight": 1}]}, {**unit, "model": "plus"}
    face = {**unit, "model": "full-face", "own": "full-face"}  # by a press of the purpose
    settled, said, _ = drawn(editor, OWN, unit, with_picture, by_hand, face)
    assert [now for _, _, now, _ in settled["units"]] == ["base", OWN, "plus", "full-face"] and not said


def test_the_first_cards_choose_where_the_checkpoint_was_not_known_before(checkpoint) -> None:
    checkpoint(None)
    editor = panel_of(None).editor
    units = json.loads(editor.state.value)["units"]
    assert drawn(editor, "None", *units)[0]["units"] == []
    checkpoint("SD1.5")
    settled, said, details = drawn(editor, "None", *units)
    assert settled["units"] == [[number, "None", OWN, "SD1.5"] for number in (1, 2, 3)]
    assert (settled["drawn"], said) == (OWN, "") and "Plus, SD1.5" in details


def test_a_change_of_the_checkpoint_exchanges_what_fitted_before_and_says_so(checkpoint) -> None:
    checkpoint("SDXL")
    editor = panel_of(None).editor
    item = {"images": [{"key": "k", "weight": 1}]}
    fitted = {"own": "base", "fitted": {"SD1.5": "base"}}
    units = [{**fitted, **item}, {"model": "base", **fitted}, {"model": "base", **fitted, **item}]
    assert drawn(editor, "base", {}, units[1], shown=2)[1] == ""  # as a page that is opened after the change
    settled, said, _ = drawn(editor, "base", *units)
    assert settled["units"] == [[number, "base", "wide", "SDXL"] for number in (1, 2, 3)]
    assert said == "<div>The checkpoint is SDXL now: units 1 and 3 take wide instead of base.</div>"
    # Each unit has its own model again where it had one: not the one that is likeliest.
    checkpoint("SD1.5")
    again = {"model": "wide", "fitted": {"SD1.5": "faceid", "SDXL": "wide"}, **item}
    other = {"model": "wide", "fitted": {"SD1.5": "plus", "SDXL": "wide"}}
    settled, said, _ = drawn(editor, "wide", again, other)
    assert [now for _, _, now, _ in settled["units"]] == [OWN, "plus"]  # the face pack is not here
    assert said == f"<div>The checkpoint is SD1.5 now: unit 1 takes {html.escape(OWN)} instead of wide.</div>"


def test_a_unit_for_faces_stays_one(checkpoint, monkeypatch) -> None:
    """Where there is one; and a unit that was one before becomes it again."""
    from lib_ipadapter.webui.panel import model_choice

    monkeypatch.setattr(model_choice, "has_pack", lambda resources: lambda pack: True)
    checkpoint("SD1.5")
    editor = panel_of(None).editor
    faces = {"model": "instant-id", "fitted": {"SDXL": "instant-id"}}
    back = {"model": "wide", "fitted": {"SDXL": "wide", "SD1.5": "faceid"}}
    other = {"model": "wide", "fitted": {"SDXL": "wide"}}
    settled, _, _ = drawn(editor, "instant-id", faces, back, other)
    assert [now for _, _, now, _ in settled["units"]] == ["faceid", "faceid", OWN]


def test_one_without_its_encoder_is_better_than_none_until_another_is_ready(checkpoint, monkeypatch) -> None:
    from lib_ipadapter.checkpoint.entries import EncoderEntry

    checkpoint("SD1.5")
    catalog = panel_of(None).resources().catalog
    without = [one for one in catalog._entries if not isinstance(one, EncoderEntry)]
    monkeypatch.setattr(catalog, "_entries", tuple(without))
    monkeypatch.setattr(type(catalog), "refresh", lambda self: None)
    editor = panel_of(None).editor
    unit = json.loads(editor.state.value)["units"][0]
    assert unit["model"] == OWN and "image encoder" in editor.describe(OWN)
    # Another one is ready: one that a unit has by itself gives way, without a word, and one by hand stays.
    monkeypatch.setattr("lib_ipadapter.jobs.choose.is_ready", lambda one, *_: one.name == "base")
    settled, said, _ = drawn(editor, OWN, unit, {**unit, "own": "base"})
    assert settled["units"] == [[1, OWN, "base", "SD1.5"], [2, OWN, OWN, "SD1.5"]] and not said


@pytest.mark.parametrize("unit", [
    {"model": "wide"},  # out of a preset, or for the next checkpoint
    {"model": "None", "own": OWN, "fitted": {"SD1.5": OWN}},  # by hand
    {"model": "gone", "fitted": {"SD1.5": "gone"}},
    {"model": "base", "own": OWN, "fitted": {"SD1.5": "base"}},
])  # fmt: skip
def test_what_a_person_has_chosen_stays(unit: dict, checkpoint) -> None:
    checkpoint("SD1.5")
    settled, said, details = drawn(panel_of(None).editor, unit["model"], unit)
    ((_, before, now, _),) = settled["units"]
    assert before == now == settled["drawn"] == unit["model"] and not said
    assert ("Adapter wide is for SDXL, the checkpoint is SD1.5" in details) == (unit["model"] == "wide")


def test_one_that_was_chosen_by_itself_gives_way_when_its_file_has_gone(checkpoint, monkeypatch) -> None:
    """To another one, or to none, which is no choice of a person's."""
    from lib_ipadapter.webui.panel.model_choice import ModelChoice

    def now(model: str, unit: dict) -> str:
        settled, said, _ = drawn(editor, model, unit)
        assert not said
        return settled["units"][0][2]

    checkpoint("SD1.5")
    editor = panel_of(None).editor
    gone = {"model": "gone", "own": "gone", "fitted": {"SD1.5": "gone"}, "images": [{"key": "k", "weight": 1}]}
    assert now("gone", gone) == OWN
    with monkeypatch.context() as empty:
        empty.setattr(ModelChoice, "chosen", lambda *_args, **_settings: None)
        assert now("gone", gone) == "None"
    assert now("None", {**gone, "model": "None", "own": "None"}) == OWN


def test_the_list_has_what_fits_and_what_is_in_use(checkpoint, more: Path) -> None:
    write_adapter(more / "<b>bold.safetensors", sdxl_unet())
    write(more / "a & b.safetensors", LORA)
    (more / "damaged.safetensors").write_bytes(b"nothing of the kind")
    checkpoint("SD1.5")
    editor = panel_of(None).editor
    editor.resources().catalog.refresh()
    fitting = ["None", OWN, "base", "faceid", "full-face", "plus"]
    settled, _, details = drawn(editor, "base", {}, {"model": "wide"}, {"model": "gone"})
    assert settled["choices"] == [*fitting, "wide", "gone"]
    rest = details[details.index("<details") :]
    assert "<b>bold" not in rest and "&lt;b&gt;bold" in rest
    names = re.findall("data-model='([^']*)'", rest)
    assert sorted(map(html.unescape, names)) == ["<b>bold", "instant-id", "two", "wide"]
    assert rest.count("It is for SDXL, the checkpoint is SD1.5.") == 3 and "It is for SD2.x" in rest
    assert "This file is a LoRA: put it into models/Lora" in rest and "a &amp; b" in rest and "damaged" in rest
    checkpoint(None)
    settled, _, details = drawn(editor, "base", {})
    assert set(settled["choices"]) == {*fitting, "wide", "two", "instant-id", "<b>bold"}
    assert "It is for" not in details


def test_the_rest_of_files_is_bounded(more: Path, checkpoint) -> None:
    from lib_ipadapter.webui.panel import other_files

    for number in range(other_files.MOST + 12):
        write(more / f"lora {number}.safetensors", LORA)
    checkpoint("SD1.5")
    editor = panel_of(None).editor
    editor.resources().catalog.refresh()
    rest = other_files.rest(editor.resources().catalog, checkpoint("SD1.5"))
    count = len(editor.resources().catalog.problems) + 3
    assert rest.count("<li>") == other_files.MOST + 1
    assert f"and more of them:</span> <b>{count - other_files.MOST}</b>" in rest


def test_the_refresh_button_says_what_it_has_found(more: Path, checkpoint) -> None:
    checkpoint("SD1.5")
    editor = panel_of(None).editor
    text = editor.state.value
    editor.resources().catalog.refresh()
    assert editor._look_again(text, "base")[1] == "<div>Found nothing new; 5 adapters fit SD1.5, 3 do not.</div>"
    write_adapter(more / "new.safetensors", sd_unet())
    write(more / "strange.safetensors", LORA)
    update, said = editor._look_again(text, "base")
    assert "new" in update["choices"]
    assert said == (
        "<div>Found 2 new files: new.safetensors, strange.safetensors (of no use: see Other files); 6 adapters fit "
        "SD1.5, 3 do not.</div>"
    )
    (more / "new.safetensors").unlink()
    assert editor._look_again(text, "base")[1] == ("<div>Gone: new.safetensors; 5 adapters fit SD1.5, 3 do not.</div>")
    (more / "broken.safetensors").write_bytes(b"half of it")
    editor._look_again(text, "base")
    write_adapter(more / "broken.safetensors", sd_unet())  # mended under its name
    assert "Found 1 new file: broken.safetensors; " in editor._look_again(text, "base")[1]
    (more / "broken.safetensors").unlink()
    editor._look_again(text, "base")
    checkpoint(None)
    assert editor._look_again(text, "base")[1] == "<div>Found nothing new; there are 8 adapters.</div>"


def test_a_checkpoint_that_could_not_be_read_is_looked_at_again(host: Host, tmp_path: Path, monkeypatch) -> None:
    from lib_ipadapter.attend.layers import cross_attention_layers
    from lib_ipadapter.checkpoint.specs import UNetSpec
    from lib_ipadapter.webui.host import a1111

    def away(_file: Path) -> Any:
        raise OSError("the disk is away")

    topology = Topology.of(cross_attention_layers(sd_unet()))
    spec = UNetSpec(topology.base, topology.context_width, topology.layer_widths, topology.blocks)
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(b"x")
    monkeypatch.setattr(a1111, "identify", lambda _shapes: spec)
    monkeypatch.setattr(a1111, "read_shapes", away)
    assert a1111._topology_in(file) is None
    monkeypatch.setattr(a1111, "read_shapes", lambda _file: {})
    assert a1111._topology_in(file) == topology


# A press of Generate


def test_a_unit_without_a_model_gets_one_at_the_press_and_it_is_remembered(host: Host, plain, used) -> None:
    tab = {"pictures": [picture(0)]}
    assert used.last("SD1.5") == []
    by_hand = from_panel(host, {**tab, "model": "base"})
    assert used.last("SD1.5") == ["base"]
    assert difference(from_panel(host, tab), by_hand) == 0
    assert difference(from_panel(host, {**tab, "model": "plus"}, {**tab, "model": "faceid", "enabled": False}), by_hand)
    assert used.last("SD1.5") == ["plus", "base"]


def test_a_client_has_to_name_its_model_and_is_not_remembered(host: Host, plain, used) -> None:
    from tests.helpers.files import base64_of, unit

    with pytest.raises(RuntimeError, match="IP-Adapter unit 1: model is missing"):
        make(host, {"images": [base64_of(picture(0))]})
    make(host, unit("base"))
    assert used.last("SD1.5") == []


def test_where_nothing_fits_the_press_says_what_to_get(host: Host, plain, checkpoint, monkeypatch) -> None:
    from lib_ipadapter.checkpoint.catalog import Catalog
    from lib_ipadapter.webui import process

    catalog = process.resources().catalog
    monkeypatch.setattr(Catalog, "refresh", lambda self: None)
    sd15 = [entry for entry in catalog._entries if getattr(getattr(entry, "spec", None), "base", "") != "SD1.5"]
    monkeypatch.setattr(catalog, "_entries", tuple(sd15))
    with pytest.raises(
        IPAdapterError, match=r"^IP-Adapter unit 2: no adapter here is for SD1.5: download models/ip-ad"
    ):
        from_panel(host, {}, {"pictures": [picture(0)]})
    details = panel_of(host).editor.describe("None")
    assert "ip-adapter-problem" in details and "download models/ip-adapter-plus_sd15.safetensors" in details


def test_empty_units_stay_out_of_a_preset(host: Host, checkpoint) -> None:
    from lib_ipadapter.webui.panel import accordion as panel

    checkpoint("SD1.5")
    made = panel_of(host)
    assert panel.presets_units(tuple(put_in(made, [])[0])) == []
    values, _ = put_in(made, [{"enabled": False}, {"model": "base", "images": [picture(0)]}])
    assert [unit["model"] for unit in panel.presets_units(tuple(values))] == [OWN, "base"]
    args = panel_args(host, {}, {"model": "base"})
    assert len(panel.presets_units(tuple(args[panel.API_PLACES + 2 :]))) == 2  # chosen by hand
