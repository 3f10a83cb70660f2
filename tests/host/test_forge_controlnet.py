"""Beside the ControlNet that Forge has built in: pictures as references, the same asked of both, units to and fro."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file

from demo.start import Host
from lib_ipadapter.encode.picture import decode
from lib_ipadapter.errors import IPAdapterError, UnitError
from lib_ipadapter.unit import Unit
from tests.helpers.controlnet import SQUARE, array, ask, make, ours, same, text
from tests.helpers.files import base64_of, half, picture, png, write_adapter
from tests.helpers.forge_controlnet import VIT_H, drawn, its_module, its_script, job, label, layer, theirs, view
from tests.helpers.host import FAR, Hosts, difference
from tests.helpers.unets import sdxl_unet

pytestmark = pytest.mark.host("forge's controlnet")

PAINTED = base64_of(Image.fromarray(layer(20)[:, :, 3]))  # white where something is painted


@pytest.fixture(autouse=True)
def nothing_left(host: Host, hosts: Hosts):
    """Afterwards a plain picture is what it was, with all of ControlNet's units off."""
    (before,) = hosts.reference(steps=1)
    yield
    assert difference(make(host, steps=1), before) == 0
    assert its_module().seen[-1] == []


def unit_of(**fields: Any) -> Any:
    return its_module().ControlNetUnit(**fields)


# Found and read


def test_it_is_known_by_what_is_loaded(host: Host, monkeypatch) -> None:
    from lib_ipadapter.webui import host as hosts
    from lib_ipadapter.webui.host.forge_controlnet import ForgeControlNet
    from lib_ipadapter.webui.host.webui_controlnet import WebUIControlNet

    current = hosts.current()
    assert type(current.controlnet()) is ForgeControlNet
    with monkeypatch.context() as patch:  # both: the one that has something for other extensions
        patch.setitem(sys.modules, "internal_controlnet.external_code", type("module", (), {"find_cn_script": None}))
        assert type(current.controlnet()) is WebUIControlNet
    monkeypatch.delitem(sys.modules, "lib_controlnet.external_code")
    assert current.controlnet() is None


def test_its_units_are_found_and_read(host: Host) -> None:
    from lib_ipadapter.webui.neighbours import controlnet

    unit = unit_of(module="canny", hr_option="Low res only", weight=0.5)
    found = controlnet.units_of(job({"image": "x", "guidance": 0.5, "weight": 0.25}, unit))
    assert [(one.number, one.enabled) for one in found] == [(1, True), (2, True), (3, False)]
    assert (found[0].get("image"), found[0].get("guidance_end"), found[0].get("weight")) == ("x", 1.0, 0.25)
    assert (found[1].module, found[1].get("hr_option"), found[1].get("input_mode")) == (
        "canny", "Low res only", "simple")  # fmt: skip
    assert found[2].get("hr_option") == "Both"
    assert str(found[1]) == "Forge's ControlNet unit 2 (“ControlNet Unit 1”)"
    assert [view(unit_of(module=name)).is_ip_adapter for name in (VIT_H, "InsightFace (InstantID)", "None")] == [
        True, False, False]  # fmt: skip


OVER = np.zeros((*SQUARE, 3), dtype=np.uint8)
OVER[40:] = 255
NOTHING = np.zeros((*SQUARE, 4), dtype=np.uint8)
FORMS = {
    "base64": {"image": text(1)},
    "array": {"image": np.asarray(picture(1, SQUARE))},
    "canvas": {"image": drawn(picture(1, SQUARE)), "image_fg": NOTHING},
    "drawn over": {"image": drawn(picture(1, SQUARE)), "image_fg": layer(20)},
    "mask of another size": {"image": drawn(picture(1, SQUARE)), "mask_image": OVER[::2, ::2]},
    "mask": {"image": drawn(picture(1, SQUARE)), "image_fg": layer(20), "mask_image": OVER},
    "drawn over the mask": {"image": drawn(picture(1, SQUARE)), "mask_image": OVER, "mask_image_fg": layer(30)},
    "empty mask": {"image": np.asarray(picture(1, SQUARE)), "mask_image": OVER * 0, "image_fg": layer(20)},
    "mask by base64": {"image": text(1), "mask_image": PAINTED},
    "drawn on nothing": {"image": NOTHING, "image_fg": layer(20)},
    "transparent": {"image": layer(30)},
    "grey": {"image": np.asarray(picture(1, SQUARE))[:, :, 0]},
    "preview": {"image": np.asarray(picture(1, SQUARE)), "use_preview_as_input": True, "image_fg": layer(20),
                "generated_image": np.asarray(picture(2, SQUARE))},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sent", [False, True])
def test_pictures_are_what_it_sees_itself(form: str, sent: bool, host: Host) -> None:
    given = FORMS[form]
    unit = its_module().ControlNetUnit.from_dict(given)
    image, mask = type(its_script()).process.__globals__["input_of"](unit, None)
    (found,) = view(given if sent else unit).pictures()
    assert np.array_equal(np.asarray(found.image), image)
    if form == "drawn on nothing":  # it is the picture then; for itself it is the mask, too
        mask = None
    assert np.array_equal(np.zeros(SQUARE) if found.painted is None else np.asarray(found.painted),
                          np.zeros(SQUARE) if mask is None else mask[:, :, 0])  # fmt: skip


@pytest.fixture
def files(tmp_path, monkeypatch) -> list[tuple[str, None]]:
    """A gallery, as the page gives it: files with captions, among those that pages have sent."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    paths = [tmp_path / f"{seed}.png" for seed in (1, 2)]
    for seed, path in zip((1, 2), paths, strict=True):
        path.write_bytes(png(picture(seed, SQUARE)))
    return [(str(path), None) for path in paths]


def test_uploaded_pictures_are_read_for_the_page_only(files, tmp_path, host: Host) -> None:
    merge = its_module().InputMode.MERGE
    for items in (files, [{"name": path} for path, _ in files], [path for path, _ in files]):
        found = view(unit_of(input_mode=merge, batch_input_gallery=items)).pictures()
        assert [np.array_equal(np.asarray(one.image), np.asarray(picture(seed, SQUARE)))
                for seed, one in enumerate(found, 1)] == [True, True]  # fmt: skip
    with pytest.raises(UnitError, match="names files, which are never opened for a request"):
        view({"input_mode": "merge", "batch_input_gallery": files}).pictures()
    with pytest.raises(UnitError, match="takes a folder of pictures"):
        view(unit_of(input_mode=its_module().InputMode.BATCH, batch_image_dir="/")).pictures()
    other = tmp_path.with_name(f"{tmp_path.name}-other.png")  # which no page has sent
    other.write_bytes(png(picture(1, SQUARE)))
    for path in (tmp_path / "gone.png", other, "/dev/zero", tmp_path, "\0"):
        with pytest.raises(IPAdapterError, match="not there any more: upload it again"):
            view(unit_of(input_mode=merge, batch_input_gallery=[(str(path), None)])).pictures()
    assert view(unit_of(input_mode=merge)).pictures() == []


# Its pictures as references


@pytest.mark.parametrize("enabled", [False, True])
def test_a_reference_from_a_unit_is_the_picture_itself(enabled: bool, host: Host) -> None:
    beside = {"controlnet": [theirs(3, module="canny", enabled=enabled), {"enabled": False, "image": text(1)}]}
    given = make(host, ours(1), **beside)
    assert difference(make(host, ours(None, images=[{"controlnet": 2}]), **beside), given) == 0
    assert difference(given, make(host, **beside)) > FAR


def test_what_is_painted_counts_as_that_unit_means_it(host: Host) -> None:
    """On a unit that is off it is left out; a unit at work means something of its own, an IP-Adapter where it acts."""
    left_out = ours(None, images=[{"image": text(1), "mask": base64_of(ImageOps.invert(decode(PAINTED).convert("L")))}])
    taken = ours(None, images=[{"controlnet": 1}])
    painted = {"image": text(1), "mask_image": PAINTED}
    assert difference(make(host, taken, controlnet=[{**painted, "enabled": False}]), make(host, left_out)) == 0
    for at_work in (theirs(1, mask_image=PAINTED), theirs(1, mask_image=PAINTED, module="inpaint_only")):
        assert difference(make(host, taken, controlnet=[at_work]), make(host, ours(1), controlnet=[at_work])) == 0
    off = theirs(1, mask_image=PAINTED, enabled=False)
    assert difference(make(host, taken, controlnet=[off]), make(host, ours(1))) == 0
    assert difference(make(host, left_out), make(host, ours(1))) > FAR


@pytest.mark.parametrize(
    ("number", "unit", "says"),
    [
        (1, {}, "Forge's ControlNet unit 1 (“ControlNet Unit 0”) has no picture: add one there"),
        (7, {}, "but Forge's ControlNet has 3: give 1 to 3, which are its tabs 0 to 2."),
        (1, {"image": "@@@"}, "Forge's ControlNet unit 1 (“ControlNet Unit 0”): The picture is not valid base64"),
        (1, {"input_mode": "merge", "batch_input_gallery": [["/etc/hostname"]]}, "never opened for a request"),
    ],
)
def test_what_cannot_be_taken_is_told(number: int, unit: dict, says: str, host: Host) -> None:
    with pytest.raises(RuntimeError) as error:
        ask(host, ours(None, images=[{"controlnet": number}]), controlnet=[{"enabled": False, **unit}])
    assert str(error.value).startswith("422: ")
    assert "IP-Adapter unit 1: " in str(error.value)
    assert says in str(error.value)


def test_where_it_is_not_there_sentences_are_about_the_hosts_own(host: Host, monkeypatch) -> None:
    from lib_ipadapter.webui import host as hosts
    from lib_ipadapter.webui.host.forge import Forge
    from lib_ipadapter.webui.neighbours import controlnet

    p = job(theirs())
    monkeypatch.delitem(sys.modules, "lib_controlnet.external_code")
    with pytest.raises(UnitError, match="but ControlNet is not there: install or enable sd-webui-controlnet, or give"):
        controlnet.unit_of(p, 1)
    monkeypatch.setattr(hosts, "current", Forge)
    with pytest.raises(UnitError, match="but Forge's ControlNet is not there: tick sd_forge_controlnet under Extens"):
        controlnet.unit_of(p, 1)


# The same in both


def test_add_lets_both_act_and_says_so(host: Host) -> None:
    alone, beside = make(host, ours()), make(host, controlnet=[theirs()])
    answer = ask(host, ours(), controlnet=[theirs()])
    assert min(difference(array(answer), one) for one in (alone, beside)) > FAR
    assert "IP-Adapter 1 = Forge's ControlNet unit 1: both act" in answer.infotext


def test_skip_ours_leaves_it_to_controlnet(host: Host) -> None:
    answer = same(host, "skip ours", ours(), controlnet=[theirs(weight=0.5)])
    assert difference(array(answer), make(host, controlnet=[theirs(weight=0.5)])) == 0
    assert "Forge's ControlNet acts" in answer.infotext and "IP-Adapter 1:" not in answer.infotext


def test_take_over_switches_its_unit_off_for_the_run(host: Host) -> None:
    kept = theirs(3, module="canny")
    answer = same(host, "take over", ours(), controlnet=[kept, theirs(weight=0.3)])
    assert difference(array(answer), make(host, ours(), controlnet=[kept])) == 0
    assert "ours acts" in answer.infotext
    assert "ControlNet 1" not in answer.info["extra_generation_params"]
    make(host, controlnet=[theirs(weight=0.3)])
    assert [unit.enabled for unit, _, _ in its_module().seen[-1]] == [True]


DIFFERENT = {
    "picture": (ours(), {"seed": 1}),
    "model": (ours(), {"model": "plus"}),
    "disabled": (ours(), {"enabled": False}),
    "their weight": (ours(), {"weight": 0}),
    "region": (ours(), {"mask_image": PAINTED}),
    "type": (ours(), {"module": "canny"}),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_is_not_the_same(what: str, host: Host) -> None:
    unit, change = DIFFERENT[what]
    answer = same(host, "take over", unit, controlnet=[theirs(**change)])
    assert "IP-Adapter and ControlNet" not in answer.infotext


def test_a_folder_of_files_is_one_job_there(host: Host) -> None:
    """So that nothing has begun by the time that ours is asked."""
    from lib_ipadapter.webui.neighbours import controlnet

    assert not controlnet.has_begun_batch(job(unit_of(input_mode=its_module().InputMode.BATCH)))


def test_a_unit_that_is_replaced_comes_back(host: Host) -> None:
    from lib_ipadapter.webui.neighbours import controlnet

    unit = unit_of(image=drawn(picture(1, SQUARE)))
    p = job(theirs(), unit)
    before, place = p.script_args, its_script().args_from
    controlnet.replace(p, {1: controlnet.disabled(theirs()), 2: controlnet.disabled(unit)})
    assert (p.script_args[place]["enabled"], p.script_args[place + 1].enabled, unit.enabled) == (False, False, True)
    controlnet.restore(p)
    assert all(a is b for a, b in zip(p.script_args, before, strict=True))


# Units to and fro


def test_an_imported_unit_is_the_same_unit(files, host: Host) -> None:
    from lib_ipadapter.webui import process
    from lib_ipadapter.webui.neighbours.controlnet.imports import imported

    catalog = process.resources().catalog
    fields = {"weight": 0.7, "guidance_start": 0.2, "guidance_end": 0.8, "hr_option": "Low res only"}
    for value in (theirs(1, **fields), its_module().ControlNetUnit.from_dict(theirs(1, **fields))):
        made = imported(view(value), catalog)
        parsed = Unit.parse(made.settings)
        assert (parsed.model, parsed.weight, parsed.start, parsed.end, parsed.hires) == ("base", 0.7, 0.2, 0.8, "base")
        assert np.array_equal(np.asarray(parsed.references[0].image), np.asarray(decode(text(1))))
        assert len(made.notes) == 1 and "counts start and end in timesteps" in made.notes[0]
    drawn_over = theirs(image=drawn(picture(1, (60, 48))), image_fg=layer(20, (60, 48)))
    made = imported(view(unit_of(**drawn_over)), catalog)
    parsed = Unit.parse(made.settings)
    assert (made.settings["crop"], parsed.references[0].mask, made.notes) == ("center", None, [])
    assert np.array_equal(np.asarray(decode(parsed.region_mask))[:, :, 0], layer(20, (60, 48))[:, :, 3])
    merge = theirs(image=None, input_mode=its_module().InputMode.MERGE, batch_input_gallery=files)
    made = imported(view(unit_of(**merge)), catalog)
    assert len(made.settings["images"]) == 1
    assert made.notes == ["Forge's ControlNet unit 1 (“ControlNet Unit 0”): the first of its 2 pictures is here, the "
                          "only one that acts there."]  # fmt: skip
    with pytest.raises(UnitError, match="Forge's ControlNet unit 1 .* is no IP-Adapter unit but “canny”"):
        imported(view(theirs(module="canny")), catalog)


def test_an_exported_unit_comes_back(host: Host) -> None:
    from lib_ipadapter.webui import process
    from lib_ipadapter.webui.neighbours.controlnet.exports import exported
    from lib_ipadapter.webui.neighbours.controlnet.imports import imported

    catalog = process.resources().catalog
    entry = catalog.find("base")
    spec = replace(entry.spec, embedding_width=1024)  # as the published ones are
    unit = Unit.parse(ours(1, weight=0.7, start=0.2, end=0.8, hires="base"))
    made = exported(unit, spec, entry.path)
    assert (made.settings["module"], made.settings["model"]) == (VIT_H, label("base"))
    parsed = Unit.parse(imported(view(unit_of(**made.settings)), catalog).settings)
    assert replace(parsed, references=()) == replace(unit, references=())
    assert np.array_equal(np.asarray(parsed.references[0].image), np.asarray(decode(text(1))))

    left = base64_of(half("left"))
    images = [{"image": text(1), "mask": left}, text(2)]
    full = Unit.parse(ours(None, images=images, region_mask=left, weight=2.5, weight_type="strong style transfer"))
    there = exported(full, spec, entry.path)
    assert its_module().ControlNetUnit(**there.settings).weight == 2.0
    assert np.array_equal(there.settings["image"], np.asarray(decode(text(1))))
    assert np.array_equal(there.settings["mask_image"][:, :, 0], np.asarray(half("left")))
    said = " ".join(there.notes)
    for what in ("Forge's ControlNet allows 0 to 2", "the first of its 2 references is there",
                 "the weights of its blocks", "masks of references are left out"):  # fmt: skip
        assert what in said
    assert "sd-webui" not in said and "one behind" not in said


def test_units_of_the_kin_hold_pairs(host: Host, monkeypatch) -> None:
    """ReForge's and classic's units: a picture and what is drawn over it are one value."""
    from dataclasses import make_dataclass

    from lib_ipadapter.webui.host.forge_controlnet import ForgeControlNet

    pairs = make_dataclass("ControlNetUnit", [("input_mode", str, "simple"), ("mask_image", Any, None),
                                              ("enabled", bool, True), ("module", str, "None"), ("model", str, "None"),
                                              ("weight", float, 1.0), ("image", Any, None),
                                              ("advanced_weighting", Any, None)])  # fmt: skip
    home = ForgeControlNet(type("module", (), {"ControlNetUnit": pairs}))
    image, painted = np.asarray(picture(1, SQUARE)), np.asarray(Image.fromarray(layer(20)[:, :, 3]).convert("RGB"))
    fields = home.picture_fields([(image, None), (image, None)], painted)
    assert np.array_equal(fields["image"]["image"], image) and not fields["image"]["mask"].any()
    assert np.array_equal(fields["mask_image"]["image"], painted)
    units = {
        None: pairs(image={"image": image, "mask": image * 0}),
        20: pairs(image={"image": image, "mask": painted}),
        21: pairs(image={"image": image, "mask": image * 0}, mask_image={"image": painted, "mask": painted * 0}),
        22: pairs(image={"image": image, "mask": image * 0}, mask_image={"image": painted * 0, "mask": painted}),
    }
    for number, unit in units.items():
        ((found, mask),) = home.pictures(lambda name, unit=unit: getattr(unit, name, None), sent=False)
        assert np.array_equal(np.asarray(decode(found)), image)
        assert (mask is None) == (number is None)
        assert mask is None or np.array_equal(np.asarray(mask), painted)
    assert home.left_out({"advanced_weighting": [1.0]}.get) and not home.left_out({}.get)


# InstantID in its units


@pytest.fixture
def faces(host: Host, monkeypatch):
    """The files of InstantID for the demo's SDXL, and what it calls them: adapter and points. It has not looked since
    they are there."""
    from modules import shared

    from lib_ipadapter.webui import process
    from lib_ipadapter.webui.neighbours import instantid
    from lib_ipadapter.webui.neighbours.controlnet.models import label_hash

    catalog = process.resources().catalog
    folder = catalog.find("base").folder
    points = {
        "controlnet_cond_embedding.conv_in.weight": torch.zeros(4, 3, 3, 3),
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": torch.zeros(4, 2048),
    }
    known, names = its_module("global_state"), {}
    for name, state in {"face": None, "instantid-controlnet": points, "control_xl": points}.items():
        file = folder / f"{name}.safetensors"
        write_adapter(file, sdxl_unet(), "instantid") if state is None else save_file(state, file)
        names[name] = f"{name} [{label_hash(file)}]"
        monkeypatch.setitem(known.looked_for, names[name], str(file))
    catalog.refresh()
    monkeypatch.setattr(instantid, "_installed", lambda _package: True)
    monkeypatch.setitem(shared.opts.data, "ip_adapter_instantid", "in ControlNet's units")
    yield [names["face"], names["instantid-controlnet"]]
    for name in names:
        (folder / f"{name}.safetensors").unlink()
    monkeypatch.undo()
    known.update_controlnet_filenames()
    catalog.refresh()


XL = {"override_settings": {"sd_model_checkpoint": "demo-sdxl"}}


def test_instantid_fills_two_of_its_units_wherever_they_stand(host: Host, faces) -> None:
    canny = theirs(3, module="canny")
    unit = ours(1, weight=0.6, start=0.25, end=0.75, keypoints_weight=0.5, model="face")
    answer = ask(host, unit, controlnet=[{"enabled": False}, canny], **XL)
    (face, image, _), _, (points, _, _) = its_module().seen[-1]
    assert [face.model, points.model] == faces
    assert (face.module, points.module) == ("InsightFace (InstantID)", "instant_id_face_keypoints")
    assert (face.weight, points.weight) == (0.6, 0.5)
    assert np.array_equal(image, np.asarray(decode(text(1))))
    for filled in (face, points):
        assert (filled.guidance_start, filled.guidance_end, filled.enabled) == (0.25, 0.75, True)
    assert "keypoints_weight: 0.5" in answer.info["extra_generation_params"]["IP-Adapter 1"]


def test_instantid_says_what_is_not_possible(host: Host, faces, monkeypatch) -> None:
    with pytest.raises(RuntimeError, match="InstantID runs in Forge's ControlNet, which allows 0 to 2"):
        ask(host, ours(1, weight=2.5, model="face"), **XL)
    with pytest.raises(RuntimeError, match="fills two units of Forge's ControlNet, and no two such are disabled"):
        ask(host, ours(1, model="face"), controlnet=[theirs(), theirs()], **XL)
    known = its_module("global_state")
    with monkeypatch.context() as patch:
        patch.setattr(known, "looked_for", {})
        patch.setattr(known, "controlnet_filename_dict", {"None": "model.safetensors"})
        with pytest.raises(RuntimeError, match="for InstantID, Forge's ControlNet lacks face.safetensors in a folder"):
            ask(host, ours(1, model="face"), **XL)


def test_what_it_fails_at_is_told(host: Host, faces, monkeypatch) -> None:
    def fail(_unit, _p):
        raise RuntimeError("InsightFace: No face detected.")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="Forge's ControlNet could not set up Inst"):
        patch.setitem(type(its_script()).process.__globals__, "input_of", fail)
        ask(host, ours(1, model="face"), **XL)


# Its panel


def bar(host: Host, name: str) -> tuple[Any, Any]:
    """The event of one of the line's buttons in txt2img: the line itself, and the event's number."""
    from lib_ipadapter.webui.panel.controlnet_bar import ControlNetBar

    for event in host.blocks.fns:
        owner = getattr(event.fn, "__self__", None)
        if isinstance(owner, ControlNetBar) and owner.tab == "txt2img" and event.fn.__name__ == name:
            return owner, event
    raise AssertionError(name)


def test_its_panel_is_read(host: Host) -> None:
    line, event = bar(host, "_bring")
    assert line.names == ["Unit 0", "Unit 1", "Unit 2"] and all(line.units)
    second = line.units[1]
    assert second.function is its_module().ControlNetUnit
    values = {one: one.value for one in second.inputs}
    given = {
        "enabled": True,
        "module": VIT_H,
        "model": label("base"),
        "weight": 0.3,
        "image": drawn(picture(1, SQUARE)),
    }
    values |= {second.components[name]: value for name, value in given.items()}
    read = line._read(2, second, tuple(values[one] for one in second.inputs))
    assert (read.enabled, read.is_ip_adapter, read.number_of("weight", 0)) == (True, True, 0.3)
    assert np.array_equal(np.asarray(read.pictures()[0].image), np.asarray(picture(1, SQUARE)))
    shown = {one: one.value for one in event.inputs} | values
    shown |= {line.number: "Unit 1", line.editor.state: json.dumps({"shown": 1, "units": [{}]})}
    answer = dict(zip(event.outputs, line._bring(*(shown[one] for one in event.inputs)), strict=True))
    assert "Taken from ControlNet Unit 1, which is switched off there." in answer[line.notes]
    assert answer[second.components["enabled"]]["value"] is False
    assert answer[line.editor.controls["weight"]]["value"] == 0.3


def test_its_panel_is_read_in_gradio_4(host: Host, monkeypatch) -> None:
    """Which numbers a page's events."""
    from gradio.context import Context

    from lib_ipadapter.webui.panel import controlnet_bar

    line, _ = bar(host, "_bring")
    argument = next(event.outputs[0] for event in host.blocks.fns if event.fn is line.units[1].function)
    events = SimpleNamespace(fns=dict(enumerate(host.blocks.fns)), blocks=host.blocks.blocks)
    monkeypatch.setattr(Context, "root_block", events)
    found = controlnet_bar.ReadableUnit.of(line.units[1].home, argument)
    assert found is not None and found.function is line.units[1].function


def test_its_panel_is_filled(host: Host, monkeypatch) -> None:
    from lib_ipadapter.webui.host.forge_controlnet import PREPROCESSORS
    from tests.helpers.panel import panel_args

    line, event = bar(host, "_send")
    monkeypatch.setitem(PREPROCESSORS, ("pooled", 64), (VIT_H,))
    entry = line.resources().catalog.find("base")
    monkeypatch.setitem(PREPROCESSORS, (entry.spec.source, entry.spec.embedding_width), (VIT_H,))
    unit = {"model": "base", "pictures": [picture(5, SQUARE), picture(6, SQUARE)], "weight": 0.55, "end": 0.75}
    arguments = panel_args(host, unit)[-len(line.editor.arguments) :]
    answer = dict(zip(event.outputs, line._send("Unit 1", *arguments), strict=True))
    assert "Put into ControlNet Unit 1: disable the unit here, or both act." in answer[line.notes]
    assert answer[line.notes].count("the first of its 2 references is there") == 1
    places = {one: name for name, one in line.units[1].components.items()}
    given = {places[one]: update["value"] for one, update in answer.items() if one in places and "value" in update}
    image = given.pop("image")
    assert np.array_equal(image, np.asarray(picture(5, SQUARE)))
    assert given == {
        "enabled": True, "module": VIT_H, "model": label("base"), "weight": 0.55, "guidance_start": 0.0,
        "guidance_end": 0.75, "window": (0.0, 0.75), "hr_option": "Both",
    }  # fmt: skip
    assert next(one for one, name in places.items() if name == "window").elem_id.startswith(
        "txt2img_controlnet_ControlNet-1_")  # fmt: skip
    others = [update for one, update in answer.items() if one not in places and one is not line.notes]
    assert len(others) == 2 * len(places) and all("value" not in update for update in others)
