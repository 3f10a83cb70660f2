"""Beside extensions that change the UNet or the sampler, each through a stand-in that does the same to it.

Wherever a neighbour can be told to change nothing, or its work can be asked for in two ways, both must agree with the
reference as they do without it; and what either leaves behind is nothing."""

from __future__ import annotations

import pytest

from demo.start import Host
from tests.helpers.files import unit
from tests.helpers.host import FAR, SAME, difference, make
from tests.helpers.neighbours import APART, TWICE, Y

pytestmark = pytest.mark.host("neighbours")


def test_the_stand_ins_are_loaded(host: Host) -> None:
    from modules import scripts

    order = [script.title() for script in scripts.scripts_txt2img.ordered_scripts("before_process")]
    assert {"Distribute", "IP-Adapter"} <= set(order)


# What changes the UNet


CHANGES = {
    "Lora": {"lora": {}},
    "HyperTile": {"hypertile": {"parts": 2}},
    "token merging": {"token_merging": {}},
    "token merging, cross-attention": {"token_merging": {"cross": True}},
    "FreeU": {"freeu": {}},
    "all of them": {"lora": {}, "hypertile": {}, "token_merging": {"cross": True}, "freeu": {}},
}
NEUTRAL = {
    "Lora": {"lora": {"strength": 0.0}},
    "HyperTile": {"hypertile": {"parts": 1}},
    "FreeU": {"freeu": {"backbone": 1.0, "skip": 1.0}},
    "Regional Prompter": {"regional": {"regions": 1, "negative": 1}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_effects_add_up(name: str, host: Host, near) -> None:
    ours = make(host, unit(weight=0.6))
    with near.acting(**CHANGES[name]):
        theirs, both = make(host), make(host, unit(weight=0.6))
        assert difference(both, theirs) > FAR / 2
        assert difference(both, ours) > FAR / 10
        assert difference(make(host, unit(weight=0.3), unit(weight=0.3)), both) < SAME
        assert difference(make(host, unit(weight=0)), theirs) == 0
        assert difference(make(host), theirs) == 0
        assert difference(make(host, unit(weight=0.6), **APART), both) < SAME
        assert difference(make(host, unit(weight=0.6), **TWICE), both) < SAME
        assert difference(make(host, unit(weight=0.6), negative_prompt=f"{Y} BREAK {Y}"), both) < SAME


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_neighbour_that_changes_nothing_changes_nothing_here(name: str, host: Host, near) -> None:
    ours = make(host, unit())
    with near.acting(**NEUTRAL[name]):
        assert difference(make(host, unit()), ours) < SAME


def test_the_query_is_that_of_the_loras(host: Host, near) -> None:
    with near.acting(lora={}):
        patched = make(host, unit())
    with near.acting(merged_lora={}):
        merged = make(host, unit())
    assert difference(patched, merged) < SAME
    assert difference(patched, make(host, unit())) > FAR / 10


# Dynamic Thresholding


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DPM++ 2M"])
def test_thresholding_samples_with_the_reference(sampler: str, host: Host, near) -> None:
    window, payload = {"start": 0.4, "end": 0.8}, {"sampler_name": sampler, "steps": 5}
    ours = make(host, unit(**window), **payload)
    with near.acting(thresholding={"share": 0.0}):
        assert difference(make(host, unit(**window), **payload), ours) < SAME
    with near.acting(thresholding={"share": 1.0}):
        theirs, both = make(host, **payload), make(host, unit(**window), **payload)
        assert difference(both, theirs) > FAR / 10
        assert difference(both, ours) > FAR / 10
        assert difference(make(host, unit(**window), **payload, **TWICE), both) < SAME
