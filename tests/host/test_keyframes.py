"""References over time in whole jobs: batches, films, files, and where they cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from demo.start import FORGE, WEBUI, Host
from lib_ipadapter import infotext
from tests.helpers.files import base64_of, half, picture, unit
from tests.helpers.host import FAR, SAME, ask, difference, make, ours, pixels
from tests.helpers.img2img_files import files_through
from tests.helpers.neighbours import APART, X

LEFT = base64_of(half("left"))
STOPS = {0: 0.0, 7: 1.0}


def over_time(model: str = "base", stops: dict[int, float] = STOPS, **fields: Any) -> dict:
    items = [{"image": base64_of(picture(seed)), "at": at} for seed, at in stops.items()]
    return {"model": model, "images": items, **fields}


@pytest.mark.parametrize("face", [WEBUI, FORGE])
def test_the_ends_of_a_batch_are_their_references(host: Host) -> None:
    batch = {"batch_size": 3}
    first, last = (make(host, unit(seeds=(seed,)), **batch) for seed in STOPS)
    made = make(host, over_time(), **batch)
    assert difference(made[:1], first[:1]) < SAME and difference(made[2:], last[2:]) < SAME
    assert difference(made[1:2], first[1:2]) > FAR / 4 and difference(made[1:2], last[1:2]) > FAR / 4
    reverse = over_time()
    reverse["images"].reverse()
    assert difference(make(host, reverse, **batch), made) < SAME
    same = over_time(stops={0: 0.0})
    same["images"] = [{**same["images"][0], "at": at} for at in (0.0, 0.5, 1.0)]
    assert difference(make(host, same, **batch), first) < SAME  # three projected at once are rounded otherwise


@pytest.mark.parametrize("face", [WEBUI, FORGE])
def test_batches_of_a_job_are_one_run(host: Host) -> None:
    at_once = make(host, over_time(), batch_size=4)
    for batch_size in (1, 2):
        assert difference(make(host, over_time(), batch_size=batch_size, n_iter=4 // batch_size), at_once) < SAME
    hires = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.7, "hr_second_pass_steps": 2}
    made = make(host, over_time(), n_iter=2, **hires)
    for i, seed in enumerate(STOPS):
        assert difference(made[i : i + 1], make(host, unit(seeds=(seed,)), n_iter=2, **hires)[i : i + 1]) < SAME


def test_a_picture_by_itself_is_the_first(host: Host) -> None:
    assert difference(make(host, over_time()), make(host, unit())) < SAME


@pytest.mark.host("neighbours")
@pytest.mark.parametrize("payload", [{}, APART, {"sampler_name": "DDIM"}])
@pytest.mark.parametrize("units", [[over_time()], [over_time("plus", {0: 0.2, 3: 0.5, 7: 0.9}, region_mask=LEFT)]])
def test_windows_of_frames_are_the_whole_film(payload: dict, units: list[dict], host: Host, near) -> None:
    whole = make(host, *units, batch_size=6, **payload)
    for window in (2, 5):
        with near.acting(film={"window": window, "length": 6}):
            assert difference(make(host, *units, **payload), whole) < SAME


@pytest.mark.host("neighbours")
def test_a_film_that_is_shorter_than_a_window_ends_with_itself(host: Host, near) -> None:
    """The batch has as many frames as a window, of which the last ones are nobody's."""
    with near.acting(film={"window": 5, "length": 3}):
        made = make(host, over_time())
    assert len(made) == 5
    for frame, seed in ((0, 0), (2, 7), (4, 7)):
        assert difference(made[frame : frame + 1], make(host, unit(seeds=(seed,)), batch_size=5)[frame : frame + 1]) < SAME  # fmt: skip # noqa: E501
    with near.acting(film={"window": 3, "length": 0}):  # as long as a window
        assert difference(make(host, over_time()), make(host, over_time(), batch_size=3)) < SAME


@pytest.mark.host("neighbours")
def test_each_batch_of_films_is_a_film_from_its_beginning(host: Host, near) -> None:
    with near.acting(film={"window": 2, "length": 3}):
        made = make(host, over_time(), n_iter=2)
    for i, seed in ((0, 0), (2, 7), (3, 0), (5, 7)):
        alone = make(host, unit(seeds=(seed,)), batch_size=3, n_iter=2)
        assert difference(made[i : i + 1], alone[i : i + 1]) < SAME


@pytest.mark.host("neighbours")
def test_windows_that_nothing_tells_are_no_guess(host: Host, near) -> None:
    with near.acting(film={"window": 2, "length": 4}), pytest.raises(RuntimeError, match="another extension"):
        ask(host, over_time(), prompt=X, negative_prompt=X)


def files_made(host: Host, settings: dict, count: int, **fields: Any) -> list[np.ndarray]:
    return [one for made in files_through(host, count, settings, **fields) for one in made]


@pytest.mark.parametrize("batch", [{}, {"n_iter": 2}, {"batch_size": 2}])
def test_files_of_a_batch_are_one_run(batch: dict, host: Host) -> None:
    made = files_made(host, over_time(), 3, **batch)
    first, last = (files_made(host, unit(seeds=(seed,)), 3, **batch) for seed in STOPS)
    assert difference(made[:1], first[:1]) < SAME and difference(made[-1:], last[-1:]) < SAME
    assert difference(made[len(made) // 2], first[len(made) // 2]) > FAR / 8
    assert difference(made[len(made) // 2], last[len(made) // 2]) > FAR / 8


@pytest.mark.parametrize("face", [FORGE])
@pytest.mark.parametrize("file", ["redux", "xlabs"])
@pytest.mark.host("flux")
def test_on_flux_too(file: str, host: Host) -> None:
    from demo.forge import flux

    payload = {
        "override_settings": {"sd_model_checkpoint": flux.NAME}, "cfg_scale": 3, "steps": 2, "batch_size": 3,
    }  # fmt: skip
    made = make(host, over_time(file), **payload)
    first, last = (make(host, unit(file, (seed,)), **payload) for seed in STOPS)
    assert difference(made[:1], first[:1]) < SAME and difference(made[2:], last[2:]) < SAME
    assert difference(made[1:2], first[1:2]) > SAME and difference(made[1:2], last[1:2]) > SAME


def test_its_parameters_bring_it_back(host: Host, store: Any) -> None:
    from modules.infotext_utils import parse_generation_parameters

    given = over_time(stops={0: 0.0, 3: 0.25, 7: 1.0})
    given["images"][1] |= {"region": LEFT, "weight": 0.5}
    answer = host.txt2img(prompt="a cat", steps=1, width=64, height=64, batch_size=2, alwayson_scripts=ours(given))
    params = parse_generation_parameters(answer.infotext)
    assert "at: 0 0.25 1" in params["IP-Adapter 1"]
    (restored,), notes = infotext.restored(params, store.picture)
    assert notes == [] and [one["at"] for one in restored["images"]] == [0, 0.25, 1]
    again = host.txt2img(prompt="a cat", steps=1, width=64, height=64, batch_size=2, infotext=answer.infotext)
    assert difference(pixels(again), pixels(answer)) == 0 and again.infotext == answer.infotext
