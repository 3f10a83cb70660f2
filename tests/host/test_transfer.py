"""What transfers and where, through the WebUI: passes, sizes, inpainting, samplers, parameters, refusals."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageOps

from demo.start import Host
from lib_ipadapter.encode.picture import content_hash, decode
from lib_ipadapter.unit import Unit
from tests.helpers.files import base64_of, corner, half, picture, unit
from tests.helpers.host import FAR, SAME, difference, loaded_unet, make, ours, pixels

LEFT, RIGHT = (base64_of(side) for side in (half("left"), ImageOps.invert(half("left"))))
CORNER = base64_of(corner())


PASSES = {
    "base": {},
    "batch": {"batch_size": 2, "n_iter": 2},
    "odd": {"width": 72, "height": 88},
    "hires": {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7},
    "hires, another form": {
        "enable_hr": True, "hr_resize_x": 96, "hr_resize_y": 136, "hr_upscaler": "Latent", "denoising_strength": 0.7
    },
    "apart": {"override_settings": {"batch_cond_uncond": False}},
}  # fmt: skip


@pytest.mark.both_faces
@pytest.mark.parametrize("kind", PASSES)
def test_complementary_masks_add_up_in_every_pass(kind: str, host: Host, plain) -> None:
    options = PASSES[kind]
    whole = make(host, unit(), **options)
    both = make(host, unit(region_mask=LEFT), unit(region_mask=RIGHT), **options)
    assert difference(whole, both) < SAME
    assert difference(whole, make(host, unit(region_mask=LEFT), **options)) > FAR / 8


@pytest.mark.both_faces
def test_a_white_mask_is_none(host: Host, plain) -> None:
    white = base64_of(Image.new("L", (8, 8), 255))
    assert difference(make(host, unit(region_mask=white)), make(host, unit())) == 0


@pytest.mark.both_faces
def test_inpainting_only_masked_sees_its_part_of_the_region(host: Host, plain) -> None:
    """The region is over the whole picture: of the part that is sampled it may cover all, or nothing."""
    mask = Image.new("L", (128, 128))
    mask.paste(255, (0, 0, 48, 48))
    options = {
        "path": "img2img", "init_images": [base64_of(picture(1).resize((128, 128)))], "mask": base64_of(mask),
        "mask_blur": 0, "inpaint_full_res": True, "inpaint_full_res_padding": 0, "denoising_strength": 0.9,
    }  # fmt: skip
    full = make(host, unit(), **options)
    assert difference(make(host, unit(region_mask=LEFT), **options), full) < SAME
    nothing = make(host, **options)
    assert difference(full, nothing) > FAR / 8
    assert difference(make(host, unit(region_mask=RIGHT), **options), nothing) < SAME
    whole = {**options, "inpaint_full_res": False}
    assert difference(make(host, unit(region_mask=LEFT), **whole), make(host, unit(), **whole)) > SAME


def test_a_mask_of_another_form_is_told(host: Host, plain, caplog) -> None:
    sentence = "unit 1: the region mask is stretched over a picture of another form."
    with caplog.at_level("INFO", "ip-adapter"):
        make(host, unit(region_mask=CORNER), width=128, height=128, steps=1)
        make(host, unit(region_mask=LEFT), height=128, steps=1)  # half of a picture of any form
        assert sentence not in caplog.text
        make(host, unit(region_mask=CORNER), height=128, steps=1)
        assert sentence in caplog.text


def test_a_negative_side_that_nobody_paints_is_told(host: Host, plain, caplog) -> None:
    sentences = [
        f"unit 1: {name} has no effect at a CFG scale of 1: raise it." for name in ("negative_images", "noise")
    ]
    acting = unit(negative_images=[base64_of(picture(4))], noise=0.3)
    for scale in (7, 1):
        caplog.clear()
        with caplog.at_level("INFO", "ip-adapter"):
            make(host, acting, cfg_scale=scale, steps=1)
        assert [sentence in caplog.text for sentence in sentences] == [scale == 1] * 2


def test_a_negative_side_is_called_as_its_reader_does(host: Host) -> None:
    from lib_ipadapter.kinds import Wording
    from lib_ipadapter.unit import parse_units
    from lib_ipadapter.webui import job

    acting = unit(negative_images=[base64_of(picture(4))], noise=0.3)
    (one,) = parse_units([acting], Wording.PANEL)
    assert job.idle_negative_side(one, 1, None) == [
        "the negative references have no effect at a CFG scale of 1: raise it.",
        "“Noise” has no effect at a CFG scale of 1: raise it.",
    ]
    assert job.idle_negative_side(one, 1, 7) == job.idle_negative_side(one, 7, None) == []
    (first,) = parse_units([{**acting, "hires": "base"}], Wording.PANEL)
    assert len(job.idle_negative_side(first, 1, 7)) == 2
    (inside,) = parse_units([{**acting, "acts_in": "detailer"}], Wording.PANEL)
    assert job.idle_negative_side(inside, 1, None) == []


@pytest.mark.both_faces
def test_a_region_in_a_model_that_is_taken_apart_is_refused(host: Host, plain, monkeypatch) -> None:
    """A neighbour that has one transformer work on the picture's halves."""
    transformer = next(m for m in loaded_unet().modules() if type(m).__name__ == "SpatialTransformer")
    forward = type(transformer).forward

    def halves(self, x, *args, **kwargs):
        parts = x.chunk(2, dim=-1) if self is transformer else [x]
        return torch.cat([forward(self, part, *args, **kwargs) for part in parts], dim=-1)

    with monkeypatch.context() as patch:
        patch.setattr(type(transformer), "forward", halves)
        make(host, unit())  # without a region there is no place to be told
        with pytest.raises(RuntimeError, match="nothing tells where a region mask or .* lie; switch it off, or leave"):
            make(host, unit(region_mask=LEFT))


SAMPLERS = ("Euler", "Euler a", "Heun", "DPM++ 2M", "DDIM", "PLMS")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_curve_that_jumps_is_a_window(sampler: str, host: Host, plain) -> None:
    """Weight 0 to the middle and 1 from there on is start 0.5, whatever the sampler's calls for each step."""
    settings = {"steps": 4, "sampler_name": sampler}
    window = make(host, unit(start=0.5), **settings)
    assert difference(window, make(host, unit(weight=[[0.5, 0], [0.5, 1]]), **settings)) == 0
    assert difference(window, make(host, unit(), **settings)) > FAR / 16
    assert difference(make(host, unit(weight=[[0, 0.5], [1, 0.5]]), **settings),
                      make(host, unit(weight=0.5), **settings)) == 0  # fmt: skip


@pytest.mark.parametrize(
    ("checkpoint", "adapter", "blocks"), [("demo-sd15", "base", 16), ("demo-sd2", "two", 16), ("demo-sdxl", "wide", 11)]
)
def test_layer_weights_and_types_by_base_model(checkpoint: str, adapter: str, blocks: int, host: Host, plain) -> None:
    override = {"override_settings": {"sd_model_checkpoint": checkpoint}, "steps": 2}
    full = make(host, unit(adapter), **override)
    assert difference(make(host, unit(adapter, layer_weights=[1] * blocks), **override), full) == 0
    bare = make(host, **override)
    assert difference(make(host, unit(adapter, layer_weights=[0] * blocks), **override), bare) == 0
    for weight_type in ("style transfer", "composition", "style transfer precise"):
        assert difference(make(host, unit(adapter, weight_type=weight_type), **override), bare) > 0.01
    with pytest.raises(RuntimeError, match=f"layer_weights holds {blocks + 1} numbers.* has {blocks} transformer"):
        make(host, unit(adapter, layer_weights=[1] * (blocks + 1)), **override)


def test_per_image_batches_go_round(host: Host, plain) -> None:
    """Picture i sees reference i; after the last reference comes the first again, and what is left over rests."""
    three = make(host, unit(seeds=(0, 1), batch="per image"), batch_size=3)
    for i, seed in enumerate((0, 1, 0)):
        assert difference([three[i]], [make(host, unit(seeds=(seed,)), batch_size=3)[i]]) < SAME
    one = make(host, unit(seeds=(0, 1), batch="per image"))
    assert difference(one, make(host, unit(seeds=(0,)))) < SAME


def test_everything_stands_in_the_parameters_and_comes_back(host: Host, plain) -> None:
    from lib_ipadapter import infotext
    from lib_ipadapter.webui import process

    asked = {
        "model": "base", "weight": [[0, 1], [0.6, 0.25]], "layer_weights": {"5": 0.4, "7": -1}, "crop": "tile",
        "combine": "norm average", "embeds_scaling": "K+mean(V) w/ C penalty", "region_mask": LEFT,
        "region_feather": 0.2, "noise": 0.3, "weight_type": "style transfer precise", "boost": 0.5,
        "composition_weight": 0.7,
        "images": [{"image": base64_of(picture(0)), "mask": RIGHT, "weight": 0.5}, base64_of(picture(1))],
        "negative_images": [{"image": base64_of(picture(2)), "weight": 0.75}],
    }  # fmt: skip
    answer = host.txt2img(prompt="a cat", steps=1, width=64, height=64, alwayson_scripts=ours(asked))
    from modules.infotext_utils import parse_generation_parameters

    units, notes = infotext.restored(parse_generation_parameters(answer.infotext), process.store().picture)
    assert notes == []
    wanted, found = Unit.parse(asked), Unit.parse(units[0])
    assert found.changed() == wanted.changed()

    def prints(unit: Unit) -> list:
        pictures = [*unit.references, *unit.negative_references]
        return [
            (content_hash(decode(r.image)), r.weight, r.mask and content_hash(decode(r.mask))) for r in pictures
        ] + [content_hash(decode(unit.region_mask))]

    assert prints(found) == prints(wanted)
    again = host.txt2img(prompt="a cat", steps=1, width=64, height=64, alwayson_scripts=ours(
        {**units[0], "region_mask": base64_of(units[0]["region_mask"]),
         "images": [{**i, **{k: base64_of(i[k]) for k in ("image", "mask") if k in i}} for i in units[0]["images"]],
         "negative_images": [{**i, "image": base64_of(i["image"])} for i in units[0]["negative_images"]]}
    ))  # fmt: skip
    assert difference(pixels(again), pixels(answer)) == 0


def test_masks_that_are_gone_are_told(host: Host, plain) -> None:
    from lib_ipadapter import infotext

    marks = [f"0123456789a{i}" for i in range(4)]
    text = "model: base, negative_images: {}, region_mask: {}, references: {}@{}".format(*marks)
    there = {marks[2]: Image.new("RGB", (8, 8))}
    units, notes = infotext.restored({"IP-Adapter 1": text}, there.get)
    assert notes == [
        "Unit 1: the mask of a reference cannot be restored from the parameters: draw it again.",
        "Unit 1: its negative reference cannot be restored from the parameters: add the picture again.",
        "Unit 1: its region mask cannot be restored from the parameters: draw it again.",
    ]
    assert set(units[0]) == {"model", "images"}


def test_the_preview_shows_tiles_and_masks(host: Host) -> None:
    long = {"model": "base", "images": [{"image": base64_of(picture(0, (126, 42))), "mask": LEFT}], "crop": "tile"}
    tiles = host.client.post("/ip-adapter/preview", json=long).json()["images"]
    assert len(tiles) == 3
    last = decode(tiles[2])
    assert last.getcolors() == [(last.width * last.height, (123, 117, 104))]  # masked: CLIP's mean colour
