"""Beside Regional Prompter and Tiled Diffusion: parts of the picture, called apart."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from demo.start import Host
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import FAR, SAME, Hosts, ask, difference, make, ours
from tests.helpers.neighbours import APART, TWICE, X, Y

pytestmark = pytest.mark.host("neighbours")
Pictures = dict[str, list[np.ndarray]]

# Regional Prompter


@pytest.mark.both_faces
def test_regions_of_the_same_text_are_one_prompt(host: Host, near) -> None:
    """In every region the reference acts as it does in the whole."""
    whole = make(host, unit())
    with near.acting(regional={}):
        assert difference(make(host, unit(), **TWICE), whole) < SAME
        assert difference(make(host, unit(), **TWICE, negative_prompt=f"{Y} BREAK {Y}"), whole) < SAME
        assert difference(make(host, unit(), **TWICE, **APART), whole) < SAME
        other = make(host, unit(), prompt=f"{X} BREAK a blue lake")
        assert difference(other, whole) > FAR / 10
        assert difference(other, make(host, prompt=f"{X} BREAK a blue lake")) > FAR


@pytest.mark.parametrize("payload", [{}, {"batch_size": 2}, {"sampler_name": "DDIM"}])
def test_regions_beside_one_negative_prompt_of_the_same_length(payload: dict, host: Host, near) -> None:
    """The two halves of a call are worked on one after the other, the first one twice."""
    payload = {**payload, "negative_prompt": f"{Y} BREAK {Y}"}
    whole = make(host, unit(), **payload)
    with near.acting(regional={"negative": 1}):
        assert difference(make(host, unit(), **TWICE, **payload), whole) < SAME
        assert difference(make(host, **TWICE, **payload), whole) > FAR


@pytest.mark.parametrize("payload", [{}, {"batch_size": 2}, {"batch_size": 2, "n_iter": 2}])
def test_latent_regions_of_the_same_text_are_one_prompt(payload: dict, host: Host, near) -> None:
    units = [unit(), unit(seeds=(0, 3), batch="per image", weight=0.7)]
    whole = make(host, *units, **payload)
    with near.acting(latent={}):
        assert difference(make(host, *units, prompt=f"{X} AND {X}", **payload), whole) < SAME
        assert difference(make(host, prompt=f"{X} AND {X}", **payload), whole) > FAR
    if payload:
        swapped = [units[0], unit(seeds=(3, 0), batch="per image", weight=0.7)]
        assert difference(make(host, *swapped, **payload), whole) > FAR / 10


# Tiled Diffusion


WHOLE = (0, 0, 8, 8)
WIDE, TILES = {"width": 128}, [(0, 0, 8, 8), (0, 4, 8, 8), (0, 8, 8, 8)]
PATTERNS = {
    "even": {},
    "uneven": TWICE,
    "uneven negative": {"negative_prompt": f"{Y} BREAK {Y}"},
    "apart": APART,
    "AND": {"prompt": f"{X} AND {X} BREAK {X}"},
    "two pictures, uneven": {"batch_size": 2, **TWICE},
    "DDIM, uneven": {"sampler_name": "DDIM", **TWICE},
    "second order, apart": {"sampler_name": "Heun", **APART},
}


@pytest.mark.parametrize(
    ("pattern", "together", "below"),
    [  # what makes rows uneven or many in each way, the others in one
        *itertools.product(("uneven", "apart", "two pictures, uneven"), (1, 3), (False,)),
        *itertools.product(("uneven", "apart", "two pictures, uneven"), (2,), (True,)),
        ("even", 3, False), ("uneven negative", 2, True), ("AND", 3, False), ("DDIM, uneven", 2, True),
        ("second order, apart", 3, False),
    ],
)  # fmt: skip
def test_tiles_of_the_whole_are_the_whole(
    pattern: str, together: int, below: bool, host: Host, hosts: Hosts, near
) -> None:
    units = [unit(), unit(seeds=(0, 3), batch="per image", weight=0.7)]
    whole = hosts.reference(*units, **PATTERNS[pattern])
    with near.acting(tiled={"boxes": [WHOLE] * 4, "together": together, "below": below}):
        assert difference(make(host, *units, **PATTERNS[pattern]), whole) < SAME
    assert difference(hosts.reference(**PATTERNS[pattern]), whole) > FAR


@pytest.fixture(scope="module")
def tiled() -> Pictures:
    """Wide pictures in tiles that several tests compare theirs with, made by the first of them."""
    return {}


@pytest.mark.parametrize("together", [1, 2, 4])
def test_tiles_are_the_same_whatever_their_order(together: int, host: Host, near, tiled: Pictures) -> None:
    if not tiled:
        with near.acting(tiled={"boxes": TILES, "together": 4}):
            for name, units in (("even", [unit()]), ("plain", []), ("weight 0", [unit(weight=0)])):
                tiled[name] = make(host, *units, **WIDE)
    even = tiled["even"]
    assert difference(even, tiled["plain"]) > FAR / 2
    assert difference(tiled["weight 0"], tiled["plain"]) == 0
    with near.acting(tiled={"boxes": TILES, "together": together}):
        for pattern in ("even", "uneven", "uneven negative", "apart"):
            assert difference(make(host, unit(), **WIDE, **PATTERNS[pattern]), even) < SAME


@pytest.mark.parametrize(
    ("pattern", "below"),
    [
        ("even", False), ("uneven", False), ("uneven", True), ("uneven negative", True), ("apart", False),
        ("apart", True), ("two pictures, uneven", True),
    ],
)  # fmt: skip
def test_regions_with_their_own_text_have_the_reference(
    pattern: str, below: bool, host: Host, hosts: Hosts, near
) -> None:
    """Whole-picture regions of the main prompt are the picture without regions; of another text they have it, too,
    whatever its length."""
    payload, lake = PATTERNS[pattern], "a blue lake"
    whole = hosts.reference(unit(), **{**payload, "prompt": X, "negative_prompt": Y})

    def regions(*texts: str, **more) -> dict:
        return {"tiled": {"regions": [(WHOLE, text, Y) for text in texts], "below": below, **more}}

    for texts in ((X, X), (X, f"{X} BREAK {X}"), (f"{X} BREAK {X}",)):
        with near.acting(**regions(*texts)):
            assert difference(make(host, unit(), **payload), whole) < SAME
        with near.acting(**regions(*texts, boxes=[WHOLE] * 3)):
            assert difference(make(host, unit(), **payload), whole) < SAME
    with near.acting(**regions(lake, boxes=TILES)):
        short = make(host, unit(), **WIDE, **payload)
        assert difference(short, make(host, **WIDE, **payload)) > FAR / 2
    with near.acting(**regions(f"{lake} BREAK {lake}", boxes=TILES)):
        assert difference(make(host, unit(), **WIDE, **payload), short) < SAME


def test_a_map_of_tiles_is_not_invented(host: Host, near) -> None:
    with near.acting(tiled={"boxes": TILES}):
        assert len(ask(host, unit(influence_map=True), **WIDE).images) == 1
    assert len(ask(host, unit(influence_map=True), **WIDE).images) == 2


def test_where_tiles_are_not_told_apart_none_can_be_its_own_reference(host: Host, near) -> None:
    """The start picture of each tile would need tokens for each; a job is refused, and one without tiles is not."""
    start = {"init_images": [base64_of(picture(4, (64, 64)))], "width": 64, "height": 64, "steps": 2}
    itself = {"model": "base", "images": [{"start_picture": True}]}

    def answer(on: bool) -> Any:
        scripts = {**ours(itself), "Tiled Diffusion": {"args": [on]}}
        return host.post("img2img", {**start, "alwayson_scripts": scripts})

    assert answer(False).status_code == 200
    refused = answer(True)
    assert refused.status_code == 422
    assert refused.json()["detail"] == (
        "IP-Adapter unit 1: the start picture is among its references, and Tiled Diffusion makes all tiles in one job, "
        "so that none can have its own: upscale with SD upscale or Ultimate SD upscale, switch Tiled Diffusion off, or "
        "give a picture."
    )
