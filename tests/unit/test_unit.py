"""What a client may put into a unit, and what it hears when it may not."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_ipadapter.errors import IPAdapterError, UnitError
from lib_ipadapter.fields import settings_of
from lib_ipadapter.unit import Unit, parse_units

GOOD = {"model": "ip-adapter_sd15", "images": ["aGVsbG8="]}


def test_the_shortest_unit_has_the_contracts_defaults() -> None:
    unit = Unit.parse(GOOD)
    assert (unit.model, unit.weight, unit.start, unit.end) == ("ip-adapter_sd15", 1.0, 0.0, 1.0)
    assert (unit.combine, unit.hires, unit.batch, unit.enabled) == ("concat", "both", "same", True)
    assert [(r.image, r.weight) for r in unit.references] == [("aGVsbG8=", 1.0)]
    assert unit.changed() == {}
    assert Unit.parse({"model": "m", "image": "x"}).references == Unit.parse({"model": "m", "images": ["x"]}).references


def test_every_field_is_known_with_its_default() -> None:
    special = ("references", "negative_references")  # their fields are images and negative_images
    declared = settings_of(Unit).items()
    defaults = {name: one.default for name, one in declared if name not in special and not one.is_required}
    assert {"weight", "layer_weights", "region_mask", "keypoints_weight"} <= set(defaults)
    assert Unit.parse({**GOOD, **defaults, "negative_images": []}) == Unit.parse(GOOD)


def test_a_reference_may_have_a_weight() -> None:
    unit = Unit.parse({**GOOD, "images": ["a", {"image": "b", "weight": 0.5}]})
    assert [r.weight for r in unit.references] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight": 7}, "weight is 7: give a number from -1 to 3, or a curve"),
        ({"weight": "1"}, "weight is '1'"),
        ({"weight": True}, "weight is True"),
        ({"weight": None}, "weight is None"),
        ({"weight": math.nan}, "weight is nan"),
        ({"weight": math.inf}, "weight is inf"),
        ({"weight": 10**400}, "weight is 1000"),
        ({"weight": [1]}, "weight is [1]"),
        ({"start": -0.1}, "start is -0.1: give a number from 0 to 1."),
        ({"end": 1.5}, "end is 1.5"),
        ({"end": False}, "end is False"),
        ({"start": 0.6, "end": 0.4}, "make start less than end"),
        ({"start": 0.5, "end": 0.5}, "no step lies between"),
        ({"combine": "blend"}, "combine is 'blend': choose one of 'concat', 'average', 'add',"),
        ({"combine": ["concat"]}, "combine is ['concat']"),
        ({"hires": "low"}, "hires is 'low'"),
        ({"batch": 1}, "batch is 1"),
        ({"enabled": 1}, "enabled is 1: give true or false."),
        ({"enabled": "false"}, "enabled is 'false'"),
        ({"model": ""}, "model is missing"),
        ({"model": None}, "model is missing"),
        ({"model": 3}, "model is 3"),
        ({"images": []}, "no reference picture"),
        ({"images": ["a"] * 65}, "images holds 65 pictures: give at most 64; up to 1000 with combine “average”"),
        ({"images": "abc"}, "images is 'abc': give a list"),
        ({"images": [None]}, "images[0]: the picture is missing"),
        ({"images": [{"weight": 1}]}, "images[0]: the picture is missing"),
        ({"images": ["a", {"image": "b", "weight": True}]}, "images[1]: weight is True"),
        ({"images": [{"image": "b", "wieght": 1}]}, "images[0]: unknown field 'wieght'"),
        ({"image": "b"}, "image and images are both given"),
        ({"wieght": 1}, "unknown field 'wieght': known are model, weight"),
        ({"weight": [[0, 1], [1]]}, "weight is [[0, 1], [1]]: give a number"),
        ({"weight": [[0.5, 1], [0.2, 1]]}, "give the points of the curve from the first step to the last"),
        ({"weight": [[0, math.nan]]}, "weight is [[0, nan]]"),
        ({"layer_weights": [1, "a"]}, "layer_weights is [1, 'a']: give a list"),
        ({"layer_weights": {"first": 1}}, "layer_weights is {'first': 1}"),
        ({"layer_weights": {"-1": 1}}, "layer_weights is {'-1': 1}"),
        ({"layer_weights": [math.nan]}, "layer_weights is [nan]"),
        ({"layer_weights": "1 5:2"}, "layer_weights is '1 5:2'"),
        ({"layer_weights": [1], "weight_type": "ease in"}, "leave one out"),
        ({"weight_type": "style"}, "weight_type is 'style': choose one of 'linear', 'ease in'"),
        ({"crop": "middle"}, "crop is 'middle': choose one of 'center'"),
        ({"embeds_scaling": "K"}, "embeds_scaling is 'K'"),
        ({"noise": False}, "noise is False: give a number from 0 to 1."),
        ({"noise": 2}, "noise is 2"),
        ({"boost": "1"}, "boost is '1'"),
        ({"region_mask": ""}, "region_mask is empty: give a picture"),
        ({"region_mask": 3}, "region_mask is 3"),
        ({"images": [{"image": "a", "mask": ""}]}, "images[0]: mask is empty"),
        ({"negative_images": "abc"}, "negative_images is 'abc': give a list"),
        ({"negative_images": [None]}, "negative_images[0]: the picture is missing"),
        ({"negative_images": ["a"] * 65}, "negative_images holds 65 pictures"),
        ({"subtract_prompt": ["red"]}, "subtract_prompt is ['red']: give a text"),
        ({"subtract_prompt": "x" * 1001}, "give a text of at most 1000 characters"),
        ({"variant": "v2"}, "variant is 'v2': choose one of 'auto', 'faceid-plus'"),
    ],
)
def test_what_is_wrong_is_said_with_the_remedy(change: dict, says: str) -> None:
    with pytest.raises(UnitError, match="^IP-Adapter unit 2: ") as caught:
        parse_units([GOOD, {**GOOD, **change}])
    assert says in caught.value.detail
    assert vars(caught.value)["status_code"] == 422  # where the WebUI looks
    assert len(caught.value.detail) < 600


@pytest.mark.parametrize("thing", [None, "unit", 3, [], [GOOD], True])
def test_a_unit_must_be_an_object(thing: object) -> None:
    with pytest.raises(UnitError, match="^IP-Adapter unit 1: a unit is an object"):
        parse_units([thing])


def test_a_disabled_unit_needs_no_model_but_no_slip_is_silent() -> None:
    assert parse_units([{"enabled": False}, {"enabled": False, "model": None, "images": None}]) == []
    assert [unit.number for unit in parse_units([{"enabled": False}, GOOD])] == [2]
    with pytest.raises(UnitError, match="unknown field"):
        parse_units([{"enabled": False, "modell": "x"}])


def test_ten_units_are_allowed_and_eleven_are_not() -> None:
    assert len(parse_units([GOOD] * 10)) == 10
    with pytest.raises(UnitError, match="more than 10 units"):
        parse_units([GOOD] * 11)


def test_an_error_keeps_the_first_unit_that_told_it() -> None:
    error = IPAdapterError("x").in_unit(2)
    assert error.in_unit(3).detail == "IP-Adapter unit 2: x"


def test_a_reference_has_a_picture_or_a_unit_of_controlnet() -> None:
    with pytest.raises(UnitError, match="image and controlnet are both given"):
        Unit.parse({"model": "m", "images": [{"controlnet": 1, "image": "x"}]})
    (reference,) = Unit.parse({"model": "m", "images": [{"controlnet": 2, "weight": 0.5}]}).references
    assert (reference.image, reference.controlnet, reference.weight) == (None, 2, 0.5)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["model", "images", "image", "weight", "start", "end", "enabled", "x"]), inner, max_size=5
    ),
    max_leaves=12,
))  # fmt: skip
def test_anything_json_can_say_is_a_unit_or_a_sentence(thing: object) -> None:
    try:
        Unit.parse(json.loads(json.dumps(thing)))
    except UnitError as error:
        assert error.detail.endswith(".")
