"""How much each unit did, as the API tells it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from demo.forge import flux
from demo.start import FORGE
from lib_ipadapter.webui.shares import ENTRY
from tests.helpers.files import base64_of, half, picture, unit
from tests.helpers.host import ask, pixels

LONG = "a photo of a cat on a red sofa beside a window, " * 9  # more than 75 tokens


def told(answer: Any) -> list[dict[str, Any]]:
    return answer.info["extra_generation_params"].get(ENTRY, [])


def influence(answer: Any) -> dict[int, float]:
    return {one["unit"]: one["influence"] for one in told(answer)}


def test_the_answer_tells_it_and_no_pictures_parameters_do(host) -> None:
    answer = ask(host, unit(weight=0.6), unit(weight=0), unit(seeds=(2,), weight_type="composition"), batch_size=2)
    assert [one["unit"] for one in told(answer)] == [1, 3]
    first, other = told(answer)
    assert set(first["blocks"]) == {"style", "composition", "rest"}
    assert sum(first["blocks"].values()) == pytest.approx(first["influence"], rel=1e-2)
    assert len(first["thirds"]) == 3
    assert other["blocks"]["style"] == 0
    assert all(text.count("influence") == 0 for text in answer.info["infotexts"])
    assert told(ask(host)) == told(ask(host, unit(weight=0))) == []
    assert influence(ask(host, unit(enabled=False), unit())).keys() == {2}


@pytest.mark.both_faces
def test_two_halves_have_equal_shares(host) -> None:
    whole, halves = ask(host, unit(weight=0.8)), ask(host, unit(weight=0.4), unit(weight=0.4))
    first, second = influence(halves).values()
    assert first == pytest.approx(second, rel=1e-3)
    assert first + second == pytest.approx(influence(whole)[1], rel=1e-2)


PATTERNS: dict[str, dict[str, Any]] = {
    "batched": {"batch_size": 2, "n_iter": 2},
    "uneven": {"prompt": LONG},
    "AND": {"prompt": f"a cat AND {LONG} :0.5"},
    "CFG 1": {"cfg_scale": 1},
    "second order": {"sampler_name": "Heun"},
}


@pytest.mark.both_faces
@pytest.mark.parametrize("pattern", PATTERNS)
def test_they_agree_with_the_influence_maps_whatever_the_calls(pattern: str, host, calls_apart, monkeypatch) -> None:
    from lib_ipadapter.webui import influence_pictures

    means: dict[int, list[float]] = {}
    paint = influence_pictures.paint

    def spy(finished: Any, found: Any, number: int) -> Any:
        means.setdefault(number, []).append(float(found.mean()))
        return paint(finished, found, number)

    monkeypatch.setattr(influence_pictures, "paint", spy)
    units = [
        unit(influence_map=True, weight=0.7),
        unit(seeds=(1,), weight=0.3, influence_map=True),
        unit(seeds=(2,), weight_type="composition", influence_map=True, end=0.5),  # in few blocks and steps
    ]
    answer = ask(host, *units, **PATTERNS[pattern])
    assert influence(answer).keys() == {1, 2, 3}
    for number, value in influence(answer).items():
        assert value == pytest.approx(float(np.mean(means[number])), rel=0.03)
    with calls_apart():
        apart = ask(host, *units, **PATTERNS[pattern])
    assert influence(apart) == pytest.approx(influence(answer), rel=1e-2)


@pytest.mark.both_faces
def test_regions_and_passes(host) -> None:
    white, left = base64_of(half("left").point(lambda _: 255)), base64_of(half("left"))
    plain = influence(ask(host, unit()))[1]
    assert influence(ask(host, unit(region_mask=white)))[1] == pytest.approx(plain, rel=1e-3)
    assert influence(ask(host, unit(region_mask=left)))[1] < 0.8 * plain
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}
    both = influence(ask(host, unit(), unit(hires="base"), unit(hires="hires"), **hires))
    assert sorted(both) == [1, 2, 3]
    late = told(ask(host, unit(start=0.67), steps=6))[0]["thirds"]
    assert late[0] == late[1] == 0 < late[2]


def test_a_setting_turns_it_off_and_the_picture_is_the_same(host, monkeypatch) -> None:
    from modules import shared

    measured = pixels(ask(host, unit()).images)
    monkeypatch.setitem(shared.opts.data, "ip_adapter_shares", False)
    answer = ask(host, unit())
    assert told(answer) == []
    assert np.array_equal(pixels(answer.images), measured)


def test_an_accident_in_telling_costs_nothing_else(host, monkeypatch) -> None:
    from lib_ipadapter.jobs.generation import Generation
    from lib_ipadapter.webui import detailing

    expected, told_of = pixels(ask(host, unit()).images), []
    tell = detailing.tell

    def spy(job: Any, processed: Any) -> None:
        told_of.append(job)
        tell(job, processed)

    def broken(_self: Any) -> Any:
        raise KeyError(19)

    monkeypatch.setattr(detailing, "tell", spy)
    monkeypatch.setattr(Generation, "shares", broken)
    answer = ask(host, unit())
    assert len(told_of) == 1
    assert told(answer) == []
    assert np.array_equal(pixels(answer.images), expected)


def test_one_step_has_one_third(host) -> None:
    first, second, third = told(ask(host, unit(), steps=1))[0]["thirds"]
    assert first is third is None
    assert second > 0


@pytest.mark.host("flux")
@pytest.mark.parametrize("face", [FORGE])
def test_on_flux_it_is_told_where_there_is_something_to_tell(host) -> None:
    on_flux = {"override_settings": {"sd_model_checkpoint": flux.NAME}, "cfg_scale": 1, "steps": 3}
    first, second, third = told(ask(host, unit("xlabs"), unit("redux"), unit("xlabs", weight=0.5), **on_flux))
    assert second == {"unit": 2, "influence": None, "why": "tokens"}
    assert first["influence"] > third["influence"] > 0
    assert first["blocks"].keys() == {"double"}
    assert first["blocks"]["double"] == first["influence"] == pytest.approx(sum(first["thirds"]) / 3, rel=1e-3)
    assert told(ask(host, unit("redux", weight=0), **on_flux)) == []
    assert [one["unit"] for one in told(ask(host, unit("redux", start=0.5), unit("xlabs"), **on_flux))] == [1, 2]


def test_places_of_one_unit_are_told_as_one(host) -> None:
    left, right = (base64_of(half(side)) for side in ("left", "right"))
    items = [{"image": base64_of(picture(seed)), "region": region} for seed, region in ((0, left), (1, right))]
    answer = ask(host, {"model": "base", "images": items, "influence_map": True})
    assert influence(answer).keys() == {1}
    apart = influence(ask(host, unit(region_mask=left), unit(seeds=(1,), region_mask=right)))
    assert influence(answer)[1] == pytest.approx(sum(apart.values()), rel=1e-3)
