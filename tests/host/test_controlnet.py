"""Beside ControlNet: its units are read, and their pictures are references."""

from __future__ import annotations

import copy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps

from demo.start import Host
from tests.helpers.controlnet import (
    ARRAY,
    PAINTED,
    SQUARE,
    array,
    ask,
    its_script,
    job,
    make,
    ours,
    same,
    stand_in,
    text,
    theirs,
)
from tests.helpers.files import base64_of
from tests.helpers.host import FAR, SAME, Hosts, difference

pytestmark = pytest.mark.host("controlnet")

# The list


def test_its_units_are_found_and_read(host: Host) -> None:
    from lib_ipadapter.webui.neighbours import controlnet

    unit = stand_in(host).ControlNetUnit(enabled=True, module="canny", hr_option="Low res only", weight=0.5)
    found = controlnet.units_of(job(host, {"input_image": "x", "guidance": 0.5}, unit))
    assert [slot.number for slot in found] == [1, 2, 3]
    assert [slot.enabled for slot in found] == [False, True, False]
    assert (found[0].get("image"), found[0].get("guidance_end"), found[0].get("weight")) == ("x", 0.5, 1.0)
    assert (found[1].module, found[1].get("hr_option")) == ("canny", "Low res only")
    assert found[1].number_of("weight", 1) == 0.5


def test_without_controlnet_there_is_no_list(host: Host, monkeypatch) -> None:
    from lib_ipadapter.webui.neighbours import controlnet

    p, script = job(host, theirs()), its_script()
    assert controlnet.units_of(SimpleNamespace(scripts=None, script_args=())) is None
    off = SimpleNamespace(alwayson_scripts=[s for s in p.scripts.alwayson_scripts if s.title() != "ControlNet"])
    assert controlnet.units_of(SimpleNamespace(scripts=off, script_args=p.script_args)) is None
    monkeypatch.delitem(sys.modules, "internal_controlnet.external_code")
    assert controlnet.units_of(p) is None
    # an older version under its older name
    older = SimpleNamespace(find_cn_script=lambda _runner: script)
    monkeypatch.setitem(sys.modules, "scripts.external_code", older)
    assert [slot.enabled for slot in controlnet.units_of(p)] == [True, False, False]


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
    from lib_ipadapter.webui.neighbours import controlnet

    unit = stand_in(host).ControlNetUnit(**FORMS[form])
    before = copy.deepcopy(FORMS[form])
    found = controlnet.units_of(job(host, unit if as_object else FORMS[form]))[0].pictures()
    expected = unit.get_input_images_rgba() or []
    assert len(found) == len(expected)
    for one, rgba in zip(found, expected, strict=True):
        assert np.array_equal(np.asarray(one.image), rgba[:, :, :3])
        mask = np.zeros(rgba.shape[:2]) if one.painted is None else np.asarray(one.painted)
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


def test_as_many_may_be_beside_its_pictures_as_the_unit_may_have(host: Host, clean) -> None:
    """Where they become one, or each is for a picture of its own, that is a thousand."""
    several = {"controlnet": [{"image": [{"image": text(1)}, {"image": text(2)}]}], "steps": 1}
    images = [*[text(0)] * 63, {"controlnet": 1}]
    given = [*[text(0)] * 63, text(1), text(2)]
    for more in ({"combine": "average"}, {"batch": "per image"}):
        expected = make(host, ours(None, images=given, **more), **several)
        assert difference(make(host, ours(None, images=images, **more), **several), expected) == 0
    with pytest.raises(RuntimeError, match="images holds 65 pictures, ControlNet's among them: give at most 64"):
        ask(host, ours(None, images=images), **several)


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


def test_presets_keep_the_units_number_and_previews_refuse_it(host: Host) -> None:
    unit = ours(None, images=[{"controlnet": 2}])
    assert host.client.put("/ip-adapter/presets/from controlnet", json={"units": [unit]}).status_code == 200
    assert host.client.get("/ip-adapter/presets/from controlnet").json()["units"] == [unit]
    host.client.delete("/ip-adapter/presets/from controlnet")
    answer = host.client.post("/ip-adapter/preview", json=unit)
    assert (answer.status_code, "ControlNet's pictures" in answer.json()["detail"]) == (422, True)


# Order


@pytest.mark.host("controlnet, loaded later")
def test_both_orders_of_the_extensions_give_the_same_pictures(hosts: Hosts) -> None:
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

    made = {}
    for setup in ("controlnet", "controlnet, loaded later"):
        started = hosts.get(setup)
        made[tuple(order())] = pictures(started)
    assert len(made) == 2
    first, second = made.values()
    for one, other in zip(first, second, strict=True):
        assert difference(one, other) < SAME
