"""The panel's parts that need no browser: units put into it and taken out, its lines about models, previews."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.start import Host
from lib_ipadapter.encode.crops import views
from lib_ipadapter.encode.picture import content_hash
from tests.helpers.files import base64_of, half, picture, write_encoder
from tests.helpers.panel import panel_of, put_in

MASK = half("left", (8, 8)).convert("RGB")


def test_units_put_into_the_panel_come_out_again(host: Host, store) -> None:
    from lib_ipadapter.webui.panel import accordion as panel

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
    assert two["images"] == [] and two["model"] == "a, b: c"  # what an empty unit has by itself
    assert (three["model"], three["hires"], len(three["images"])) == ("not here", "base", 1)
    assert four["images"][1] == {"controlnet": 2, "weight": 0.25}
    shown = dict(zip(made.targets, made.filled(units)[0], strict=True))
    assert shown[made.editor.controls["weight"]]["maximum"] == 3
    assert {"base", "not here"} <= set(shown[made.editor.controls["model"]]["choices"])
    shown = dict(zip(made.targets, made.filled(units[3:])[0], strict=True))
    assert shown[made.editor.controls["weight"]]["maximum"] == 1
    assert "no adapter is called" in made.editor.describe("not here").lower()


def test_every_value_goes_through_the_panel_and_back(host: Host, store) -> None:
    """All fields that have a control, from the panel to a preset and from there to another panel."""
    from lib_ipadapter.unit import Unit
    from lib_ipadapter.webui.panel import accordion as panel
    from lib_ipadapter.webui.panel.controls import BY_FIELD

    unit = {
        "model": "base", "images": [
            {"image": picture(0), "weight": 1.0}, {"controlnet": 1, "weight": 0.5}, {"start_picture": True},
        ],
        "weight": -0.5, "start": 0.25, "end": 0.5, "combine": "average", "hires": "hires", "batch": "per image",
        "influence_map": True, "keypoints_weight": 0.75, "enabled": True, "weight_type": "composition precise",
        "crop": "tile", "resolution": 448, "subtract_prompt": "red, “round”: 1", "composition_weight": 0.7,
        "encoder": "x", "acts_in": "both", "detailer_tab": 2, "variant": "faceid-plus-v2", "face_index": 2,
        "faceid_v2_weight": 1.5,
        "lora_strength": 0.5, "keypoints_start": 0.2, "keypoints_end": 0.9, "downsampling": 3,
        "layer_weights": {"5": 0.4, "7": -1.0}, "embeds_scaling": "K+V", "boost": 0.25, "region_feather": 0.2,
        "noise": 0.3,
        "negative_images": [{"image": picture(2), "weight": 0.75, "mask": MASK}], "region_mask": MASK,
    }  # fmt: skip
    unit["images"][0]["mask"] = MASK
    without = BY_FIELD.keys() - unit.keys() - {"curve", "folder"}
    assert not without, f"give a value other than the default, in this test, to: {', '.join(without)}"
    assert set(unit) == {*BY_FIELD, "images", "negative_images", "region_mask"} - {"curve", "folder"}
    parsed, told = Unit.parse(unit), set(BY_FIELD) - {"enabled", "curve", "folder"}
    assert all(getattr(parsed, name) != getattr(Unit, name, None) for name in told)
    for units in ([unit], [{}, unit]):
        (*_, once) = panel.presets_units(tuple(put_in(panel_of(host), units)[0]))
        store.save("once", [once], overwrite=True)
        (*_, twice) = panel.presets_units(tuple(put_in(panel_of(host), store.load("once"))[0]))
        assert Unit.parse(twice).changed() == Unit.parse(once).changed() == Unit.parse(unit).changed()
        assert [one.get("controlnet") for one in twice["images"]] == [None, 1, None]
        assert [one.get("start_picture") for one in twice["images"]] == [None, None, True]
        assert [one["weight"] for one in twice["images"]] == [1, 0.5, 1]
        assert twice["images"][0]["image"].content_hash == content_hash(picture(0))
        (away,) = twice["negative_images"]
        assert (away["image"].content_hash, away["weight"]) == (content_hash(picture(2)), 0.75)
        masks = twice["images"][0]["mask"], away["mask"], twice["region_mask"]
        assert {mask.content_hash for mask in masks} == {content_hash(MASK)}


def test_a_curve_stands_in_the_place_of_the_weight(host: Host) -> None:
    from lib_ipadapter.unit import Unit
    from lib_ipadapter.webui.panel import accordion as panel

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
    from lib_ipadapter.webui.panel import accordion as panel

    made = panel_of(host)
    values, _ = put_in(made, [{"model": "base", "images": [picture(0)]}])
    written = json.loads(values[0])
    written["units"][0][field] = text
    values[0] = json.dumps(written)
    with pytest.raises(UnitError, match=f"^IP-Adapter unit 1: {says}"):
        parse_units(panel.presets_units(tuple(values)))
    bars = made.editor._bars(values[0], "base", 1.0)
    assert ("ip-adapter-problem" in bars) == (field == "boost")  # of the others, the reason stands beside the field


def test_new_units_have_the_crop_of_the_settings(host: Host, monkeypatch) -> None:
    from modules import shared

    from lib_ipadapter.webui import options
    from lib_ipadapter.webui.panel import accordion as panel
    from lib_ipadapter.webui.panel import panel_state

    monkeypatch.setitem(shared.opts.data, options.CROP, "pad")
    made = panel_of(host)
    assert [unit["crop"] for unit in json.loads(made.editor.state.value)["units"]] == ["pad"] * 3
    values, _ = put_in(made, [])
    assert panel.presets_units(tuple(values)) == []
    assert {unit["crop"] for unit in panel_state.objects(*values)} == {"pad"}
    values, _ = put_in(made, [{"enabled": False}, {"model": "base", "images": [picture(0)], "crop": "tile"}])
    assert [unit["crop"] for unit in panel_state.objects(*values)] == ["pad", "tile", "pad"]
    values, _ = put_in(made, [{"model": "base", "images": [picture(0)]}])  # made with another default: kept
    assert json.loads(values[0])["units"][0]["crop"] == "center"


def test_a_model_that_has_gone_stays_chosen(host: Host) -> None:
    editor = panel_of(host).editor
    text = json.dumps({"shown": 1, "units": [{}, {"model": "gone"}, {"model": "base"}]})
    update, _ = editor._look_again(text, "older")
    assert update["choices"][-2:] == ["older", "gone"] and update["choices"].count("base") == 1
    assert "value" not in update


def test_lines_about_a_model(host: Host) -> None:
    from modules import shared

    assert shared.sd_model is not None  # asked for, so it is loaded
    made = panel_of(host).editor
    assert made.describe("None") == ""
    line = made.describe("base")
    assert "Base, SD1.5, 4 tokens" in line and "encoder.safetensors" in line and "problem" not in line
    assert "for SDXL, the checkpoint is SD1.5" in made.describe("wide")
    assert "faces by buffalo_l" in made.describe("faceid")


def test_the_line_about_a_model_names_its_encoder_and_others_that_fit(host: Host, folder: Path) -> None:
    editor = panel_of(host).editor
    write_encoder(folder / "second.safetensors", seed=12)
    try:
        editor.resources().catalog.refresh()

        def line(**unit: str) -> str:
            """What the page gets when it asks."""
            return editor._drawn("stamp", json.dumps({"shown": 1, "units": [unit]}), {}, "base")[2]

        assert "in encoder.safetensors" in line() and "other image encoders that fit: second" in line()
        assert "in second.safetensors" in line(encoder=" second ") and "that fit: encoder" in line(encoder="second")
        assert "no image encoder is called" in line(encoder="third").lower()
    finally:
        (folder / "second.safetensors").unlink()
        editor.resources().catalog.refresh()


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
    ({"model": "faceid", "images": [base64_of(picture())]}, "face"),
    ({"model": "base", "images": ["aGVsbG8gd29ybGQ="]}, "text, not a picture"),
    ([1], "a unit is an object"),
])  # fmt: skip
def test_a_preview_of_what_cannot_be_is_a_422(unit: object, says: str, host: Host) -> None:
    answer = host.client.post("/ip-adapter/preview", json=unit)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("IP-Adapter unit 1: ") and says in answer.json()["detail"]


def test_no_parameter_of_a_picture_is_taken_for_a_component_of_the_panel(host: Host) -> None:
    """Pictures come from anywhere: of theirs only the panel's own reading counts."""
    from modules import scripts
    from modules.infotext_utils import parse_generation_parameters

    for runner in (scripts.scripts_txt2img, scripts.scripts_img2img):
        script = next(s for s in runner.alwayson_scripts if s.title() == "IP-Adapter")
        names = [name for _, name in script.infotext_fields if isinstance(name, str)]
        assert names == script.paste_field_names and len(names) == len(set(names)) > 3
        line = ", ".join(["Steps: 3", "Sampler: Euler", "CFG scale: 7", *(f'{name}: "x"' for name in names), "Seed: 1"])
        read = parse_generation_parameters(f"a cat\n{line}")
        assert read["Seed"] == "1" and not any("panel" in name for name in read)


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


def test_scripts_give_back_no_more_than_an_events_inputs(host: Host) -> None:
    """gradio 4 puts the values that a script gives back into the wrong inputs where they are more than these and a
    state, of which the page has none, stands before other inputs."""
    config = host.blocks.config
    is_state = {component["id"]: component["type"] == "state" for component in config["components"]}
    found = 0
    for event in config["dependencies"]:
        states = [is_state[one] for one in event["inputs"]]
        if "ipAdapter.call" in str(event["js"]) and event["backend_fn"] and True in states[:-1]:
            found += 1
            assert f"values.slice(0, {len(states)})" in event["js"]
    assert found
