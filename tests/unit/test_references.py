"""What transfers, and where: blocks, scaling, regions, masks, crops, negatives, noise, curves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file

from lib_ipadapter.attend.inject import Injection, image_attention
from lib_ipadapter.attend.layers import count_blocks, cross_attention_layers
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.regions import Region, feathered, is_whole
from lib_ipadapter.attend.rows import layout
from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.encode.clip import ImageEncoder
from lib_ipadapter.encode.combine import COMBINE_MODES
from lib_ipadapter.encode.picture import to_pixels
from lib_ipadapter.encode.words import token_ids
from lib_ipadapter.errors import IPAdapterError
from lib_ipadapter.generation import Resources
from lib_ipadapter.project import build
from lib_ipadapter.weighting import SCALINGS, WEIGHT_TYPES, Spread, spread, weight_at

from .conftest import draw, sd_unet, sdxl_unet
from .diffusers_reference import add_adapters, close, diffusers_unet, published, run
from .files import PROJECTION, base64_of, encoder_state, half, picture, write_adapter, write_encoder
from .test_generation import denoise, far, generation, unit
from .test_inject import POOLED, call, image_proj, inputs, kv_weights, make_prompt

ROWS = layout([1], 2)


@pytest.fixture(scope="module")
def resources(tmp_path_factory, unet) -> Resources:
    folder: Path = tmp_path_factory.mktemp("models")
    for kind in ("base", "plus", "full-face"):
        write_adapter(folder / f"{kind}.safetensors", unet, kind)
    write_encoder(folder / "encoder.safetensors")
    catalog = Catalog([folder], [])
    catalog.refresh()
    return Resources(catalog)


def grey(value: int, size: tuple[int, int] = (8, 8)) -> str:
    return base64_of(Image.new("L", size, value))


# --- blocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [sd_unet, sdxl_unet])
def test_each_type_weighs_each_block_as_its_table_says(make) -> None:
    """Against a UNet whose layers' values are multiplied one by one, by hand."""
    unet = make()
    layers = cross_attention_layers(unet)
    blocks = count_blocks(layers)
    x, t, text = inputs(unet)
    prompt = make_prompt(unet, 5)
    for weight_type in ("ease in", "style transfer", "composition", "strong style and composition"):
        made = spread(weight_type, blocks, 0.6)
        values = tuple(v * made.at(one.block, 0.8) for v, one in zip(prompt.kv.values, layers, strict=True))
        by_hand = ImagePrompt(KeysValues(prompt.kv.keys, values))
        ours = ImagePrompt(prompt.kv, 0.8, spread=made)
        assert close(call(unet, x, t, text, [ours], ROWS), call(unet, x, t, text, [by_hand], ROWS), 1e-5)


@pytest.mark.parametrize("weight_type", ["style transfer precise", "composition precise"])
def test_precise_types_give_the_reference_to_the_negative_side(weight_type: str, unet) -> None:
    layers = cross_attention_layers(unet)
    made = spread(weight_type, 16, boost=0.7)
    prompt = make_prompt(unet, 5)
    x, t, text = inputs(unet)

    def turned(tensors: tuple, block_of: list[int]) -> tuple:
        """Uncond := cond, cond := 0, in the blocks that are turned around."""
        return tuple(
            torch.cat([torch.zeros_like(pair[:1]), pair[:1]]) if block in made.inverted else pair
            for pair, block in zip(tensors, block_of, strict=True)
        )

    of = [layer.block for layer in layers]
    by_hand = KeysValues(turned(prompt.kv.keys, of), turned(prompt.kv.values, of))
    straight = Spread(made.factors, made.extra)
    ours = call(unet, x, t, text, [ImagePrompt(prompt.kv, 0.9, spread=made)], ROWS)
    theirs = call(unet, x, t, text, [ImagePrompt(by_hand, 0.9, spread=straight)], ROWS)
    assert close(ours, theirs, 1e-5)
    assert far(ours, call(unet, x, t, text, [ImagePrompt(prompt.kv, 0.9, spread=straight)], ROWS))


def test_precise_types_hold_in_separate_calls_and_batches(unet) -> None:
    prompt = ImagePrompt(make_prompt(unet, 5).kv, spread=spread("style transfer precise", 16))
    x, t, text = inputs(unet, rows=4)
    rows = layout([1, 1], 4)
    together = call(unet, x, t, text, [prompt], rows)
    with Injection(unet, cross_attention_layers(unet), [prompt]) as injection:
        injection.begin(rows, 0, 1)
        apart = torch.cat([unet(x[i : i + 1], t[i : i + 1], context=text[i : i + 1]) for i in range(4)])
    assert close(together, apart, 1e-5)


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
def test_every_type_acts_and_weight_0_is_plain(weight_type: str, unet, resources) -> None:
    plain = denoise(unet, None)
    assert far(denoise(unet, generation(unet, resources, unit(weight_type=weight_type, boost=1.0))), plain)
    silent = generation(unet, resources, unit(weight_type=weight_type, weight=0, composition_weight=1, boost=1))
    assert torch.equal(denoise(unet, silent), plain)


def test_layer_weights_of_1_are_the_default_and_of_0_the_plain_picture(unet, resources) -> None:
    default = denoise(unet, generation(unet, resources, unit()))
    plain = denoise(unet, None)
    assert torch.equal(denoise(unet, generation(unet, resources, unit(layer_weights=[1] * 16))), default)
    assert torch.equal(denoise(unet, generation(unet, resources, unit(layer_weights=[0] * 16))), plain)
    assert torch.equal(denoise(unet, generation(unet, resources, unit(layer_weights={"5": 0}))), plain)
    some = denoise(unet, generation(unet, resources, unit(layer_weights={str(t): 1 for t in range(16)})))
    assert torch.equal(some, default)
    listed = {str(t): float(t not in (4, 5)) for t in range(16)}
    strong = denoise(unet, generation(unet, resources, unit(weight_type="strong style transfer")))
    assert torch.equal(denoise(unet, generation(unet, resources, unit(layer_weights=listed))), strong)


def test_layer_weights_of_another_model_are_refused_with_both_numbers(unet, resources) -> None:
    with pytest.raises(IPAdapterError, match=r"^IP-Adapter unit 1: layer_weights holds 17 numbers.* has 16 "):
        generation(unet, resources, unit(layer_weights=[1] * 17))


# --- scaling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("width", [320, 1280])
def test_scaling_equals_its_formula(scaling: str, width: int) -> None:
    """Written out in double precision from the published table."""
    heads, weight = 8, 0.7
    q, k, v = (draw(2, n, width, seed=i).double() for i, n in ((1, 12), (2, 4), (3, 4)))
    w = weight * width / 1280
    kk, vv, out = {
        "V only": (k, v, weight),
        "K+V": (k * weight, v * weight, 1),
        "K+V w/ C penalty": (k * w, v * w, 1),
        "K+mean(V) w/ C penalty": (k * w, (v - v.mean(1, keepdim=True)) + v.mean(1, keepdim=True) * w, 1),
    }[scaling]
    split = [x.reshape(2, -1, heads, width // heads).transpose(1, 2) for x in (q, kk, vv)]
    scores = (split[0] @ split[1].transpose(-1, -2) / math.sqrt(width // heads)).softmax(-1)
    expected = (scores @ split[2]).transpose(1, 2).reshape(2, -1, width) * out
    prompt = ImagePrompt(KeysValues((k,), (v,)), weight, scaling=scaling)
    prompt.begin(0, 1)
    key, value = prompt.gather(0, 0, ROWS, q)
    ours = image_attention(q, key, value, heads)
    kinds = [0, 1]  # cond and uncond rows of one picture are the two entries
    assert close(ours, expected[kinds], 1e-9)


def test_scalings_differ_in_a_job_and_end_at_0(unet, resources) -> None:
    found = [denoise(unet, generation(unet, resources, unit(embeds_scaling=name, weight=0.6))) for name in SCALINGS]
    assert all((a - b).abs().mean() > 1e-4 for i, a in enumerate(found) for b in found[:i])
    zero = generation(unet, resources, unit(embeds_scaling=SCALINGS[-1], weight=0))
    assert torch.equal(denoise(unet, zero), denoise(unet, None))


# --- a curve over the steps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_curve_is_its_weight_in_every_step(scaling: str, unet) -> None:
    curve = ((0.0, 1.0), (0.5, 0.2), (0.9, 0.0), (1.0, 0.0))
    kv = make_prompt(unet, 5).kv
    x, t, text = inputs(unet)
    for step in range(5):
        ours = ImagePrompt(kv, curve, spread=spread("ease in", 16), scaling=scaling)
        fixed = ImagePrompt(kv, weight_at(curve, step, 5), spread=spread("ease in", 16), scaling=scaling)
        one, other = (call(unet, x, t, text, [p], ROWS, step=step, steps=5) for p in (ours, fixed))
        assert close(one, other, 1e-5)
        if step == 4:
            assert torch.equal(one, unet(x, t, context=text))


def test_a_curve_goes_through_one_attachment(unet) -> None:
    """The keys and values that are kept from step to step do not keep the weight."""
    curve = ((0.0, 1.0), (1.0, 0.2))
    kv = make_prompt(unet, 5).kv
    x, t, text = inputs(unet)
    with Injection(unet, cross_attention_layers(unet), [ImagePrompt(kv, curve)]) as injection:
        found = []
        for step in range(3):
            injection.begin(ROWS, step, 3)
            found.append(unet(x, t, context=text))
    for step, one in enumerate(found):
        assert close(one, call(unet, x, t, text, [ImagePrompt(kv, weight_at(curve, step, 3))], ROWS), 1e-5)
    assert far(found[0], found[2])


# --- regions --------------------------------------------------------------------------------------------------------


def test_a_region_of_everything_is_none_and_of_nothing_the_plain_picture(unet, resources) -> None:
    default, plain = denoise(unet, generation(unet, resources, unit())), denoise(unet, None)
    assert torch.equal(denoise(unet, generation(unet, resources, unit(region_mask=grey(255)))), default)
    assert torch.equal(denoise(unet, generation(unet, resources, unit(region_mask=grey(0)))), plain)
    soft = generation(unet, resources, unit(region_mask=grey(255), region_feather=0.3))
    assert torch.equal(denoise(unet, soft), default)


@pytest.mark.parametrize("feather", [0.0, 0.4])
def test_complementary_regions_of_one_reference_add_up_to_no_mask(feather: float, unet, resources) -> None:
    left = half("left", (50, 70))
    sides = [base64_of(side) for side in (left, ImageOps.invert(left))]
    both = generation(unet, resources, *(unit(region_mask=side, region_feather=feather) for side in sides))
    assert close(denoise(unet, both), denoise(unet, generation(unet, resources, unit())), 1e-5)
    assert far(denoise(unet, generation(unet, resources, unit(region_mask=sides[0]))), denoise(unet, both))


def test_half_a_grey_is_half_the_weight(unet, resources) -> None:
    masked = generation(unet, resources, unit(region_mask=base64_of(Image.new("L", (4, 4), 51))))
    assert close(denoise(unet, masked), denoise(unet, generation(unet, resources, unit(weight=0.2))), 1e-5)


@pytest.mark.parametrize("size", [(16, 16), (8, 24), (24, 8)])
def test_every_layer_is_left_alone_outside_and_changed_inside(size: tuple[int, int], unet) -> None:
    """Each layer's own addition, at its own height and width, in pictures that are not square."""
    region = Region(torch.from_numpy(np.array(half("left"), dtype=np.float32) / 255))
    prompt = make_prompt(unet, 5)
    layers = cross_attention_layers(unet)
    x, t, text = draw(2, 4, *size, seed=1), torch.full((2,), 500.0), draw(2, 77, 768, seed=2)
    sizes, before, added, handles = {}, {}, {}, []
    with Injection(unet, layers, [ImagePrompt(prompt.kv, region=region)]) as injection:
        for layer in layers:
            handles += [
                layer.transformer.register_forward_pre_hook(
                    lambda module, args: sizes.__setitem__(module, tuple(args[0].shape[-2:]))
                ),
                layer.out_projection.register_forward_pre_hook(
                    lambda module, args: before.__setitem__(module, args[0]), prepend=True
                ),
                layer.out_projection.register_forward_pre_hook(
                    lambda module, args, of=layer: added.__setitem__(
                        of.name, (sizes[of.transformer], args[0] - before[module])
                    )
                ),
            ]
        injection.begin(ROWS, 0, 1)
        unet(x, t, context=text)
    for handle in handles:
        handle.remove()
    assert len(added) == 16
    for (height, width), tensor in added.values():
        places = tensor.abs().sum(-1).reshape(2, height, width)
        inside, outside = places[..., : width // 2], places[..., -(width // 2) :]
        if width > 1:
            assert inside.min() > 0
            assert outside.max() == 0


def test_a_constant_mask_equals_diffusers(unet) -> None:
    x, t, text = inputs(unet)
    width = 768
    twin = diffusers_unet(unet, width)
    add_adapters(twin, [published(image_proj(width, 5), *kv_weights(unet, 5))], [0.8])
    embeds = draw(1, POOLED, seed=15)
    rows = [torch.stack([embeds, torch.zeros_like(embeds)])]
    masks = torch.full((1, 1, 16, 16), 0.4)
    theirs = twin(
        x, t, encoder_hidden_states=text, added_cond_kwargs={"image_embeds": rows},
        cross_attention_kwargs={"ip_adapter_masks": [masks]},
    ).sample  # fmt: skip
    prompt = make_prompt(unet, 5, 0.8)
    prompt.region = Region(torch.full((16, 16), 0.4))
    assert close(call(unet, x, t, text, [prompt], ROWS), theirs)
    assert far(theirs, run(twin, x, t, text, rows))


def test_a_part_of_the_picture_sees_its_part_of_the_mask() -> None:
    mask = torch.zeros(40, 60)
    mask[:, :30] = 1
    region = Region(mask)
    assert region.within((0, 0, 30, 40), (40, 60)).everywhere
    assert region.within((30, 0, 30, 40), (40, 60)).nowhere
    assert region.within((0, 0, 240, 160), (160, 240)).mask.mean() == 0.5  # a larger picture
    like = torch.zeros(1)
    seen = region.within((15, 10, 30, 20), (40, 60)).at((2, 4), like).reshape(2, 4)
    assert torch.equal(seen, torch.tensor([[1.0, 1, 0, 0]] * 2))


def test_a_region_is_exact_at_any_size() -> None:
    mask = (draw(37, 53, seed=4) > 0).float()
    for size in [(13, 11), (125, 96), (1, 1), (37, 53)]:
        seen, rest = (Region(m).at(size, torch.zeros(1)) for m in (mask, 1 - mask))
        assert close(seen + rest, torch.ones_like(seen), 1e-6)
        assert seen.shape == (1, size[0] * size[1], 1)
    assert torch.equal(Region(mask).at((37, 53), mask).reshape(37, 53), mask)


def test_a_whole_picture_is_told_from_a_part() -> None:
    for latent in ((64, 64), (13, 11), (125, 96), (9, 64)):
        size = latent
        for _ in range(4):
            assert is_whole(size, latent)
            size = tuple((side + 1) // 2 for side in size)
    assert is_whole((40, 60), (80, 120))
    assert not is_whole((64, 32), (64, 64))
    assert not is_whole((32, 64), (64, 64))
    assert not is_whole((4096, 1), (64, 64))


def test_a_feather_softens_edges_and_keeps_sums() -> None:
    mask = torch.zeros(64, 96)
    mask[:, :48] = 1
    soft = feathered(mask, 0.25)
    assert close(soft + feathered(1 - mask, 0.25), torch.ones_like(soft), 1e-5)
    row = soft[soft.shape[0] // 2]
    assert (row.diff() <= 1e-6).all()
    assert row[0] == pytest.approx(1, abs=1e-4)
    assert row[-1] == pytest.approx(0, abs=1e-4)
    edge = ((row > 0.023) & (row < 0.977)).sum().item() / soft.shape[0]  # two deviations to each side
    assert edge == pytest.approx(0.25, rel=0.1)
    assert torch.equal(feathered(mask, 0), mask)


def test_rows_that_are_taken_apart_are_told_not_guessed(unet) -> None:
    """A tile of the latent: nothing tells which, so the masked prompt stays out and the job hears of it."""
    prompt = ImagePrompt(make_prompt(unet, 5).kv, region=Region(torch.full((4, 4), 0.5)))
    x, t, text = inputs(unet)
    with Injection(unet, cross_attention_layers(unet), [prompt]) as injection:
        injection.begin(ROWS, 0, 1, size=(32, 32))
        tile = unet(x, t, context=text)
        assert injection.misplaced
    assert torch.equal(tile, unet(x, t, context=text))


def test_a_job_without_masks_notes_no_sizes(unet) -> None:
    before = sum(len(m._forward_pre_hooks) for m in unet.modules())
    with Injection(unet, cross_attention_layers(unet), [make_prompt(unet, 5)]):
        plain = sum(len(m._forward_pre_hooks) for m in unet.modules()) - before
    prompt = make_prompt(unet, 5)
    prompt.region = Region(torch.full((4, 4), 0.5))
    with Injection(unet, cross_attention_layers(unet), [prompt]):
        masked = sum(len(m._forward_pre_hooks) for m in unet.modules()) - before
    assert (plain, masked) == (17, 33)
    assert sum(len(m._forward_pre_hooks) for m in unet.modules()) == before


# --- references: masks, crops, combining ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_a_white_mask_of_a_reference_is_none_and_others_count(kind: str, unet, resources) -> None:
    image = base64_of(picture(0))

    def masked(mask) -> torch.Tensor:
        items = [{"image": image, "mask": mask}]
        return denoise(unet, generation(unet, resources, {"model": kind, "images": items}))

    default = masked(None)
    assert torch.equal(masked(grey(255)), default)
    assert far(masked(base64_of(half("left"))), default)
    black = [masked(grey(0)), denoise(unet, generation(unet, resources, {"model": kind, "images": [
        {"image": base64_of(picture(1)), "mask": grey(0)}]}))]  # fmt: skip
    assert torch.equal(*black)  # what it shows does not count any more


def test_a_mask_of_another_form_is_told(unet, resources) -> None:
    item = {"image": base64_of(picture(0, (64, 32))), "mask": base64_of(half("left", (40, 40)))}
    job = generation(unet, resources, {"model": "base", "images": [item]})
    assert job.plans[0].notes == (
        "the reference: the mask (40 x 40) is stretched over a picture of another form (64 x 32).",
    )
    assert generation(unet, resources, unit()).plans[0].notes == ()


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_tiles_of_a_picture_that_repeats_are_the_picture(kind: str, unet, resources) -> None:
    square = picture(0, (42, 42))
    strip = Image.new("RGB", (126, 42))
    for i in range(3):
        strip.paste(square, (42 * i, 0))
    tiled = generation(unet, resources, {"model": kind, "images": [base64_of(strip)], "crop": "tile"})
    one = generation(unet, resources, {"model": kind, "images": [base64_of(square)]})
    assert close(denoise(unet, tiled), denoise(unet, one), 1e-4)
    tokens = tiled.prompts[0][1].kv.keys[0].shape[1]
    assert tokens == (4 if kind == "base" else 3 * 16)


def test_tiles_of_a_square_picture_are_the_centre(unet, resources) -> None:
    square = [base64_of(picture(0, (50, 50)))]
    crops = [
        denoise(unet, generation(unet, resources, {"model": "plus", "images": square, "crop": crop}))
        for crop in ("tile", "center")
    ]
    assert torch.equal(*crops)


def test_every_crop_of_a_long_picture_differs(unet, resources) -> None:
    long = {"model": "base", "images": [base64_of(picture(3, (160, 48)))]}
    seen = [
        denoise(unet, generation(unet, resources, {**long, "crop": crop}))
        for crop in ("center", "left", "right", "pad", "stretch", "tile")
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_tiles_that_cannot_meet_are_refused(unet, resources) -> None:
    forms = [base64_of(picture(seed, size)) for seed, size in enumerate([(126, 42), (42, 42)])]
    with pytest.raises(IPAdapterError, match=r"unit 1: crop “tile” gives adapter plus more tokens"):
        generation(unet, resources, {"model": "plus", "images": forms, "crop": "tile", "combine": "average"})
    with pytest.raises(IPAdapterError, match=r"different numbers of tiles, and batch is “per image”"):
        generation(unet, resources, {"model": "plus", "images": forms, "crop": "tile", "batch": "per image"})
    for allowed in ({"combine": "concat"}, {"combine": "average", "model": "base"}):
        generation(unet, resources, {"model": "plus", "images": forms, "crop": "tile", **allowed})


@pytest.mark.parametrize("mode", ["concat", *COMBINE_MODES])
@pytest.mark.parametrize("kind", ["base", "plus"])
def test_one_reference_is_itself_in_every_mode(kind: str, mode: str, unet, resources) -> None:
    one = denoise(unet, generation(unet, resources, unit(kind)))
    if mode != "norm average":
        assert close(denoise(unet, generation(unet, resources, unit(kind, combine=mode))), one, 1e-5)
    two = denoise(unet, generation(unet, resources, unit(kind, (0, 1), combine=mode)))
    assert far(two, one)
    twice = denoise(unet, generation(unet, resources, unit(kind, (0, 0), combine=mode)))
    if mode in ("concat", "average", "max", "min"):
        assert close(twice, one, 1e-5)


@pytest.mark.parametrize("mode", ["concat", *COMBINE_MODES])
def test_a_references_weight_counts_in_every_mode(mode: str, unet, resources) -> None:
    images = [base64_of(picture(seed)) for seed in (0, 1)]

    def weighted(*weights: float) -> torch.Tensor:
        items = [{"image": image, "weight": weight} for image, weight in zip(images, weights, strict=True)]
        return denoise(unet, generation(unet, resources, {"model": "base", "images": items, "combine": mode}))

    assert far(weighted(1, 1), weighted(1, 0.3))
    assert close(weighted(0, 0), denoise(unet, None), 1e-6)


# --- the negative side ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_a_negative_reference_stands_in_the_place_of_none(kind: str, unet, resources) -> None:
    image, other = base64_of(picture(0)), base64_of(picture(1))

    def kv(**settings) -> KeysValues:
        return generation(unet, resources, {"model": kind, "images": [image], **settings}).prompts[0][1].kv

    default, same, another = kv(), kv(negative_images=[image]), kv(negative_images=[other])
    for key, plain in zip(same.keys, default.keys, strict=True):
        assert close(key[0], key[1], 1e-5)  # towards and away from the same
        assert torch.equal(key[0], plain[0])
    expected = generation(unet, resources, {"model": kind, "images": [other]}).prompts[0][1].kv
    assert close(another.values[3][1], expected.values[3][0], 1e-5)
    none = kv(negative_images=[{"image": other, "weight": 0}])
    assert torch.equal(none.values[3], default.values[3])
    assert close(kv(negative_images=[other, other]).values[3], another.values[3], 1e-5)


def test_negative_references_serve_any_number_of_references(unet, resources) -> None:
    few = unit("plus", (0, 1), negative_images=[base64_of(picture(2))])
    twice = unit("plus", (0, 1, 0, 1), negative_images=[base64_of(picture(2))])
    assert close(
        denoise(unet, generation(unet, resources, few)), denoise(unet, generation(unet, resources, twice)), 1e-5
    )


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_noise_is_mixed_into_the_unconditional_side_only(kind: str, unet, resources) -> None:
    def kv(noise: float) -> KeysValues:
        state = torch.get_rng_state()
        made = generation(unet, resources, unit(kind, noise=noise)).prompts[0][1].kv
        assert torch.equal(torch.get_rng_state(), state)
        return made

    none, some, all_ = kv(0.0), kv(0.5), kv(1.0)
    assert torch.equal(none.values[3], generation(unet, resources, unit(kind)).prompts[0][1].kv.values[3])
    for noisy in (some, all_):
        assert torch.equal(noisy.values[3][0], none.values[3][0])
        assert far(noisy.values[3][1], none.values[3][1])
    resources.unload()
    assert torch.equal(kv(0.5).values[3], some.values[3])  # the same whenever it is made


def test_words_are_for_pooled_embeddings_only(unet, resources) -> None:
    with pytest.raises(IPAdapterError, match=r"unit 1: subtract_prompt works on pooled embeddings only.*base adapter"):
        generation(unet, resources, unit("plus", subtract_prompt="red"))


def test_words_are_taken_out_of_the_reference_alone(unet, tmp_path: Path) -> None:
    """Against transformers' text tower and the projection written out."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(3)
        text = CLIPTextModelWithProjection(CLIPTextConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1,
            projection_dim=PROJECTION, hidden_act="gelu",
        )).eval()  # fmt: skip
    state = {k: v for k, v in text.state_dict().items() if not k.endswith("position_ids")}
    write_adapter(tmp_path / "base.safetensors", unet)
    save_file({**encoder_state(), **state}, tmp_path / "clip.safetensors")
    catalog = Catalog([tmp_path], [])
    catalog.refresh()
    resources = Resources(catalog)

    def kv(**settings) -> KeysValues:
        return generation(unet, resources, unit(**settings)).prompts[0][1].kv

    entry = catalog.encoders[0]
    encoder = ImageEncoder.from_state(entry.spec, encoder_state(), dtype=torch.float32)
    e = encoder.encode(to_pixels(picture(0), entry.spec.image_size), "pooled").pooled
    w = text(torch.tensor([token_ids("a red sofa")])).text_embeds
    w = w / w.norm()
    taken = e - (e @ w.T) * w
    weights = resources.adapter(catalog.find("base"), catalog.find("base").spec)
    tokens = build("ImageProj", weights.image_proj, 768)(taken)[0]
    made, plain = kv(subtract_prompt="a red sofa"), kv()
    assert close(made.keys[3][0], tokens @ weights.key[3].T, 1e-4)
    assert far(made.keys[3][0], plain.keys[3][0])
    assert torch.equal(made.keys[3][1], plain.keys[3][1])  # the unconditional side
    assert not close(kv(subtract_prompt="blue").keys[3], made.keys[3], 1e-4)
    with pytest.raises(IPAdapterError, match=r"unit 1: the words to subtract are .* use fewer words"):
        kv(subtract_prompt="red " * 100)
