"""Beside AnimateDiff: the frames of a film, some of them at a time."""

from __future__ import annotations

import numpy as np
import pytest

from demo.start import Host
from tests.helpers.files import unit
from tests.helpers.host import FAR, SAME, ask, difference, make
from tests.helpers.neighbours import APART, X

pytestmark = pytest.mark.host("neighbours")

FRAMES = {"batch_size": 4}
UNITS = {
    "one reference": [unit()],
    "a reference for each frame": [unit(seeds=(0, 3, 5, 7), batch="per image")],
}


@pytest.fixture(scope="module")
def plain() -> dict[str, list[np.ndarray]]:
    """The film without a reference for each payload, made by the first test that needs it."""
    return {}


@pytest.mark.parametrize("units", UNITS.values(), ids=[*UNITS])
@pytest.mark.parametrize("payload", [{}, APART, {"sampler_name": "DDIM"}, {"negative_prompt": X, **APART}])
def test_windows_of_frames_are_the_whole_film(
    payload: dict, units: list[dict], host: Host, near, plain: dict[str, list[np.ndarray]]
) -> None:
    whole, key = make(host, *units, **FRAMES, **payload), str(payload)
    with near.acting(film={"window": 2}):
        if key not in plain:
            plain[key] = make(host, **FRAMES, **payload)
        assert difference(make(host, *units, **FRAMES, **payload), whole) < SAME
    assert difference(plain[key], whole) > FAR


def test_frames_with_texts_of_their_own(host: Host, near) -> None:
    units = UNITS["a reference for each frame"]
    with near.acting(film={"window": 4, "travel": True}):
        whole = make(host, *units, **FRAMES)
    with near.acting(film={"window": 2, "travel": True}):
        assert difference(make(host, *units, **FRAMES), whole) < SAME


def test_windows_that_nothing_tells_are_no_guess(host: Host, near) -> None:
    """The same text on both sides: the job says that the references could not be used."""
    with near.acting(film={"window": 2}), pytest.raises(RuntimeError, match="another extension"):
        ask(host, unit(), prompt=X, negative_prompt=X, **FRAMES)
