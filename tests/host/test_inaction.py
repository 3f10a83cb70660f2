"""At the end of a job each unit is known to have acted or not, and the answer says so."""

from __future__ import annotations

import re

import pytest

from demo.start import FORGE, Host
from lib_ipadapter.errors import IPAdapterError
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import FAR, ask, difference, make, ours, pixels
from tests.helpers.panel import from_panel

pytestmark = pytest.mark.both_faces

REFINER = {"refiner_checkpoint": "demo-sdxl", "refiner_switch_at": 0.5, "steps": 4}
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}


@pytest.fixture
def said(host: Host, monkeypatch) -> list[str]:
    """The comments on all jobs."""
    from modules.processing import StableDiffusionProcessing

    comments: list[str] = []
    monkeypatch.setattr(StableDiffusionProcessing, "comment", lambda p, text: comments.append(text))
    return comments


@pytest.mark.parametrize("path", ["txt2img", "img2img"])
def test_a_pass_that_will_not_come_is_refused(path: str, host: Host, plain) -> None:
    start = {"init_images": [base64_of(picture(5))]} if path == "img2img" else {}
    payload = {"prompt": "a cat", "steps": 1, **start, "alwayson_scripts": ours(unit(), unit(hires="hires"))}
    answer = host.post(path, payload)
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        'IP-Adapter unit 2: hires is "hires", and this job has no second pass: switch on hires fix, or set '
        'hires to "both".'
    )
    assert len(make(host, unit(hires="hires"), **HIRES)) == 1


def test_a_refiner_that_takes_over_is_told(host: Host, plain, said) -> None:
    """The units act up to there."""
    answer = ask(host, unit(), unit(end=0.4, weight=0.5), **REFINER)
    assert difference(pixels(answer), make(host, **REFINER)) > FAR / 10
    assert "IP-Adapter unit 1: the refiner worked without the reference: the model has 70" in " ".join(said)
    assert "unit 2" not in " ".join(said)
    assert "IP-Adapter 1: " in answer.infotext and "IP-Adapter 2: " in answer.infotext
    assert "IP-Adapter not used in: refiner" in answer.infotext and "units not used" not in answer.infotext


def test_a_unit_whose_steps_are_all_the_refiners_leaves_the_parameters(host: Host, plain, said) -> None:
    late = unit(seeds=(3,), start=0.6)
    answer = ask(host, unit(end=0.4), late, **REFINER)
    assert "IP-Adapter 1: " in answer.infotext
    assert "IP-Adapter 2: " not in answer.infotext and "IP-Adapter units not used: 2" in answer.infotext
    assert "not used in" not in answer.infotext
    assert "IP-Adapter unit 2: it has added nothing to the pictures, because all of its steps were" in " ".join(said)
    alone = ask(host, late, **REFINER)
    assert difference(pixels(alone), make(host, **REFINER)) == 0
    assert "IP-Adapter 1: " not in alone.infotext and "unit 1: it has added nothing" in said[-1]


def test_what_has_acted_is_not_mentioned(host: Host, plain, said) -> None:
    for units, payload in (
        ([unit(), unit(start=0.5)], {}),
        ([unit(), unit(hires="base"), unit(hires="hires")], HIRES),
        ([unit(weight=0), unit()], {"batch_size": 2, "n_iter": 2}),
    ):
        answer = ask(host, *units, **payload)
        assert "IP-Adapter" not in " ".join(said)
        assert all(f"IP-Adapter {i + 1}: " in answer.infotext for i in range(len(units)))


def test_a_curve_that_is_0_in_every_step_has_not_acted(host: Host, plain, said) -> None:
    """Above 0 between two steps only."""
    spike = unit(weight=[[0, 0], [0.3, 0], [0.4, 1], [0.5, 0], [1, 0]], seeds=(3,))
    answer = ask(host, unit(), spike, steps=2)
    assert "IP-Adapter unit 2: it has added nothing" in " ".join(said)
    assert "IP-Adapter 2: " not in answer.infotext


@pytest.mark.parametrize("lost", [0, 1])
def test_calls_without_the_references_are_told(lost: int, face: str, host: Host, plain, said, monkeypatch) -> None:
    """Where a host tells the rows with each call, a call that does not tell them; else one that fits no rows."""
    from lib_ipadapter.attend.rows import RowCursor
    from lib_ipadapter.webui.host import forge

    announced, take, calls = forge.announced, RowCursor.take, []

    def forgets_one(rows):
        calls.append(1)
        return None if len(calls) == lost else rows

    if face == FORGE:
        monkeypatch.setattr(forge, "announced", lambda n: lambda *args: forgets_one(announced(n)(*args)))
    else:
        monkeypatch.setattr(RowCursor, "take", lambda self, *args, **more: forgets_one(take(self, *args, **more)))
    answer = ask(host, unit())
    assert ("left out of some of the model's calls" in " ".join(said)) == bool(lost)
    assert ("IP-Adapter not used in: some calls" in answer.infotext) == bool(lost)


def test_a_job_that_stops_after_its_picture_tells_of_it(host: Host, plain, said, monkeypatch) -> None:
    """What the button does while more pictures are to come, unless a setting says otherwise: the present one is made to
    its end."""
    from modules import script_callbacks, shared

    def stop(_params: object) -> None:
        shared.state.stop_generating()

    spike = unit(weight=[[0, 0], [0.3, 0], [0.4, 1], [0.5, 0], [1, 0]], seeds=(3,))
    script_callbacks.on_cfg_denoiser(stop)
    try:
        answer = ask(host, unit(), spike, steps=2, n_iter=2)
    finally:
        script_callbacks.remove_callbacks_for_function(stop)
    assert len(answer.images) == 1
    assert "IP-Adapter unit 2: it has added nothing" in " ".join(said)
    assert "IP-Adapter 2: " not in answer.infotext and "IP-Adapter units not used: 2" in answer.infotext


UPSCALED = {"firstpass_image": picture(4, (64, 64)), **HIRES}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"batch": "per image"}, "“References in a batch” is “per image”, and nothing tells which of a job's pictures"),
        ({"images": [0, 1]}, "its references stand over time (“at”), and nothing tells which of a job's pictures"),
    ],
)
def test_a_finished_picture_that_is_upscaled_tells_no_reference_of_its_own(
    fields: dict, says: str, host: Host, plain
) -> None:
    """The button below the gallery: the picture comes without its place in the job that made it."""
    two = [picture(0), picture(1)]
    if "images" in fields:
        fields = {"images": [{"key": f"1-{at}", "weight": 1, "at": at} for at in (0, 1)]}
    tab = {"pictures": two, "model": "base", **fields}
    with pytest.raises(IPAdapterError, match=re.escape(says)):
        from_panel(host, tab, **UPSCALED)
    one = {"pictures": two[:1], "model": "base", "batch": "per image"}
    assert difference(from_panel(host, one, **UPSCALED), from_panel(host, {}, **UPSCALED, tick=False)) > FAR / 10
    from_panel(host, {"pictures": two, "model": "base"}, **UPSCALED)
    from_panel(host, {**one, "pictures": two, "hires": "base"}, **UPSCALED)  # rests


def test_a_folder_that_is_walked_has_none_either(host: Host) -> None:
    from types import SimpleNamespace

    from lib_ipadapter.unit import parse_units
    from lib_ipadapter.webui import job

    unit_of = {"model": "base", "images": [{"folder": "faces"}]}
    upscaled, whole = SimpleNamespace(firstpass_image=picture(4)), SimpleNamespace(firstpass_image=None)
    with pytest.raises(IPAdapterError, match="batch is “per image”, and nothing tells which of a job's pictures"):
        job._check_upscaled(upscaled, parse_units([{**unit_of, "batch": "per image"}]))
    job._check_upscaled(upscaled, parse_units([unit_of]))
    job._check_upscaled(whole, parse_units([{**unit_of, "batch": "per image"}]))
