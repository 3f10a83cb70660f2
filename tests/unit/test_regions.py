"""Where in the picture a reference acts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.prompt import ImagePrompt
from lib_ipadapter.attend.regions import Part, Region, feathered, is_whole
from lib_ipadapter.attend.rows import layout
from lib_ipadapter.errors import PictureError
from tests.helpers.diffusers_reference import add_adapters, diffusers_unet, published, run
from tests.helpers.files import base64_of, half, unit
from tests.helpers.jobs import denoise, far, generation
from tests.helpers.prompts import POOLED, base_projection, call, inputs, make_prompt
from tests.helpers.tensors import close, draw, kv_weights

ROWS = layout([1], 2)


def grey(value: int, size: tuple[int, int] = (8, 8)) -> str:
    return base64_of(Image.new("L", size, value))


def test_a_region_of_everything_is_none_and_of_nothing_is_refused(unet, resources) -> None:
    default = denoise(unet, generation(unet, resources, unit()))
    assert torch.equal(denoise(unet, generation(unet, resources, unit(region_mask=grey(255)))), default)
    for feather in (0.0, 0.5):
        with pytest.raises(PictureError, match="^IP-Adapter unit 1: region_mask: the mask is black all over"):
            generation(unet, resources, unit(region_mask=grey(0), region_feather=feather))
    corner = Image.new("L", (8, 8))
    corner.putpixel((0, 0), 1)
    generation(unet, resources, unit(region_mask=base64_of(corner)))
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
    x, t, text = inputs(unet, size=16)
    width = 768
    twin = diffusers_unet(unet, width)
    add_adapters(twin, [published(base_projection(width, 5), *kv_weights(unet, 5))], [0.8])
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
    assert region.within(Part((40, 60), ((0, 0, 30, 40),))).everywhere
    assert region.within(Part((40, 60), ((30, 0, 30, 40),))).nowhere
    assert region.within(Part((160, 240), ((0, 0, 240, 160),))).mask.mean() == 0.5  # a larger picture
    like = torch.zeros(1)
    seen = region.within(Part((40, 60), ((15, 10, 30, 20),))).at((2, 4), like).reshape(2, 4)
    assert torch.equal(seen, torch.tensor([[1.0, 1, 0, 0]] * 2))
    beyond = region.within(Part((40, 60), ((-30, -20, 120, 80),))).mask
    assert torch.equal(beyond[0, ::30], torch.tensor([1.0, 1, 0, 0])) and beyond.shape == (80, 120)


def test_each_picture_of_a_batch_sees_its_own_part() -> None:
    mask = torch.zeros(8, 24)
    mask[:, :8] = 1
    tiles = Region(mask).within(Part((8, 24), ((0, 0, 8, 8), (4, 0, 8, 8), (16, 0, 8, 8))))
    assert not tiles.everywhere and not tiles.nowhere
    seen = tiles.at((1, 2), torch.zeros(1), [0, 1, 2, 0, 1, 2])
    assert torch.equal(seen[..., 0], torch.tensor([[1.0, 1], [1, 0], [0, 0]] * 2))
    assert torch.equal(tiles.at((1, 2), torch.zeros(1), [1])[..., 0], torch.tensor([[1.0, 0]]))
    one = Region(mask).within(Part((8, 24), ((4, 0, 8, 8),)))
    assert one.at((1, 2), torch.zeros(1), [0, 1]).shape == (1, 2, 1)  # the same for all


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
