"""Beside ADetailer: passes inside of a job."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from demo.start import Host
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import FAR, ask, difference, make, pixels

pytestmark = pytest.mark.host("neighbours")


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
    units = [unit(seeds=(0, 3), batch="per image")]
    bare = make(host, *units, **payload)
    with near.acting(detailer={}):
        make(host, *units, **payload)
    assert difference(pixels([start for start, *_ in passes]), bare) == 0
    for one in passes:
        assert difference(again(host, one), pixels([one[3]])) == 0
    assert difference(again(host, passes[0], unit()), pixels([passes[0][3]])) > FAR / 10


HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}
SEEDS = (0, 3, 5, 6)


@pytest.mark.parametrize("payload", [{}, {"batch_size": 2, "n_iter": 2}, {"batch_size": 2, **HIRES}])
def test_inner_passes_have_the_references_if_a_setting_says_so(payload: dict, host: Host, near, passes) -> None:
    """Every picture its own; in a hires run those of its second pass. The job is kept once."""
    units = [unit(seeds=SEEDS, batch="per image")]
    if "enable_hr" in payload:
        units.append(unit(seeds=(2,), hires="base"))
    kept = host.client.get("/ip-adapter/presets").json()["recent"]
    with near.acting(detailer={"parts": 2}):
        answer = ask(host, *units, **payload, **INNER)
    assert len(passes) == 2 * len(answer.images)
    for i, one in enumerate(passes):
        assert difference(again(host, one, unit(seeds=(SEEDS[i // 2],))), pixels([one[3]])) == 0
    assert difference(again(host, passes[0]), pixels([passes[0][3]])) > FAR / 10
    assert host.client.get("/ip-adapter/presets").json()["recent"][1 + len(passes) :] == kept[: 99 - len(passes)]


def test_adetailers_own_list_of_scripts_says_so_too(host: Host, near, passes) -> None:
    from modules import shared

    with near.acting(detailer={"all_scripts": True}):
        make(host, unit(seeds=(3,)))  # listed by nobody, and called all the same
        shared.opts.data["ad_only_selected_scripts"] = False
        try:
            make(host, unit(seeds=(3,)))
        finally:
            del shared.opts.data["ad_only_selected_scripts"]
    alone, joined = passes
    assert difference(again(host, alone), pixels([alone[3]])) == 0
    assert difference(again(host, joined, unit(seeds=(3,))), pixels([joined[3]])) == 0
    assert difference(pixels([alone[3]]), pixels([joined[3]])) > FAR / 10


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
