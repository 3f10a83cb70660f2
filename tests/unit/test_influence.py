"""Influence maps: what is measured, where, and for which picture."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lib_ipadapter.attend import inject
from lib_ipadapter.attend.influence import Influence, layer_size
from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.rows import Row, layout
from lib_ipadapter.jobs.generation import Generation
from lib_ipadapter.weighting import Spread
from tests.helpers.files import unit
from tests.helpers.jobs import generation
from tests.helpers.prompts import make_prompt
from tests.helpers.tensors import close, draw


def mapped(seeds: tuple[int, ...] = (0,), **settings) -> dict:
    return unit(seeds=seeds, **{"influence_map": True, **settings})


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", [(64, 64), (65, 33), (96, 40), (9, 127), (17, 16), (1, 5)])
def test_a_layers_size_is_the_latents_halved(latent: tuple[int, int]) -> None:
    height, width = latent
    for _ in range(4):
        assert layer_size(height * width, latent) == (height, width)
        height, width = (height + 1) // 2, (width + 1) // 2


def test_other_sizes_are_told_by_the_latents_form() -> None:
    assert layer_size(42 * 28, (96, 64)) == (42, 28)  # shrunk by an extension
    assert layer_size(2048, (64, 64)) is None  # merged tokens are no picture
    assert layer_size(37, (64, 64)) is None


# --- measuring ------------------------------------------------------------------------------------------------------


def measured(unet, prompts, rows=None, *, size: int = 16, steps: int = 1, apart: bool = False, announce: bool = True):
    """One pass; every step has the same input. Returns the UNet's last output."""
    rows = rows or layout([1], 2)
    width = cross_attention_layers(unet)[0].context_width
    x, t, text = draw(len(rows), 4, size, size, seed=50), torch.full((len(rows),), 500.0), draw(
        len(rows), 77, width, seed=51
    )  # fmt: skip
    for prompt in prompts:
        prompt.influence = Influence()
    with Injection(unet, cross_attention_layers(unet), prompts) as injection:
        for step in range(steps):
            injection.begin(rows, step, steps, size=(size, size) if announce else None)
            parts = range(len(rows)) if apart else [slice(None)]
            out = [unet(x[i : i + 1], t[:1], context=text[i : i + 1]) if apart else unet(x, t, context=text)
                   for i in parts]  # fmt: skip
    return torch.cat(out)


def test_equals_an_independent_computation(unet, monkeypatch) -> None:
    """The same from what the layers are called with, by another formula, for a batch with two texts in one picture."""
    rows = layout([2, 1], 5)
    prompt = make_prompt(unet, 5, 0.7)
    expected, layers = {}, cross_attention_layers(unet)

    def spy(layer, index):
        def hook(module, args):
            query = layer.to_q.last
            heads, hidden = layer.heads, args[0]
            for i, row in enumerate(rows):
                if not row.cond:
                    continue
                q = query[i].reshape(len(query[i]), heads, -1).double()
                k, v = (x[index][0].reshape(4, heads, -1).double() for x in (prompt.kv.keys, prompt.kv.values))
                share = torch.einsum("lhc,thc->hlt", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
                added = 0.7 * torch.einsum("hlt,thc->lhc", share, v).flatten(1)
                ratio = added.square().sum(1).sqrt() / hidden[i].double().square().sum(1).sqrt()
                side = round(len(ratio) ** 0.5)
                whole = F.interpolate(ratio.reshape(1, 1, side, side), (16, 16), mode="bilinear")[0, 0]
                expected.setdefault(row.picture, []).append(whole)

        return hook

    handles = []
    for index, layer in enumerate(layers):
        handles.append(layer.to_q.register_forward_hook(lambda m, a, out: setattr(m, "last", out)))
        handles.append(layer.out_projection.register_forward_pre_hook(spy(layer, index)))
    measured(unet, [prompt], rows)
    for handle in handles:
        handle.remove()
    for layer in layers:
        del layer.to_q.last
    maps = prompt.influence.maps()
    assert sorted(maps) == [0, 1]
    for i in range(2):
        assert len(expected[i]) == 16 * (2 - i)
        assert close(maps[i], torch.stack(expected[i]).mean(0).float(), 1e-5)
    assert maps[0].mean() > 0.01
    assert not close(maps[0], maps[1], 1e-3)


def test_the_picture_is_the_same_with_and_without(unet) -> None:
    prompt = make_prompt(unet, 5)
    with_map = measured(unet, [prompt])
    prompt.influence = None
    x, text = draw(2, 4, 16, 16, seed=50), draw(2, 77, 768, seed=51)
    with Injection(unet, cross_attention_layers(unet), [prompt]) as injection:
        injection.begin(layout([1], 2), 0, 1)
        assert torch.equal(unet(x, torch.full((2,), 500.0), context=text), with_map)


def test_two_halves_add_up_to_one(unet) -> None:
    one, half, other = make_prompt(unet, 5, 0.8), make_prompt(unet, 5, 0.4), make_prompt(unet, 5, 0.4)
    measured(unet, [one])
    measured(unet, [half, other])
    whole, first, second = (prompt.influence.maps()[0] for prompt in (one, half, other))
    assert close(first, second, 1e-5)
    assert close(first + second, whole, 1e-4)


def test_steps_and_layers_without_a_say_count_as_none(unet) -> None:
    always, early = make_prompt(unet, 5), make_prompt(unet, 5, end=0.25)
    part = make_prompt(unet, 5, spread=Spread(dict.fromkeys(range(8, 16), 1.0)))
    rest = make_prompt(unet, 5, spread=Spread(dict.fromkeys(range(8), 1.0)))
    for prompts in ([always], [early]):
        measured(unet, prompts, steps=4)
    assert close(early.influence.maps()[0], always.influence.maps()[0] / 4, 1e-4)
    measured(unet, [part])
    measured(unet, [rest])
    assert part.influence.maps()[0].mean() > 0
    silent = make_prompt(unet, 5, spread=Spread())
    both = make_prompt(unet, 5, 0.001)  # so little that the queries hardly differ
    pieces = [make_prompt(unet, 5, 0.001, spread=s) for s in (part.spread, rest.spread)]
    measured(unet, [both, *pieces, silent])
    both, first, second = (prompt.influence.maps()[0] for prompt in (both, *pieces))
    assert close(first + second, both, 1e-4)
    assert silent.influence.maps() == {}


def test_steps_whose_calls_tell_their_rows_may_have_more_than_was_announced(unet) -> None:
    """As on Forge, where a step has one conditional row for each picture, and AND prompts are told with their calls:
    the same text twice is no stronger, be the unit in all blocks and steps or in few."""
    once, twice = layout([1], 2), (Row(True, 0), Row(True, 0), Row(False, 0))
    settings = {}, {"spread": Spread({4: 1.0, 5: 1.0})}, {"end": 0.5}, {"start": 0.5, "spread": Spread({9: 0.5})}
    x, text = draw(1, 4, 16, 16, seed=50), draw(1, 77, 768, seed=51)
    for given in settings:
        means = []
        for rows in (once, twice):
            prompt = make_prompt(unet, 5, **given)
            prompt.influence = Influence()
            with Injection(unet, cross_attention_layers(unet), [prompt]) as injection:
                for step in range(4):
                    injection.begin(once, step, 4, size=(16, 16), rows_of_call=lambda _kwargs, _n, rows=rows: rows)
                    n = len(rows)
                    unet(x.expand(n, -1, -1, -1), torch.full((n,), 500.0), context=text.expand(n, -1, -1))
            means.append(prompt.influence.maps()[0])
        assert close(*means, 1e-5)


def test_calls_together_and_apart(unet) -> None:
    prompt, rows = make_prompt(unet, 5), layout([1, 1], 4)
    measured(unet, [prompt], rows)
    together = prompt.influence.maps()
    measured(unet, [prompt], rows, apart=True, announce=False)
    apart = prompt.influence.maps()
    assert sorted(together) == sorted(apart) == [0, 1]
    assert all(close(together[i], apart[i], 1e-5) for i in range(2))


def test_a_place_without_value_is_zero(unet, monkeypatch) -> None:
    """The left half gets nothing: it is dark up to where the coarsest layer (2x2) is blended over."""
    attention = inject.image_attention

    def right_only(query, key, value, heads):
        out = attention(query, key, value, heads)
        side = round(out.shape[1] ** 0.5)
        out.unflatten(1, (side, side))[:, :, : side // 2] = 0
        return out

    monkeypatch.setattr(inject, "image_attention", right_only)
    prompt = make_prompt(unet, 5)
    measured(unet, [prompt])
    found = prompt.influence.maps()[0]
    assert torch.all(found[:, :4] == 0)
    assert torch.all(found[:, 4:] > 0)
    assert found[:, 12:].mean() > 10 * found[:, :8].mean()


def test_odd_sizes_and_uncond_rows() -> None:
    """By hand: a 5x3 latent, a layer of its size and one of half of it (3x2)."""
    influence = Influence()
    rows = (Row(True, 0), Row(False, 0))
    influence.begin(rows, (5, 3), 7, 2, 3)
    influence.enter((5, 3))
    added = torch.zeros(2, 15, 4)
    added[0, 4] = 1  # second line, second column
    added[1] = 100
    influence.add(added, torch.full((2, 15, 4), 2.0), rows)
    influence.add(torch.full((2, 6, 4), 3.0), torch.full((2, 6, 4), 2.0), rows)
    ((index, found),) = influence.maps().items()
    expected = torch.full((5, 3), 1.5 / 3)  # three layers, one of which rests
    expected[1, 1] += 0.5 / 3
    assert index == 7
    assert close(found, expected, 1e-6)
    assert not influence.incomplete


def test_text_without_length_and_half_precision() -> None:
    influence, rows = Influence(), (Row(True, 0),)
    influence.begin(rows, (1, 2), 0, 1, 1)
    influence.enter((1, 2))
    text = torch.tensor([[[0.0, 0.0], [300.0, 400.0]]], dtype=torch.float16)
    influence.add(torch.full((1, 2, 2), 300.0, dtype=torch.float16), text, rows)
    assert influence.maps()[0].tolist() == [[0.0, pytest.approx(0.6 * 2**0.5, abs=1e-4)]]


def test_tiles_have_no_known_place(unet) -> None:
    influence, rows = Influence(), (Row(True, 0),)
    influence.begin(rows, (16, 16), 0, 1, 1)
    influence.enter((8, 8))
    influence.add(torch.ones(1, 64, 4), torch.ones(1, 64, 4), rows)
    assert influence.maps() == {}
    assert influence.incomplete
    taken_apart = Influence()
    taken_apart.begin(rows, (16, 16), 0, 1, 1)
    taken_apart.enter((16, 16))
    taken_apart.add(torch.ones(4, 64, 4), torch.ones(4, 64, 4), rows)
    assert taken_apart.maps() == {}
    assert taken_apart.incomplete


def sample(unet, generation: Generation, size: int = 16, *, pictures: int = 1, seed: int = 1, **kwargs) -> None:
    rows = 2 * pictures
    injection = generation.attach(unet, **kwargs)
    if injection is not None:
        injection.begin(layout([1] * pictures, rows), 0, 1, size=(size, size))
        unet(draw(rows, 4, size, size, seed=seed), torch.full((rows,), 500.0), context=draw(rows, 77, 768, seed=2))
    generation.detach()


def test_a_jobs_maps_are_those_of_its_pictures(unet, resources) -> None:
    made = generation(
        unet,
        resources,
        mapped(seeds=(0, 1, 2), batch="per image"),
        mapped(influence_map=False),
        mapped(seeds=(3,), weight=0),
    )
    assert made.maps.units == [1, 3]
    for first in (0, 2):
        sample(unet, made, pictures=2, first_picture=first, seed=first)
    for i in range(4):
        alone = generation(unet, resources, mapped((i % 3,)), mapped(influence_map=False), mapped(seeds=(3,), weight=0))
        sample(unet, alone, pictures=2, seed=i // 2 * 2)
        assert close(made.influence(i)[1], alone.influence(i % 2)[1], 1e-5), i
        assert made.influence(i)[3].tolist() == [[0.0]]
    assert not close(made.influence(0)[1], made.influence(1)[1], 1e-3)
    assert generation(unet, resources, mapped(), measure=False).maps.units == []


def test_the_last_pass_that_a_unit_took_part_in_counts(unet, resources) -> None:
    made = generation(unet, resources, mapped(), mapped(hires="base"), mapped(hires="hires"))
    sample(unet, made)
    before = made.influence(0)
    assert [tuple(before[n].shape) for n in (1, 2, 3)] == [(16, 16), (16, 16), (1, 1)]
    sample(unet, made, 32, hires_pass=True)
    after = made.influence(0)
    assert [tuple(after[n].shape) for n in (1, 2, 3)] == [(32, 32), (16, 16), (32, 32)]
    assert torch.equal(after[2], before[2])


def test_another_unet_goes_on_with_the_pass(unet, resources) -> None:
    whole, parts = generation(unet, resources, mapped()), generation(unet, resources, mapped())
    sample(unet, whole)
    single = whole.influence(0)[1]
    sample(unet, parts)
    sample(unet, parts, same_pass=True)
    assert close(parts.influence(0)[1], single, 1e-5)
    sample(unet, parts, seed=9, same_pass=True)
    other = generation(unet, resources, mapped())
    sample(unet, other, seed=9)
    assert close(parts.influence(0)[1], (2 * single + other.influence(0)[1]) / 3, 1e-5)
    sample(unet, parts, seed=9)
    assert close(parts.influence(0)[1], other.influence(0)[1], 1e-6)


def test_a_job_of_tiles_says_that_nothing_is_known(unet, resources) -> None:
    made = generation(unet, resources, mapped())
    injection = made.attach(unet)
    injection.begin(layout([1], 2), 0, 1, size=(32, 32))
    unet(draw(2, 4, 16, 16, seed=1), torch.full((2,), 500.0), context=draw(2, 77, 768, seed=2))
    made.detach()
    assert made.influence(0) == {1: None}
