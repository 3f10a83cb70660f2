"""Beside other extensions, each through a stand-in that does the same to the UNet, the sampler or the job.

Wherever a neighbour can be told to change nothing, or its work can be asked for in two ways, both must agree with the
reference as they do without it; and what either leaves behind is nothing.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from demo.start import Host, host_start

from .conftest import sd_unet, sdxl_unet
from .files import base64_of, picture, write_adapter, write_encoder

ROOT = Path(__file__).resolve().parents[1]
SAME, FAR = 0.05, 1.0
X, Y = "a red house", "blurry"
TWICE = {"prompt": f"{X} BREAK {X}"}  # the same prompt, in twice as many tokens: conditional rows are called apart
APART = {"override_settings": {"batch_cond_uncond": False}}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    # The name of the one of them that metadata.ini has to put after us, whatever our own folder is called.
    extension = tmp_path_factory.mktemp("extension") / "stable-diffusion-webui-distributed"
    folder = tmp_path_factory.mktemp("adapters")
    write_adapter(folder / "base.safetensors", sd_unet())
    write_adapter(folder / "wide.safetensors", sdxl_unet())
    write_encoder(folder / "encoder.safetensors")
    (extension / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "neighbours_stand_in.py", extension / "scripts" / "neighbours.py")
    options = {"batch_cond_uncond": True, "pad_cond_uncond": False, "sd_model_checkpoint": "demo-sd15",
               "live_previews_enable": False, "ip_adapter_adetailer": False}  # fmt: skip
    with torch.enable_grad():
        started = host_start([extension, ROOT], options, ["--ip-adapter-dir", str(folder)])
    yield started
    started.close()
    sys.modules.pop("neighbours_stand_in", None)


@pytest.fixture
def near(host: Host):
    """The stand-ins. Afterwards a plain picture and one with a reference must be what they were, bit for bit."""
    before = make(host), make(host, unit())
    assert difference(*before) > FAR
    yield sys.modules["neighbours_stand_in"]
    assert difference(make(host, unit()), before[1]) == 0
    assert difference(make(host), before[0]) == 0
    from modules import shared

    unet = shared.sd_model.model.diffusion_model
    assert not [name for name, m in unet.named_modules() if m._forward_hooks or m._forward_pre_hooks]


def unit(*seeds: int, **settings) -> dict:
    return {"model": "base", "images": [base64_of(picture(seed)) for seed in seeds or (0,)], **settings}


def ask(host: Host, *units, path: str = "txt2img", **payload):
    payload = {"prompt": X, "negative_prompt": Y, "width": 64, "height": 64, "steps": 3, **payload}
    if units:
        payload["alwayson_scripts"] = {"IP-Adapter": {"args": list(units)}}
    return getattr(host, path)(**payload)


def arrays(images: list[Image.Image]) -> list[np.ndarray]:
    return [np.asarray(image.convert("RGB")).astype(int) for image in images]


def make(host: Host, *units, **payload) -> list[np.ndarray]:
    return arrays(ask(host, *units, **payload).images)


def difference(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    assert len(a) == len(b)
    return float(np.mean([np.abs(x - y).mean() for x, y in zip(a, b, strict=True)]))


def test_the_stand_ins_are_loaded(host: Host) -> None:
    from modules import scripts

    order = [script.title() for script in scripts.scripts_txt2img.ordered_scripts("before_process")]
    assert {"Distribute", "IP-Adapter"} <= set(order)


# What changes the UNet


CHANGES = {
    "Lora": {"lora": {}},
    "HyperTile": {"hypertile": {"parts": 2}},
    "token merging": {"token_merging": {}},
    "token merging, cross-attention": {"token_merging": {"cross": True}},
    "FreeU": {"freeu": {}},
    "all of them": {"lora": {}, "hypertile": {}, "token_merging": {"cross": True}, "freeu": {}},
}
NEUTRAL = {
    "Lora": {"lora": {"strength": 0.0}},
    "HyperTile": {"hypertile": {"parts": 1}},
    "FreeU": {"freeu": {"backbone": 1.0, "skip": 1.0}},
    "Regional Prompter": {"regional": {"regions": 1, "negative": 1}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_effects_add_up(name: str, host: Host, near) -> None:
    ours = make(host, unit(weight=0.6))
    with near.acting(**CHANGES[name]):
        theirs, both = make(host), make(host, unit(weight=0.6))
        assert difference(both, theirs) > FAR / 2
        assert difference(both, ours) > FAR / 10
        assert difference(make(host, unit(weight=0.3), unit(weight=0.3)), both) < SAME
        assert difference(make(host, unit(weight=0)), theirs) == 0
        assert difference(make(host), theirs) == 0
        assert difference(make(host, unit(weight=0.6), **APART), both) < SAME
        assert difference(make(host, unit(weight=0.6), **TWICE), both) < SAME
        assert difference(make(host, unit(weight=0.6), negative_prompt=f"{Y} BREAK {Y}"), both) < SAME


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_neighbour_that_changes_nothing_changes_nothing_here(name: str, host: Host, near) -> None:
    ours = make(host, unit())
    with near.acting(**NEUTRAL[name]):
        assert difference(make(host, unit()), ours) < SAME


def test_the_query_is_that_of_the_loras(host: Host, near) -> None:
    with near.acting(lora={}):
        patched = make(host, unit())
    with near.acting(merged_lora={}):
        merged = make(host, unit())
    assert difference(patched, merged) < SAME
    assert difference(patched, make(host, unit())) > FAR / 10


# Regional Prompter


def test_regions_of_the_same_text_are_one_prompt(host: Host, near) -> None:
    """In every region the reference acts as it does in the whole."""
    whole = make(host, unit())
    with near.acting(regional={}):
        assert difference(make(host, unit(), **TWICE), whole) < SAME
        assert difference(make(host, unit(), **TWICE, negative_prompt=f"{Y} BREAK {Y}"), whole) < SAME
        assert difference(make(host, unit(), **TWICE, **APART), whole) < SAME
        other = make(host, unit(), prompt=f"{X} BREAK a blue lake")
        assert difference(other, whole) > FAR / 10
        assert difference(other, make(host, prompt=f"{X} BREAK a blue lake")) > FAR


@pytest.mark.parametrize("payload", [{}, {"batch_size": 2}, {"sampler_name": "DDIM"}])
def test_regions_beside_one_negative_prompt_of_the_same_length(payload: dict, host: Host, near) -> None:
    """The two halves of a call are worked on one after the other, the first one twice."""
    payload = {**payload, "negative_prompt": f"{Y} BREAK {Y}"}
    whole = make(host, unit(), **payload)
    with near.acting(regional={"negative": 1}):
        assert difference(make(host, unit(), **TWICE, **payload), whole) < SAME
        assert difference(make(host, **TWICE, **payload), whole) > FAR


@pytest.mark.parametrize("payload", [{}, {"batch_size": 2}, {"batch_size": 2, "n_iter": 2}])
def test_latent_regions_of_the_same_text_are_one_prompt(payload: dict, host: Host, near) -> None:
    units = [unit(), unit(0, 3, batch="per image", weight=0.7)]
    whole = make(host, *units, **payload)
    with near.acting(latent={}):
        assert difference(make(host, *units, prompt=f"{X} AND {X}", **payload), whole) < SAME
        assert difference(make(host, prompt=f"{X} AND {X}", **payload), whole) > FAR
    if payload:
        swapped = [units[0], unit(3, 0, batch="per image", weight=0.7)]
        assert difference(make(host, *swapped, **payload), whole) > FAR / 10


# Tiled Diffusion


WHOLE = (0, 0, 8, 8)
WIDE, TILES = {"width": 128}, [(0, 0, 8, 8), (0, 4, 8, 8), (0, 8, 8, 8)]
PATTERNS = {
    "even": {},
    "uneven": TWICE,
    "uneven negative": {"negative_prompt": f"{Y} BREAK {Y}"},
    "apart": APART,
    "AND": {"prompt": f"{X} AND {X} BREAK {X}"},
    "two pictures, uneven": {"batch_size": 2, **TWICE},
    "DDIM, uneven": {"sampler_name": "DDIM", **TWICE},
    "second order, apart": {"sampler_name": "Heun", **APART},
}


@pytest.mark.parametrize(("together", "below"), [(1, False), (2, True), (3, False)])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_tiles_of_the_whole_are_the_whole(pattern: str, together: int, below: bool, host: Host, near) -> None:
    units = [unit(), unit(0, 3, batch="per image", weight=0.7)]
    whole = make(host, *units, **PATTERNS[pattern])
    with near.acting(tiled={"boxes": [WHOLE] * 4, "together": together, "below": below}):
        assert difference(make(host, *units, **PATTERNS[pattern]), whole) < SAME
    assert difference(make(host, **PATTERNS[pattern]), whole) > FAR


@pytest.mark.parametrize("together", [1, 2, 4])
def test_tiles_are_the_same_whatever_their_order(together: int, host: Host, near) -> None:
    with near.acting(tiled={"boxes": TILES, "together": 4}):
        even, plain = make(host, unit(), **WIDE), make(host, **WIDE)
        assert difference(even, plain) > FAR / 2
        assert difference(make(host, unit(weight=0), **WIDE), plain) == 0
    with near.acting(tiled={"boxes": TILES, "together": together}):
        for pattern in ("even", "uneven", "uneven negative", "apart"):
            assert difference(make(host, unit(), **WIDE, **PATTERNS[pattern]), even) < SAME


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("pattern", ["even", "uneven", "uneven negative", "apart", "two pictures, uneven"])
def test_regions_with_their_own_text_have_the_reference(pattern: str, below: bool, host: Host, near) -> None:
    """Whole-picture regions of the main prompt are the picture without regions; of another text they have it, too,
    whatever its length."""
    payload, lake = PATTERNS[pattern], "a blue lake"
    whole = make(host, unit(), **{**payload, "prompt": X, "negative_prompt": Y})

    def regions(*texts: str, **more) -> dict:
        return {"tiled": {"regions": [(WHOLE, text, Y) for text in texts], "below": below, **more}}

    for texts in ((X, X), (X, f"{X} BREAK {X}"), (f"{X} BREAK {X}",)):
        with near.acting(**regions(*texts)):
            assert difference(make(host, unit(), **payload), whole) < SAME
        with near.acting(**regions(*texts, boxes=[WHOLE] * 3)):
            assert difference(make(host, unit(), **payload), whole) < SAME
    with near.acting(**regions(lake, boxes=TILES)):
        short = make(host, unit(), **WIDE, **payload)
        assert difference(short, make(host, **WIDE, **payload)) > FAR / 2
    with near.acting(**regions(f"{lake} BREAK {lake}", boxes=TILES)):
        assert difference(make(host, unit(), **WIDE, **payload), short) < SAME


def test_a_map_of_tiles_is_not_invented(host: Host, near) -> None:
    with near.acting(tiled={"boxes": TILES}):
        assert len(ask(host, unit(influence_map=True), **WIDE).images) == 1
    assert len(ask(host, unit(influence_map=True), **WIDE).images) == 2


# Dynamic Thresholding


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DPM++ 2M"])
def test_thresholding_samples_with_the_reference(sampler: str, host: Host, near) -> None:
    window, payload = {"start": 0.4, "end": 0.8}, {"sampler_name": sampler, "steps": 5}
    ours = make(host, unit(**window), **payload)
    with near.acting(thresholding={"share": 0.0}):
        assert difference(make(host, unit(**window), **payload), ours) < SAME
    with near.acting(thresholding={"share": 1.0}):
        theirs, both = make(host, **payload), make(host, unit(**window), **payload)
        assert difference(both, theirs) > FAR / 10
        assert difference(both, ours) > FAR / 10
        assert difference(make(host, unit(**window), **payload, **TWICE), both) < SAME


# ADetailer


@pytest.fixture
def passes(near):
    from modules import scripts

    script = next(s for s in scripts.scripts_txt2img.alwayson_scripts if s.title() == "ADetailer")
    script.passes.clear()
    yield script.passes
    script.passes.clear()


def again(host: Host, one: tuple, *units) -> list[np.ndarray]:
    """A recorded pass as a job of its own."""
    start, mask, seed, _ = one
    torch.manual_seed(seed)
    return make(
        host, *units, path="img2img", init_images=[base64_of(start)], mask=base64_of(mask), seed=seed, steps=3,
        denoising_strength=0.6, mask_blur=2, inpainting_fill=1, inpaint_full_res=True, inpaint_full_res_padding=8,
        width=128, height=128,
    )  # fmt: skip


INNER = {"override_settings": {"ip_adapter_adetailer": True}}


@pytest.mark.parametrize("payload", [{}, {"batch_size": 2, "n_iter": 2}])
def test_inner_passes_are_left_alone(payload: dict, host: Host, near, passes) -> None:
    units = [unit(0, 3, batch="per image")]
    bare = make(host, *units, **payload)
    with near.acting(detailer={}):
        make(host, *units, **payload)
    assert difference(arrays([start for start, *_ in passes]), bare) == 0
    for one in passes:
        assert difference(again(host, one), arrays([one[3]])) == 0
    assert difference(again(host, passes[0], unit()), arrays([passes[0][3]])) > FAR / 10


HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}
SEEDS = (0, 3, 5, 6)


@pytest.mark.parametrize("payload", [{}, {"batch_size": 2, "n_iter": 2}, {"batch_size": 2, **HIRES}])
def test_inner_passes_have_the_references_if_a_setting_says_so(payload: dict, host: Host, near, passes) -> None:
    """Every picture its own; in a hires run those of its second pass. The job is kept once."""
    units = [unit(*SEEDS, batch="per image"), unit(2, hires="base" if "enable_hr" in payload else "hires")]
    kept = host.client.get("/ip-adapter/presets").json()["recent"]
    with near.acting(detailer={"parts": 2}):
        answer = ask(host, *units, **payload, **INNER)
    assert len(passes) == 2 * len(answer.images)
    for i, one in enumerate(passes):
        assert difference(again(host, one, unit(SEEDS[i // 2])), arrays([one[3]])) == 0
    assert difference(again(host, passes[0]), arrays([passes[0][3]])) > FAR / 10
    assert host.client.get("/ip-adapter/presets").json()["recent"][1 + len(passes) :] == kept[: 99 - len(passes)]


def test_adetailers_own_list_of_scripts_says_so_too(host: Host, near, passes) -> None:
    from modules import shared

    with near.acting(detailer={"all_scripts": True}):
        make(host, unit(3))  # listed by nobody, and called all the same
        shared.opts.data["ad_only_selected_scripts"] = False
        try:
            make(host, unit(3))
        finally:
            del shared.opts.data["ad_only_selected_scripts"]
    alone, joined = passes
    assert difference(again(host, alone), arrays([alone[3]])) == 0
    assert difference(again(host, joined, unit(3)), arrays([joined[3]])) == 0
    assert difference(arrays([alone[3]]), arrays([joined[3]])) > FAR / 10


def test_an_inner_checkpoint_that_does_not_fit_is_told(host: Host, near, passes, caplog) -> None:
    with near.acting(detailer={"override": {"sd_model_checkpoint": "demo-sdxl"}}):
        make(host, unit(), **INNER)
    assert len(passes) == 1
    assert "ADetailer's pass worked without the references" in caplog.text


def test_a_discarded_pass_is_no_use_of_the_references(host: Host, near, passes) -> None:
    start = {"path": "img2img", "init_images": [base64_of(picture(4, (64, 64)))]}
    with near.acting(detailer={"skip": True}):
        with pytest.raises(RuntimeError, match="ADetailer skips img2img"):
            make(host, unit(), **start)
        assert len(make(host, unit(), **start, **INNER)) == 1


# sd-webui-distributed


@pytest.fixture
def machines(host: Host, near):
    """Another machine: what is sent to it, it makes from the JSON alone."""
    script = near.Distributed
    script.world.enabled = script.world.enabled_i2i = True
    script.sent.clear()
    script.failed.clear()
    yield script
    script.world.enabled = script.world.enabled_i2i = False


def remote(host: Host, script, path: str = "txt2img") -> list[np.ndarray]:
    """The last job as the other machine makes it."""
    assert not script.failed
    payload = json.loads(script.sent[-1])
    script.world.enabled = False
    try:
        wanted = ("prompt", "negative_prompt", "seed", "steps", "width", "height", "alwayson_scripts", "sampler_name")
        return arrays(getattr(host, path)(**{name: payload[name] for name in wanted}).images)
    finally:
        script.world.enabled = True


def from_panel(host: Host, *tabs: dict, tick: bool = True, **fields) -> list[np.ndarray]:
    from modules import processing, scripts, shared

    from .test_host import panel_args

    runner = scripts.scripts_txt2img
    script = next(s for s in runner.alwayson_scripts if s.title() == "IP-Adapter")
    args = [0, *[None] * (len(runner.inputs) - 1)]
    args[script.args_from : script.args_to] = panel_args(host, *tabs, tick=tick)
    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model, prompt=X, negative_prompt=Y, seed=1, steps=3, width=64, height=64,
        sampler_name="Euler", do_not_save_samples=True, do_not_save_grid=True, **fields,
    )  # fmt: skip
    p.is_api = True  # the page's own sampler and seed controls are left out
    p.scripts, p.script_args = runner, args
    try:
        return arrays(processing.process_images(p).images)
    finally:
        p.close()


def test_the_panels_units_arrive_at_other_machines(host: Host, machines) -> None:
    tabs = [
        {"pictures": [picture(0), picture(3)], "weights": [1, 0.5], "model": "base", "weight": 0.7},
        {},
        {"pictures": [picture(5)], "model": "base", "weight": 0.4},
    ]
    units = [unit(weight=0.7), {"enabled": False}, unit(5, weight=0.4)]
    units[0]["images"] = [base64_of(picture(0)), {"image": base64_of(picture(3)), "weight": 0.5}]
    here = from_panel(host, *tabs)
    assert difference(remote(host, machines), here) == 0
    machines.world.enabled = False
    assert difference(make(host, *units), here) == 0
    assert difference(make(host), here) > FAR


def test_pictures_in_a_panel_that_is_not_ticked_do_no_harm(host: Host, machines) -> None:
    here = from_panel(host, {"pictures": [picture(0), picture(5)], "model": "base"}, {}, {}, tick=False)
    assert difference(remote(host, machines), here) == 0
    machines.world.enabled = False
    assert difference(make(host), here) == 0


def test_a_clients_units_arrive_too(host: Host, machines) -> None:
    here = make(host, unit(), unit(3, weight=0.5, influence_map=True))
    assert len(here) == 1  # a map would be taken for a picture of the job
    assert difference(remote(host, machines), here) == 0


def test_a_plots_values_arrive_too(host: Host, machines) -> None:
    from types import SimpleNamespace

    from lib_ipadapter.webui import xyz

    cell = SimpleNamespace(extra_generation_params={})
    xyz.Axis(1, "weight", float).apply(cell, 0.3, [])
    json.dumps(vars(cell))
    from modules import processing

    plain = processing.process_images

    def process_images(p):
        vars(p).update({xyz.VALUES: vars(cell)[xyz.VALUES]})
        return plain(p)

    processing.process_images = process_images
    try:
        here = from_panel(host, {"pictures": [picture(0)], "model": "base"}, {}, {})
    finally:
        processing.process_images = plain
    assert difference(remote(host, machines), here) == 0
    machines.world.enabled = False
    assert difference(make(host, unit(weight=0.3)), here) == 0


def test_what_other_machines_could_not_do_right_is_refused(host: Host, machines) -> None:
    with pytest.raises(RuntimeError, match="IP-Adapter unit 1: batch .*per image.* does not work while"):
        make(host, unit(0, 3, batch="per image"), batch_size=2)
    machines.world.enabled = False
    assert len(make(host, unit(0, 3, batch="per image"), batch_size=2)) == 2
