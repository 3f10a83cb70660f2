"""The axes of X/Y/Z plot: which there are, what they set, what they refuse."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest

from demo.start import Host
from lib_ipadapter.unit import Unit, parse_units
from tests.helpers.files import unit
from tests.helpers.plots import plot_over

pytestmark = pytest.mark.host("plot")


@pytest.fixture
def plot(host):
    from modules import scripts

    return next(data.module for data in scripts.scripts_data if hasattr(data.module, "axis_options"))


def labels(plot) -> list[str]:
    return [option.label for option in plot.axis_options if option.label.startswith("[IP-Adapter]")]


def option(plot, label: str):
    return next(option for option in plot.axis_options if option.label == f"[IP-Adapter] {label}")


def request(host: Host, *units, **payload):
    small = {"prompt": "a cat", "negative_prompt": "blurry", "width": 64, "height": 64, "steps": 2, "seed": 1,
             "sampler_name": "Euler", "alwayson_scripts": {"IP-Adapter": {"args": list(units)}}}  # fmt: skip
    return host.post("txt2img", {**small, **payload})


def plotted(host: Host, axes: dict[str, list], *units, **payload):
    return request(host, *units, **plot_over(axes), **payload)


def pictures(answer) -> list[np.ndarray]:
    from modules.api.api import decode_base64_to_image

    assert answer.status_code == 200, answer.text
    return [np.asarray(decode_base64_to_image(text).convert("RGB")).astype(int) for text in answer.json()["images"]]


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b)


# --- which there are ------------------------------------------------------------------------------------------------


def test_every_number_and_choice_of_every_tab(plot) -> None:
    names = ["Model", "Weight", "Start", "End", "Combine", "Hires", "Batch"]
    assert set(labels(plot)) >= {f"[IP-Adapter] {name} {number}" for name in names for number in (1, 2)}
    no_axis = {
        "references",
        "negative_references",
        "region_mask",
        "keypoints_image",
        "influence_map",
        "enabled",
        "number",
        "wording",
    }
    of_each = {f.name for f in fields(Unit)} - no_axis | {"reference", "look", "purpose"}
    assert len(labels(plot)) == len(set(labels(plot))) == 2 * len(of_each) + 1


def test_choices_and_costs(plot) -> None:
    assert option(plot, "Model 1").choices() == sorted(option(plot, "Model 2").choices(), key=str.casefold)
    assert {"base", "plus", "wide"} <= {*option(plot, "Model 1").choices()}
    assert option(plot, "Hires 2").choices() == ["both", "base", "hires"]
    assert option(plot, "Weight 1").choices is None
    assert option(plot, "Weight 1").type is float
    assert 0.7 > option(plot, "Model 1").cost > option(plot, "Combine 1").cost > option(plot, "Weight 1").cost == 0


def test_registered_once_however_often(plot, monkeypatch) -> None:
    from lib_ipadapter.webui import start
    from lib_ipadapter.webui.neighbours import xyz

    before = labels(plot)
    start._register_axes()
    assert labels(plot) == before
    assert [option.label for option in plot.axis_options[:2]] == ["Nothing", "Seed"]
    monkeypatch.setattr(xyz.options, "unit_count", lambda: 1)
    start._register_axes()
    assert len(labels(plot)) - 1 == (len(before) - 1) // 2  # a preset is all units'
    monkeypatch.undo()
    start._register_axes()
    monkeypatch.setattr(xyz, "_plots", list)
    start._register_axes()  # no such script: nothing to do


def test_the_page_has_them_after_a_reload(host) -> None:
    from modules import scripts

    for runner in (scripts.scripts_txt2img, scripts.scripts_img2img):
        script = next(s for s in runner.selectable_scripts if s.title() == "X/Y/Z plot")
        found = [o.label for o in script.current_axis_options if o.label.startswith("[IP-Adapter]")]
        assert len(found) == len(set(found)) > 10


# --- what they set --------------------------------------------------------------------------------------------------


@pytest.mark.both_faces
def test_a_cell_is_the_picture_with_its_values(host) -> None:
    axes = {"Weight 1": ["0", "0.5", "1"], "Model 1": ["base", "plus", "PLUS.safetensors"], "Seed": [1, 1, 1]}
    cells = pictures(plotted(host, axes, unit()))
    for cell, weight, model in zip(cells, (0.0, 0.5, 1.0), ("base", "plus", "plus"), strict=True):
        (single,) = pictures(request(host, unit(weight=weight, model=model)))
        assert same(cell, single)
    assert not same(cells[1], cells[2])


@pytest.mark.both_faces
def test_each_unit_has_its_own(host) -> None:
    cells = pictures(plotted(host, {"Weight 2": [0.25, 0.75]}, unit(), unit(seeds=(2,))))
    for cell, weight in zip(cells, (0.25, 0.75), strict=True):
        assert same(cell, pictures(request(host, unit(), unit(seeds=(2,), weight=weight)))[0])


def test_the_infotext_tells_the_cells_values(host) -> None:
    answer = plotted(host, {"Weight 1": [0.25, 1]}, unit())
    texts = json.loads(answer.json()["info"])["infotexts"]
    assert "weight: 0.25" in texts[0]
    assert "weight" not in texts[1].split("IP-Adapter 1:")[1]


def test_a_clients_units_are_not_changed(host) -> None:
    from types import SimpleNamespace

    from lib_ipadapter.webui.host import record
    from lib_ipadapter.webui.neighbours import xyz

    first, second = SimpleNamespace(extra_generation_params={}), SimpleNamespace()
    xyz.Axis(1, "weight", float).apply(first, 0.5, [])
    second.__dict__.update(vars(first))
    xyz.Axis(1, "model", str).apply(second, "plus", [])
    assert record.axis_values(first) == {"1 weight": 0.5}
    units = [{"model": "base", "images": ["x"]}]
    (cell,) = xyz.apply_axis_values(second, parse_units(units))
    assert cell.to_object() == {"model": "plus", "images": ["x"], "weight": 0.5}
    assert units == [{"model": "base", "images": ["x"]}]
    assert xyz.apply_axis_values(SimpleNamespace(), parse_units(units)) == parse_units(units)


# --- what they refuse -----------------------------------------------------------------------------------------------


@pytest.mark.both_faces
@pytest.mark.parametrize(
    ("axes", "units", "says"),
    [
        ({"Model 1": ["base", "missing"]}, 1, "IP-Adapter unit 1: "),
        ({"Model 1": ["base", "missing"]}, 1, "missing"),
        ({"Weight 1": ["0.5", "7"]}, 1, "IP-Adapter unit 1: weight is 7.0: give a number from -1 to 3"),
        ({"Start 1": ["1"]}, 1, "make start less than end"),
        ({"Combine 1": ["blend"]}, 1, "combine is 'blend': choose one of"),
        ({"Weight 2": ["0.5"]}, 1, "IP-Adapter unit 2: the X/Y/Z plot sets its weight, but it is not in use"),
        ({"Weight 1": ["0.5"]}, 0, "IP-Adapter unit 1: the X/Y/Z plot sets its weight, but it is not in use"),
        ({"Hires 1": []}, 1, "IP-Adapter unit 1: the plot's axis Hires 1 has no values"),
    ],
)
def test_refused_before_anything_runs(axes, units: int, says: str, host, monkeypatch) -> None:
    from modules import processing

    monkeypatch.setattr(processing, "process_images", lambda p: pytest.fail("it ran"))
    answer = plotted(host, axes, *[unit()] * units)
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


@pytest.mark.both_faces
def test_a_refused_cell_says_why(host, monkeypatch) -> None:
    from lib_ipadapter.webui.neighbours import xyz_cells

    written, write = [], xyz_cells._written
    monkeypatch.setattr(xyz_cells, "_written", lambda text, size: written.append((text, size)) or write(text, size))
    (plain,) = pictures(request(host))
    answer = plotted(host, {"Model 1": ["base", "wide", "plus"], "Seed": [1, 1, 1]}, unit(), batch_size=2, n_iter=2)
    cells = pictures(answer)
    assert len(written) == 4
    assert all("adapter wide is for SDXL, the model is SD1.5" in text and size == (64, 64) for text, size in written)
    assert same(cells[1], np.asarray(write(*written[0])).astype(int))
    single = pictures(request(host, unit(model="plus"), batch_size=2, n_iter=2))
    assert same(cells[2], single[0])
    texts = json.loads(answer.json()["info"])["infotexts"]
    assert "IP-Adapter refused" in texts[1]
    assert "IP-Adapter 1:" not in texts[1]
    assert "refused" not in texts[2]
    assert same(pictures(request(host))[0], plain)


@pytest.mark.both_faces
def test_a_refused_cell_of_a_hires_run_has_its_size(host) -> None:
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}
    cells = pictures(plotted(host, {"Model 1": ["wide", "base"]}, unit(), **hires))
    assert [cell.shape for cell in cells] == [(128, 128, 3)] * 2


@pytest.mark.both_faces
def test_a_cell_that_fails_later_says_why(host, monkeypatch) -> None:
    from lib_ipadapter.webui.host import A1111

    monkeypatch.setattr(A1111, "denoising_step", lambda self, params: 1 / 0)
    answer = plotted(host, {"Weight 1": [0.5]}, unit())
    (cell,) = pictures(answer)
    assert tuple(cell[0, 0]) == (24, 24, 27)
    assert len(np.unique(cell)) > 2


def test_a_cell_of_an_unforeseen_error_says_so(host, monkeypatch) -> None:
    from lib_ipadapter.webui import job
    from lib_ipadapter.webui.neighbours import xyz_cells

    written, write = [], xyz_cells._written
    monkeypatch.setattr(xyz_cells, "_written", lambda text, size: written.append(text) or write(text, size))
    monkeypatch.setattr(job, "_prepare", lambda p, units: 1 / 0)
    assert len(pictures(plotted(host, {"Weight 1": [0.5]}, unit()))) == 1
    assert "unexpected ZeroDivisionError" in written[0]


@pytest.mark.both_faces
def test_no_maps_in_a_plot(host) -> None:
    answer = plotted(host, {"Weight 1": [0.5, 1]}, unit(influence_map=True))
    assert len(pictures(answer)) == 2


@pytest.mark.parametrize("size", [(64, 64), (128, 96), (512, 768)])
def test_a_sentence_fits_where_it_can(host, size) -> None:
    from lib_ipadapter.webui.neighbours import xyz_cells

    text = np.asarray(xyz_cells._written("IP-Adapter unit 1: adapter wide is for SDXL … choose another.", size))
    assert text.shape == (size[1], size[0], 3)
    assert (text.max(-1) > 200).any()
    assert tuple(text[-1, -1]) == xyz_cells.PAPER


@pytest.mark.both_faces
def test_a_cell_of_the_hosts_axes_says_why_too(host, monkeypatch) -> None:
    from lib_ipadapter.webui.host import A1111
    from lib_ipadapter.webui.neighbours import xyz_cells

    written, write = [], xyz_cells._written
    monkeypatch.setattr(xyz_cells, "_written", lambda text, size: written.append(text) or write(text, size))
    (plain,) = pictures(request(host))
    assert len(pictures(plotted(host, {"Seed": [1, 2]}, unit("wide")))) == 2
    assert len(written) == 2 and all("adapter wide is for SDXL" in text for text in written)
    announced, steps = A1111.denoising_step, []

    def broken(self, params):
        steps.append(1)
        return announced(self, params) if len(steps) > 1 else 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr(A1111, "denoising_step", broken)
        answer = plotted(host, {"Seed": [1, 1]}, unit())
    cells = pictures(answer)
    assert "ZeroDivisionError" in written[2] and len(written) == 3
    assert same(cells[1], pictures(request(host, unit()))[0])
    first, second = json.loads(answer.json()["info"])["infotexts"]
    assert "IP-Adapter units not used: 1" in first and "IP-Adapter 1: " not in first
    assert "not used" not in second and "IP-Adapter 1: " in second
    assert same(pictures(request(host))[0], plain)


@pytest.mark.both_faces
def test_an_error_in_the_last_cell_leaves_nothing(host) -> None:
    from tests.helpers.host import hooks, loaded_unet

    def explode(*_args) -> None:
        raise RuntimeError("out of memory")

    handle = loaded_unet().output_blocks[3].register_forward_pre_hook(explode)
    try:
        assert len(pictures(plotted(host, {"Seed": [1, 2]}, unit()))) == 2  # blank ones
    finally:
        handle.remove()
    assert hooks() == []
