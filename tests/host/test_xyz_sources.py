"""The axes for what units come from: references by number, looks, purposes, presets; and small pictures in the grid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from demo.start import Host
from lib_ipadapter.presets.looks import Looks
from tests.helpers.files import picture, unit
from tests.host.test_xyz import option, pictures, plot, plotted, request, same  # noqa: F401 (a fixture)

pytestmark = pytest.mark.host("plot")


@pytest.fixture(autouse=True)
def looks(tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Looks]:
    from lib_ipadapter.webui import process

    made = Looks(tmp_path / "looks")
    monkeypatch.setattr(process, "looks", lambda: made)
    yield made


def kept(host: Host, name: str, settings: dict) -> None:
    answer = host.client.put(f"/ip-adapter/looks/{name}", json={"unit": settings})
    assert answer.status_code == 200, answer.text


def single(host: Host, *units: dict) -> np.ndarray:
    (picture,) = pictures(request(host, *units))
    return picture


def all_same(cells: list[np.ndarray], *others: np.ndarray) -> bool:
    assert len({cell.tobytes() for cell in cells}) == len(cells)  # each is another one
    return all(same(cell, other) for cell, other in zip(cells, others, strict=True))


# Each cell is the single request


@pytest.mark.both_faces
def test_references_looks_and_purposes_are_single_requests(host: Host) -> None:
    both = unit(seeds=(1, 2), weight=0.8)
    kept(host, "Oil", unit(seeds=(3,)))
    kept(host, "Ink", unit(seeds=(4,), noise=0.3))
    cells = pictures(plotted(host, {"Reference 1": ["1", "2"]}, both))
    assert all_same(cells, *(single(host, unit(seeds=(seed,), weight=0.8)) for seed in (1, 2)))
    cells = pictures(plotted(host, {"Look 1": ["oil", "Ink"]}, both))
    assert all_same(cells, *(single(host, {**both, "images": [{"look": name}]}) for name in ("Oil", "Ink")))
    cells = pictures(plotted(host, {"Purpose 1": ["Style", "composition"]}, both))
    style = {**both, "weight_type": "style transfer", "weight": 1.0}
    composition = {**both, "weight_type": "composition", "weight": 0.8, "end": 0.8}
    assert all_same(cells, single(host, style), single(host, composition))


def test_an_axis_of_one_value_is_the_picture(host: Host, store: Any) -> None:
    one = unit(seeds=(1,))
    kept(host, "Oil", one)
    store.save("kept", [one])
    want = single(host, one)
    for axis, value in (("Reference 1", 1), ("Look 1", "Oil"), ("Preset", "kept")):
        (cell,) = pictures(plotted(host, {axis: [value]}, one))
        assert same(cell, want), axis


def test_a_field_s_axis_comes_after_a_purpose(host: Host) -> None:
    cells = pictures(plotted(host, {"Purpose 1": ["style"] * 2, "Weight 1": [0.3, 0.9]}, unit()))
    style = [unit(weight_type="style transfer", weight=weight) for weight in (0.3, 0.9)]
    assert all_same(cells, *(single(host, one) for one in style))


def test_presets_bring_all_of_their_units(host: Host, store: Any) -> None:
    first, second = unit(seeds=(1,)), [unit(seeds=(2,)), {"enabled": False}, unit("plus", seeds=(3,), weight=0.5)]
    store.save("one", [first])
    store.save("two units", second)
    want = [single(host, first), single(host, *second)]
    for units in ([], [unit(seeds=(5,))]):  # whatever the job has
        answer = plotted(host, {"Preset": ["one", "TWO units"]}, *units)
        assert all_same(pictures(answer), *want)
        texts = json.loads(answer.json()["info"])["infotexts"]
        assert ["IP-Adapter 3:" in text for text in texts] == [False, True]


def test_choices(host: Host, store: Any, plot: Any) -> None:  # noqa: F811
    kept(host, "Oil", unit())
    store.save("kept", [unit()])
    assert option(plot, "Look 1").choices() == ["Oil"]
    assert option(plot, "Preset").choices() == ["kept"]
    labels = ["Everything", "Style", "Composition", "Style + composition", "Face"]
    labels += ["Whole picture", "Variation", "Style and mood"]
    assert option(plot, "Purpose 2").choices() == labels
    assert option(plot, "Reference 1").type is int and option(plot, "Reference 1").choices is None
    assert option(plot, "Preset").cost > option(plot, "Look 1").cost > option(plot, "Purpose 1").cost


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        (
            {"Reference 1": ["3"]},
            "unit 1: the X/Y/Z plot wants its reference 3, and it has 1 to 2: take the number out",
        ),
        ({"Reference 1": ["0"]}, "unit 1: reference is 0: give the number"),
        ({"Reference 2": ["1"]}, "unit 2: the X/Y/Z plot sets its reference, but it is not in use"),
        ({"Look 1": ["Oil"]}, "unit 1: there is no look “Oil”: keep one first"),
        ({"Look 1": ["../x"]}, "unit 1: the name of a look has 1 to 100 characters"),
        ({"Purpose 1": ["blend"]}, "unit 1: there is no purpose “blend”: choose one of Everything, Style"),
        ({"Preset": ["no"]}, "There is no preset “no”"),
        ({"Preset": ["empty"]}, "preset “empty” has no unit that is in use"),
        ({"Preset": []}, "the plot's axis Preset has no values"),
    ],
)
def test_refused_before_anything_runs(axes: dict, says: str, host: Host, store: Any, monkeypatch: Any) -> None:
    from modules import processing

    store.save("empty", [{"enabled": False, "model": "base"}])
    monkeypatch.setattr(processing, "process_images", lambda p: pytest.fail("it ran"))
    answer = plotted(host, axes, unit(seeds=(1, 2)))
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


def test_a_cell_that_cannot_be_says_why(host: Host, monkeypatch: Any) -> None:
    from lib_ipadapter.webui.neighbours import xyz_cells

    written, write = [], xyz_cells._written
    monkeypatch.setattr(xyz_cells, "_written", lambda text, size: written.append(text) or write(text, size))
    kept(host, "Oil", unit("base"))
    pictures(plotted(host, {"Look 1": ["Oil"], "Model 1": ["plus"]}, unit()))
    pictures(plotted(host, {"Purpose 1": ["Face"]}, unit()))
    assert "the look 'Oil' holds pooled embeddings" in written[0]
    assert "its purpose “Face”, and adapter base is none for faces" in written[1]


# Several axes


def test_presets_go_with_other_axes(host: Host, store: Any) -> None:
    """Whatever the job has itself: the preset's units are those of the cell."""
    one, two = unit(seeds=(1, 2)), unit(seeds=(5, 6))
    store.save("one", [one])
    store.save("two", [two])
    axes = {"Preset": ["one", "two"], "Weight 1": [0.3, 0.9]}
    want = [single(host, {**preset, "weight": weight}) for preset, weight in ((one, 0.3), (two, 0.9))]
    for units in ([], [unit(seeds=(9,))], [{"enabled": False}]):
        assert all_same(pictures(plotted(host, axes, *units)), *want)
    cells = pictures(plotted(host, {"Reference 1": [2, 2], "Preset": ["one", "two"]}, unit(seeds=(9,))))
    assert all_same(cells, single(host, unit(seeds=(2,))), single(host, unit(seeds=(6,))))
    answer = plotted(host, {"Preset": ["one", "two"], "Weight 1": [0.3, 9]})
    assert answer.status_code == 422 and "weight is 9" in answer.json()["detail"]


def test_a_look_is_a_unit_s_reference_where_it_has_none(host: Host) -> None:
    kept(host, "Oil", unit(seeds=(3,)))
    kept(host, "Ink", unit(seeds=(4,)))
    want = [single(host, unit(seeds=(seed,))) for seed in (3, 4)]
    assert all_same(pictures(plotted(host, {"Look 1": ["Oil", "Ink"]}, {"model": "base"})), *want)
    light = [single(host, unit(seeds=(seed,), weight=0.3)) for seed in (3, 4)]
    axes = {"Weight 1": [0.3, 0.3], "Look 1": ["Oil", "Ink"]}
    assert all_same(pictures(plotted(host, axes, {"model": "base"})), *light)


def test_a_reference_and_a_look_of_one_unit_are_refused(host: Host, monkeypatch: Any) -> None:
    from lib_ipadapter.webui.neighbours import xyz_cells

    written, write = [], xyz_cells._written
    monkeypatch.setattr(xyz_cells, "_written", lambda text, size: written.append(text) or write(text, size))
    kept(host, "Oil", unit(seeds=(3,)))
    pictures(plotted(host, {"Reference 1": [1, 2], "Look 1": ["Oil", "Oil"]}, unit(seeds=(1, 2))))
    assert len(written) == 2
    assert (
        "unit 1: the X/Y/Z plot has both a Reference and a Look of it, which takes the references' place" in written[0]
    )
    both = {"Reference 1": [1, 2], "Look 2": ["Oil", "Oil"]}
    assert len(pictures(plotted(host, both, unit(seeds=(1, 2)), unit(seeds=(1,))))) == 2 and len(written) == 2


@pytest.mark.parametrize("axes", [{"0 preset": "p"}, {"1 look": "Oil"}, {"1 look": "Oil", "1 weight": 0.5}])
def test_a_ticked_panel_without_references_is_a_cell_s_too(
    axes: dict, host: Host, store: Any, monkeypatch: Any
) -> None:
    from modules import processing

    from lib_ipadapter.webui.host import record
    from tests.helpers.panel import from_panel

    one = unit(seeds=(1,), weight=axes.get("1 weight", 1.0))
    store.save("p", [one])
    kept(host, "Oil", one)
    plain = processing.process_images

    def process_images(p: Any) -> Any:
        if axes:
            record.opened(p).axis_values.update(axes)
        return plain(p)

    monkeypatch.setattr(processing, "process_images", process_images)
    (got,) = from_panel(host, {"model": "base"}, {}, {})
    with pytest.raises(Exception, match="no unit has a reference picture"):
        axes = {}
        from_panel(host, {"model": "base"}, {}, {})
    (want,) = from_panel(host, {"model": "base", "pictures": [picture(1)], "weight": one.get("weight", 1.0)}, {}, {})
    assert same(got, want)


# Small pictures


def grid_of(images: list[Any], rows: int) -> Image.Image:
    from modules.images import image_grid

    return image_grid(images, rows=rows)


def cell(values: dict[str, bytes], size: int = 128) -> Image.Image:
    made = Image.new("RGB", (size, size), "white")
    made.ip_adapter_axes = values  # type: ignore[attr-defined]
    return made


def jpeg(colour: str) -> bytes:
    from lib_ipadapter.presets.thumbnails import board

    return board([Image.new("RGB", (64, 64), colour)])


def spots(grid: Image.Image, size: int = 128) -> dict[tuple[int, int], str]:
    """Where something is in the corner of a cell (column, row), and what, by its colour."""
    pixels, found = np.asarray(grid).astype(int), {}
    for row in range(grid.height // size):
        for column in range(grid.width // size):
            part = pixels[row * size : (row + 1) * size, column * size : (column + 1) * size]
            for name, at in (("top", part[10, 10]), ("bottom", part[-10, 10])):
                if at.min() < 128:
                    found[column, row] = name + " " + ("red" if at[0] > 128 else "blue" if at[2] > 128 else "other")
    return found


def test_small_pictures_stand_at_the_first_row_or_column(host: Host) -> None:
    red, blue = jpeg("red"), jpeg("blue")
    across = [cell({"1 look": one}) for one in (red, blue)] * 2
    assert spots(grid_of(across, 2)) == {(0, 0): "top red", (1, 0): "top blue"}
    down = [cell({"1 look": one}) for one in (red, red, blue, blue)]
    assert spots(grid_of(down, 2)) == {(0, 0): "bottom red", (0, 1): "bottom blue"}
    assert spots(grid_of([cell({"1 look": red})] * 4, 2)) == {}  # one value: nothing to tell apart
    assert spots(grid_of([Image.new("RGB", (128, 128), "white")] * 4, 2)) == {}
    assert spots(grid_of([cell({"1 look": one}, 64) for one in (red, blue)], 1), 64) == {}  # no room
    # Cells that were refused, or not made, say nothing of where the axis is.
    down = [cell({"1 look": one} if one else {}) for one in (red, None, red, None, blue, blue)]
    assert spots(grid_of(down, 2)) == {(0, 0): "bottom red", (0, 1): "bottom blue"}
    stopped = [cell({"1 look": one} if one else {}) for one in (red, red, blue, None)]
    assert spots(grid_of(stopped, 2)) == {(0, 0): "bottom red", (0, 1): "bottom blue"}
    across = [cell({"1 look": one} if one else {}) for one in (None, red, blue, blue, red, None)]
    assert spots(grid_of(across, 2)) == {(0, 0): "top blue", (1, 0): "top red", (2, 0): "top blue"}
    both = [cell({"0 preset": one}) for one in (red, blue, blue, red)]
    assert spots(grid_of(both, 2)) == {}  # of both axes: nobody would know what it stands for
    assert all(np.asarray(one).min() == 255 for one in (*across, *down))  # the cells' own pictures


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "I", "F", "LA", "I;16", "CMYK", "1"])
def test_small_pictures_go_into_any_picture_or_leave_it(mode: str, host: Host) -> None:
    from types import SimpleNamespace

    from lib_ipadapter.webui.neighbours import xyz_grids

    cells = [Image.new(mode, (128, 128)) for _ in range(2)]
    for one, colour in zip(cells, ("red", "blue"), strict=True):
        one.ip_adapter_axes = {"1 look": jpeg(colour)}  # type: ignore[attr-defined]
    params = SimpleNamespace(imgs=cells, cols=2, rows=1)
    xyz_grids.draw(params)
    assert [one.mode for one in params.imgs] == [mode] * 2


def test_a_plot_s_cells_say_what_stands_for_them(host: Host, monkeypatch: Any) -> None:
    from modules import shared

    from lib_ipadapter.webui.neighbours import xyz_grids

    marks: list[dict] = []
    mark = xyz_grids.mark
    monkeypatch.setattr(
        xyz_grids, "mark", lambda p, image: mark(p, image) or marks.append(getattr(image, "ip_adapter_axes", {}))
    )
    kept(host, "Oil", unit(seeds=(3,)))
    plotted(host, {"Look 1": ["Oil"], "Weight 1": [0.5]}, unit())
    plotted(host, {"Reference 1": [1, 2]}, unit(seeds=(1, 2)))
    plotted(host, {"Purpose 1": ["style"]}, unit())
    request(host, unit())
    assert [[*one] for one in marks] == [["1 look"], ["1 reference"], ["1 reference"], [], []]
    small = [one for mark in marks for one in mark.values()]
    assert all(one.startswith(b"\xff\xd8") for one in small) and len({*small}) == 3
    marks.clear()
    monkeypatch.setitem(shared.opts.data, "ip_adapter_grid_pictures", False)
    plotted(host, {"Look 1": ["Oil"]}, unit())
    assert marks == [{}]


def test_a_folder_s_pictures_are_its_references(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their places in its order; other axes take it as it is."""
    from modules import shared

    from tests.helpers.folders import fill

    folder = fill(tmp_path / "refs", 1, 2, 3)
    monkeypatch.setitem(shared.opts.data, "ip_adapter_reference_folders", str(folder))
    of_folder = {"model": "base", "images": [{"folder": "refs", "weight": 0.7}], "batch": "per image"}
    cells = pictures(plotted(host, {"Reference 1": ["2", "1", "3"]}, of_folder))
    weighed = [[{"image": unit(seeds=(seed,))["images"][0], "weight": 0.7}] for seed in (2, 1, 3)]
    singles = [{"model": "base", "images": images} for images in weighed]
    assert all_same(cells, *(single(host, one) for one in singles))
    axes = {"Combine 1": ["average", "concat"], "Weight 1": ["0.5", "0.5"]}
    cells = pictures(plotted(host, axes, {**of_folder, "batch": "same"}))
    own = [{**of_folder, "batch": "same", "combine": mode, "weight": 0.5} for mode in ("average", "concat")]
    assert all_same(cells, *(single(host, one) for one in own))
    answer = plotted(host, {"Reference 1": ["4"]}, of_folder)
    assert answer.status_code == 422 and "wants its reference 4, and it has 1 to 3" in answer.text
