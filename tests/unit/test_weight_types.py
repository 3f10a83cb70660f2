"""Which blocks a reference acts in, how its values are scaled, and its weight over the steps."""

from __future__ import annotations

import math

import pytest
import torch

from lib_ipadapter.attend.inject import Injection, image_attention
from lib_ipadapter.attend.layers import count_blocks, cross_attention_layers
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.rows import layout
from lib_ipadapter.errors import IPAdapterError
from lib_ipadapter.weighting import SCALINGS, WEIGHT_TYPES, Spread, spread, weight_at
from tests.helpers.files import unit
from tests.helpers.jobs import denoise, far, generation
from tests.helpers.prompts import call, inputs, make_prompt
from tests.helpers.tensors import close, draw
from tests.helpers.unets import sd_unet, sdxl_unet

ROWS = layout([1], 2)


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
    held = prompt.gather(0, 0, prompt.sides(0, ROWS), q)
    ours = image_attention(q, held.key, held.value, heads)
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


@pytest.mark.parametrize("weight_type", ["style and composition", "style transfer precise"])
def test_what_has_its_own_weight_goes_on_where_a_curve_is_0(weight_type: str, unet) -> None:
    """As with a curve that comes as near to 0 as can be; and a weight of 0 still is the plain picture."""
    kv, made = make_prompt(unet, 5).kv, spread(weight_type, 16, 0.7, boost=0.7)
    x, t, text = inputs(unet)

    def last(weight) -> torch.Tensor:
        return call(unet, x, t, text, [ImagePrompt(kv, weight, spread=made)], ROWS, step=3, steps=4)

    at_zero = last(((0.0, 1.0), (0.5, 0.0)))
    assert close(at_zero, last(((0.0, 1.0), (0.5, 1e-9))), 1e-5)
    assert far(at_zero, unet(x, t, context=text))
    assert torch.equal(last(0.0), unet(x, t, context=text))
    ended = ImagePrompt(kv, ((0.0, 1.0), (0.5, 0.0)), end=0.5, spread=made)
    assert torch.equal(call(unet, x, t, text, [ended], ROWS, step=3, steps=4), unet(x, t, context=text))


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
