"""How a weight spreads over blocks and steps: the published tables' own numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_ipadapter import bases
from lib_ipadapter.errors import UnitError
from lib_ipadapter.unit import Unit
from lib_ipadapter.weighting import (
    INVERTING,
    SCALINGS,
    WEIGHT_TYPES,
    Spread,
    as_text,
    leaned,
    peak,
    scaled_sides,
    spread,
    weight_at,
)

SD, XL = 16, 11
W, SECOND = 0.8, 0.6  # a weight, and the composition weight or boost


def strengths(weight_type: str, blocks: int, weight: float = W, **settings) -> list[float]:
    made = spread(weight_type, blocks, **settings)
    return [made.at(t, weight) for t in range(blocks)]


def on(blocks: int, *at: int, value: float = W, rest: float = 0.0) -> list[float]:
    return [value if t in at else rest for t in range(blocks)]


STYLE = (*range(4), *range(9, 16))
# Written out by hand from the published tables, block by block, for weight 0.8 and second weight 0.6.
TABLES = {
    ("linear", SD): [W] * 16,
    ("linear", XL): [W] * 11,
    ("weak input", SD): [0.16] * 6 + [W] * 10,
    ("weak middle", SD): [W] * 6 + [0.16] + [W] * 9,
    ("weak output", SD): [W] * 7 + [0.16] * 9,
    ("strong middle", SD): [0.16] * 6 + [W] + [0.16] * 9,
    ("weak input", XL): [0.16] * 4 + [W] * 7,
    ("weak middle", XL): [W] * 4 + [0.16] + [W] * 6,
    ("weak output", XL): [W] * 5 + [0.16] * 6,
    ("strong middle", XL): [0.16] * 4 + [W] + [0.16] * 6,
    ("style transfer", SD): on(SD, *STYLE),
    ("style transfer", XL): on(XL, 6),
    ("composition", SD): [0, 0, 0, 0, 0.2, 0.8, *[0] * 10],
    ("composition", XL): on(XL, 3),
    ("strong style transfer", SD): on(SD, 4, 5, value=0.0, rest=W),
    ("strong style transfer", XL): on(XL, 3, value=0.0, rest=W),
    ("style and composition", SD): [W, W, W, W, 0.15, 0.6, 0, 0, 0, *[W] * 7],
    ("style and composition", XL): [0, 0, 0, 0.6, 0, 0, W, 0, 0, 0, 0],
    ("strong style and composition", SD): on(SD, 4, 5, value=SECOND, rest=W),
    ("strong style and composition", XL): on(XL, 3, value=SECOND, rest=W),
    ("style transfer precise", SD): [W, W, W, W, 0.15, 0.6, 0, 0, 0, *[W] * 7],
    ("style transfer precise", XL): [0, 0, 0, 0.6, 0, 0, W, 0, 0, 0, 0],
    ("composition precise", SD): [*[0.6] * 4, 0.2, 0.8, 0.06, 0.06, 0.06, *[0.6] * 7],
    ("composition precise", XL): [0.06, 0.06, 0.06, W, 0.06, 0.06, 0.6, 0.06, 0.06, 0.06, 0.06],
    ("style transfer (InstantStyle)", SD): on(SD, 7, 8, 9),
    ("style transfer (InstantStyle)", XL): on(XL, 6),
    ("composition (InstantStyle)", SD): on(SD, 4, 5, 6),
    ("composition (InstantStyle)", XL): on(XL, 3),
    ("style and composition (InstantStyle)", SD): [0, 0, 0, 0, 0.6, 0.6, 0.6, W, W, W, *[0] * 6],
    ("style and composition (InstantStyle)", XL): [0, 0, 0, 0.6, 0, 0, W, 0, 0, 0, 0],
}


@pytest.mark.parametrize(("weight_type", "blocks"), TABLES)
def test_golden_tables(weight_type: str, blocks: int) -> None:
    assert strengths(weight_type, blocks, composition_weight=SECOND, boost=SECOND) == pytest.approx(
        TABLES[weight_type, blocks]
    )


GOLDEN = [
    ("ease in", SD, {0: 1.0, 8: 0.525, 15: 0.109375}),
    ("ease in", XL, {0: 1.0, 5: 0.568182, 10: 0.136364}),
    ("ease out", SD, {0: 0.05, 8: 0.525, 15: 0.940625}),
    ("ease out", XL, {0: 0.05, 10: 0.913636}),
    ("ease in-out", SD, {0: 0.05, 8: 1.0, 4: 0.525}),
    ("ease in-out", XL, {5: 0.913636, 0: 0.05}),
    ("reverse in-out", SD, {0: 1.0, 8: 0.05, 12: 0.525}),
    ("reverse in-out", XL, {0: 1.0, 5: 0.136364}),
]


@pytest.mark.parametrize(("weight_type", "blocks", "values"), GOLDEN)
def test_golden_slopes(weight_type: str, blocks: int, values: dict[int, float]) -> None:
    found = strengths(weight_type, blocks, 1.0)
    assert {t: found[t] for t in values} == pytest.approx(values, abs=1e-6)


def test_every_type_has_a_golden_table() -> None:
    told = {name for name, _ in TABLES} | {name for name, *_ in GOLDEN}
    missing = set(WEIGHT_TYPES) - told
    assert not missing, f"no numbers written out by hand, in TABLES or GOLDEN, for: {', '.join(sorted(missing))}"
    assert told == set(WEIGHT_TYPES)


def test_precise_types_turn_the_reference_around_in_the_published_blocks() -> None:
    assert spread("style transfer precise", SD).inverted == {4, 5}
    assert spread("style transfer precise", XL).inverted == {3}
    assert spread("composition precise", SD).inverted == set(range(16)) - {4, 5}
    assert spread("composition precise", XL).inverted == set(range(11)) - {3}
    assert all(not spread(name, SD).inverted for name in WEIGHT_TYPES if name not in INVERTING)


PRECISE = {  # without a boost: by the weight, as in the source's Advanced node
    ("style transfer precise", SD): [W, W, W, W, 0.2, 0.8, 0, 0, 0, *[W] * 7],
    ("style transfer precise", XL): [0, 0, 0, W, 0, 0, W, 0, 0, 0, 0],
    ("composition precise", SD): [*[W] * 4, 0.2, 0.8, 0.08, 0.08, 0.08, *[W] * 7],
    ("composition precise", XL): [0.08, 0.08, 0.08, W, 0.08, 0.08, W, 0.08, 0.08, 0.08, 0.08],
}


@pytest.mark.parametrize(("weight_type", "blocks"), PRECISE)
def test_a_boost_that_is_not_given_is_the_weight(weight_type: str, blocks: int) -> None:
    assert strengths(weight_type, blocks) == pytest.approx(PRECISE[weight_type, blocks])
    for weight in (W, 0.3, -1.0):
        assert strengths(weight_type, blocks, weight) == pytest.approx(
            strengths(weight_type, blocks, weight, boost=weight)
        )
    assert spread(weight_type, blocks).inverted == spread(weight_type, blocks, boost=1.0).inverted
    straight = weight_type.removesuffix(" precise")
    assert strengths(weight_type, blocks) != strengths(straight, blocks)
    assert strengths(weight_type, blocks, boost=0.0) == strengths(straight, blocks)


def test_layer_weights_are_factors_in_both_forms() -> None:
    listed = [0.1 * t for t in range(16)]
    assert strengths("linear", SD, layer_weights=tuple(listed)) == pytest.approx([W * f for f in listed])
    assert strengths("linear", SD, layer_weights={5: 0.4, 7: -1.0}) == pytest.approx(
        [0.32 if t == 5 else -W if t == 7 else 0 for t in range(16)]
    )
    assert strengths("linear", SD, 1.0, layer_weights=(1.0,) * 16) == [1.0] * 16
    assert spread("linear", SD, layer_weights=(0.0,) * 16).silent
    assert spread("style transfer precise", SD, layer_weights={4: 1.0}).inverted == {4, 5}


@pytest.mark.parametrize(
    ("layer_weights", "blocks", "says"),
    [
        ((1.0,) * 17, 16, "holds 17 numbers, but this model has 16 transformer blocks"),
        ((1.0,) * 16, 11, "holds 16 numbers, but this model has 11 transformer blocks"),
        ({16: 1.0}, 16, "names block 16, but this model has 16 transformer blocks: give blocks from 0 to 15"),
    ],
)
def test_layer_weights_of_another_model_are_told_with_both_numbers(layer_weights, blocks: int, says: str) -> None:
    with pytest.raises(UnitError, match=says):
        spread("linear", blocks, layer_weights=layer_weights)


def test_a_type_that_names_blocks_needs_a_known_model() -> None:
    assert strengths("ease in", 9)[0] == W
    with pytest.raises(UnitError, match="this model has 9 transformer blocks: choose one of linear"):
        spread("composition", 9)


@pytest.mark.parametrize(
    ("curve", "steps", "expected"),
    [
        (((0.0, 1.0), (1.0, 0.0)), 4, [0.875, 0.625, 0.375, 0.125]),
        (((0.0, 1.0), (0.6, 0.2)), 10, [*(1 - 0.8 * (i + 0.5) / 6 for i in range(6)), *[0.2] * 4]),
        (((0.5, 0.0), (0.5, 1.0)), 4, [0, 0, 1, 1]),
        (((0.25, 1.0), (0.75, 2.0)), 4, [1, 1.25, 1.75, 2]),
        (((0.3, 0.7),), 3, [0.7] * 3),
        (0.4, 3, [0.4] * 3),
    ],
)
def test_a_curve_over_the_steps(curve, steps: int, expected: list[float]) -> None:
    assert [weight_at(curve, step, steps) for step in range(steps)] == pytest.approx(expected)
    assert weight_at(curve, steps + 3, steps) == weight_at(curve, steps - 1, steps)  # more steps than announced


def test_the_peak_of_a_curve() -> None:
    assert peak(((0.0, 0.5), (1.0, -0.8))) == -0.8
    assert peak(0.3) == 0.3


@given(st.floats(-1, 3), st.sampled_from([320, 640, 1280]))
def test_scaling_follows_its_table(weight: float, width: int) -> None:
    penalty = weight * width / 1280
    assert scaled_sides("V only", weight, width) == (1.0, weight, False)
    assert scaled_sides("K+V", weight, width) == (weight, weight, False)
    assert scaled_sides("K+V w/ C penalty", weight, width) == pytest.approx((penalty, penalty, False))
    assert scaled_sides("K+mean(V) w/ C penalty", weight, width) == pytest.approx((penalty, penalty, True))
    assert len(SCALINGS) == 4


def test_what_is_written_is_read_again() -> None:
    for change in (
        {"weight": ((0.0, 1.0), (0.6, 0.25))}, {"layer_weights": {5: 0.4, 6: -1.0}},
        {"layer_weights": tuple(t / 16 for t in range(16))},
    ):  # fmt: skip
        ((name, value),) = change.items()
        read = Unit.parse({"model": "m", "images": ["x"], name: as_text(value)})
        assert getattr(read, name) == value


def test_a_spread_that_gives_nothing_is_silent() -> None:
    assert Spread().silent
    assert Spread({0: 0.0}, {1: 0.0}).silent
    assert not Spread({}, {1: 0.1}).silent
    assert torch.tensor(strengths("linear", SD)).min() > 0


# --- more of one thing, less of the other ---------------------------------------------------------------------------


def test_more_style_is_less_of_all_else_and_back() -> None:
    style = list(leaned(spread("linear", SD), 0.7, bases.SD15, "style"))
    assert style == on(SD, *STYLE, value=1.25, rest=0.8)
    back = leaned(spread("linear", SD, layer_weights=tuple(style)), 0.7, bases.SD15, "subject")
    assert list(back) == [1.0] * SD
    assert list(leaned(spread("linear", XL), 1.0, bases.SDXL, "style")) == on(XL, 6, value=1.25, rest=0.8)


def test_what_had_nothing_begins_with_a_share_of_the_strongest() -> None:
    style = leaned(spread("composition", XL), W, bases.SDXL, "style")
    assert list(style) == [0, 0, 0, 0.8, 0, 0, 0.25, 0, 0, 0, 0]
    subject = leaned(spread("style transfer", XL), W, bases.SDXL, "subject")
    assert list(subject) == [0, 0, 0, 0.25, 0, 0, 0.8, 0, 0, 0, 0]


def test_what_counts_against_the_picture_stays_and_limits_hold() -> None:
    precise = spread("style transfer precise", SD, boost=0.4)
    found = leaned(precise, W, bases.SD15, "style")
    assert [found[t] for t in (4, 5)] == [0.12, 0.5]
    strong = spread("linear", SD, layer_weights=tuple([4.5] * 8 + [-4.5] * 8))
    found = leaned(strong, 1.0, bases.SD15, "style")
    assert (found[0], found[4], found[9], found[7]) == (5.0, 3.6, -5.0, 3.6)
    assert leaned(spread("linear", SD), 0.0, bases.SD15, "style")[0] == 1.25
