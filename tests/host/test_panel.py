"""The panel's parts that need no browser: parameters read back, references, presets put into the tabs, routes."""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from demo.start import Host, host_start
from lib_ipadapter.encode.picture import fingerprint, views
from lib_ipadapter.webui import infotext

from .files import base64_of, half, picture, write_adapter, write_encoder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Host:
    from .conftest import sd_unet, sdxl_unet

    folder = tmp_path_factory.mktemp("adapters")
    write_adapter(folder / "base.safetensors", sd_unet(), "base")
    write_adapter(folder / "a, b: c.safetensors", sd_unet(), "plus")
    write_adapter(folder / "wide.safetensors", sdxl_unet())
    write_adapter(folder / "face.safetensors", sd_unet(), "faceid")
    write_encoder(folder / "encoder.safetensors")
    options = {"sd_model_checkpoint": "demo-sd15", "live_previews_enable": False}
    with torch.enable_grad():
        started = host_start([ROOT], options, ["--ip-adapter-dir", str(folder)])
    yield started
    started.close()


@pytest.fixture
def store(tmp_path, monkeypatch):
    from lib_ipadapter.webui import callbacks, kept
    from lib_ipadapter.webui.presets import Store

    made = Store(tmp_path / "ip-adapter")
    for module in (kept, callbacks):
        monkeypatch.setattr(module, "store", lambda: made)
    return made


def make(host: Host, *units: dict, **payload):
    payload = {"prompt": "a cat", "steps": 1, "width": 64, "height": 64, **payload}
    return host.txt2img(**payload, alwayson_scripts={"IP-Adapter": {"args": list(units)}})


def test_parameters_are_read_as_they_were_written(host: Host, store) -> None:
    """Written into a picture, read by the host, restored from the store: the same units in the same places."""
    from modules.infotext_utils import parse_generation_parameters

    images = [{"image": base64_of(picture(0)), "weight": 0.25}, base64_of(picture(1))]
    settings = {"weight": 0.123456, "start": 0.1, "end": 0.75, "combine": "average", "influence_map": True}
    answer = make(host, {"enabled": False}, {"model": "A, B: C", "images": images, **settings})
    units, notes = infotext.restored(parse_generation_parameters(answer.infotext), store.picture)
    assert notes == []
    assert units[0] == {"enabled": False}
    assert {name: units[1][name] for name in settings} == settings
    assert units[1]["model"] == "a, b: c"
    assert [fingerprint(one["image"]) for one in units[1]["images"]] == [fingerprint(picture(i)) for i in (0, 1)]
    assert [one["weight"] for one in units[1]["images"]] == [0.25, 1]


def test_a_clients_infotext_brings_the_references_along(host: Host, store) -> None:
    """The API's ``infotext``: the same picture again, from its parameters alone; or a sentence, and no picture."""
    settings = {"model": "base", "images": [base64_of(picture(0)), base64_of(picture(1))], "weight": 0.8}
    first = make(host, {"enabled": False}, settings)
    again = make(host, infotext=first.infotext)
    assert again.infotext == first.infotext
    assert pixels_of(again) == pixels_of(first) != pixels_of(make(host))
    # What the request itself says counts, and so do parameters that were written without us.
    other = make(host, {**settings, "weight": 0.3})
    assert pixels_of(make(host, {**settings, "weight": 0.3}, infotext=first.infotext)) == pixels_of(other)
    assert pixels_of(make(host, infotext=make(host).infotext)) == pixels_of(make(host))

    next(store.folder.glob(f"pictures/{fingerprint(picture(1))}*")).unlink()
    with pytest.raises(RuntimeError, match=r"422.*Unit 2: 1 of its 2 references cannot be restored.*add the picture"):
        make(host, infotext=first.infotext)
    assert pixels_of(make(host, {"enabled": False}, infotext=first.infotext)) == pixels_of(make(host))


def pixels_of(answer) -> bytes:
    return answer.images[0].tobytes()


def test_what_is_missing_or_unknown_is_told() -> None:
    params = {
        "IP-Adapter 1": "model: m, weight: 9, swirl: 1, references: 0123456789ab ffffffffffff*0.5",
        "IP-Adapter 3": "model: n, start: 0.9, end: 0.2, references: 0123456789ab",
        "IP-Adapter 4": "somebody else's",
        "IP-Adapter 0": "references: 0123456789ab",
        "IP-Adapter 99": "references: 0123456789ab",
        "IP-Adapter Model 1": "references: 0123456789ab",
    }
    units, notes = infotext.restored(params, lambda mark: picture(0) if mark == "0123456789ab" else None)
    assert [unit.get("model") for unit in units] == ["m", None, "n"]
    assert set(units[0]) == {"model", "images"} and len(units[0]["images"]) == 1
    assert units[2].keys() == {"model", "images"}
    assert notes == [
        "Unit 1: weight is 9.0: give a number from -1 to 3, or a curve of such over the steps, such as "
        "[[0, 1.0], [0.6, 0.2]].",
        "Unit 1: swirl is not known to this version, so it was left out.",
        "Unit 1: 1 of its 2 references cannot be restored from the parameters: add the picture again.",
        "Unit 3: start is 0.9 and end is 0.2: no step lies between; make start less than end.",
    ]


@given(
    st.dictionaries(
        st.sampled_from([f"IP-Adapter {n}" for n in range(12)]) | st.text(), st.text() | st.none() | st.integers()
    )
)
def test_no_parameters_break_the_paste(params: dict) -> None:
    from lib_ipadapter.unit import Unit

    units, _ = infotext.restored(params, lambda mark: None)
    assert len(units) <= 10
    for unit in units:
        Unit.parse({**unit, "enabled": False})


@given(st.text(min_size=1).map(str.strip).filter(bool))
def test_any_name_survives_the_parameters(name: str) -> None:
    text = f"model: {infotext._quoted(name)}, references: 0123456789ab"
    (unit,) = infotext.read({"IP-Adapter 1": text})
    assert unit.settings["model"] == name


@given(st.text() | st.recursive(
    st.none() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text() | st.sampled_from(
        ["shown", "units", "images", "key", "weight", "controlnet"]), x)).map(json.dumps)
)  # fmt: skip
def test_no_sheet_but_the_pages_own_is_understood(text: str) -> None:
    from lib_ipadapter.errors import UnitError
    from lib_ipadapter.webui.sheet import Sheet

    try:
        Sheet.parse(text)
    except UnitError as error:
        assert "reload the page" in error.detail


def test_cards(host: Host) -> None:
    from lib_ipadapter.webui import references

    items = [{"key": "a", "weight": 1.0}, {"key": "b", "weight": 0.5}]
    look, none = references.Look(42), references.Look()
    html = references.cards(items, {"a": picture(0), "b": picture(1)}, look, "stamp")
    assert html.count("<img") == 4 and "value='0.5'" in html and "data-stamp='stamp'" in html
    assert "Remove all" in html and "Remove all" not in references.cards(items[:1], {}, look)
    assert references.cards(items, {"a": picture(0), "b": picture(1)}, none).count("<img") == 2
    assert "not there any more" in references.cards(items, {"a": picture(0)}, none)
    assert "on its way" in references.cards([{**items[0], "waiting": True}], {}, none)
    assert "ControlNet Unit 1<" in references.cards([{**items[0], "controlnet": 2}], {}, none)
    long = picture(0, (126, 42))
    assert references.cards(items[:1], {"a": long}, references.Look(42, "tile")).count("ip-adapter-seen") == 3
    masked = references.cards([{**items[0], "mask": "m", "negative": True}], {"a": picture(0), "m": MASK}, look)
    assert masked.count("aria-pressed='true'") == 2 and "data-mask='data:image/png;base64," in masked
    assert html.count("aria-pressed='true'") == 0 and "data-mask" not in html
    assert "not there any more" in references.region(None, missing=True)
    assert "data-mask" in references.region(MASK) and "the whole picture" in references.region(None)


def test_pictures_are_taken_in(host: Host) -> None:
    """Into the unit in which the page has announced them; what no unit has any more is let go."""
    from lib_ipadapter.webui import sheet

    def page(*keys: str) -> str:
        return json.dumps({"shown": 1, "units": [{}, {"images": [{"key": key} for key in keys]}]})

    def inbox(key: str, data: str = base64_of(picture(1))) -> str:
        return json.dumps({"key": key, "data": data})

    key, kept = sheet.take(page("a", "b"), inbox("b"), {"a": picture(0), "gone": picture(2)})
    assert (key, sorted(kept)) == ("b", ["a", "b"]) and kept["b"].size == picture(1).size
    assert sheet.take(page("a"), inbox("b"), {"a": picture(0)}) == ("b", {"a": picture(0)})
    with pytest.raises(Exception, match="not a picture"):
        sheet.take(page("a"), inbox("a", "aGVsbG8gd29ybGQ="), {})
    with pytest.raises(Exception, match="at most 64"):
        sheet.take(page(*map(str, range(65))), inbox("64"), {})


def test_every_generation_is_kept(host: Host, store, monkeypatch) -> None:
    from modules import shared

    make(host, {"model": "base", "images": [base64_of(picture(0))]}, {"enabled": False})
    (name,) = store.recent()
    (unit, off) = store.load(name)
    assert unit["model"] == "base" and fingerprint(unit["images"][0]) == fingerprint(picture(0))
    assert off == {"enabled": False}
    make(host)
    make(host, {"enabled": False})
    assert store.recent() == [name]
    monkeypatch.setitem(shared.opts.data, "ip_adapter_save_generations", False)
    make(host, {"model": "base", "images": [base64_of(picture(0))]})
    assert store.recent() == [name]
    monkeypatch.setitem(shared.opts.data, "ip_adapter_save_generations", True)
    monkeypatch.setitem(shared.opts.data, "ip_adapter_history", 1)
    make(host, {"model": "base", "images": [base64_of(picture(1))]})
    assert len(store.recent()) == 1 and store.recent() != [name]


def test_a_store_that_cannot_be_written_costs_no_picture(host: Host, store, monkeypatch, caplog) -> None:
    from lib_ipadapter.webui.presets import StorageError

    def full(*_args) -> str:
        raise StorageError("The disk is full: make room.")

    monkeypatch.setattr(store, "keep", full)
    assert make(host, {"model": "base", "images": [base64_of(picture(0))]}).images
    assert "The disk is full" in caplog.text


MASK = half("left", (8, 8)).convert("RGB")


def panel_of(host: Host):
    import gradio as gr

    from lib_ipadapter.webui import callbacks, panel

    with gr.Blocks():
        return panel.Panel("txt2img", callbacks.resources, callbacks.store)


def put_in(made, units: list[dict]) -> tuple[list[object], list[str]]:
    """The values that the panel's arguments have after ``units`` were put into it, and the notes."""
    values, notes = made.filled(units)
    shown = dict(zip(made.targets, values, strict=True)) | {made.editor.inbox: ""}
    arguments = [shown[component] for component in made.editor.arguments]
    return [v["value"] if isinstance(v, dict) and "__type__" in v else v for v in arguments], notes


def test_units_put_into_the_panel_come_out_again(host: Host, store) -> None:
    from lib_ipadapter.webui import panel

    made = panel_of(host)
    units = [
        {"model": "BASE", "images": [{"image": picture(0), "weight": 0.5}], "weight": 2, "end": 0.5, "enabled": False},
        {"enabled": False},
        {"model": "not here", "image": base64_of(picture(1)), "hires": "base", "swirl": 1, "crop": "center"},
        {"model": "base", "images": [picture(2), {"controlnet": 2, "weight": 0.25}]},
    ]
    values, notes = put_in(made, units)
    assert notes == ["Unit 3: swirl has no place in this panel and was left out."]
    one, two, three, four = panel.presets_units(tuple(values))
    assert (one["model"], one["weight"], one["end"], one["enabled"]) == ("base", 2.0, 0.5, False)
    assert one["images"][0]["weight"] == 0.5
    assert two["images"] == [] and "model" not in two
    assert (three["model"], three["hires"], len(three["images"])) == ("not here", "base", 1)
    assert four["images"][1] == {"controlnet": 2, "weight": 0.25}
    shown = dict(zip(made.targets, made.filled(units)[0], strict=True))
    assert shown[made.editor.controls["weight"]]["maximum"] == 3
    assert {"base", "not here"} <= set(shown[made.editor.controls["model"]]["choices"])
    shown = dict(zip(made.targets, made.filled(units[3:])[0], strict=True))
    assert shown[made.editor.controls["weight"]]["maximum"] == 1
    assert "no adapter is called" in made.editor.describe("not here").lower()


def test_orders_of_the_preset_bar(host: Host, store, monkeypatch, tmp_path) -> None:
    """What is said, asked, shown in the list and kept of the file, after each order that the page can give."""
    from types import SimpleNamespace

    import gradio as gr

    from lib_ipadapter.webui.presets import StorageError

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
    assert (chosen, kept) == ("as it was", untouched) and all(value == untouched for value in shown)
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
    file = SimpleNamespace(name=exported)
    said, chosen, kept = made.bar._import(file, None)
    assert "Overwrite them?" in said and kept == untouched
    with monkeypatch.context() as patch:
        patch.setattr(store, "import_", full)
        said, asked, _, kept, _ = give(do="import over", about="", name="", file=file)
        assert "The disk is full" in said and asked["do"] == "import over" and kept == untouched
    assert give(do="import over", about="", name="", file=None)[0].count("import it again") == 1
    said, _, _, kept, _ = give(do="import over", about="", name="", file=file)
    assert "Imported “<b>'one'”." in said and kept is None
    (tmp_path / "bad.zip").write_bytes(b"PK")
    assert "no export of presets" in made.bar._import(SimpleNamespace(name=str(tmp_path / "bad.zip")), None)[0]

    assert give("<b>'one'", do="cancel")[:4] == ("", None, "as it was", None)
    said, _, _, _, shown = give("<b>'one'", do="load")
    assert "Loaded “<b>'one'”." in said and len(shown) == len(made.targets) and shown[0] is True
    assert give("<b>'one'", do="delete", about="<b>'one'", name="")[2] is None and store.names() == []


def test_every_value_goes_through_the_panel_and_back(host: Host, store) -> None:
    """All fields that have a control, from the panel to a preset and from there to another panel."""
    from lib_ipadapter.unit import Unit
    from lib_ipadapter.webui import panel
    from lib_ipadapter.webui.controls import BY_FIELD

    unit = {
        "model": "base", "images": [{"image": picture(0), "weight": 1.0}, {"controlnet": 1, "weight": 0.5}],
        "weight": -0.5, "start": 0.25, "end": 0.5, "combine": "average", "hires": "hires", "batch": "per image",
        "influence_map": True, "keypoints_weight": 0.75, "enabled": True, "weight_type": "composition precise",
        "crop": "tile", "subtract_prompt": "red, “round”: 1", "composition_weight": 0.7, "noise": 0.3,
        "layer_weights": {"5": 0.4, "7": -1.0}, "embeds_scaling": "K+V", "boost": 0.25, "region_feather": 0.2,
        "negative_images": [{"image": picture(2), "weight": 0.75, "mask": MASK}], "region_mask": MASK,
    }  # fmt: skip
    unit["images"][0]["mask"] = MASK
    assert set(unit) == {*BY_FIELD, "images", "negative_images", "region_mask"} - {"curve"}
    parsed, told = Unit.parse(unit), set(BY_FIELD) - {"enabled", "curve"}
    assert all(getattr(parsed, name) != getattr(Unit, name, None) for name in told)
    for units in ([unit], [{}, unit]):
        (*_, once) = panel.presets_units(tuple(put_in(panel_of(host), units)[0]))
        store.save("once", [once], overwrite=True)
        (*_, twice) = panel.presets_units(tuple(put_in(panel_of(host), store.load("once"))[0]))
        assert Unit.parse(twice).changed() == Unit.parse(once).changed() == Unit.parse(unit).changed()
        assert [one.get("controlnet") for one in twice["images"]] == [None, 1]
        assert [one["weight"] for one in twice["images"]] == [1, 0.5]
        assert fingerprint(twice["images"][0]["image"]) == fingerprint(picture(0))
        (away,) = twice["negative_images"]
        assert (fingerprint(away["image"]), away["weight"]) == (fingerprint(picture(2)), 0.75)
        masks = twice["images"][0]["mask"], away["mask"], twice["region_mask"]
        assert {fingerprint(mask) for mask in masks} == {fingerprint(MASK)}


def test_a_curve_stands_in_the_place_of_the_weight(host: Host) -> None:
    from lib_ipadapter.unit import Unit
    from lib_ipadapter.webui import panel

    curve = [[0, 0.5], [0.6, 2]]
    values, notes = put_in(panel_of(host), [{"model": "base", "images": [picture(0)], "weight": curve}])
    (once,) = panel.presets_units(tuple(values))
    assert notes == []
    assert Unit.parse(once).weight == Unit.parse({"model": "base", "images": ["x"], "weight": curve}).weight
    shown = json.loads(values[0])["units"][0]
    assert (shown["weight"], shown["wide"], shown["curve"]) == (2, True, "0:0.5 0.6:2")


@pytest.mark.parametrize(
    ("field", "text", "says"),
    [
        ("layer_weights", "5:", "layer_weights is '5:'"),
        ("boost", "much", "boost is 'much'"),
        ("curve", "0:9", "weight is"),
    ],
)
def test_what_is_written_down_wrong_is_told_by_the_unit(field: str, text: str, says: str, host: Host) -> None:
    from lib_ipadapter.errors import UnitError
    from lib_ipadapter.unit import parse_units
    from lib_ipadapter.webui import panel

    made = panel_of(host)
    values, _ = put_in(made, [{"model": "base", "images": [picture(0)]}])
    written = json.loads(values[0])
    written["units"][0][field] = text
    values[0] = json.dumps(written)
    with pytest.raises(UnitError, match=f"^IP-Adapter unit 1: {says}"):
        parse_units(panel.presets_units(tuple(values)))
    bars = made.editor._bars(values[0], "base", 1.0)
    assert ("ip-adapter-problem" in bars) == (field != "curve")


def test_a_mask_that_has_not_arrived_is_told(host: Host) -> None:
    from lib_ipadapter.errors import UnitError
    from lib_ipadapter.webui import sheet
    from lib_ipadapter.webui.controls import COMPONENTS

    values = [control.default for control in COMPONENTS]
    items = [{"key": "a", "weight": 1, "mask": "m"}]
    text = json.dumps({"shown": 1, "units": [{"images": items, "region": "r"}]})
    pictures = {"a": picture(0), "m": MASK, "r": MASK}
    (unit,) = sheet.objects(text, None, pictures, *values)
    assert unit["images"][0]["mask"] is MASK and unit["region_mask"] is MASK
    for gone, says in (("m", "unit 1: the mask of a reference is not"), ("r", "unit 1: the mask of the region is not")):
        with pytest.raises(UnitError, match=says):
            sheet.objects(text, None, {key: value for key, value in pictures.items() if key != gone}, *values)
    arriving = json.dumps({"key": "m", "data": base64_of(MASK)})
    (unit,) = sheet.objects(text, arriving, {"a": picture(0), "r": MASK}, *values)
    assert fingerprint(unit["images"][0]["mask"]) == fingerprint(MASK)
    assert sheet.take(text, arriving, {"a": picture(0)})[1].keys() == {"a", "m"}


def test_new_units_have_the_crop_of_the_settings(host: Host, monkeypatch) -> None:
    from modules import shared

    from lib_ipadapter.webui import options, panel, sheet

    monkeypatch.setitem(shared.opts.data, options.CROP, "pad")
    made = panel_of(host)
    assert [unit["crop"] for unit in json.loads(made.editor.sheet.value)["units"]] == ["pad"] * 3
    values, _ = put_in(made, [])
    assert panel.presets_units(tuple(values)) == []
    assert {unit["crop"] for unit in sheet.objects(*values)} == {"pad"}
    values, _ = put_in(made, [{"enabled": False}, {"model": "base", "images": [picture(0)], "crop": "tile"}])
    assert [unit["crop"] for unit in sheet.objects(*values)] == ["pad", "tile", "pad"]
    values, _ = put_in(made, [{"model": "base", "images": [picture(0)]}])  # made with another default: kept
    assert json.loads(values[0])["units"][0]["crop"] == "center"


def test_plain_controls_know_their_values_whatever_the_page_shows() -> None:
    """The WebUI translates texts in the page; the names of choices are values all the same."""
    from lib_ipadapter.unit import CHOICES
    from lib_ipadapter.webui.controls import PLAIN

    assert {control.field for control in PLAIN} >= set(CHOICES)
    for control in PLAIN:
        drawn = control.drawn("an-id")
        assert f"title='{html.escape(control.tip)}'" in drawn and f"<span>{html.escape(control.label)}</span>" in drawn
        for name in CHOICES.get(control.field, ()):
            assert f"<option value='{html.escape(name)}'>{html.escape(name)}</option>" in drawn


def test_a_model_that_has_gone_stays_chosen(host: Host) -> None:
    editor = panel_of(host).editor
    update = editor._look_again(json.dumps({"shown": 1, "units": [{}, {"model": "gone"}, {"model": "base"}]}), "older")
    assert update["choices"][-2:] == ["older", "gone"] and update["choices"].count("base") == 1
    assert "value" not in update


def test_a_mere_prompt_changes_nothing(host: Host) -> None:
    made = panel_of(host)
    assert made._read({"Prompt": "a cat"}) is None
    assert json.loads(made._read({"Prompt": "a cat", "Steps": "3"})["value"])["entries"] == {}
    first, second = (made._read({"Steps": "3", "IP-Adapter 1": "x"})["value"] for _ in range(2))
    assert first != second  # pasted twice, read twice


def test_pasted_parameters_count_in_requests_only(host: Host, store) -> None:
    """In the page they are in the panel, which may have been changed or unticked since."""
    from lib_ipadapter.webui import panel

    made = panel_of(host)
    text = make(host, {"model": "base", "images": [base64_of(picture(0))]}).infotext
    from modules.infotext_utils import parse_generation_parameters

    pasted = made._read(parse_generation_parameters(text))["value"]
    args = (*[panel.NOT_SENT] * panel.SLOTS, pasted, False, *put_in(made, [])[0])
    assert panel.units(args) == []
    (unit,) = panel.units(args, is_api=True)
    assert unit["model"] == "base" and fingerprint(unit["images"][0]["image"]) == fingerprint(picture(0))


def test_lines_about_a_model(host: Host) -> None:
    made = panel_of(host).editor
    assert made.describe("None") == ""
    line = made.describe("base")
    assert "Base, SD1.5, 4 tokens" in line and "encoder.safetensors" in line and "problem" not in line
    assert "for SDXL, the checkpoint is SD1.5" in made.describe("wide")
    assert "face" in made.describe("face") and "ip-adapter-problem" in made.describe("face")


def test_the_preview_is_what_the_encoder_sees(host: Host) -> None:
    image = picture(0, (90, 50))
    answer = host.client.post("/ip-adapter/preview", json={"model": "base", "images": [base64_of(image)]})
    (text,) = answer.json()["images"]
    seen = Image.open(io.BytesIO(base64.b64decode(text)))
    assert seen.size == (42, 42)
    assert np.array_equal(np.asarray(seen), np.asarray(views(image, 42)[0]))


@pytest.mark.parametrize(("unit", "says"), [
    ({"images": ["x"]}, "model is missing"),
    ({"model": "nothing like it", "images": [base64_of(picture())]}, "no adapter is called"),
    ({"model": "face", "images": [base64_of(picture())]}, "face"),
    ({"model": "base", "images": ["aGVsbG8gd29ybGQ="]}, "text, not a picture"),
    ([1], "a unit is an object"),
])  # fmt: skip
def test_a_preview_of_what_cannot_be_is_a_422(unit: object, says: str, host: Host) -> None:
    answer = host.client.post("/ip-adapter/preview", json=unit)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("IP-Adapter unit 1: ") and says in answer.json()["detail"]


def test_the_page_asks_for_what_the_contract_names(host: Host) -> None:
    from modules import scripts, shared

    for runner in (scripts.scripts_txt2img, scripts.scripts_img2img):
        script = next(s for s in runner.alwayson_scripts if s.title() == "IP-Adapter")
        assert len(script.infotext_fields) == len(script.paste_field_names) + 1
    ids = {block.elem_id for block in host.blocks.blocks.values() if getattr(block, "elem_id", None)}
    assert {f"{tab}_send_to_ip_adapter" for tab in ("txt2img", "img2img", "extras", "pnginfo")} <= ids
    assert "txt2img_ip_adapter_controlnet" not in ids  # it is not loaded
    settings = [key for key in shared.opts.data_labels if key.startswith("ip_adapter_")]
    assert {"ip_adapter_unit_count", "ip_adapter_cache_mb", "ip_adapter_adapters_mb", "ip_adapter_models_path",
            "ip_adapter_save_generations", "ip_adapter_history"} <= set(settings)  # fmt: skip
