"""Beside ADetailer: passes inside of a job, and the units that act in them."""

from __future__ import annotations

import base64
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from demo.start import Answer, Host
from lib_ipadapter.attend.layers import Topology, cross_attention_layers
from lib_ipadapter.encode import stored
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import FAR, SAME, difference, hooks, ours, pixels
from tests.helpers.unets import sd_unet, sdxl_unet

pytestmark = pytest.mark.host("neighbours")

ONE, TWO = {"ad_model": "one"}, {"ad_model": "two"}
WIDE = {"ad_model": "one", "ad_use_checkpoint": True, "ad_checkpoint": "demo-sdxl"}
OFF = [False, False, ONE]


@pytest.fixture
def passes(near):
    from modules import scripts

    script = next(s for s in scripts.scripts_txt2img.alwayson_scripts if s.title() == "ADetailer")
    script.passes.clear()
    yield script.passes
    script.passes.clear()


@pytest.fixture
def said(host: Host, monkeypatch) -> list[str]:
    """The comments on all jobs."""
    from modules import processing

    comments: list[str] = []
    monkeypatch.setattr(processing.StableDiffusionProcessing, "comment", lambda p, text: comments.append(text))
    return comments


def payload_of(*units: dict, tabs: tuple = (ONE,), skip: bool = False, args: list | None = None, **payload) -> dict:
    args = [True, skip, *tabs] if args is None else args
    scripts = {"ADetailer": {"args": args}, **(ours(*units) if units else {})}
    return {"prompt": "a cat", "negative_prompt": "blurry", "width": 64, "height": 64, "steps": 3,
            "alwayson_scripts": scripts, **payload}  # fmt: skip


def ask(host: Host, *units: dict, path: str = "txt2img", **payload) -> Answer:
    """A job whose pictures ADetailer paints again."""
    return getattr(host, path)(**payload_of(*units, **payload))


def make(host: Host, *units: dict, **payload) -> list[np.ndarray]:
    return pixels(ask(host, *units, **payload))


def plainly(host: Host, *units: dict, **payload) -> list[np.ndarray]:
    """The same without ADetailer."""
    return make(host, *units, args=OFF, **payload)


def refused(host: Host, *units: dict, path: str = "txt2img", **payload) -> str:
    answer = host.post(path, payload_of(*units, **payload))
    assert answer.status_code == 422, answer.text
    return answer.json()["detail"]


def again(host: Host, one: tuple, *units, **payload) -> list[np.ndarray]:
    """A recorded pass as a job of its own."""
    start, mask, seed, _ = one
    torch.manual_seed(seed)
    return plainly(
        host, *units, path="img2img", init_images=[base64_of(start)], mask=base64_of(mask), seed=seed,
        denoising_strength=0.6, mask_blur=2, inpainting_fill=1, inpaint_full_res=True, inpaint_full_res_padding=8,
        **{"steps": 3, "width": 128, "height": 128, **payload},
    )  # fmt: skip


def outside(one: np.ndarray, mask) -> np.ndarray:
    """What of the picture the pass has not painted again; its mask is blurred."""
    return one[np.asarray(mask.convert("L").filter(ImageFilter.MaxFilter(15))) == 0]


@pytest.fixture
def readable(monkeypatch) -> None:
    """The checkpoints demo-sdxl and demo-sd15 have files with tensors."""
    from lib_ipadapter.webui.host import a1111

    topology = Topology.of(cross_attention_layers(sdxl_unet()))
    narrow = Topology.of(cross_attention_layers(sd_unet()))
    monkeypatch.setattr(a1111, "_topology_in", lambda file: topology if "sdxl" in file.name else narrow)


INNER = {"override_settings": {"ip_adapter_adetailer": True}}
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}
SEEDS = (0, 3, 5, 6)
START = {"path": "img2img", "init_images": [base64_of(picture(4, (64, 64)))]}


@pytest.mark.parametrize("payload", [{}, {"batch_size": 2, "n_iter": 2}])
def test_inner_passes_are_left_alone(payload: dict, host: Host, near, passes) -> None:
    units = [unit(seeds=(0, 3), batch="per image")]
    bare = plainly(host, *units, **payload)
    make(host, *units, **payload)
    assert difference(pixels([start for start, *_ in passes]), bare) == 0
    for one in passes:
        assert difference(again(host, one), pixels([one[3]])) == 0
    assert difference(again(host, passes[0], unit()), pixels([passes[0][3]])) > FAR / 10


@pytest.mark.parametrize("payload", [{}, {"batch_size": 2, "n_iter": 2}, {"batch_size": 2, **HIRES}])
def test_inner_passes_have_the_references_if_a_setting_says_so(payload: dict, host: Host, near, passes) -> None:
    """Every picture its own; in a hires run those of its second pass. The job is kept once."""
    units = [unit(seeds=SEEDS, batch="per image")]
    if "enable_hr" in payload:
        units.append(unit(seeds=(2,), hires="base"))
    kept = host.client.get("/ip-adapter/presets").json()["recent"]
    answer = ask(host, *units, tabs=(TWO,), **payload, **INNER)
    assert len(passes) == 2 * len(answer.images)
    for i, one in enumerate(passes):
        assert difference(again(host, one, unit(seeds=(SEEDS[i // 2],))), pixels([one[3]])) < SAME
    assert difference(again(host, passes[0]), pixels([passes[0][3]])) > FAR / 10
    assert host.client.get("/ip-adapter/presets").json()["recent"][1 + len(passes) :] == kept[: 99 - len(passes)]
    assert "IP-Adapter in ADetailer: True" in answer.infotext


def test_adetailers_own_list_of_scripts_says_so_too(host: Host, near, passes) -> None:
    from modules import shared

    with near.acting(detailer={"all_scripts": True}):
        make(host, unit(seeds=(3,)))  # listed by nobody, and called all the same
        shared.opts.data["ad_only_selected_scripts"] = False
        try:
            make(host, unit(seeds=(3,)))
            make(host, unit(seeds=(3,), hires="base"), unit(), **HIRES)
        finally:
            del shared.opts.data["ad_only_selected_scripts"]
    alone, joined, _ = passes
    assert difference(again(host, alone), pixels([alone[3]])) == 0
    assert difference(again(host, joined, unit(seeds=(3,))), pixels([joined[3]])) == 0
    assert difference(pixels([alone[3]]), pixels([joined[3]])) > FAR / 10


def test_a_unit_that_its_list_of_scripts_lets_in_may_act_in_the_first_pass_alone(host: Host, near, passes) -> None:
    from modules import shared

    shared.opts.data["ad_only_selected_scripts"] = False
    try:
        with near.acting(detailer={"all_scripts": True}):
            make(host, unit(seeds=(3,), hires="base"), **HIRES)
    finally:
        del shared.opts.data["ad_only_selected_scripts"]
    assert difference(again(host, passes[0]), pixels([passes[0][3]])) == 0


def test_an_inner_checkpoint_that_does_not_fit_is_told(host: Host, near, passes, caplog) -> None:
    make(host, unit(), tabs=(WIDE,), **INNER)
    assert len(passes) == 1
    assert "ADetailer's pass worked without the references" in caplog.text


def test_a_discarded_pass_is_no_use_of_the_references(host: Host, near, passes) -> None:
    assert refused(host, unit(), skip=True, **START) == (
        "IP-Adapter unit 1: ADetailer skips img2img, and throws away the picture in which the unit acts: set acts_in "
        "to “detailer”, or let ADetailer not skip img2img."
    )
    assert "unit 2: ADetailer skips" in refused(
        host, unit(acts_in="both"), unit(acts_in="picture"), skip=True, **START, **INNER
    )
    assert passes == []
    assert len(make(host, unit(), skip=True, **START, **INNER)) == 1
    assert len(make(host, unit(acts_in="detailer"), skip=True, **START)) == 1
    assert difference(*(pixels([one[3]]) for one in passes)) == 0


# acts_in


@pytest.mark.parametrize("payload", [{}, {"batch_size": 2, "n_iter": 2}, {"batch_size": 2, **HIRES}, START])
@pytest.mark.parametrize("setting", [False, True])
def test_a_unit_for_the_detailer_leaves_the_picture_alone(
    setting: bool, payload: dict, host: Host, near, passes
) -> None:
    """Every picture sees its own reference, and nothing of the picture moves beside what is painted again."""
    bare = plainly(host, **payload)
    one = unit(seeds=SEEDS, batch="per image", acts_in="detailer")
    answer = ask(host, one, **payload, override_settings={"ip_adapter_adetailer": setting})
    assert difference(pixels([start for start, *_ in passes]), bare) == 0
    for i, recorded in enumerate(passes):
        assert difference(again(host, recorded, unit(seeds=(SEEDS[i],))), pixels([recorded[3]])) < SAME
        assert difference(again(host, recorded), pixels([recorded[3]])) > FAR / 10
        assert (outside(pixels(answer)[i], recorded[1]) == outside(bare[i], recorded[1])).all()
    assert "acts_in: detailer" in answer.infotext
    assert "IP-Adapter in ADetailer" not in answer.infotext  # which is the setting's


def test_passes_of_a_batch_are_spread_over_its_pictures(host: Host, near, passes) -> None:
    over_time = unit(seeds=(0, 3), acts_in="detailer")
    over_time["images"] = [{"image": image, "at": at} for at, image in enumerate(over_time["images"])]
    ask(host, over_time, batch_size=1, n_iter=3)
    assert len(passes) == 3
    for i, seed in ((0, 0), (2, 3)):
        assert difference(again(host, passes[i], unit(seeds=(seed,))), pixels([passes[i][3]])) < SAME
    assert difference(again(host, passes[1], unit(seeds=(0,))), pixels([passes[1][3]])) > SAME
    assert difference(again(host, passes[1], unit(seeds=(3,))), pixels([passes[1][3]])) > SAME


def test_a_unit_for_the_picture_stays_out_whatever_is_set(host: Host, near, passes) -> None:
    bare = plainly(host, unit(acts_in="picture"))
    assert difference(bare, plainly(host, unit())) == 0
    answer = ask(host, unit(acts_in="picture"), **INNER)
    assert difference(pixels([passes[0][0]]), bare) == 0
    assert difference(again(host, passes[0]), pixels([passes[0][3]])) == 0
    assert "IP-Adapter in ADetailer" not in answer.infotext


def test_units_act_each_where_it_says(host: Host, near, passes) -> None:
    both = unit(seeds=(5,), weight=0.5, acts_in="both")
    units = [unit(acts_in="picture"), unit(seeds=(3,), acts_in="detailer"), both, unit(seeds=(6,))]
    answer = ask(host, *units, tabs=(ONE, TWO))
    there = [unit(), unit(seeds=(5,), weight=0.5), unit(seeds=(6,))]
    assert difference(pixels([passes[0][0]]), plainly(host, *there)) == 0
    assert len(passes) == 3
    for one in passes:
        assert difference(again(host, one, unit(seeds=(3,)), unit(seeds=(5,), weight=0.5)), pixels([one[3]])) == 0
    assert [f"IP-Adapter {n}: " in answer.infotext for n in range(1, 6)] == [True] * 4 + [False]
    assert "IP-Adapter units not used" not in answer.infotext


def test_a_region_is_cut_to_the_part(host: Host, near, passes) -> None:
    left = Image.new("L", (64, 64))
    left.paste(255, (0, 0, 24, 64))
    masked = unit(acts_in="detailer", region_mask=base64_of(left))
    make(host, masked)
    assert difference(again(host, passes[0], unit(region_mask=base64_of(left))), pixels([passes[0][3]])) == 0
    assert difference(again(host, passes[0], unit()), pixels([passes[0][3]])) > 0


def test_hires_means_nothing_to_a_unit_for_the_detailer(host: Host, near, passes, said) -> None:
    make(host, unit(seeds=(3,), hires="hires", acts_in="detailer"))
    make(host, unit(seeds=(3,), hires="base", acts_in="detailer", influence_map=True), **HIRES)
    for one in passes:
        assert difference(again(host, one, unit(seeds=(3,))), pixels([one[3]])) == 0
    assert "IP-Adapter unit 1: hires has no effect: the unit acts in ADetailer's passes only." in said
    assert "IP-Adapter unit 1: there are no influence maps of ADetailer's passes, in which alone the unit acts." in said


# detailer_tab


@pytest.mark.parametrize("payload", [{}, {"batch_size": 2, "n_iter": 2}, START])
def test_a_unit_for_one_tab_acts_in_its_passes_alone(payload: dict, host: Host, near, passes) -> None:
    """Two tabs, the second finds two parts: each unit is in the passes of its own, one without a tab in all."""
    units = [unit(acts_in="detailer", detailer_tab=1), unit(seeds=(3,), acts_in="detailer", detailer_tab=2)]
    every = unit(seeds=(5,), weight=0.5, acts_in="detailer")
    answer = ask(host, *units, every, tabs=(ONE, TWO), **payload)
    assert len(passes) == 3 * len(answer.images)
    own = [[unit()], [unit(seeds=(3,))], [unit(seeds=(3,))]]
    for one, there in zip(passes, own * len(answer.images), strict=True):
        assert difference(again(host, one, *there, unit(seeds=(5,), weight=0.5)), pixels([one[3]])) == 0
    assert difference(pixels([passes[0][0]])[:1], plainly(host, **payload)[:1]) == 0
    assert "detailer_tab: 2" in answer.infotext and "not used" not in answer.infotext
    script = next(s for s in near.scripts.scripts_txt2img.alwayson_scripts if s.title() == "ADetailer")
    assert "_postprocess_image_inner" not in vars(script)


def test_a_unit_for_another_tab_leaves_a_pass_as_it_is_without_it(host: Host, near, passes) -> None:
    make(host, unit(acts_in="detailer", detailer_tab=2), tabs=(ONE, {"ad_model": "nothing"}))
    assert difference(again(host, passes[0]), pixels([passes[0][3]])) == 0
    make(host, unit(acts_in="both", detailer_tab=2), tabs=(ONE, ONE))
    assert difference(pixels([passes[1][0]]), plainly(host, unit())) == 0
    assert difference(again(host, passes[1]), pixels([passes[1][3]])) == 0
    assert difference(again(host, passes[2], unit()), pixels([passes[2][3]])) == 0


def test_one_tab_alone_is_every_tab(host: Host, near, passes, monkeypatch) -> None:
    """Whether it is the first or not, and whether this ADetailer says which tab is at work or not."""
    off = {**ONE, "ad_tab_enable": False}
    first = make(host, unit(acts_in="detailer"))
    assert difference(make(host, unit(acts_in="detailer", detailer_tab=1)), first) == 0
    assert difference(make(host, unit(acts_in="detailer", detailer_tab=2), tabs=(off, ONE)), first) == 0
    monkeypatch.setattr("lib_ipadapter.webui.neighbours.adetailer.TAB_PASS", "_another_name")
    assert difference(make(host, unit(acts_in="detailer", detailer_tab=2), tabs=(off, ONE)), first) == 0
    detail = refused(host, unit(acts_in="detailer", detailer_tab=2), tabs=(ONE, TWO))
    assert detail == (
        "IP-Adapter unit 1: detailer_tab is 2, and this version of ADetailer does not say which tab a pass is of: "
        "leave that tab alone switched on, or set detailer_tab to null for every tab."
    )


TAB_PASS = "_postprocess_image_inner"
TABS = {"tabs": (ONE, TWO)}


@pytest.fixture
def detailer(near):
    """Its script; afterwards nothing of ours stands on it, nor of anybody's."""
    script = next(s for s in near.scripts.scripts_txt2img.alwayson_scripts if s.title() == "ADetailer")
    yield script
    assert TAB_PASS not in vars(script)


def test_another_extensions_method_is_called_and_put_back(host: Host, passes, detailer) -> None:
    told: list[int] = []

    def theirs(p, pp, args, *, n=0):
        told.append(n)
        return type(detailer)._postprocess_image_inner(detailer, p, pp, args, n=n)

    vars(detailer)[TAB_PASS] = theirs
    make(host, unit(acts_in="detailer", detailer_tab=2), **TABS, n_iter=2)
    assert vars(detailer).pop(TAB_PASS) is theirs
    assert told == [0, 1, 0, 1]
    assert difference(again(host, passes[0]), pixels([passes[0][3]])) == 0
    assert difference(again(host, passes[1], unit()), pixels([passes[1][3]])) == 0


def test_a_job_inside_leaves_nothing_on_adetailers_script(host: Host, passes, detailer, monkeypatch) -> None:
    """One that another extension makes with the outer job's runner, without units of ours."""
    from modules import scripts

    paint = type(detailer).paint

    def painted(self, p, pp, tab, chosen):
        paint(self, p, pp, tab, chosen)
        bare = copy.copy(p)
        vars(bare).pop("ip_adapter_job")
        p.scripts.post_sample(bare, scripts.PostSampleArgs(None))

    monkeypatch.setattr(type(detailer), "paint", painted)
    make(host, unit(acts_in="detailer", detailer_tab=1), **TABS)
    assert TAB_PASS not in vars(detailer)


def test_what_a_job_that_nobody_ended_has_left_on_adetailers_script_goes(
    host: Host, passes, detailer, monkeypatch
) -> None:
    def broken(*args) -> None:
        raise RuntimeError("broken on purpose")

    with monkeypatch.context() as patched:
        patched.setattr(type(detailer), "paint", broken)  # else ADetailer says that the job goes on
        patched.setattr("lib_ipadapter.webui.neighbours.adetailer.withdraw", lambda p: None)
        make(host, unit(acts_in="detailer", detailer_tab=1), **TABS)
        assert TAB_PASS in vars(detailer)
    plainly(host)
    assert TAB_PASS not in vars(detailer)


def by_place(self, call, p, pp, tab, n):
    call(p, pp, tab, n)


def by_name(self, call, p, pp, tab, n):
    call(p=p, pp=pp, args=tab, n=n)


def first_by_default(self, call, p, pp, tab, n):
    call(p, pp, tab, *[n][: n > 0])


def calling(monkeypatch, detailer, call, takes) -> None:
    """An ADetailer that calls its method otherwise."""

    def postprocess_image(self, p, pp, *args):
        for n, tab in enumerate(self.tabs(args)):
            call(self, getattr(self, TAB_PASS), p, pp, tab, n)

    monkeypatch.setattr(type(detailer), "postprocess_image", postprocess_image)
    monkeypatch.setattr(type(detailer), TAB_PASS, takes)


@pytest.mark.parametrize("call", [by_place, by_name, first_by_default])
def test_however_it_is_called_adetailer_says_which_tab(call, host: Host, passes, detailer, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        calling(patched, detailer, call, lambda self, p, pp, args, n=0: self.paint(p, pp, args, {}))
        make(
            host, unit(acts_in="detailer", detailer_tab=1), unit(seeds=(3,), acts_in="detailer", detailer_tab=2), **TABS
        )
    assert len(passes) == 3
    for one, there in zip(passes, [unit(), unit(seeds=(3,)), unit(seeds=(3,))], strict=True):
        assert difference(again(host, one, there), pixels([one[3]])) == 0


def test_where_nothing_tells_which_tab_a_pass_is_of_it_is_told(
    host: Host, passes, detailer, monkeypatch, said, caplog
) -> None:
    with monkeypatch.context() as patched:
        calling(patched, detailer, by_place, lambda self, p, pp, args, number: self.paint(p, pp, args, {}))
        make(host, unit(acts_in="detailer", detailer_tab=2), unit(seeds=(3,), acts_in="detailer"), **TABS)
    assert len(passes) == 3
    for one in passes:
        assert difference(again(host, one, unit(seeds=(3,))), pixels([one[3]])) == 0
    told = [text for text in said if "which tab" in text]
    assert told == [
        "IP-Adapter: nothing tells which tab a pass of ADetailer's is of, so it worked without the references of "
        "unit 1, which is for one tab alone: let it act in all tabs, or leave one tab alone switched on."
    ]
    assert "unit 1: nothing tells which tab a pass of ADetailer's is of, so the unit did not act." in caplog.text


def test_tabs_keep_their_numbers_beside_one_that_adetailer_leaves_out(host: Host, near, passes) -> None:
    make(host, unit(acts_in="detailer", detailer_tab=3), tabs=({**ONE, "ad_unknown": 1}, ONE, ONE))
    assert len(passes) == 2
    assert difference(again(host, passes[0]), pixels([passes[0][3]])) == 0
    assert difference(again(host, passes[1], unit()), pixels([passes[1][3]])) == 0


def test_a_tab_that_is_not_there_is_refused(host: Host, near, passes) -> None:
    assert refused(host, unit(), unit(acts_in="detailer", detailer_tab=3), tabs=(ONE, TWO)) == (
        "IP-Adapter unit 2: detailer_tab is 3, and ADetailer's tab 3 is off in this job, where tabs 1, 2 are on: "
        "switch it on, name one that is on, or set detailer_tab to null for every tab."
    )
    assert "where tab 2 is on" in refused(
        host, unit(acts_in="both", detailer_tab=1), tabs=({**ONE, "ad_tab_enable": False}, ONE)
    )
    assert "detailer_tab is 0: give a whole number from 1 to 15" in refused(host, unit(detailer_tab=0))
    assert passes == []


def test_a_tab_says_nothing_of_a_unit_that_acts_in_no_pass(host: Host, near, passes, said) -> None:
    bare = make(host, unit())
    assert difference(make(host, unit(acts_in="picture", detailer_tab=4)), bare) == 0
    assert "IP-Adapter unit 1: detailer_tab has no effect: the unit acts in none of ADetailer's passes." in said


def test_a_tab_that_finds_nothing_is_told(host: Host, near, passes, caplog) -> None:
    answer = ask(
        host, unit(acts_in="detailer", detailer_tab=2), unit(acts_in="detailer"), tabs=(ONE, {"ad_model": "nothing"})
    )
    assert "unit 1: ADetailer's tab 2 has painted nothing again (it found nothing" in caplog.text
    assert "unit 2: " not in caplog.text
    assert "IP-Adapter units not used: 1" in answer.infotext


def test_an_adapter_has_to_fit_the_checkpoint_of_its_own_tab(host: Host, near, passes, readable) -> None:
    """With one tab for SD1.5 and one for SDXL, a unit is held to the one that it names."""
    assert "ADetailer's checkpoint demo-sdxl is SDXL" in refused(
        host, unit(acts_in="detailer", detailer_tab=2), tabs=(ONE, WIDE)
    )
    make(host, unit(acts_in="detailer", detailer_tab=1), unit("wide", acts_in="detailer", detailer_tab=2),
         tabs=(ONE, WIDE))  # fmt: skip
    xl = {"override_settings": {"sd_model_checkpoint": "demo-sdxl"}}
    assert difference(again(host, passes[0], unit()), pixels([passes[0][3]])) == 0
    assert difference(again(host, passes[1], unit("wide"), **xl), pixels([passes[1][3]])) == 0


# Where it cannot act


def test_without_adetailer_a_unit_for_it_is_refused(host: Host, near, passes, monkeypatch) -> None:
    sentence = (
        "IP-Adapter unit 2: acts_in is “detailer”, and ADetailer is off in this job: switch it on, or set acts_in to "
        "“picture”."
    )
    units = unit(acts_in="both"), unit(acts_in="detailer")
    for args in (OFF, [True, False, {}], [True, False, {"ad_model": "None"}], [{**ONE, "ad_tab_enable": False}], []):
        assert refused(host, *units, args=args) == sentence
    inpainting = {**START, "mask": base64_of(Image.new("L", (64, 64), 255))}
    assert "ADetailer leaves inpainting alone where it skips img2img" in refused(host, *units, skip=True, **inpainting)
    script = "lib_ipadapter.webui.neighbours.adetailer.TITLE"
    with monkeypatch.context() as patched:
        patched.setattr(script, "Nobody")
        assert "ADetailer is not installed here: install it" in refused(host, *units)
    assert passes == []
    assert len(make(host, unit(acts_in="both"), args=OFF)) == 1
    assert len(make(host, unit(acts_in="detailer"), args=[ONE])) == 1  # the first argument may be left out


def test_the_start_picture_may_be_for_both_where_there_is_no_pass(host: Host, near, passes) -> None:
    one = {"model": "base", "images": [{"start_picture": True}], "acts_in": "both"}
    sentence = "ADetailer's passes begin with pictures that are not there yet: set acts_in to “picture”"
    assert sentence in refused(host, one, **START)
    assert len(make(host, one, args=OFF, **START)) == 1


def test_a_unit_of_bad_input_for_the_detailer_is_refused_before_the_first_step(host: Host, near, passes) -> None:
    assert "unit 1: no adapter is called" in refused(host, unit(model="nobody", acts_in="detailer"))
    assert "in no format that can be read" in refused(
        host, {"model": "base", "images": ["AAAA"], "acts_in": "detailer"}
    )
    assert "unit 2" in refused(host, unit(), unit(model="nobody", acts_in="detailer"), tabs=(WIDE,))
    assert passes == []


def test_what_adetailer_does_not_find_is_told(host: Host, near, passes, caplog) -> None:
    answer = ask(host, unit(acts_in="detailer"), unit(seeds=(3,)), tabs=({"ad_model": "nothing"},), batch_size=2)
    assert difference(pixels(answer), plainly(host, unit(seeds=(3,)), batch_size=2)) == 0
    told = (
        "IP-Adapter unit 1: ADetailer has painted nothing again (it found nothing, or failed, as the console's log "
        "would say), so the unit did not act."
    )
    assert caplog.text.count(told) == 1
    for text in answer.info["infotexts"]:
        assert "IP-Adapter 1: " not in text and "IP-Adapter units not used: 1" in text
        assert "IP-Adapter 2: " in text


def test_a_picture_in_which_nothing_is_found_is_told_of_that_picture(
    host: Host, near, passes, monkeypatch, caplog
) -> None:
    script = type(next(s for s in near.scripts.scripts_txt2img.alwayson_scripts if s.title() == "ADetailer"))
    paint = script.paint

    def only_the_second(self, p, *args):
        if p.batch_index == 1:
            paint(self, p, *args)

    monkeypatch.setattr(script, "paint", only_the_second)
    answer = ask(host, unit(acts_in="detailer"), batch_size=2)
    first, second = answer.info["infotexts"]
    assert "IP-Adapter 1: " not in first and "IP-Adapter units not used: 1" in first
    assert "IP-Adapter 1: " in second and "not used" not in second
    assert "so the unit did not act in picture 1." in caplog.text


# Another checkpoint


def test_an_adapter_for_the_checkpoint_of_its_pass(host: Host, near, passes, readable) -> None:
    """The picture is SD1.5's, and what is painted again SDXL's; with one of each, each acts where it belongs."""
    bare, ours_too = plainly(host), plainly(host, unit(seeds=(3,)))
    xl = {"override_settings": {"sd_model_checkpoint": "demo-sdxl"}}
    make(host, unit("wide", acts_in="detailer"), tabs=(WIDE,))
    make(host, unit(seeds=(3,)), unit("wide", acts_in="detailer"), tabs=(WIDE,), batch_size=1, n_iter=1)
    first, second = passes
    assert difference(pixels([first[0]]), bare) == 0
    assert difference(pixels([second[0]]), ours_too) == 0
    for one in passes:
        assert difference(again(host, one, unit("wide"), **xl), pixels([one[3]])) == 0
        assert difference(again(host, one, **xl), pixels([one[3]])) > FAR / 10


def test_a_face_from_embeddings_in_a_picture_of_sdxl(host: Host, near, passes, readable) -> None:
    """The picture is SDXL's, its faces are SD1.5's: with an adapter for faces of SD1.5."""
    face = {"face": F.normalize(torch.randn(1, 512, generator=torch.Generator().manual_seed(2)))}
    file = base64.b64encode(stored.write([face], [1.0], {"face": "buffalo_l"})).decode()
    own = {"model": "faceid", "images": [{"embeddings": file}]}
    xl = {"override_settings": {"sd_model_checkpoint": "demo-sdxl"}}
    tab = {**ONE, "ad_use_checkpoint": True, "ad_checkpoint": "demo-sd15"}
    bare = plainly(host, **xl)
    make(host, {**own, "acts_in": "detailer"}, tabs=(tab,), **xl)
    assert difference(pixels([passes[0][0]]), bare) == 0
    assert difference(again(host, passes[0], own), pixels([passes[0][3]])) == 0
    assert difference(again(host, passes[0]), pixels([passes[0][3]])) > FAR / 10
    assert "adapter faceid is for SD1.5, the model is SDXL" in refused(
        host, {**own, "acts_in": "both"}, tabs=(tab,), **xl
    )


def test_a_pass_whose_prompt_names_a_face_lora_is_told_so(host: Host, near, passes, monkeypatch) -> None:
    """Its prompt is another one than the picture's."""
    from lib_ipadapter.jobs.generation import Generation
    from lib_ipadapter.webui.host.a1111 import A1111

    told: list[str | None] = []
    inside = Generation.inside
    monkeypatch.setattr(A1111, "prompt_loras", lambda self, p: ["faceid_lora"] if getattr(p, "_ad_inner", 0) else [])
    monkeypatch.setattr(Generation, "inside", lambda self, lora=None: told.append(lora) or inside(self, lora))
    ask(host, unit(acts_in="both"))
    assert told == ["faceid_lora"] * len(passes) and passes


def test_two_tabs_with_two_checkpoints(host: Host, near, passes, said) -> None:
    units = unit("wide", acts_in="detailer"), unit(seeds=(3,), acts_in="both")
    xl = {"override_settings": {"sd_model_checkpoint": "demo-sdxl"}}
    answer = ask(host, *units, tabs=(WIDE, ONE), n_iter=2)
    assert len(passes) == 4
    for one, two in (passes[:2], passes[2:]):
        assert difference(again(host, one, unit("wide"), **xl), pixels([one[3]])) == 0
        assert difference(again(host, two, unit(seeds=(3,))), pixels([two[3]])) == 0
    told = [text for text in said if "worked without the references" in text]
    assert len(told) == 2 and "of unit 2: " in told[0] and "of unit 1: " in told[1]
    assert "IP-Adapter 1: " in answer.infotext and "IP-Adapter 2: " in answer.infotext


def test_an_adapter_that_fits_no_pass_is_refused(host: Host, near, passes, readable) -> None:
    assert refused(host, unit(acts_in="detailer"), tabs=(WIDE,)) == (
        "IP-Adapter unit 1: adapter base is for SD1.5, ADetailer's checkpoint demo-sdxl is SDXL: give ADetailer a "
        "checkpoint for SD1.5, or set acts_in to “picture”."
    )
    detail = refused(host, unit("wide", acts_in="detailer"))
    assert detail == (
        "IP-Adapter unit 1: adapter wide is for SDXL, ADetailer's passes have the picture's checkpoint, which is "
        "SD1.5: give ADetailer a checkpoint for SDXL, or choose another adapter."
    )
    assert "unit 2: adapter base" in refused(host, unit("wide", acts_in="detailer"), unit(acts_in="both"), tabs=(WIDE,))
    unknown = {**WIDE, "ad_checkpoint": "nobody's"}  # the host takes the picture's then
    assert "which is SD1.5" in refused(host, unit("wide", acts_in="detailer"), tabs=(unknown,))
    assert passes == []
    assert len(make(host, unit(acts_in="detailer"), tabs=(unknown,))) == 1


def test_a_checkpoint_that_cannot_be_read_beforehand(host: Host, near, passes, said, caplog) -> None:
    """Everything is prepared all the same, for the model that the adapter is for."""
    answer = ask(host, unit("wide", acts_in="detailer"), unit(seeds=(3,), acts_in="detailer"), tabs=(WIDE,))
    xl = {"override_settings": {"sd_model_checkpoint": "demo-sdxl"}}
    assert difference(again(host, passes[0], unit("wide"), **xl), pixels([passes[0][3]])) == 0
    assert "IP-Adapter 1: " in answer.infotext and "IP-Adapter units not used: 2" in answer.infotext
    assert "IP-Adapter: ADetailer's pass worked without the references of unit 2: " in "\n".join(said)
    assert "none of ADetailer's passes was one for it" in caplog.text


# Nothing left


def test_what_goes_wrong_in_a_pass_reaches_the_user(host: Host, near, passes, monkeypatch) -> None:
    from lib_ipadapter.attend import inject

    def broken(*args):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(inject.Injection, "begin", broken)
    with pytest.raises(RuntimeError, match="not used in this picture: RuntimeError: broken on purpose"):
        ask(host, unit(acts_in="detailer"))
    monkeypatch.undo()
    assert hooks() == []


def test_attention_that_is_replaced_in_a_pass_is_found_out(host: Host, near, passes) -> None:
    """Nothing of the hooks is called in the pass: the job fails, as it would for the picture."""
    from modules import processing

    inner = processing.StableDiffusionProcessingImg2Img.init

    def init(p, *args):
        inner(p, *args)
        if getattr(p, "_ad_inner", False):
            for module in near.attentions("attn2"):
                module.forward = lambda x, context=None, mask=None, **kwargs: torch.zeros_like(x)

    processing.StableDiffusionProcessingImg2Img.init = init
    try:
        with pytest.raises(RuntimeError, match="another extension or optimisation replaces"):
            ask(host, unit(acts_in="detailer"))
    finally:
        processing.StableDiffusionProcessingImg2Img.init = inner
        for module in near.attentions("attn2"):
            vars(module).pop("forward", None)
    assert hooks() == []


def test_an_interrupted_pass_owes_nothing(host: Host, near, passes, monkeypatch) -> None:
    from modules import processing, shared

    sample = processing.StableDiffusionProcessingImg2Img.sample

    def interrupted(p, *args, **kwargs):
        shared.state.interrupted = True
        return sample(p, *args, **kwargs)

    monkeypatch.setattr(processing.StableDiffusionProcessingImg2Img, "sample", interrupted)
    assert len(make(host, unit(acts_in="detailer"))) == 1
    monkeypatch.undo()
    assert hooks() == []
    assert len(make(host, unit(acts_in="detailer"))) == 1
    assert difference(again(host, passes[-1], unit()), pixels([passes[-1][3]])) == 0


def test_a_pass_that_a_stopping_job_does_not_make_is_no_riddle(host: Host, near, passes, caplog) -> None:
    """The user has stopped the job after this picture, and so the host begins no pass in it."""
    from modules import script_callbacks, shared

    def stop(_params: object) -> None:
        shared.state.stop_generating()

    script_callbacks.on_cfg_denoiser(stop)
    try:
        answer = ask(host, unit(acts_in="detailer"), n_iter=2)
    finally:
        script_callbacks.remove_callbacks_for_function(stop)
    assert len(answer.images) == 1 and passes == []
    assert "IP-Adapter 1: " not in answer.infotext and "IP-Adapter units not used: 1" in answer.infotext
    assert "painted nothing" not in caplog.text


def test_the_setting_is_told_of_the_pictures_in_which_units_have_acted(host: Host, near, passes, monkeypatch) -> None:
    script = type(next(s for s in near.scripts.scripts_txt2img.alwayson_scripts if s.title() == "ADetailer"))
    paint = script.paint

    def only_the_first(self, p, *args):
        if p.iteration == p.batch_index == 0:
            paint(self, p, *args)

    monkeypatch.setattr(script, "paint", only_the_first)
    first, *others = ask(host, unit(), batch_size=2, n_iter=2, **INNER).info["infotexts"]
    assert "IP-Adapter in ADetailer: True" in first
    assert len(others) == 3 and "IP-Adapter in ADetailer" not in " ".join(others)
