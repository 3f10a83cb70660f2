"""Injection: equal to diffusers, and equal to nothing once it is removed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.injection import detach_all, injections
from lib_ipadapter.attend.layers import Topology, cross_attention_layers
from lib_ipadapter.attend.outcome import Outcome
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.rows import layout
from lib_ipadapter.weighting import Spread
from tests.helpers.diffusers_reference import add_adapters, diffusers_unet, published, run
from tests.helpers.prompts import POOLED, base_projection, call, inputs, make_prompt
from tests.helpers.tensors import close, draw, kv_weights
from tests.helpers.unets import sd_unet, sdxl_unet

UNETS = {
    "sd15": (lambda: sd_unet(), {}),
    "sd15-inpainting": (lambda: sd_unet(in_channels=9), {}),
    "sd2": (lambda: sd_unet(1024, linear=True), {"linear": True}),
    "sdxl": (lambda: sdxl_unet(), {"xl": True, "linear": True}),
}


@pytest.mark.parametrize("kind", UNETS)
def test_equals_diffusers(kind: str) -> None:
    """One adapter, and two with different weights, one of which has two references; [cond, uncond] rows."""
    make, options = UNETS[kind]
    unet = make()
    layers = cross_attention_layers(unet)
    width = layers[0].context_width
    x, t, text = inputs(unet, size=16)
    twin = diffusers_unet(unet, width, **options)
    assert close(unet(x, t, context=text), twin(x, t, encoder_hidden_states=text).sample)

    one, two = draw(1, POOLED, seed=21), draw(2, POOLED, seed=22)
    prompts = [make_prompt(unet, 5, 0.7, one), make_prompt(unet, 6, 1.3, two)]
    rows = layout([1], 2)
    ours = call(unet, x, t, text, prompts, rows)

    files = [published(base_projection(width, seed), *kv_weights(unet, seed)) for seed in (5, 6)]
    add_adapters(twin, files, [0.7, 1.3])
    embeds = [torch.stack([one, torch.zeros_like(one)]), torch.stack([two, torch.zeros_like(two)])]
    theirs = run(twin, x, t, text, embeds)
    assert (ours - unet(x, t, context=text)).abs().mean() > 1e-2
    assert close(ours, theirs), (ours - theirs).abs().max()

    add_adapters(twin, files[:1], [0.7])
    assert close(call(unet, x, t, text, prompts[:1], rows), run(twin, x, t, text, embeds[:1]))


@pytest.mark.parametrize(("make", "count"), [(sd_unet, 16), (sdxl_unet, 70)])
def test_layers_are_numbered_as_in_the_published_tables(make, count: int) -> None:
    layers = cross_attention_layers(make())
    names = {2 * i + 1: (layer.name.split(".transformer")[0], layer.block) for i, layer in enumerate(layers)}
    assert len(layers) == count
    if count == 16:
        assert names[1] == ("input_blocks.1.1", 0)
        assert names[11] == ("input_blocks.8.1", 5)
        assert names[13] == ("output_blocks.3.1", 7)
        assert names[29] == ("output_blocks.11.1", 15)
        assert names[31] == ("middle_block.1", 6)
    else:
        assert names[1] == names[3] == ("input_blocks.4.1", 0)
        assert names[9] == names[27] == ("input_blocks.7.1", 2)
        assert names[29] == names[47] == ("input_blocks.8.1", 3)
        assert names[69] == names[87] == ("output_blocks.1.1", 6)
        assert names[119] == ("output_blocks.5.1", 10)
        assert names[121] == names[139] == ("middle_block.1", 4)
    assert Topology.of(layers).base == ("SD1.5" if count == 16 else "SDXL")


def test_two_halves_are_one_whole(unet) -> None:
    x, t, text = inputs(unet)
    rows = layout([1], 2)
    whole = call(unet, x, t, text, [make_prompt(unet, 5, 0.8)], rows)
    halves = call(unet, x, t, text, [make_prompt(unet, 5, 0.4), make_prompt(unet, 5, 0.4)], rows)
    assert close(whole, halves, 1e-5)
    assert not close(whole, call(unet, x, t, text, [make_prompt(unet, 5, 0.4)], rows), 1e-3)


def test_two_equal_references_are_one(unet) -> None:
    x, t, text = inputs(unet)
    reference = draw(1, POOLED, seed=33)
    once = call(unet, x, t, text, [make_prompt(unet, 5, embeds=reference)], layout([1], 2))
    twice = call(unet, x, t, text, [make_prompt(unet, 5, embeds=reference.repeat(2, 1))], layout([1], 2))
    assert close(once, twice, 1e-5)


def test_layer_factors_choose_layers(unet) -> None:
    x, t, text = inputs(unet)
    rows = layout([1], 2)
    full = call(unet, x, t, text, [make_prompt(unet, 5)], rows)
    ones = call(unet, x, t, text, [make_prompt(unet, 5, spread=Spread(dict.fromkeys(range(16), 1.0)))], rows)
    none = call(unet, x, t, text, [make_prompt(unet, 5, spread=Spread(dict.fromkeys(range(16), 0.0)))], rows)
    some = call(unet, x, t, text, [make_prompt(unet, 5, spread=Spread({t: float(t != 5) for t in range(16)}))], rows)
    assert torch.equal(ones, full)
    assert torch.equal(none, unet(x, t, context=text))
    assert not close(some, full, 1e-3)


def test_zero_weight_is_the_plain_unet_bit_for_bit(unet) -> None:
    x, t, text = inputs(unet)
    assert torch.equal(call(unet, x, t, text, [make_prompt(unet, 5, 0.0)], layout([1], 2)), unet(x, t, context=text))


def test_negative_weight_pushes_the_other_way(unet) -> None:
    x, t, text = inputs(unet)
    plain = unet(x, t, context=text)
    plus = call(unet, x, t, text, [make_prompt(unet, 5, 0.05)], layout([1], 2)) - plain
    minus = call(unet, x, t, text, [make_prompt(unet, 5, -0.05)], layout([1], 2)) - plain
    assert torch.nn.functional.cosine_similarity(plus.flatten(), minus.flatten(), dim=0) < -0.8


def test_detaching_restores_the_unet_bit_for_bit(unet) -> None:
    x, t, text = inputs(unet)
    hooked = [m for m in unet.modules() if m._forward_hooks or m._forward_pre_hooks]
    before = unet(x, t, context=text)
    injection = Injection(unet, cross_attention_layers(unet), [make_prompt(unet, 5)]).attach()
    assert torch.equal(unet(x, t, context=text), before)  # attached, but no step was announced
    injection.begin(layout([1], 2), 0, 1)
    assert not torch.equal(unet(x, t, context=text), before)
    injection.detach()
    assert torch.equal(unet(x, t, context=text), before)
    assert [m for m in unet.modules() if m._forward_hooks or m._forward_pre_hooks] == hooked
    injection.detach()  # once more does no harm


def test_stale_hooks_are_found_and_removed(unet) -> None:
    layers = cross_attention_layers(unet)
    left = [Injection(unet, layers, [make_prompt(unet, 5)]).attach() for _ in range(2)]
    assert injections(unet) == left
    detach_all(unet)
    assert injections(unet) == []
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())


def test_an_exception_in_the_unet_leaves_nothing(unet) -> None:
    x, t, text = inputs(unet)
    before = unet(x, t, context=text)
    with (
        pytest.raises(RuntimeError),
        Injection(unet, cross_attention_layers(unet), [make_prompt(unet, 5)]) as injection,
    ):
        injection.begin(layout([1], 2), 0, 1)
        unet(x, t, context=text[..., :5])
    assert torch.equal(unet(x, t, context=text), before)


def test_attaching_twice_counts_once(unet) -> None:
    x, t, text = inputs(unet)
    once = call(unet, x, t, text, [make_prompt(unet, 5)], layout([1], 2))
    with Injection(unet, cross_attention_layers(unet), [make_prompt(unet, 5)]).attach() as injection:
        injection.begin(layout([1], 2), 0, 1)
        assert torch.equal(unet(x, t, context=text), once)


@pytest.mark.parametrize(
    ("start", "end", "steps", "expected"),
    [
        (0.0, 1.0, 4, [0, 1, 2, 3]),
        (0.25, 0.75, 4, [1, 2]),
        (0.0, 0.5, 4, [0, 1]),
        (0.5, 1.0, 4, [2, 3]),
        (0.3, 0.6, 10, [3, 4, 5]),
        (0.1 + 0.2, 0.7, 10, [3, 4, 5, 6]),
        (0.3, 0.31, 4, [1]),
        (0.9, 1.0, 4, [3]),
        (0.0, 0.5, 5, [0, 1]),
        (0.5, 1.0, 5, [2, 3, 4]),
        (0.2, 0.7, 3, [1]),
        (0.999, 1.0, 20, [19]),
        (0.0, 0.01, 4, [0]),
    ],
)
def test_a_unit_acts_in_its_share_of_the_steps(start, end, steps, expected, unet) -> None:
    prompt = make_prompt(unet, 5, start=start, end=end)
    assert [step for step in range(steps) if prompt.acts_in(step, steps)] == expected
    assert prompt.acts_in(steps + 3, steps) == prompt.acts_in(steps - 1, steps)  # a sampler that goes on


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.integers(1, 60), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_windows_that_share_their_ends_share_no_step(steps: int, a: float, b: float, c: float) -> None:
    kv = KeysValues((torch.zeros(2, 1, 1),), (torch.zeros(2, 1, 1),))
    a, b, c = sorted((a, b, c))
    if min(b - a, c - b) * steps < 1:
        return  # windows shorter than a step

    def acting(start: float, end: float) -> list[int]:
        prompt = ImagePrompt(kv, start=start, end=end)
        return [step for step in range(steps) if prompt.acts_in(step, steps)]

    assert acting(a, b) + acting(b, c) == acting(a, c)
    assert abs(len(acting(a, c)) - (c - a) * steps) <= 1 + 1e-3


def test_outside_its_steps_a_unit_changes_nothing(unet) -> None:
    x, t, text = inputs(unet)
    prompt = make_prompt(unet, 5, start=0.5)
    rows = layout([1], 2)
    assert torch.equal(call(unet, x, t, text, [prompt], rows, step=1, steps=4), unet(x, t, context=text))
    assert not torch.equal(call(unet, x, t, text, [prompt], rows, step=2, steps=4), unet(x, t, context=text))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_works_in_the_unets_dtype(dtype: torch.dtype) -> None:
    query = draw(2, 9, 32, seed=1).to(dtype)
    from lib_ipadapter.attend.inject import image_attention

    key, value = draw(2, 5, 32, seed=2).to(dtype), draw(2, 5, 32, seed=3).to(dtype)
    out = image_attention(query, key, value, 4)
    assert out.dtype == dtype
    q, k, v = (z.double().reshape(2, -1, 4, 8).transpose(1, 2) for z in (query, key, value))
    expected = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1) @ v
    assert torch.allclose(out.double(), expected.transpose(1, 2).reshape(2, 9, 32), atol=3e-2, rtol=0)


def test_a_replaced_attention_forward_still_sees_the_reference(unet) -> None:
    """ControlNet replaces ``attn2.forward`` by an own one that calls the same modules."""
    x, t, text = inputs(unet)
    expected = call(unet, x, t, text, [make_prompt(unet, 5)], layout([1], 2))

    def forward(self, x, context=None, mask=None):
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        q, k, v = (z.unflatten(-1, (self.heads, -1)).transpose(1, 2) for z in (q, k, v))
        return self.to_out(torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    for layer in cross_attention_layers(unet):
        layer.module.forward = forward.__get__(layer.module)
    try:
        assert close(call(unet, x, t, text, [make_prompt(unet, 5)], layout([1], 2)), expected)
    finally:
        for layer in cross_attention_layers(unet):
            del layer.module.forward


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("parts", [2, 4])
def test_an_attention_that_takes_rows_apart_stays_whole_or_plain(parts: int, copied: bool, unet) -> None:
    """Another extension's attn2 works on some of the rows at a time, last ones first: as long as these can be told,
    every row has its own side; otherwise nothing is added, and no exception raised."""
    rows = layout([1, 1], 4)
    x, t, text = inputs(unet, rows=4)
    plain, whole = unet(x, t, context=text), call(unet, x, t, text, [make_prompt(unet, 5)], rows)
    layers = cross_attention_layers(unet)

    def forward(self, x, context=None, mask=None):
        pairs = list(zip(x.chunk(parts), context.chunk(parts), strict=True))
        done = [type(self).forward(self, z.clone() if copied else z, c) for z, c in reversed(pairs)]
        return torch.cat(done[::-1])

    for layer in layers:
        layer.module.forward = forward.__get__(layer.module)
    try:
        with Injection(unet, layers, [make_prompt(unet, 5)]) as injection:
            injection.begin(rows, 0, 1)
            out = unet(x, t, context=text)
            assert (injection.lost > 0) == (injection.outcome is Outcome.LOST) == copied
    finally:
        for layer in layers:
            del layer.module.forward
    assert close(out, plain if copied else whole)
    assert not close(plain, whole, 1e-2)


def test_mixed_dtypes_meet_in_the_layers_own(unet) -> None:
    x, t, text = inputs(unet)
    rows = layout([1], 2)
    full = call(unet, x, t, text, [make_prompt(unet, 5)], rows)
    prompt = make_prompt(unet, 5)
    halves = KeysValues(tuple(k.half() for k in prompt.kv.keys), tuple(v.half() for v in prompt.kv.values))
    out = call(unet, x, t, text, [ImagePrompt(halves)], rows)
    assert out.dtype == torch.float32
    assert close(out, full, 2e-2)
    assert not torch.equal(out, full)
