"""References of one unit in places of their own, in whole jobs: the same pictures as with a unit for each."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from demo.start import FORGE, WEBUI, Host
from lib_ipadapter import infotext
from lib_ipadapter.encode.picture import content_hash
from tests.helpers.files import base64_of, half, picture, unit
from tests.helpers.host import FAR, SAME, ask, difference, make, ours, pixels

LEFT, RIGHT = (base64_of(half(side)) for side in ("left", "right"))
REGIONS = {0: LEFT, 7: RIGHT}
START = {"path": "img2img", "init_images": [base64_of(picture(9, (64, 64)))], "denoising_strength": 0.8}
MIDDLE = Image.new("L", (64, 64))
MIDDLE.paste(255, (16, 16, 40, 48))


def together(model: str = "base", **fields: Any) -> dict:
    items = [{"image": base64_of(picture(seed)), "region": region} for seed, region in REGIONS.items()]
    return {"model": model, "images": items, **fields}


def apart(model: str = "base", **fields: Any) -> list[dict]:
    return [unit(model, (seed,), region_mask=region, **fields) for seed, region in REGIONS.items()]


def made(host: Host, *units: dict, **payload: Any) -> list[np.ndarray]:
    torch.manual_seed(3)  # start pictures are encoded with noise from the global generator
    return make(host, *units, **payload)


JOBS = {
    "batches": {"batch_size": 2, "n_iter": 2},
    "hires": {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.7, "hr_second_pass_steps": 2},
    "inpainted part": {**START, "mask": base64_of(MIDDLE), "inpaint_full_res": True, "inpaint_full_res_padding": 4},
}


@pytest.mark.parametrize("face", [WEBUI, FORGE])
@pytest.mark.parametrize("job", JOBS)
def test_one_unit_is_a_unit_for_each(job: str, host: Host, plain: Any) -> None:
    one, several = (made(host, *units, **JOBS[job]) for units in ([together()], apart()))
    assert difference(one, several) < SAME
    swapped = together()
    first, second = swapped["images"]
    first["region"], second["region"] = second["region"], first["region"]
    assert difference(made(host, swapped, **JOBS[job]), one) > FAR / 2


@pytest.mark.parametrize("face", [FORGE])
@pytest.mark.parametrize("file", ["redux", "xlabs"])
@pytest.mark.host("flux")
def test_on_flux_too(file: str, host: Host) -> None:
    from demo.forge import flux

    payload = {
        "override_settings": {"sd_model_checkpoint": flux.NAME}, "cfg_scale": 3, "steps": 2, "batch_size": 2,
    }  # fmt: skip
    one, several = (made(host, *units, **payload) for units in ([together(file)], apart(file)))
    assert difference(one, several) < SAME
    assert difference(one, made(host, unit(file, (0, 7)), **payload)) > FAR / 4


@pytest.mark.host("tiling")
def test_in_tiles_a_region_lies_over_the_whole_picture(host: Host) -> None:
    payload = {
        **START, "init_images": [base64_of(picture(9, (64, 32)))], "script_name": "SD upscale",
        "script_args": ["", 16, "Lanczos", 2], "batch_size": 2, "steps": 3,
    }  # fmt: skip
    one, several = (made(host, *units, **payload) for units in ([together()], apart()))
    assert difference(one, several) < SAME
    assert difference(one, made(host, unit(seeds=(0, 7)), **payload)) > FAR / 4
    with pytest.raises(RuntimeError, match="nothing tells where the region of reference 1 lies"):
        made(host, together(), **{**payload, "script_name": "Outpainting mk2", "script_args": []})


def test_what_a_batch_begins_with_may_have_a_region(host: Host) -> None:
    """Each picture sees its own on the left, and the same on the right."""
    starts = [base64_of(picture(seed, (64, 64))) for seed in (9, 5)]
    payload = {**START, "init_images": starts, "batch_size": 2}
    other = {"image": base64_of(picture(7)), "region": RIGHT}
    one = {"model": "base", "images": [{"start_picture": True, "region": LEFT}, other]}
    several = [
        {"model": "base", "images": [{"start_picture": True}], "region_mask": LEFT},
        unit(seeds=(7,), region_mask=RIGHT),
    ]
    assert difference(*(made(host, *units, **payload) for units in ([one], several))) < SAME


def test_its_map_and_its_parameters_are_one(host: Host, store: Any) -> None:
    from modules.infotext_utils import parse_generation_parameters

    given = together(influence_map=True, region_feather=0.1)
    given["images"].insert(1, base64_of(picture(3)))
    answer = host.txt2img(prompt="a cat", steps=1, width=64, height=64, alwayson_scripts=ours(given))
    assert len(answer.images) == 2
    params = parse_generation_parameters(answer.infotext)
    (restored,), notes = infotext.restored(params, store.picture)
    assert notes == []
    assert [sorted({"region"} & set(one)) for one in restored["images"]] == [["region"], [], ["region"]]
    again = host.txt2img(prompt="a cat", steps=1, width=64, height=64, infotext=answer.infotext)
    assert difference(pixels(again), pixels(answer)) == 0 and again.infotext == answer.infotext
    gone = content_hash(Image.open(BytesIO(b64decode(RIGHT))).convert("RGB"))[:12]
    (restored,), notes = infotext.restored(params, lambda name: None if name == gone else store.picture(name))
    assert notes == ["Unit 1: the region of a reference cannot be restored from the parameters: draw it again."]
    assert [sorted({"region"} & set(one)) for one in restored["images"]] == [["region"], [], []]


def test_a_stretched_region_and_one_that_is_none_are_told(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    given = together()
    given["images"][1]["region"] = base64_of(MIDDLE.resize((30, 64)))
    with caplog.at_level("INFO", logger="ip-adapter"):
        ask(host, given)
    assert "the region of reference 2 is stretched over a picture of another form." in caplog.text
    given["images"][1]["region"] = "abc"
    with pytest.raises(RuntimeError, match=r"422.*unit 1: images\[1\]: region: "):
        ask(host, given)
