"""Beside scripts that make a picture in parts: a region mask lies over the whole."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from demo.start import Host
from tests.helpers.files import base64_of, corner, half, picture, unit
from tests.helpers.host import FAR, SAME, ask, difference, hooks, make

pytestmark = pytest.mark.host("tiling")

LEFT = half("left", (40, 40))
MASKS = {"left": base64_of(LEFT), "right": base64_of(ImageOps.invert(LEFT))}
OVERLAP = 16
UPSCALE = {"script_name": "SD upscale", "script_args": ["", OVERLAP, "Lanczos", 2]}  # 128 wide, of tiles at 0, 32, 64
WIDE = {"init_images": [base64_of(picture(9, (64, 32)))]}
START = {
    "path": "img2img", "init_images": [base64_of(picture(9, (64, 64)))], "denoising_strength": 0.7, "steps": 3,
}  # fmt: skip


WIDE_UPSCALE = {**WIDE, **UPSCALE}


def masked(side: str, **fields: Any) -> dict:
    return unit(region_mask=MASKS[side], **fields)


def all_made(host: Host, *units: dict, **payload: Any) -> list[np.ndarray]:
    torch.manual_seed(3)  # start pictures are encoded with noise from the global generator
    return make(host, *units, **{**START, **payload})


def made(host: Host, *units: dict, **payload: Any) -> np.ndarray:
    (one,) = all_made(host, *units, **payload)
    return one


@pytest.fixture(autouse=True)
def nothing_left(host: Host):
    before = made(host)
    yield
    assert difference([made(host)], [before]) == 0 and hooks() == []


@pytest.mark.parametrize(
    "payload", [{}, {"batch_size": 2}, {"batch_size": 4}, {"batch_size": 2, "negative_prompt": "a BREAK b"}]
)
def test_a_mask_acts_in_the_tiles_where_it_lies(payload: dict, host: Host) -> None:
    payload = {**WIDE_UPSCALE, **payload}
    plain, whole = made(host, **payload), made(host, unit(), **payload)
    left, right = (made(host, masked(side), **payload) for side in MASKS)
    assert plain.shape == (64, 128, 3)
    inside, outside = slice(0, 32), slice(64 + OVERLAP, None)  # tiles in one half only, less what others blend in
    for one, here, there in ((left, inside, outside), (right, outside, inside)):
        assert difference([one[:, there]], [plain[:, there]]) == 0
        assert difference([one[:, here]], [whole[:, here]]) < SAME
        assert difference([one[:, here]], [plain[:, here]]) > FAR
    both = made(host, masked("left"), masked("right"), **payload)
    assert difference([both], [whole]) < SAME


@pytest.mark.both_faces
def test_each_round_of_tiles_begins_anew(host: Host) -> None:
    payload = {**WIDE_UPSCALE, "n_iter": 2, "batch_size": 2}
    plain, left = all_made(host, **payload), all_made(host, masked("left"), **payload)
    assert len(left) == 2
    for one, without in zip(left, plain, strict=True):
        assert difference([one[:, 80:]], [without[:, 80:]]) == 0
        assert difference([one[:, :32]], [without[:, :32]]) > FAR


def test_tiles_larger_than_the_picture_see_it_where_it_is(host: Host) -> None:
    """They begin before it: its left half is their third quarter."""
    payload = {"script_name": "SD upscale", "script_args": ["", OVERLAP, "Lanczos", 1], "width": 128, "height": 128}
    tile = np.zeros((128, 128), np.uint8)
    tile[:, :96] = 255
    alone = {"init_images": [base64_of(_shifted())], "width": 128, "height": 128}
    expected = made(host, unit(region_mask=base64_of(Image.fromarray(tile))), **alone)[64:, 64:]
    assert difference([made(host, masked("left"), **payload)], [expected]) < SAME
    assert difference([made(host, unit(), **payload)], [expected]) > FAR / 10


def _shifted() -> Image.Image:
    """The start picture in the lower right corner of the tile that it is seen in."""
    return picture(9, (64, 64)).crop((-64, -64, 64, 64))


def test_outpainting_in_tiles_follows_the_enlarged_picture(host: Host) -> None:
    """64 pixels more to the right: a mask of the left half is over the old part, where nothing is painted."""
    payload = {"script_name": "Poor man's outpainting", "script_args": [32], "width": 64, "height": 64}
    plain, whole = made(host, **payload), made(host, unit(), **payload)
    assert plain.shape == (64, 96, 3)
    quarter = Image.new("L", (96, 8))
    quarter.paste(255, (0, 0, 32, 8))  # left of all tiles that are painted
    assert difference([made(host, unit(region_mask=base64_of(quarter)), **payload)], [plain]) == 0
    rest = base64_of(ImageOps.invert(quarter))
    assert difference([made(host, unit(region_mask=rest), **payload)], [whole]) < SAME
    assert difference([whole], [plain]) > FAR / 4


def test_only_masked_parts_know_their_place_already(host: Host) -> None:
    payload = {"script_name": "Ultimate SD upscale", "script_args": []}
    plain, whole = made(host, **payload), made(host, unit(), **payload)
    left = made(host, masked("left"), **payload)
    assert difference([left[:, 64:]], [plain[:, 64:]]) == 0
    assert difference([left[:, :64]], [whole[:, :64]]) < SAME
    assert difference([whole], [plain]) > FAR


@pytest.mark.parametrize("script", ["Outpainting mk2", "Mirror"])
def test_where_nothing_tells_the_place_the_job_is_refused(script: str, host: Host) -> None:
    payload = {"script_name": script, "script_args": []}
    with pytest.raises(RuntimeError, match="422") as caught:
        made(host, unit(), masked("left"), **payload)
    assert (
        f"IP-Adapter unit 2: the script “{script}” takes the picture apart, so that nothing tells where region_mask "
        "lies: make the picture without the script, or leave out region_mask."
    ) in str(caught.value)
    assert difference([made(host, unit(), **payload)], [made(host, **payload)]) > FAR / 10
    for everywhere in (90, 255):  # it lies the same wherever it lies
        made(host, unit(region_mask=base64_of(Image.new("L", (8, 8), everywhere))), **payload)


def test_the_panels_reader_is_told_in_the_panels_words(host: Host, monkeypatch) -> None:
    from lib_ipadapter.errors import UnitError
    from lib_ipadapter.kinds import Wording
    from lib_ipadapter.unit import parse_units
    from lib_ipadapter.webui import job

    class Elsewhere:
        def lost_part(self, p: object, elsewhere: bool) -> str:
            return "Mirror"

        def seems_of_batch(self, p: object) -> bool:
            return False

    monkeypatch.setattr(job.host, "current", Elsewhere)
    monkeypatch.setattr(job.distributed, "spreads", lambda p: False)
    with pytest.raises(UnitError, match="nothing tells where the region mask lies: .* leave out the region mask"):
        job._check_places(None, parse_units([masked("left")], Wording.PANEL))
    monkeypatch.undo()


def test_other_machines_are_told_no_places(host: Host, monkeypatch) -> None:
    from lib_ipadapter.webui.neighbours import distributed

    monkeypatch.setattr(distributed, "spreads", lambda p: True)
    with pytest.raises(RuntimeError, match="the script “SD upscale” takes the picture apart"):
        made(host, masked("left"), **WIDE_UPSCALE)
    whole = {"script_name": "Twice", "script_args": []}
    assert made(host, masked("left"), **whole).shape == (64, 64, 3)


@pytest.mark.parametrize(("job", "says"), [
    ("2 out of 3", "nothing tells where region_mask lies in what the script “Twice” makes of img2img's batch of files"),
    ("scripts_img2img", "the script “Twice” takes the picture apart, so that nothing tells where region_mask lies: "),
])  # fmt: skip
def test_of_a_batch_of_files_nothing_tells_the_place(job: str, says: str, host: Host) -> None:
    """Its pictures come when the script has been told its arguments already."""
    from modules import processing, scripts, shared

    from lib_ipadapter.errors import UnitError
    from tests.helpers.panel import panel_args

    runner = scripts.scripts_img2img
    script = next(s for s in runner.alwayson_scripts if s.title() == "IP-Adapter")
    args = [1 + [s.title() for s in runner.selectable_scripts].index("Twice"), *[None] * (len(runner.inputs) - 1)]
    values = panel_args(host, {}, {}, {}, tick=False)
    args[script.args_from : script.args_to] = [masked("left"), *values[1:]]
    p = processing.StableDiffusionProcessingImg2Img(
        sd_model=shared.sd_model, prompt="a cat", seed=5, steps=1, width=64, height=64, sampler_name="Euler",
        do_not_save_samples=True, do_not_save_grid=True, init_images=[None],
    )  # fmt: skip
    p.is_api, p.scripts, p.script_args = True, runner, args
    p.init_images = [picture(9, (64, 64))]
    shared.state.begin(job)
    try:
        with pytest.raises(UnitError) as caught:
            runner.run(p, *p.script_args)
        assert says in str(caught.value)
    finally:
        p.close()
        shared.state.end()


@pytest.mark.parametrize("script", ["Loopback", "Twice"])
def test_whole_pictures_are_left_alone(script: str, host: Host) -> None:
    payload = {"script_name": script, "script_args": []}
    whole = made(host, unit(), **payload)
    assert difference([made(host, masked("left"), masked("right"), **payload)], [whole]) < SAME
    text = {"path": "txt2img"}
    if script == "Twice":
        assert len(ask(host, masked("left"), **payload, **text).images) == 1


def test_the_masks_form_is_compared_with_the_whole_picture(host: Host, caplog) -> None:
    """Square tiles of a wide picture."""
    for size, differs in (((80, 40), False), ((40, 40), True)):
        caplog.clear()
        with caplog.at_level("INFO", logger="ip-adapter"):
            made(host, unit(region_mask=base64_of(corner(size))), **WIDE_UPSCALE)
        assert ("stretched over a picture of another form" in caplog.text) == differs


def test_a_part_of_a_tile_lies_in_the_whole(host: Host) -> None:
    """ADetailer's pass inside a job of tiles, and inpainting of a tile."""
    from lib_ipadapter.attend.regions import Part
    from lib_ipadapter.webui.host import current, tiles

    cut = [Image.new("RGB", (64, 64)) for _ in range(2)]
    for x, tile in zip((0, 32), cut, strict=True):
        setattr(tile, tiles.PLACE, tiles.Place((64, 128), (x, 0, 64, 64)))
    outer = SimpleNamespace(init_images=cut, iteration=0, batch_size=2, batch_index=1, paste_to=None)
    inner = SimpleNamespace(init_images=[Image.new("RGB", (64, 64))], paste_to=(8, 16, 24, 20))
    assert current().pass_inside(inner, outer).part == Part((64, 128), ((40, 16, 24, 20),))
    inner.init_images = [Image.new("RGB", (64, 64))]
    outer.init_images = inner.init_images
    assert current().pass_inside(inner, outer).part == Part((64, 64), ((8, 16, 24, 20),))
    outer.init_images, outer.paste_to = cut, (4, 4, 8, 8)
    assert tiles.part(outer) == Part((64, 128), ((0, 0, 64, 64), (32, 0, 64, 64)))
    outer.is_hr_pass = False
    assert current().sampling_pass(outer).part == Part((64, 128), ((4, 4, 8, 8), (36, 4, 8, 8)))
    cut[1] = cut[1].resize((32, 32))  # nobody knows how it came to its size
    assert tiles.part(outer) is None


def test_reloading_takes_the_notes_back(host: Host) -> None:
    from modules import images

    from lib_ipadapter.webui import start

    made(host, masked("left"), **UPSCALE)
    assert hasattr(images.split_grid, "__wrapped__")
    start.on_script_unloaded()
    assert not hasattr(images.split_grid, "__wrapped__")
    made(host, masked("left"), **UPSCALE)
    made(host, masked("left"), **UPSCALE)
    assert not hasattr(images.split_grid.__wrapped__, "__wrapped__")
