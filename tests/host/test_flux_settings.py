"""Units for FLUX through the ways by which settings travel: plots, presets, parameters, the panel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import pytest

from demo.forge import flux
from demo.start import FORGE, Host
from lib_ipadapter import infotext
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import FAR, SAME, ask, difference, make, ours, pixels
from tests.helpers.panel import from_panel, panel_of, put_in
from tests.helpers.plots import plot_over

pytestmark = [pytest.mark.parametrize("face", [FORGE]), pytest.mark.host("flux")]
ON_FLUX = {"override_settings": {"sd_model_checkpoint": flux.NAME}, "cfg_scale": 1, "steps": 2}
HIDDEN = {"weight_type": "style transfer", "noise": 0.4, "embeds_scaling": "K+V", "influence_map": True}


@pytest.fixture
def on_flux(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The checkpoint of the settings, as a page chooses it."""
    from modules import shared
    from modules.sd_models import get_closet_checkpoint_match

    before = shared.opts.data["sd_model_checkpoint"]
    shared.opts.data["sd_model_checkpoint"] = get_closet_checkpoint_match(flux.NAME).title
    yield
    shared.opts.data["sd_model_checkpoint"] = before


def plotted(host: Host, **axes: list[Any]) -> list[np.ndarray]:
    """The cells of a plot over a Redux unit, as many as there are."""
    from modules.api.api import decode_base64_to_image

    small = {"prompt": "a cat", "negative_prompt": "blurry", "width": 64, "height": 64, "seed": 1, **ON_FLUX}
    of_unit = {f"{name.replace('_', ' ')} 1": values for name, values in axes.items()}
    answer = host.post("txt2img", {**small, **plot_over(of_unit), "alwayson_scripts": ours(unit("redux"))})
    assert answer.status_code == 200, answer.text
    images = [decode_base64_to_image(text).convert("RGB") for text in answer.json()["images"]]
    return [np.asarray(one).astype(int) for one in images[-prod(map(len, axes.values())) :]]


def test_a_plot_over_how_closely(host: Host) -> None:
    found = plotted(host, Downsampling=[1, 3, 9])
    singly = [make(host, unit("redux", downsampling=value), **ON_FLUX)[0] for value in (1, 3, 9)]
    assert difference(found, singly) < SAME
    assert difference(singly[:1], singly[-1:]) > FAR / 4
    assert difference(plotted(host, Weight=[0, 0.5]), plotted(host, Weight=[0.5, 0])[::-1]) < SAME


def test_a_plot_over_purposes(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    found = plotted(host, Purpose=["Whole picture", "Style and mood", "Style"])
    singly = [make(host, unit("redux", downsampling=value), **ON_FLUX)[0] for value in (1, 5)]
    assert difference(found[:2], singly) < SAME
    (said,) = [one.message for one in caplog.records if one.name == "ip-adapter" and one.levelname == "ERROR"]
    assert "purpose “Style”, which means nothing to adapter redux: choose one of Whole picture, Variation, " in said


def test_a_plot_over_what_means_nothing_says_so(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    plotted(host, Weight_type=["linear", "style transfer"])
    (said,) = [one.message for one in caplog.records if one.name == "ip-adapter" and one.levelname == "ERROR"]
    assert "weight_type means nothing here: adapter redux is FLUX Redux" in said


@pytest.mark.parametrize("file", ["redux", "xlabs"])
def test_parameters_and_presets_bring_a_unit_back(file: str, host: Host, store: Any) -> None:
    from modules.infotext_utils import parse_generation_parameters

    settings = {"weight": 0.5, "end": 0.75, **({"downsampling": 9} if file == "redux" else {})}
    answer = ask(host, unit(file, **settings), **ON_FLUX)
    (back,), notes = infotext.restored(parse_generation_parameters(answer.infotext), store.picture)
    assert notes == [] and {name: back[name] for name in settings} == settings and back["model"] == file
    store.save("kept", [back])
    (kept,) = store.load("kept")
    again = ask(host, {**kept, "images": [base64_of(one["image"]) for one in kept["images"]]}, **ON_FLUX)
    assert difference(pixels(again), pixels(answer)) == 0
    values, notes = put_in(panel_of(host), store.load("kept"))
    assert notes == []
    shown = json.loads(str(values[0]))["units"][0]
    assert shown["model"] == file and shown["weight"] == 0.5
    assert file != "redux" or shown["downsampling"] == "9"


@pytest.mark.parametrize(("file", "left"), [("redux", set()), ("xlabs", {"noise"})])
def test_what_the_panel_does_not_show_is_neither_sent_nor_kept(file: str, left: set[str], host: Host) -> None:
    from lib_ipadapter.webui.panel import accordion

    def sent(model: str) -> dict[str, Any]:
        values, _ = put_in(panel_of(host), [{**unit(model), **HIDDEN}])
        return accordion.presets_units(tuple(values))[0]

    assert {name: sent("base")[name] for name in HIDDEN} == HIDDEN
    assert {*HIDDEN} & {*sent(file)} == left


def test_a_job_of_the_page_goes_without_what_is_not_in_sight(host: Host, on_flux: None) -> None:
    tab = {"model": "redux", "pictures": [picture(0)], "weight": 0.7, "downsampling": "3"}
    shown = from_panel(host, tab, cfg_scale=1)
    assert difference(from_panel(host, {**tab, **HIDDEN, "noise": "0.4"}, cfg_scale=1), shown) == 0
    expected = make(host, unit("redux", weight=0.7, downsampling=3), cfg_scale=1, steps=3)
    assert difference(shown, expected) < SAME
    from tests.helpers.host import loaded_unet

    assert isinstance(loaded_unet(), flux.IntegratedFluxTransformer2DModel)


def test_a_checkpoint_that_is_chosen_counts_before_it_is_loaded(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import shared
    from modules.sd_models import get_closet_checkpoint_match

    from lib_ipadapter.webui import host as hosts

    make(host, steps=1)
    assert hosts.current().present_topology().base == "SD1.5"
    monkeypatch.setitem(shared.opts.data, "sd_model_checkpoint", get_closet_checkpoint_match(flux.NAME).title)
    assert hosts.current().present_topology().base == "FLUX"
    monkeypatch.undo()
    make(host, **ON_FLUX)
    assert hosts.current().present_topology() is None  # the settings' file does not tell what it is
    make(host, steps=1)
    assert hosts.current().present_topology().base == "SD1.5"
