"""Beside ControlNet: its pictures as references, its IP-Adapter units and ours, and nothing left behind."""

from __future__ import annotations

import copy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file

from demo.start import Host, host_start
from lib_ipadapter.encode.picture import decode
from lib_ipadapter.errors import IPAdapterError, UnitError
from lib_ipadapter.unit import Unit, parse_units

from .conftest import sdxl_unet
from .files import base64_of, half, picture, write_adapter, write_encoder

ROOT = Path(__file__).resolve().parents[1]
SQUARE = (64, 64)
SAME, FAR = 0.05, 1.0


def start(tmp_path_factory, first: str = "sd-webui-controlnet", **options) -> Host:
    """The host with the stand-in in a folder of this name; names before ours are loaded first."""
    from .conftest import sd_unet

    folder, extension = tmp_path_factory.mktemp("adapters"), tmp_path_factory.mktemp("extension") / first
    for name in ("base", "plus"):
        write_adapter(folder / f"{name}.safetensors", sd_unet(), name)
    write_encoder(folder / "encoder.safetensors")
    (extension / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "controlnet_stand_in.py", extension / "scripts" / "controlnet.py")
    settings = {"sd_model_checkpoint": "demo-sd15", "live_previews_enable": False, "ip_adapter_controlnet_same": "add"}
    with torch.enable_grad():
        started = host_start([extension, ROOT], {**settings, **options}, ["--ip-adapter-dir", str(folder)])
    from lib_ipadapter.webui.controlnet_adapters import label_hash

    stand_in(started).models.update({f"{f.stem} [{label_hash(f)}]": str(f) for f in folder.glob("*.safetensors")})
    return started


def stand_in(_host: Host):
    return SimpleNamespace(**vars(sys.modules["internal_controlnet.external_code"]), models=sys.modules[
        "internal_controlnet.external_code"].global_state.cn_models)  # fmt: skip


def its_script(tab: str = "txt2img"):
    from modules import scripts

    return stand_in(None).find_cn_script(getattr(scripts, f"scripts_{tab}"))


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    started = start(tmp_path_factory)
    yield started
    started.close()
    sys.modules.pop("internal_controlnet.external_code", None)


def label(name: str) -> str:
    return next(one for one in stand_in(None).models if one.startswith(f"{name} ["))


def theirs(seed: int = 0, model: str = "base", **fields) -> dict:
    settings = {"enabled": True, "module": "ip-adapter_clip_h", "model": label(model), "image": text(seed)}
    return {**settings, **fields}


def text(seed: int) -> str:
    return base64_of(picture(seed, SQUARE))


def ours(seed: int | None = 0, model: str = "base", **fields) -> dict:
    return {"model": model, **({} if seed is None else {"images": [text(seed)]}), **fields}


def ask(host: Host, *units, controlnet=(), path: str = "txt2img", **payload):
    small = {"prompt": "a cat", "negative_prompt": "blurry", "width": 64, "height": 64, "steps": 2, **payload}
    scripts = {"IP-Adapter": {"args": list(units)}, "controlnet": {"args": list(controlnet)}}
    small["alwayson_scripts"] = {name: value for name, value in scripts.items() if value["args"]}
    return getattr(host, path)(**small)


def make(host: Host, *units, **payload) -> np.ndarray:
    return np.asarray(ask(host, *units, **payload).images[0].convert("RGB")).astype(int)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


@pytest.fixture
def clean(host: Host):
    """A plain picture before; afterwards it must come out the same, with nothing moved on the shared runner."""
    from modules import scripts

    def places():
        return [(s.title(), s.args_from, s.args_to) for s in scripts.scripts_txt2img.alwayson_scripts]

    before, where = make(host), places()
    yield before
    assert difference(make(host), before) == 0
    assert places() == where
    assert its_script().seen[-1] == []


def job(host: Host, *units, tab: str = "txt2img"):
    """A processing object with ``units`` in ControlNet's arguments, as the API makes it."""
    from modules import scripts

    runner = getattr(scripts, f"scripts_{tab}")
    script = stand_in(host).find_cn_script(runner)
    arguments = ["before"] * script.args_from + [None] * (script.args_to - script.args_from) + ["after"] * 3
    filled = [*units, *(stand_in(host).ControlNetUnit() for _ in range(script.args_to - script.args_from))]
    arguments[script.args_from : script.args_to] = filled[: script.args_to - script.args_from]
    comments: list[str] = []
    return SimpleNamespace(scripts=runner, script_args=tuple(arguments), extra_generation_params={}, comments=comments,
                           comment=comments.append)  # fmt: skip


# The list


def test_its_units_are_found_and_read(host: Host) -> None:
    from lib_ipadapter.webui import controlnet

    unit = stand_in(host).ControlNetUnit(enabled=True, module="canny", hr_option="Low res only", weight=0.5)
    found = controlnet.slots(job(host, {"input_image": "x", "guidance": 0.5}, unit))
    assert [slot.number for slot in found] == [1, 2, 3]
    assert [slot.enabled for slot in found] == [False, True, False]
    assert (found[0].get("image"), found[0].get("guidance_end"), found[0].get("weight")) == ("x", 0.5, 1.0)
    assert (found[1].module, found[1].get("hr_option")) == ("canny", "Low res only")
    assert found[1].number_of("weight", 1) == 0.5


def test_without_controlnet_there_is_no_list(host: Host, monkeypatch) -> None:
    from lib_ipadapter.webui import controlnet

    p, script = job(host, theirs()), its_script()
    assert controlnet.slots(SimpleNamespace(scripts=None, script_args=())) is None
    off = SimpleNamespace(alwayson_scripts=[s for s in p.scripts.alwayson_scripts if s.title() != "ControlNet"])
    assert controlnet.slots(SimpleNamespace(scripts=off, script_args=p.script_args)) is None
    monkeypatch.delitem(sys.modules, "internal_controlnet.external_code")
    assert controlnet.slots(p) is None
    # an older version under its older name
    older = SimpleNamespace(find_cn_script=lambda _runner: script)
    monkeypatch.setitem(sys.modules, "scripts.external_code", older)
    assert [slot.enabled for slot in controlnet.slots(p)] == [True, False, False]


ARRAY = np.asarray(picture(1, SQUARE))
PAINTED = np.zeros_like(ARRAY)
PAINTED[:20] = 255
FORMS = {
    "array": {"image": ARRAY},
    "base64": {"image": text(1)},
    "data url": {"image": f"data:image/png;base64,{text(1)}"},
    "panel": {"image": {"image": ARRAY, "mask": np.zeros_like(ARRAY)}},
    "painted": {"image": {"image": ARRAY, "mask": PAINTED}},
    "mask beside it": {"image": ARRAY, "mask": PAINTED},
    "pair": {"image": [ARRAY, PAINTED]},
    "several": {"image": [{"image": ARRAY}, {"image": text(2), "mask": None}]},
    "grey": {"image": ARRAY[:, :, 0]},
    "nothing": {},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("as_object", [False, True])
def test_pictures_are_what_controlnet_itself_sees(form: str, as_object: bool, host: Host) -> None:
    from lib_ipadapter.webui import controlnet

    unit = stand_in(host).ControlNetUnit(**FORMS[form])
    before = copy.deepcopy(FORMS[form])
    found = controlnet.slots(job(host, unit if as_object else FORMS[form]))[0].pictures()
    expected = unit.get_input_images_rgba() or []
    assert len(found) == len(expected)
    for ours, rgba in zip(found, expected, strict=True):
        assert np.array_equal(np.asarray(ours.image), rgba[:, :, :3])
        mask = np.zeros(rgba.shape[:2]) if ours.mask is None else np.asarray(ours.mask)
        assert np.array_equal(mask, rgba[:, :, 3])
    assert str(FORMS[form]) == str(before)


# Its pictures as references


@pytest.mark.parametrize("enabled", [False, True])
def test_a_reference_from_a_unit_is_the_picture_itself(enabled: bool, host: Host, clean) -> None:
    taken = {"controlnet": [theirs(3, module="canny"), {"enabled": False, "image": text(1)}]}
    taken["controlnet"][0]["enabled"] = enabled
    given = make(host, ours(1), **taken)
    for unit in (ours(None, images=[{"controlnet": 2}]), ours(None, image={"controlnet": 2, "weight": 1.0})):
        answer = ask(host, unit, **taken)
        assert difference(np.asarray(answer.images[0].convert("RGB")).astype(int), given) == 0
    assert difference(given, make(host, **taken)) > FAR
    assert ask(host, ours(1), **taken).info["extra_generation_params"]["IP-Adapter 1"] in answer.infotext.replace(
        '\\"', '"')  # fmt: skip


def test_a_unit_of_several_pictures_is_as_many_references(host: Host, clean) -> None:
    several = {"controlnet": [{"image": [{"image": text(1)}, {"image": text(2)}]}]}
    taken = ours(None, images=[text(0), {"controlnet": 1, "weight": 0.5}])
    given = ours(None, images=[text(0), *({"image": text(i), "weight": 0.5} for i in (1, 2))])
    assert difference(make(host, taken, **several), make(host, given, **several)) == 0


@pytest.mark.parametrize(
    ("number", "unit", "says"),
    [
        (1, {}, "ControlNet's unit 1 (tab “ControlNet Unit 0”) has no picture: add one there"),
        (7, {}, "ControlNet has 3: give 1 to 3, which are its tabs 0 to 2."),
        (1, {"image": "@@@"}, "ControlNet's unit 1 (tab “ControlNet Unit 0”): The picture is not valid base64"),
        (1, {"image": ARRAY.tolist()}, "ControlNet's unit 1"),
        (0, {}, "controlnet is 0: give the number of a ControlNet unit, from 1 on."),
        ("1", {}, "controlnet is '1'"),
        (True, {}, "controlnet is True"),
    ],
)
def test_what_cannot_be_taken_is_told(number, unit: dict, says: str, host: Host, clean) -> None:
    with pytest.raises(RuntimeError) as error:
        ask(host, ours(None, images=[{"controlnet": number}]), controlnet=[unit])
    assert str(error.value).startswith("422: ")
    assert "IP-Adapter unit 1: " in str(error.value)
    assert says in str(error.value)


def test_a_mask_of_a_unit_at_work_is_its_own(host: Host, clean) -> None:
    inpaint = {"controlnet": [theirs(1, module="inpaint_only", mask=base64_of(Image.fromarray(PAINTED)))]}
    taken = make(host, ours(None, images=[{"controlnet": 1}]), **inpaint)
    assert difference(taken, make(host, ours(1), **inpaint)) == 0


def test_what_is_painted_on_a_picture_does_not_count(host: Host, clean) -> None:
    """ControlNet's own IP-Adapter units mean it so: its mask's inverse is what it multiplies pixels with."""
    painted = base64_of(Image.fromarray(PAINTED))
    counts = base64_of(ImageOps.invert(Image.fromarray(PAINTED).convert("L")))
    taken = make(host, ours(None, images=[{"controlnet": 1}]), controlnet=[{"image": text(1), "mask": painted}])
    given = make(host, ours(None, images=[{"image": text(1), "mask": counts}]))
    assert difference(taken, given) == 0
    assert difference(taken, make(host, ours(1))) > FAR
    mine = {"controlnet": 1, "mask": base64_of(Image.new("L", SQUARE, 255))}
    own = make(host, ours(None, images=[mine]), controlnet=[{"image": text(1), "mask": painted}])
    assert difference(own, make(host, ours(1))) == 0


def test_a_reference_without_controlnet_is_told(host: Host, monkeypatch, clean) -> None:
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="ControlNet is not there"):
        patch.delitem(sys.modules, "internal_controlnet.external_code")
        ask(host, ours(None, images=[{"controlnet": 1}]))


def test_a_reference_has_a_picture_or_a_unit() -> None:
    with pytest.raises(UnitError, match="image and controlnet are both given"):
        Unit.parse(ours(None, images=[{"controlnet": 1, "image": "x"}]))
    (reference,) = Unit.parse(ours(None, images=[{"controlnet": 2, "weight": 0.5}])).references
    assert (reference.image, reference.controlnet, reference.weight) == (None, 2, 0.5)


def test_presets_keep_the_units_number_and_previews_refuse_it(host: Host) -> None:
    unit = ours(None, images=[{"controlnet": 2}])
    assert host.client.put("/ip-adapter/presets/from controlnet", json={"units": [unit]}).status_code == 200
    assert host.client.get("/ip-adapter/presets/from controlnet").json()["units"] == [unit]
    host.client.delete("/ip-adapter/presets/from controlnet")
    answer = host.client.post("/ip-adapter/preview", json=unit)
    assert (answer.status_code, "ControlNet's pictures" in answer.json()["detail"]) == (422, True)


# The same in both


def same(host: Host, choice: str, *units, controlnet, **payload):
    return ask(host, *units, controlnet=controlnet, override_settings={"ip_adapter_controlnet_same": choice}, **payload)


def array(answer) -> np.ndarray:
    return np.asarray(answer.images[0].convert("RGB")).astype(int)


def test_add_lets_both_act_and_says_so(host: Host, clean) -> None:
    alone, beside = make(host, ours()), make(host, controlnet=[theirs()])
    answer = ask(host, ours(), controlnet=[theirs()])
    assert min(difference(array(answer), other) for other in (alone, beside, clean)) > FAR
    assert "IP-Adapter 1 = ControlNet's unit 1: both act" in answer.infotext
    assert len(its_script().seen[-1]) == 1


def test_skip_ours_leaves_it_to_controlnet(host: Host, clean) -> None:
    answer = same(host, "skip ours", ours(), controlnet=[theirs(weight=0.5)])
    assert difference(array(answer), make(host, controlnet=[theirs(weight=0.5)])) == 0
    assert "ControlNet's acts" in answer.infotext
    assert "IP-Adapter 1:" not in answer.infotext
    other = same(host, "skip ours", ours(), ours(2), controlnet=[theirs()])
    assert "IP-Adapter 2:" in other.infotext


def test_take_over_switches_controlnets_unit_off_for_the_run(host: Host, clean) -> None:
    kept = theirs(3, module="canny")
    answer = same(host, "take over", ours(), controlnet=[kept, theirs(weight=0.3)])
    assert difference(array(answer), make(host, ours(), controlnet=[kept])) == 0
    assert "ours acts" in answer.infotext
    assert "ControlNet 1" not in answer.info["extra_generation_params"]
    again = make(host, controlnet=[theirs(weight=0.3)])
    assert difference(again, clean) > FAR / 2
    assert [unit.enabled for unit in its_script().seen[-1]] == [True]


def test_take_over_in_img2img_hires_and_batches(host: Host, clean) -> None:
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}
    for more in (hires, {"batch_size": 2, "n_iter": 2}, {"path": "img2img", "init_images": [text(5)]}):
        answer = same(host, "take over", ours(), controlnet=[theirs()], **more)
        expected = ask(host, ours(), **more)
        for one, other in zip(answer.images, expected.images, strict=True):
            # img2img's start picture is encoded with noise from the global generator
            assert difference(np.asarray(one).astype(int), np.asarray(other).astype(int)) < SAME * 2


def test_img2imgs_picture_is_that_of_a_unit_without_one(host: Host, clean) -> None:
    start_picture = {"path": "img2img", "init_images": [text(5)]}
    answer = ask(host, ours(5), controlnet=[theirs(image=None)], **start_picture)
    assert "both act" in answer.infotext


def test_in_a_batch_of_files_controlnet_cannot_be_switched_off(host: Host, clean) -> None:
    batch = {"enabled": True, "input_mode": "batch", "module": "canny", "model": label("plus"), "image": text(3)}
    answer = same(host, "take over", ours(), controlnet=[batch, theirs()])
    assert "ControlNet's acts" in answer.infotext
    assert difference(array(answer), make(host, controlnet=[batch, theirs()])) == 0


def test_every_picture_of_controlnets_batches_has_its_references(host: Host, clean, monkeypatch) -> None:
    """It makes them one after the other with the same processing object, behind ``before_process``."""
    from modules import processing

    once, alone, made = processing.process_images_inner, make(host, ours()), []

    def batch(p):
        made.extend(once(p).images[0] for _ in range(3))
        return once(p)

    with monkeypatch.context() as patch:
        patch.setattr(processing, "process_images_inner", batch)
        last = make(host, ours())
    assert [difference(np.asarray(image).astype(int), alone) for image in made] == [0, 0, 0]
    assert difference(last, alone) == 0


DIFFERENT = {
    "picture": (ours(), {"seed": 1}),
    "model": (ours(), {"model": "plus"}),
    "disabled": (ours(), {"enabled": False}),
    "their weight": (ours(), {"weight": 0}),
    "our weight": (ours(weight=0), {}),
    "mask": (ours(), {"mask": base64_of(Image.fromarray(PAINTED))}),
    "type": (ours(), {"module": "canny"}),
    "one of two": (ours(None, images=[text(0), text(1)]), {}),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_is_not_the_same(what: str, host: Host, clean) -> None:
    unit, change = DIFFERENT[what]
    answer = same(host, "take over", unit, controlnet=[theirs(**change)])
    assert "IP-Adapter and ControlNet" not in answer.infotext


def test_another_hash_is_another_file(host: Host) -> None:
    from lib_ipadapter.webui import callbacks
    from lib_ipadapter.webui.controlnet_adapters import adapter

    catalog = callbacks.resources().catalog
    assert adapter(label("base").upper().replace("BASE", "Base"), catalog).name == "base"
    assert adapter("base", catalog).name == "base"
    assert adapter("base [00000000]", catalog) is None
    assert adapter("None", catalog) is None


def test_a_refused_or_failing_run_takes_everything_back(host: Host, clean, monkeypatch) -> None:
    from lib_ipadapter import generation
    from lib_ipadapter.webui import callbacks, controlnet, controlnet_adapters

    p = job(host, theirs(), stand_in(host).ControlNetUnit(enabled=True, module="canny"))
    before = p.script_args
    catalog = callbacks.resources().catalog
    units = parse_units([ours()])
    with pytest.raises(IPAdapterError), controlnet.restored_on_error(p):
        controlnet_adapters.settle(p, units, catalog, "take over")
        assert p.script_args != before
        assert len(p.script_args) == len(before)
        raise IPAdapterError("no")
    assert all(a is b for a, b in zip(p.script_args, before, strict=True))
    assert p.script_args[its_script().args_from]["enabled"] is True

    def fail(*_args, **_kwargs):
        raise IPAdapterError("no such luck")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no such luck"):
        patch.setattr(generation, "prepare", fail)
        same(host, "take over", ours(), controlnet=[theirs()])


def test_what_others_changed_meanwhile_stays(host: Host) -> None:
    from lib_ipadapter.webui import controlnet

    unit = stand_in(host).ControlNetUnit(enabled=True)
    p = job(host, theirs(), unit)
    first, place = p.script_args, its_script().args_from
    controlnet.replace(p, {1: controlnet.off(theirs()), 2: controlnet.off(unit)})
    assert (p.script_args[place]["enabled"], p.script_args[place + 1].enabled, unit.enabled) == (False, False, True)
    p.script_args = (*p.script_args[:place], "another's", *p.script_args[place + 1 :])
    controlnet.restore(p)
    assert p.script_args[place] == "another's"
    assert p.script_args[place + 1] is unit
    assert p.script_args[place + 2 :] == first[place + 2 :]


# Import and export


def slot(host: Host, unit):
    from lib_ipadapter.webui import controlnet

    return controlnet.slots(job(host, unit))[0]


def test_an_imported_unit_is_the_same_unit(host: Host) -> None:
    from lib_ipadapter.webui import callbacks
    from lib_ipadapter.webui.controlnet_adapters import LATE, imported

    catalog = callbacks.resources().catalog
    unit = stand_in(host).ControlNetUnit(**theirs(1, weight=0.7, guidance_start=0.2, guidance_end=0.8))
    for value in (unit, theirs(1, weight=0.7, guidance_start=0.2, guidance=0.8)):
        made = imported(slot(host, value), catalog)
        parsed = Unit.parse(made.settings)
        assert (parsed.model, parsed.weight, parsed.start, parsed.end, parsed.hires) == ("base", 0.7, 0.2, 0.8, "both")
        assert np.array_equal(np.asarray(parsed.references[0].image), np.asarray(decode(text(1))))
        assert [note.partition(": ")[2] for note in made.notes] == [LATE]


def test_an_import_says_what_could_not_come_along(host: Host) -> None:
    from lib_ipadapter.webui import callbacks
    from lib_ipadapter.webui.controlnet_adapters import imported

    catalog = callbacks.resources().catalog
    images = [{"image": base64_of(picture(1, (60, 48)))}, {"image": ARRAY, "mask": PAINTED}]
    made = imported(slot(host, theirs(image=images, hr_option="Low res only", advanced_weighting=[0.5] * 16,
                                      effective_region_mask=PAINTED)), catalog)  # fmt: skip
    assert (made.settings["hires"], made.settings["combine"], len(made.settings["images"])) == ("base", "average", 2)
    said = " ".join(made.notes)
    for what in ("hires option", "mean of several"):
        assert what in said
    assert made.settings["crop"] == "stretch"
    assert made.settings["layer_weights"] == [0.5] * 16
    assert np.array_equal(np.asarray(made.settings["region_mask"]), PAINTED)
    assert np.array_equal(np.asarray(made.settings["images"][1]["mask"]), 255 - np.asarray(
        Image.fromarray(PAINTED).convert("L")))  # fmt: skip
    Unit.parse(made.settings)
    with pytest.raises(UnitError, match="no IP-Adapter unit but “canny”"):
        imported(slot(host, theirs(module="canny")), catalog)
    with pytest.raises(IPAdapterError, match="not among the adapters here"):
        imported(slot(host, {**theirs(), "model": "zzz [12345678]"}), catalog)
    nothing = imported(slot(host, theirs(image=None, guidance_start=1.0)), catalog)
    assert ["no picture" in " ".join(nothing.notes), "no step" in " ".join(nothing.notes)] == [True, True]


def test_the_weights_of_layers_come_along(host: Host) -> None:
    from lib_ipadapter.webui import callbacks, controlnet_adapters

    made = controlnet_adapters.imported(slot(host, theirs(weight=0.3, advanced_weighting=[0.5, -1] * 8)),
                                        callbacks.resources().catalog)  # fmt: skip
    assert (made.settings["weight"], made.settings["layer_weights"]) == (1.0, [0.5, 0.0] * 8)


def test_an_exported_unit_comes_back(host: Host) -> None:
    from lib_ipadapter.webui import callbacks
    from lib_ipadapter.webui.controlnet_adapters import exported, imported

    catalog = callbacks.resources().catalog
    entry = catalog.find("base")
    from dataclasses import replace

    spec = replace(entry.spec, embedding_width=1024)  # as the published ones are
    unit = Unit.parse(ours(1, weight=0.7, start=0.2, end=0.8, hires="base"))
    layers = exported(Unit.parse(ours(1, weight=0.5, weight_type="strong style transfer")), spec, entry.path)
    assert layers.settings["advanced_weighting"] == [0.0 if t in (4, 5) else 0.5 for t in range(16)]
    masked = Unit.parse(ours(None, images=[{"image": text(1), "mask": base64_of(half("left"))}],
                             region_mask=base64_of(half("left")), noise=0.5))  # fmt: skip
    there = exported(masked, spec, entry.path)
    assert np.array_equal(there.settings["image"][0]["mask"][:, :, 0], 255 - np.asarray(half("left")))
    assert np.array_equal(there.settings["effective_region_mask"][:, :, 0], np.asarray(half("left")))
    assert any("noise is left out" in note for note in there.notes)
    made = exported(unit, spec, entry.path)
    again = imported(slot(host, stand_in(host).ControlNetUnit(**made.settings)), catalog)
    parsed = Unit.parse(again.settings)
    assert replace(parsed, references=()) == replace(unit, references=())
    assert np.array_equal(np.asarray(parsed.references[0].image), np.asarray(decode(text(1))))
    strong = exported(Unit.parse(ours(1, weight=2.5)), spec, entry.path)
    assert (strong.settings["weight"], "ControlNet allows 0 to 2" in " ".join(strong.notes)) == (2.0, True)
    assert exported(Unit.parse(ours(1, weight=-1)), spec, entry.path).settings["weight"] == 0
    with pytest.raises(UnitError, match="no preprocessor that feeds"):
        exported(unit, entry.spec, entry.path)
    with pytest.raises(UnitError, match="does not list"):
        exported(unit, spec, entry.path.with_name("other.safetensors"))


# InstantID


@pytest.fixture
def faces(host: Host, monkeypatch):
    """The files of InstantID for the demo's SDXL, and what ControlNet calls them: adapter and points."""
    from lib_ipadapter.webui import callbacks, controlnet_adapters, instantid

    catalog = callbacks.resources().catalog
    folder = catalog.find("base").folder
    points = {
        "controlnet_cond_embedding.conv_in.weight": torch.zeros(4, 3, 3, 3),
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": torch.zeros(4, 2048),
    }
    files = {"ip-adapter_instant_id_sdxl": None, "control_instant_id_sdxl": points, "control_xl": points}
    names = {}
    for name, state in files.items():
        file = folder / f"{name}.safetensors"
        write_adapter(file, sdxl_unet(), "instantid") if state is None else save_file(state, file)
        names[name] = f"{name} [{controlnet_adapters.label_hash(file)}]"
        monkeypatch.setitem(stand_in(host).models, names[name], str(file))
    catalog.refresh()
    monkeypatch.setattr(instantid, "_installed", lambda _package: True)
    yield list(names.values())[:2]
    for name in files:
        (folder / f"{name}.safetensors").unlink()
    catalog.refresh()


XL = {"override_settings": {"sd_model_checkpoint": "demo-sdxl"}}
PHOTO = {"model": "ip-adapter_instant_id_sdxl"}


def test_instantid_fills_two_of_controlnets_units(host: Host, faces, clean) -> None:
    plain = make(host, **XL)
    canny = theirs(3, module="canny")
    unit = ours(1, weight=0.6, start=0.25, end=0.75, keypoints_weight=0.5, **PHOTO)
    answer = ask(host, unit, controlnet=[canny], **XL)
    _, face, points = its_script().seen[-1]
    assert [face.model, points.model] == faces
    assert (face.module, points.module) == ("instant_id_face_embedding", "instant_id_face_keypoints")
    assert (face.weight, points.weight) == (0.6, 0.5)
    for filled in (face, points):
        assert (filled.guidance_start, filled.guidance_end, filled.enabled) == (0.25, 0.75, True)
        assert np.array_equal(filled.get_input_images_rgba()[0][:, :, :3], ARRAY)
    assert difference(array(answer), make(host, controlnet=[canny], **XL)) > FAR / 10
    assert "keypoints_weight: 0.5" in answer.info["extra_generation_params"]["IP-Adapter 1"]
    assert difference(make(host, **XL), plain) == 0
    newest = host.client.get("/ip-adapter/presets").json()["recent"][0]
    (kept,) = host.client.get(f"/ip-adapter/presets/{newest}").json()["units"]
    assert (kept["model"], len(kept["images"])) == (PHOTO["model"], 1)


def test_instantid_beside_another_unit_of_ours(host: Host, faces, clean) -> None:
    """The other unit is refused, and ControlNet's units are not filled then."""
    with pytest.raises(RuntimeError, match="IP-Adapter unit 2: adapter base is for SD1.5"):
        ask(host, ours(1, **PHOTO), ours(), **XL)
    assert array(ask(host, ours(1, **PHOTO), ours(enabled=False), **XL)).shape == (64, 64, 3)


NOT_POSSIBLE = {
    "SD1.5": ({}, [], {}, "adapter ip-adapter_instant_id_sdxl is for SDXL, the model is SD1.5"),
    "weight": ({"weight": 2.5}, [], XL, "weight is 2.5: InstantID runs in ControlNet, which allows 0 to 2."),
    "hires": ({"hires": "base"}, [], XL, "which has no hires: leave it at its default."),
    "two photos": ({"images": [text(1), text(2)]}, [], XL, "InstantID takes one photo, not 2: leave one."),
    "no room": ({}, [{}, {"enabled": True}], XL, "no two such are disabled: disable them"),
}


@pytest.mark.parametrize("what", NOT_POSSIBLE)
def test_instantid_says_what_is_not_possible(what: str, host: Host, faces, clean) -> None:
    change, units, override, says = NOT_POSSIBLE[what]
    units = [theirs(**unit) if unit else {} for unit in units]
    with pytest.raises(RuntimeError) as error:
        ask(host, {**ours(1, **PHOTO), **change}, controlnet=units, **override)
    assert str(error.value).startswith("422: ")
    assert says in str(error.value)


def test_instantid_says_all_that_is_missing(host: Host, faces, clean, monkeypatch) -> None:
    from lib_ipadapter.webui import instantid

    for one in faces:
        monkeypatch.delitem(stand_in(host).models, one)
    monkeypatch.setattr(instantid, "_installed", lambda package: package != "insightface")
    with pytest.raises(RuntimeError) as error:
        ask(host, ours(1, **PHOTO), **XL)
    for what in (
        "ControlNet lacks ip-adapter_instant_id_sdxl.safetensors in a folder that it searches",
        "saved as models/ControlNet/control_instant_id_sdxl.safetensors",
        "pip install insightface",
    ):
        assert what in str(error.value)


def test_instantid_without_controlnet(host: Host, faces, monkeypatch, clean) -> None:
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="InstantID needs sd-webui-controlnet"):
        patch.delitem(sys.modules, "internal_controlnet.external_code")
        ask(host, ours(1, **PHOTO), **XL)


def test_what_controlnet_fails_at_is_told(host: Host, faces, monkeypatch, clean) -> None:
    def fail(self, p, *args):
        raise RuntimeError("Insightface: No face found in image.")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="ControlNet could not set up InstantID"):
        patch.setattr(type(its_script()), "process", fail)
        ask(host, ours(1, **PHOTO), **XL)


# Order


def test_both_orders_of_the_extensions_give_the_same_pictures(host: Host, tmp_path_factory) -> None:
    def pictures(started: Host) -> list[np.ndarray]:
        return [
            make(started), make(started, ours(2), controlnet=[theirs(1, module="canny")]),
            make(started, ours(), controlnet=[theirs()]), make(started, ours(None, images=[{"controlnet": 1}]),
                                                               controlnet=[theirs(1, module="canny")]),
            array(same(started, "take over", ours(), controlnet=[theirs()])), make(started),
        ]  # fmt: skip

    def order() -> list[str]:
        from modules import scripts

        return [s.title() for s in scripts.scripts_txt2img.ordered_scripts("process")
                if s.title() in ("ControlNet", "IP-Adapter")]  # fmt: skip

    made = {tuple(order()): pictures(host)}
    another = start(tmp_path_factory, "zz-another-name-for-it")
    try:
        made[tuple(order())] = pictures(another)
    finally:
        another.close()
    assert len(made) == 2
    first, second = made.values()
    for one, other in zip(first, second, strict=True):
        assert difference(one, other) < SAME
