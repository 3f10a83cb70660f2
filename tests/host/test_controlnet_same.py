"""The same reference in ControlNet's IP-Adapter and in ours: both act, or one of them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from demo.start import Host
from lib_ipadapter.errors import IPAdapterError
from lib_ipadapter.unit import parse_units
from tests.helpers.controlnet import (
    PAINTED,
    array,
    ask,
    its_script,
    job,
    label,
    make,
    ours,
    same,
    stand_in,
    text,
    theirs,
)
from tests.helpers.files import base64_of
from tests.helpers.host import FAR, SAME, difference

pytestmark = pytest.mark.host("controlnet")


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


@pytest.mark.parametrize("choice", ["skip ours", "take over"])
def test_a_unit_for_adetailers_passes_only_is_no_overlap(choice: str, host: Host, clean, monkeypatch) -> None:
    """ControlNet's acts in the picture, where ours does not."""
    from lib_ipadapter.webui.neighbours import adetailer

    monkeypatch.setattr(adetailer, "passes", lambda p: adetailer.Passes({1: None}))
    answer = same(host, choice, ours(acts_in="detailer"), controlnet=[theirs(weight=0.5)])
    assert difference(array(answer), make(host, controlnet=[theirs(weight=0.5)])) == 0
    assert "IP-Adapter and ControlNet" not in answer.infotext
    assert "'s acts" not in answer.infotext and "IP-Adapter units not used: 1" in answer.infotext


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

    files = {"enabled": True, "input_mode": "batch", "module": "canny", "model": label("plus"), "image": text(3)}
    once, alone, made = processing.process_images_inner, make(host, ours(), controlnet=[files]), []

    def batch(p):
        made.extend(once(p).images[0] for _ in range(3))
        return once(p)

    with monkeypatch.context() as patch:
        patch.setattr(processing, "process_images_inner", batch)
        last = make(host, ours(), controlnet=[files])
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
    from lib_ipadapter.webui import process
    from lib_ipadapter.webui.neighbours.controlnet.models import adapter

    catalog = process.resources().catalog
    assert adapter(label("base").upper().replace("BASE", "Base"), catalog).name == "base"
    assert adapter("base", catalog).name == "base"
    assert adapter("base [00000000]", catalog) is None
    assert adapter("None", catalog) is None


def test_a_refused_or_failing_run_takes_everything_back(host: Host, clean, monkeypatch) -> None:
    from lib_ipadapter.jobs import generation
    from lib_ipadapter.webui import process
    from lib_ipadapter.webui.neighbours import controlnet
    from lib_ipadapter.webui.neighbours.controlnet import overlaps

    p = job(host, theirs(), stand_in(host).ControlNetUnit(enabled=True, module="canny"))
    before = p.script_args
    catalog = process.resources().catalog
    units = parse_units([ours()])
    with pytest.raises(IPAdapterError), controlnet.restored_on_error(p):
        overlaps.settle(p, units, catalog, "take over")
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
    from lib_ipadapter.webui.neighbours import controlnet

    unit = stand_in(host).ControlNetUnit(enabled=True)
    p = job(host, theirs(), unit)
    first, place = p.script_args, its_script().args_from
    controlnet.replace(p, {1: controlnet.disabled(theirs()), 2: controlnet.disabled(unit)})
    assert (p.script_args[place]["enabled"], p.script_args[place + 1].enabled, unit.enabled) == (False, False, True)
    p.script_args = (*p.script_args[:place], "another's", *p.script_args[place + 1 :])
    controlnet.restore(p)
    assert p.script_args[place] == "another's"
    assert p.script_args[place + 1] is unit
    assert p.script_args[place + 2 :] == first[place + 2 :]
