"""How much a unit did: of what, when, and that the sums are those of the influence maps."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lib_ipadapter import bases
from lib_ipadapter.attend.flux.inject import FluxInjection
from lib_ipadapter.attend.influence import Influence
from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.models import topology_of
from lib_ipadapter.attend.prompt import ImagePrompt
from lib_ipadapter.attend.regions import Region
from lib_ipadapter.attend.rows import Row, Rows, layout
from lib_ipadapter.attend.shares import Shares, stand_for, third_of
from lib_ipadapter.jobs.generation import Generation, PassPrompt
from lib_ipadapter.jobs.influence import InfluenceMaps
from lib_ipadapter.jobs.shares import UnitShare, groups_of, unit_share
from lib_ipadapter.weighting import Spread
from tests.helpers.files import base64_of, half, unit
from tests.helpers.flux import WIDTH, beside, plain, redux, tiny_flux
from tests.helpers.jobs import generation
from tests.helpers.prompts import make_prompt
from tests.helpers.tensors import draw
from tests.helpers.unets import sdxl_unet


def measured(
    unet, *prompts: ImagePrompt, rows: Rows | None = None, size: int = 16, steps: int = 1, apart: bool = False,
    seed: int = 50,
):  # fmt: skip
    """One pass, whose steps all have the same input. Returns the UNet's last output."""
    rows = rows or layout([1], 2)
    x, text = draw(len(rows), 4, size, size, seed=seed), draw(
        len(rows), 77, cross_attention_layers(unet)[0].context_width, seed=seed + 1
    )  # fmt: skip
    t = torch.full((len(rows),), 500.0)
    for prompt in prompts:
        prompt.shares = prompt.shares or Shares()
    with Injection(unet, cross_attention_layers(unet), prompts) as injection:
        for step in range(steps):
            injection.begin(rows, step, steps, size=(size, size))
            parts = range(len(rows)) if apart else [slice(None)]
            out = [unet(x[i : i + 1], t[:1], context=text[i : i + 1]) if apart else unet(x, t, context=text)
                   for i in parts]  # fmt: skip
    return torch.cat(out)


def whole(prompt: ImagePrompt) -> float:
    """The mean over all steps, which are as many in each third, or in one alone."""
    steps, thirds = prompt.shares.steps, [sum(one.values()) for one in prompt.shares.by_block()]
    return sum(value * count for value, count in zip(thirds, steps, strict=True)) / sum(steps)


def test_equals_an_independent_computation(unet) -> None:
    """From what goes into the output projections with a prompt and without; only conditional rows count."""
    rows, prompt, seen = layout([2, 1], 5), make_prompt(unet, 5, 1e-4), []
    layers = cross_attention_layers(unet)
    handles = [layer.out_projection.register_forward_hook(lambda m, a, o: seen.append(a[0])) for layer in layers]
    measured(unet, prompt, rows=rows)
    with_prompt = seen[:]
    seen.clear()
    prompt.weight = 0.0
    measured(unet, make_prompt(unet, 5, 0.0), rows=rows)
    for handle in handles:
        handle.remove()
    # So weak a prompt changes no query, but what it adds is the difference of all but equal numbers.
    ratios = [
        ((one.double() - other.double()).norm(dim=-1) / other.double().norm(dim=-1))[:3].mean()
        for one, other in zip(with_prompt, seen, strict=True)
    ]
    assert len(ratios) == 16
    assert whole(prompt) == pytest.approx(float(torch.stack(ratios).mean()), rel=0.05)


def test_the_sum_is_the_mean_of_the_influence_map(unet) -> None:
    """Where each block has one layer: with windows, blocks of their own, and rows apart."""
    for settings in ({}, {"start": 0.5}, {"spread": Spread({4: 1.0, 9: 0.5})}):
        for apart in (False, True):
            prompt = make_prompt(unet, 5, 0.7, **settings)
            prompt.influence = Influence()
            measured(unet, prompt, steps=6, apart=apart, rows=layout([1, 1], 4))
            maps = prompt.influence.maps()
            mean = float(torch.stack([*maps.values()]).mean())
            assert whole(prompt) == pytest.approx(mean, rel=0.02)  # a map's edges are blended


def test_the_picture_is_the_same_with_and_without(unet) -> None:
    prompt = make_prompt(unet, 5)
    told = measured(unet, prompt)
    x, text = draw(2, 4, 16, 16, seed=50), draw(2, 77, 768, seed=51)
    with Injection(unet, cross_attention_layers(unet), [make_prompt(unet, 5)]) as injection:
        injection.begin(layout([1], 2), 0, 1)
        assert torch.equal(unet(x, torch.full((2,), 500.0), context=text), told)


def test_two_halves_have_equal_shares_of_one(unet) -> None:
    one, half, other = make_prompt(unet, 5, 0.8), make_prompt(unet, 5, 0.4), make_prompt(unet, 5, 0.4)
    measured(unet, one)
    measured(unet, half, other)
    assert whole(half) == pytest.approx(whole(other), rel=1e-5)
    assert whole(half) + whole(other) == pytest.approx(whole(one), rel=1e-4)


def test_the_mean_of_a_batch_is_that_of_its_pictures(unet) -> None:
    alone = []
    x, text = draw(4, 4, 16, 16, seed=1), draw(4, 77, 768, seed=2)
    prompts = [make_prompt(unet, 5) for _ in range(3)]
    for prompt, index in zip(prompts, ([0, 1, 2, 3], [0, 2], [1, 3]), strict=True):
        prompt.shares = Shares()
        with Injection(unet, cross_attention_layers(unet), [prompt]) as injection:
            injection.begin(layout([1] * (len(index) // 2), len(index)), 0, 1)
            unet(x[index], torch.full((len(index),), 500.0), context=text[index])
        alone.append(whole(prompt))
    together, *singles = alone
    assert together == pytest.approx(sum(singles) / 2, rel=1e-5)
    assert singles[0] != pytest.approx(singles[1], rel=1e-3)


def test_only_conditional_rows_count_wherever_they_stand() -> None:
    """By hand, as hosts lay them out, and between each other."""
    for kinds in ((True, False), (False, True), (True, False, True), (True, True), (False, True, False)):
        shares, rows = Shares(), tuple(Row(kind, 0) for kind in kinds)
        shares.attach([0])
        shares.begin(0, 1, lambda block: 1.0)
        added = torch.stack([torch.full((4, 9), 1.0 if kind else 100.0) for kind in kinds])
        shares.add(0, 0, added, torch.full((len(kinds), 4, 9), 2.0), rows)
        shares.settle()
        assert shares.by_block() == [{}, {0: pytest.approx(0.5)}, {}]
    shares.begin(0, 1, lambda block: 1.0)
    shares.add(0, 0, torch.ones(1, 4, 9), torch.ones(1, 4, 9), (Row(False, 0),))
    shares.settle()  # a call of unconditional rows alone
    assert sum(sum(one.values()) for one in shares.by_block()) == pytest.approx(0.5)


def by_hand(
    shares: Shares, ratio: Callable[[int], float], steps: int = 30, weight: Callable[[int], float] = lambda step: 1.0
) -> list[int]:
    """A pass of a model with one layer in which so much is added in each step. Returns the steps that are looked at."""
    looked = []
    shares.attach([0])
    for step in range(steps):
        shares.begin(step, steps, lambda block, step=step: weight(step))
        if weight(step):
            shares.add(0, 0, torch.full((1, 4, 9), ratio(step)), torch.ones(1, 4, 9), (Row(True, 0),))
        looked += [step] if shares._call else []
        shares.settle()
    shares.leave_device()
    return looked


def of_thirds(shares: Shares) -> list[float]:
    return [sum(one.values()) for one in shares.by_block()]


def whole_of(shares: Shares) -> float:
    return unit_share(1, [shares], {0: "style"}).whole


def test_few_steps_stand_for_a_third_of_them() -> None:
    """Those at its quarters, and, until there is one in which a block acts, the first."""
    assert [stand_for(third, 30) for third in range(3)] == [(2, 7), (12, 17), (22, 27)]
    for steps in range(3, 80):
        shares = Shares()
        looked = by_hand(shares, lambda step: 0.5, steps)
        assert of_thirds(shares) == pytest.approx([0.5] * 3)
        assert max(Counter(third_of(step, steps) for step in looked).values()) <= 3
    shares = Shares()
    looked = by_hand(shares, lambda step: 0.5 if step in (2, 7, 12, 17, 22, 27) else 9.0)
    assert looked == [0, 2, 7, 10, 12, 17, 20, 22, 27]
    assert of_thirds(shares) == pytest.approx([0.5] * 3)  # where others stand for a third, its first does not
    shares = Shares()
    looked = by_hand(shares, lambda step: 0.4, weight=lambda step: float(step in (4, 5, 18, 19, 28)))
    assert looked == [4, 18, 28]
    assert of_thirds(shares) == pytest.approx([0.08, 0.08, 0.04])


@pytest.mark.parametrize("steps", [12, 20, 30, 50])
def test_what_grows_over_the_steps_is_told_as_it_is(steps: int) -> None:
    """A curve of the weight from 0 to 1; one that jumps; and what grows while the weight is the same."""
    curves: list[Callable[[int], float]] = [
        lambda step: step / (steps - 1),
        lambda step: 1 - step / (steps - 1),
        lambda step: (step / (steps - 1)) ** 2,
        lambda step: 1.0 if step < 0.29 * steps else 0.1,
        lambda step: -0.5 if step == 1 else 0.1,
    ]
    for curve in curves:
        shares = Shares()
        by_hand(shares, lambda step, curve=curve: 0.8 * abs(curve(step)), steps, curve)
        expected = [[0.8 * abs(curve(step)) for step in range(steps) if third_of(step, steps) == i] for i in range(3)]
        assert of_thirds(shares) == pytest.approx([sum(one) / len(one) for one in expected], rel=1e-4)
    shares = Shares()
    by_hand(shares, curves[0], steps)
    assert whole_of(shares) == pytest.approx(0.5, rel=0.005)


def test_each_pass_counts_by_its_steps() -> None:
    """Each is looked at as if it were the only one, however long those before it were, and whatever they did."""
    shares = Shares()
    by_hand(shares, lambda step: 1.0)
    by_hand(shares, lambda step: 3.0)
    assert whole_of(shares) == pytest.approx(2.0)
    assert of_thirds(shares) == pytest.approx([2.0] * 3)
    shares = Shares()
    by_hand(shares, lambda step: 1.0, 30)
    by_hand(shares, lambda step: 3.0, 10)
    assert whole_of(shares) == pytest.approx((30 * 1 + 10 * 3) / 40)
    shares = Shares()
    for ratio in (1.0, 5.0, 5.0, 5.0):
        looked = by_hand(shares, lambda step, ratio=ratio: ratio, weight=lambda step: float(step < 3))
        assert looked == [0, 2]
    assert whole_of(shares) == pytest.approx(0.4)


def test_thirds_without_steps_have_no_value() -> None:
    for steps, expected in ((1, (None, 0.5, None)), (2, (0.5, None, 0.5)), (3, (0.5, 0.5, 0.5))):
        shares = Shares()
        by_hand(shares, lambda step: 0.5, steps)
        share = unit_share(1, [shares], {0: "style"})
        assert share.thirds == expected
        assert share.told()["thirds"] == [*expected]
        assert share.whole == pytest.approx(0.5)


def test_text_without_length_and_half_precision() -> None:
    shares, rows = Shares(), (Row(True, 0),)
    shares.attach([0])
    shares.begin(0, 1, lambda block: 1.0)
    text = torch.tensor([[[0.0, 0.0], [300.0, 400.0]]], dtype=torch.float16)
    shares.add(0, 0, torch.full((1, 2, 2), 300.0, dtype=torch.float16), text, rows)
    shares.settle()
    assert max(sum(one.values()) for one in shares.by_block()) == pytest.approx(0.3 * 2**0.5, abs=1e-4)


def test_torchs_compiler_leaves_the_measuring_out(unet, monkeypatch) -> None:
    """What it sees when it compiles, the steps and blocks that are looked at, is not what is at every call."""
    plain, prompt, left_out, called = make_prompt(unet, 5), make_prompt(unet, 5), [], []
    measured(unet, plain, steps=6)

    def disable(function):
        left_out.append(function.__name__)
        return lambda *args: (called.append(function.__name__), function(*args))[1]

    monkeypatch.setitem(sys.modules, "torch._dynamo", SimpleNamespace(disable=disable))
    measured(unet, prompt, steps=6)
    # What finds the rows' keys and values is left out, too.
    assert Counter(left_out) == {"_add": 1, "_settle": 1, "_plan": 16}
    assert Counter(called) == {"_add": 6 * 16, "_settle": 6, "_plan": 6 * 16}
    assert prompt.shares.by_block() == plain.shares.by_block()


def test_a_region_of_white_is_none_and_half_of_it_less(unet) -> None:
    everywhere, plain = make_prompt(unet, 5, region=Region(torch.ones(8, 8))), make_prompt(unet, 5)
    mask = torch.zeros(8, 8)
    mask[:, :4] = 1
    half = make_prompt(unet, 5, region=Region(mask))
    for prompt in (everywhere, plain, half):
        measured(unet, prompt)
    assert whole(everywhere) == pytest.approx(whole(plain), rel=1e-5)
    assert whole(half) < 0.75 * whole(plain)


def test_thirds_of_the_steps(unet) -> None:
    assert [third_of(step, 6) for step in range(6)] == [0, 0, 1, 1, 2, 2]
    assert [third_of(step, 20) for step in (0, 6, 7, 12, 13, 19, 25)] == [0, 0, 1, 1, 2, 2, 2]
    assert third_of(0, 1) == 1
    late = make_prompt(unet, 5, start=2 / 3)
    curve = make_prompt(unet, 5, ((0.0, 0.5), (0.5, 0.5), (0.5, 0.001)))
    for prompt in (late, curve):
        measured(unet, prompt, steps=6)
    first, second, third = (sum(one.values()) for one in late.shares.by_block())
    assert first == second == 0 < third
    assert late.shares.steps == [2, 2, 2]
    first, second, third = (sum(one.values()) for one in curve.shares.by_block())
    assert first > second > third > 0
    assert second == pytest.approx(first / 2, rel=0.05)


def test_of_many_layers_in_a_block_the_first_stands_for_all() -> None:
    unet = sdxl_unet()
    layers = cross_attention_layers(unet)
    prompt = make_prompt(unet, 5, 0.7)
    prompt.influence = Influence()
    measured(unet, prompt, size=8, steps=3)
    by_block = prompt.shares.by_block()
    assert sorted(by_block[0]) == list(range(11))
    assert all(value > 0 for one in by_block for value in one.values())
    assert Counter(layer.block for layer in layers)[0] == 2
    assert whole(prompt) == pytest.approx(float(prompt.influence.maps()[0].mean()), rel=0.25)


# --- on FLUX --------------------------------------------------------------------------------------------------------


class Watched(NamedTuple):
    """What is added to in one layer, before and after."""

    before: list[Tensor]
    after: list[Tensor]

    def hooks(self, layers: int, flux: nn.Module) -> Iterator[Callable[[list[Tensor]], None]]:
        for i, block in enumerate([*flux.double_blocks, *flux.single_blocks][:layers]):
            linear = block.linear2 if i >= 2 else block.img_attn.proj

            def watch(seen: list[Tensor], block: nn.Module = block, linear: nn.Module = linear) -> None:
                if layers == 2:
                    block.register_forward_hook(lambda _m, _a, out: seen.append(out[0]))
                else:
                    linear.register_forward_pre_hook(lambda _m, args: seen.append(args[0][..., :WIDTH]))

            yield watch


def flux_measured(flux: nn.Module, *prompts: ImagePrompt, rows: Rows | None = None) -> None:
    for prompt in prompts:
        prompt.shares = Shares()
    with FluxInjection(flux, prompts) as injection:
        injection.begin(layout([1, 1], 2) if rows is None else rows, 0, 1)
        plain(flux)


@pytest.mark.parametrize("layers", [2, 4])  # XLabs', InstantX'
def test_on_flux_it_is_a_share_of_what_is_added_to(layers: int) -> None:
    flux, prompt = tiny_flux(), beside(weight=0.7, layers=layers)
    watched = Watched([], [])
    for watch in watched.hooks(layers, flux):
        watch(watched.before)
    prompt.shares = Shares()
    with FluxInjection(flux, [prompt]) as injection:
        for watch in watched.hooks(layers, flux):
            watch(watched.after)
        injection.begin((Row(True, 0), Row(False, 0)), 0, 1)
        plain(flux)
        sections = injection.sections
    pairs = [*zip(watched.before, watched.after, strict=True)]
    ratios = [float(((b - a).norm(dim=-1) / a.norm(dim=-1))[0].mean()) for a, b in pairs]  # of the conditional row
    assert len(ratios) == layers
    assert min(ratios) > 0
    share = unit_share(3, [prompt.shares], groups_of(sections))
    assert share is not None
    assert share.whole == pytest.approx(sum(ratios) / layers, rel=1e-5)
    expected = {"double": sum(ratios[:2]) / layers, "single": sum(ratios[2:]) / layers}
    assert share.blocks == pytest.approx(expected if layers == 4 else {"double": expected["double"]}, rel=1e-5)


def test_on_flux_each_adapter_has_its_own_layers_and_two_halves_are_one() -> None:
    flux = tiny_flux()
    one, other, half, again = beside(), beside(6, layers=4), beside(weight=0.5), beside(weight=0.5)
    flux_measured(flux, half, again, other)
    assert [sorted(prompt.shares.blocks) for prompt in (half, other)] == [[0, 1], [0, 1, 2, 3]]
    assert whole(half) == pytest.approx(whole(again), rel=1e-5)
    flux_measured(flux, one, other)
    assert 2 * whole(half) == pytest.approx(whole(one), rel=1e-4)


def test_on_flux_a_region_counts_by_its_places() -> None:
    flux, mask = tiny_flux(), torch.zeros(8, 8)
    mask[:, :4] = 1
    everywhere, plainly, left = (
        beside(layers=4, region=region) for region in (Region(mask * 0 + 1), None, Region(mask))
    )
    for prompt in (everywhere, plainly, left):
        flux_measured(flux, prompt)
    assert whole(everywhere) == pytest.approx(whole(plainly), rel=1e-5)
    assert whole(left) < 0.75 * whole(plainly)


def test_what_stands_behind_the_text_has_acted_and_nobody_knows_how_much() -> None:
    flux, prompt, rest = tiny_flux(), redux(), redux(start=0.9)
    flux_measured(flux, prompt)
    share = unit_share(2, [prompt.shares], {})
    assert share == UnitShare(2, None, why="tokens")
    assert share.told() == {"unit": 2, "influence": None, "why": "tokens"}
    rest.shares = Shares()
    with FluxInjection(flux, [rest]) as injection:
        injection.begin(layout([1, 1], 2), 0, 4)
        plain(flux)
    assert unit_share(2, [rest.shares], {}) is None


# --- of units -------------------------------------------------------------------------------------------------------


def test_groups_are_what_blocks_carry_or_where_they_stand() -> None:
    groups = groups_of({block: bases.SD15.section(block) for block in bases.SD15.all_blocks})
    assert {block for block, name in groups.items() if name == "composition"} == {4, 5}
    assert {block for block, name in groups.items() if name == "style"} == bases.SD15.style_blocks
    assert groups[6] == "rest"
    assert groups_of({0: "input", 1: "middle", 2: "output"}) == {0: "input", 1: "middle", 2: "output"}


def sample(
    unet, made, size: int = 16, *, steps: int = 3, pictures: int = 1, first_picture: int = 0, **settings
) -> None:
    injection = made.attach(unet, first_picture=first_picture, **settings)
    rows = 2 * pictures
    for step in range(steps):
        if injection is not None:
            injection.begin(layout([1] * pictures, rows), step, steps, size=(size, size))
        unet(draw(rows, 4, size, size, seed=step), torch.full((rows,), 500.0), context=draw(rows, 77, 768, seed=2))
    made.detach()


def test_a_jobs_units_are_told(unet, resources) -> None:
    """Those that did something; by what blocks carry, which add up to the whole; twice the same is no more."""
    half = unit(weight=0.4)
    made = generation(unet, resources, half, half, unit(weight=0), unit(seeds=(1,), weight_type="composition"))
    assert made.shares() == []
    sample(unet, made)
    first, second, other = made.shares()
    assert [one.number for one in made.shares()] == [1, 2, 4]
    assert first.whole == pytest.approx(second.whole, rel=1e-5)
    assert sum(first.blocks.values()) == pytest.approx(first.whole)
    assert list(first.blocks) == ["style", "composition", "rest"]
    assert all(value > 0 for value in first.blocks.values())
    assert (
        other.blocks["style"] == other.blocks["rest"] == 0 < other.blocks["composition"] == pytest.approx(other.whole)
    )
    assert sum(first.thirds) / 3 == pytest.approx(first.whole)
    told = first.told()
    assert set(told) == {"unit", "influence", "blocks", "thirds"}
    assert told["influence"] == pytest.approx(first.whole, rel=1e-3)
    sample(unet, made, first_picture=1)
    assert [one.whole for one in made.shares()] == pytest.approx([first.whole, second.whole, other.whole])
    assert generation(unet, resources, half, measure=False).prompts[0].prompt.shares is None


def test_places_of_one_unit_add_up(unet, resources) -> None:
    """As units of their own would do; one of weight 0 takes nothing away."""
    left, right = (base64_of(half(side)) for side in ("left", "right"))
    image = unit()["images"][0]
    items = [{"image": image, "region": left}, {"image": unit(seeds=(1,))["images"][0], "region": right}]
    together = generation(unet, resources, {"model": "base", "images": items})
    apart = generation(unet, resources, unit(region_mask=left), unit(seeds=(1,), region_mask=right))
    for made in (together, apart):
        sample(unet, made)
    (one,), (first, second) = together.shares(), apart.shares()
    assert one.number == 1
    assert one.whole == pytest.approx(first.whole + second.whole, rel=1e-5)
    assert one.blocks == pytest.approx({name: first.blocks[name] + second.blocks[name] for name in first.blocks})
    assert one.thirds == pytest.approx([sum(pair) for pair in zip(first.thirds, second.thirds, strict=True)])


def test_the_passes_that_a_unit_takes_part_in_count(unet, resources) -> None:
    def made():
        return generation(unet, resources, unit(), unit(hires="base"), unit(hires="hires"))

    job, base, hires = made(), made(), made()
    sample(unet, base)
    sample(unet, hires, 32, hires_pass=True)
    sample(unet, job)
    sample(unet, job, 32, hires_pass=True)
    both, of_base, of_hires = job.shares()
    assert [one.number for one in base.shares()] == [1, 2]
    assert [one.number for one in hires.shares()] == [1, 3]
    assert of_base.whole == pytest.approx(base.shares()[1].whole)
    assert of_hires.whole == pytest.approx(hires.shares()[1].whole)
    assert both.whole == pytest.approx((base.shares()[0].whole + hires.shares()[0].whole) / 2)


def test_a_job_inside_is_not_counted(unet, resources) -> None:
    made = generation(unet, resources, unit())
    sample(unet, made)
    before = made.shares()
    sample(unet, made.inside(), 32)
    assert made.shares() == before


def test_a_device_that_cannot_measure_makes_the_picture(unet, monkeypatch) -> None:
    expected = measured(unet, make_prompt(unet, 5))

    def full(*_args, **_kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    for name in ("linalg.vector_norm", "nan_to_num"):
        with monkeypatch.context() as patch:
            patch.setattr(f"torch.{name}", full)
            prompt = make_prompt(unet, 5)
            assert torch.equal(measured(unet, prompt), expected)
            assert unit_share(1, [prompt.shares], {}) == UnitShare(1, None, why="device")


def test_a_unit_that_was_left_out_did_nothing() -> None:
    """Where nothing tells the place of its region; and rows that nothing tells apart say nothing."""
    for prompt in (redux(region=Region(torch.ones(8, 8))), beside(region=Region(torch.ones(8, 8)))):
        flux = tiny_flux()
        prompt.shares = Shares()
        with FluxInjection(flux, [prompt]) as injection:
            injection.begin(layout([1, 1], 2), 0, 1, size=(99, 99))  # the call is of a part
            plain(flux)
            assert injection.misplaced
        assert unit_share(1, [prompt.shares], groups_of({0: "double", 1: "double"})) is None
    shares = Shares()
    shares.attach([0])
    shares.begin(0, 1, lambda block: 1.0)
    shares.add(0, 0, torch.ones(2, 4, 9), torch.ones(2, 4, 9), ())
    shares.settle()
    assert unit_share(1, [shares], {}) == UnitShare(1, None, why="rows")


def test_on_flux_passes_of_units_with_other_blocks_are_told() -> None:
    """One adapter in the blocks of both kinds for the base pass alone, one in the double blocks for both."""
    flux = tiny_flux()
    prompts = [PassPrompt("base", beside(layers=4), 1), PassPrompt("both", beside(6), 2)]
    for one in prompts:
        one.prompt.shares = Shares()
    made = Generation(topology_of(flux), [], prompts, InfluenceMaps())
    for hires_pass in (False, True):
        made.attach(flux, hires_pass=hires_pass).begin(layout([1, 1], 2), 0, 1)
        plain(flux)
        made.detach()
    base, both = made.shares()
    assert (base.number, both.number) == (1, 2)
    assert [*base.blocks] == ["double", "single"] and min(base.blocks.values()) > 0
    assert [*both.blocks] == ["double"]
