"""Folders of references in a WebUI: which may be read, averages, walks through batches and files, and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.start import Host
from lib_ipadapter.encode.folders import FolderMark
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import SAME, ask, difference, make, ours, pixels
from tests.helpers.img2img_files import files_through

SEEDS = (3, 4, 5)


@pytest.fixture
def references(tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An allowed folder with a folder of three pictures in it, which is returned."""
    from modules import shared

    allowed = tmp_path / "allowed"
    (allowed / "three").mkdir(parents=True)
    for place, seed in enumerate(SEEDS):
        picture(seed).save(allowed / "three" / f"{place + 9}.png")
    monkeypatch.setitem(shared.opts.data, "ip_adapter_reference_folders", f"\n{allowed}\n{tmp_path / 'another'}")
    return allowed / "three"


def of(folder: Path | str, kind: str = "base", **settings: Any) -> dict:
    walk = {name: settings.pop(name) for name in ("order", "seed", "start") if name in settings}
    return {"model": kind, "images": [{"folder": str(folder), **walk}], **settings}


def refused(host: Host, settings: dict, **payload: Any) -> str:
    answer = host.post("txt2img", {"steps": 1, "alwayson_scripts": ours(settings), **payload})
    assert answer.status_code == 422, answer.text
    detail: str = answer.json()["detail"]
    return detail


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# --- which may be read -----------------------------------------------------------------------------------------------


def test_no_folder_is_read_before_the_setting_allows_it(host: Host, tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    assert refused(host, of(tmp_path / "0")) == (
        "IP-Adapter unit 1: the reference: no folder of references may be read: name the folders that may in the "
        "setting “Folders for references” (Settings > IP-Adapter)."
    )


def test_only_what_is_below_an_allowed_folder_is_read(host: Host, references: Path) -> None:
    outside = references.parents[1] / "outside"
    outside.mkdir()
    picture(1).save(outside / "0.png")
    (references.parent / "link").symlink_to(outside)
    for path in (
        outside, references.parent / ".." / "outside", references.parent / "link", references / "none", "outside",
        "three", "allowed/../outside", "allowed/link", references / "9.png", f"{references.parent}x", "~", "/",
    ):  # fmt: skip
        said = refused(host, of(path))
        assert "is not there, or not below one that the setting “Folders for references”" in said, path


ODD = ["allowed/" + "a" * 300, "allowed/\ud800", "allowed/" + "b/" * 1000, "~nobody-of-that-name/x", "allowed/\x01"]


@pytest.mark.parametrize("name", ODD, ids=lambda name: ascii(name)[:20])
def test_odd_names_are_not_there(name: str, host: Host, references: Path) -> None:
    """Whatever the system says of them; no path is told beyond what was asked for."""
    from lib_ipadapter.webui import reference_folders

    for path in (name, f"{references.parent}/{name}"):
        said = refused(host, of(path))
        assert "is not there, or not below one that the setting" in said
        assert path.startswith("/") or str(references.parent) not in said
        assert reference_folders.pasted()(FolderMark("0" * 12, path)) is None


def test_an_odd_line_in_the_setting_hides_no_other(
    host: Host, references: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import shared

    from lib_ipadapter.webui import reference_folders

    lines = ["~nobody-of-that-name/x", "a\0b", "/" + "c" * 300, "/gone/\ud800", "relative/one", str(references.parent)]
    monkeypatch.setitem(shared.opts.data, "ip_adapter_reference_folders", "\n".join(lines))
    assert reference_folders.offered() == ["allowed", "allowed/three"]
    assert make(host, of("allowed/three"), steps=1)
    said = refused(host, of("allowed/four"))
    assert said.endswith("add it there. Passed over there, because a folder has its whole path: line 1, 2, 5.")


@pytest.mark.parametrize("order", [1, -1])
def test_two_allowed_folders_of_one_name_are_both_reached(
    order: int, host: Host, references: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters name the folder, and its content tells which one is meant."""
    from modules import shared

    from lib_ipadapter.webui import reference_folders
    from tests.helpers.folders import fill

    other = tmp_path / "other" / "allowed"
    fill(other / "three", 21, 22)
    fill(other / "own", 23)
    roots = [references.parent, other][::order]
    monkeypatch.setitem(shared.opts.data, "ip_adapter_reference_folders", "\n".join(map(str, roots)))
    assert {*reference_folders.offered()} == {
        "allowed", "allowed/three", "allowed (2)", "allowed (2)/three", f"allowed{' (2)' * (order == 1)}/own"
    }  # fmt: skip
    made = {}
    for folder in (references, other / "three"):
        answer = ask(host, of(folder), steps=1)
        monkeypatch.setitem(shared.opts.data, "ip_adapter_reference_folders", "\n".join(map(str, roots[::-1])))
        again = ask(host, steps=1, infotext=answer.infotext)
        monkeypatch.setitem(shared.opts.data, "ip_adapter_reference_folders", "\n".join(map(str, roots)))
        assert same(pixels(again), pixels(answer))
        made[folder.parent] = pixels(answer)
    for name, root in zip(("allowed", "allowed (2)"), roots, strict=True):
        assert same(make(host, of(f"{name}/three"), steps=1), made[root])
    assert reference_folders.find("allowed/own").path == other / "own"  # only one has it


def test_what_is_offered_is_bounded_and_no_folder_hides_another(
    host: Host, references: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links are not followed, and nobody walks through a folder of a million files."""
    from lib_ipadapter.webui import reference_folders

    (references.parent / "link").symlink_to(references)
    is_dir, looked_at = reference_folders.is_folder, []

    def failing(entry: Any) -> bool:
        looked_at.append(entry.name)
        if entry.name == "bad":
            raise OSError("away")
        return is_dir(entry)

    (references.parent / "bad").mkdir()
    monkeypatch.setattr(reference_folders, "is_folder", failing)
    assert reference_folders.offered() == ["allowed", "allowed/three"]
    for i in range(20):
        (references.parent / f"{i}.txt").touch()
    looked_at.clear()
    monkeypatch.setattr(reference_folders, "MAX_ENTRIES", 5)
    reference_folders.offered()
    assert len(looked_at) == 5


def test_pasting_looks_into_no_more_folders_than_units_have(
    host: Host, references: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text from anywhere may name thousands, each of which takes time."""
    from lib_ipadapter import infotext
    from lib_ipadapter.webui import reference_folders

    looked_into: list[Any] = []
    listed = reference_folders._listed
    monkeypatch.setattr(reference_folders, "_listed", lambda *given: looked_into.append(given) or listed(*given))
    hashes = [f"{i:012x}" for i in range(200)]
    marks = " | ".join(f"{one} allowed/{'./' * i}three" for i, one in enumerate(hashes))
    entry = f"model: base, batch: per image, folders: {marks}, references: {' '.join(hashes)}"
    _, notes = infotext.restored({"IP-Adapter 1": entry}, lambda name: None, folder=reference_folders.pasted())
    assert len(looked_into) == reference_folders.MAX_PASTED
    assert sum("was not compared with what it held, which takes too long" in note for note in notes) == 180


def test_no_client_can_allow_itself_a_folder(host: Host, references: Path) -> None:
    from modules import shared

    outside = references.parents[1]
    override = {"ip_adapter_reference_folders": str(outside)}
    assert "is not there, or not below" in refused(host, of(outside), override_settings=override)
    assert shared.opts.data_labels["ip_adapter_reference_folders"].restrict_api


def test_a_folder_without_a_picture_says_so(host: Host, references: Path) -> None:
    (references.parent / "empty").mkdir()
    assert "the folder 'allowed/empty' has no picture in it" in refused(host, of(references.parent / "empty"))


# --- averaging and walking -------------------------------------------------------------------------------------------


@pytest.mark.both_faces
def test_a_folder_counts_as_its_pictures(host: Host, references: Path) -> None:
    """Side by side, and one picture of it as that picture; by its path and by its name."""
    assert same(make(host, of(references)), make(host, unit(seeds=SEEDS)))
    assert same(make(host, of("allowed/three")), make(host, unit(seeds=SEEDS)))
    average = make(host, of(references, combine="average"))
    assert np.abs(average[0] - make(host, unit(seeds=SEEDS, combine="average"))[0]).max() <= 1
    (references.parent / "one").mkdir()
    picture(7).save(references.parent / "one" / "any name", "PNG")
    assert same(make(host, of("allowed/one", combine="average")), make(host, unit(seeds=(7,))))


def test_a_plots_picture_that_has_gone_from_the_folder_is_told(host: Host, references: Path) -> None:
    from dataclasses import replace

    from lib_ipadapter.errors import UnitError
    from lib_ipadapter.unit import Unit
    from lib_ipadapter.webui.reference_folders import EVERY, with_folders

    made = Unit.parse(of(references), 1)
    (one,) = made.references
    assert one.folder is not None
    gone = replace(made, references=(replace(one, folder=replace(one.folder, only=3)),))
    with pytest.raises(UnitError) as caught:
        with_folders([gone], EVERY)
    assert caught.value.detail == (
        "IP-Adapter unit 1: the reference: the X/Y/Z plot wants picture 4 of the folder 'allowed/three', which has 3 "
        "by now: put it back, or take the number out."
    )


def test_what_is_passed_over_is_told(host: Host, references: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import processing

    told: list[str] = []
    monkeypatch.setattr(processing.StableDiffusionProcessing, "comment", lambda p, text: told.append(text))
    (references / "notes.txt").write_text("none")
    make(host, of(references))
    assert told == [
        "IP-Adapter unit 1: the reference: passed over 1 of its files, in which there is no picture to be read here."
    ]


@pytest.mark.both_faces
def test_a_walk_through_batches_is_one_request_after_the_other(host: Host, references: Path) -> None:
    batch = {"batch_size": 2, "n_iter": 2, "seed": 5}
    walked = make(host, of(references, batch="per image"), **batch)[-4:]
    again = make(host, unit(seeds=SEEDS, batch="per image"), **batch)[-4:]
    assert same(walked, again)
    for i, one in enumerate(walked):
        (single,) = make(host, unit(seeds=(SEEDS[i % 3],)), seed=5 + i)
        assert np.abs(single - one).mean() < 0.2
    (begun,) = make(host, of(references, batch="per image", start=4), seed=6)
    assert np.abs(begun - walked[1]).mean() < 0.2


def test_one_job_walks_through_more_than_act_side_by_side(host: Host, references: Path, monkeypatch) -> None:
    """And a file of a batch, far behind, meets its own of as many."""
    from tests.helpers.folders import fill

    monkeypatch.setattr("lib_ipadapter.jobs.plans.MAX_REFERENCES", 3)
    many = fill(references.parent / "many", *range(100, 108))
    walked = make(host, of(many, batch="per image"), batch_size=4, n_iter=2, steps=1, seed=5)[-8:]
    for i in (0, 3, 4, 7):
        (single,) = make(host, unit(seeds=(100 + i,)), steps=1, seed=5 + i)
        assert np.abs(single - walked[i]).mean() < 0.2, i
    (last,) = files_through(host, 1, of(many, batch="per image"), first=7)
    (single,) = img2img(host, unit(seeds=(107,)))
    assert np.abs(last[0] - single).max() <= 3


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_long_lists_picture_hangs_on_no_other_of_its_job(
    is_folder: bool, host: Host, references: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With noise, too: of more than act side by side, each picture has that of its own reference."""
    from lib_ipadapter.jobs import plans
    from lib_ipadapter.webui import reference_folders

    for module in (plans, reference_folders):
        monkeypatch.setattr(module, "MAX_REFERENCES", 2)
    settings = of(references) if is_folder else unit(seeds=SEEDS)
    settings |= {"batch": "per image", "noise": 0.8}
    (alone,) = make(host, settings, seed=5)
    for count in (2, 4):
        first = make(host, settings, seed=5, n_iter=count)[-count]
        assert np.abs(first - alone).max() <= 1, count


def test_a_walk_reads_what_its_pictures_see(host: Host, references: Path) -> None:
    (references / "broken.png").write_bytes((references / "9.png").read_bytes()[:100])
    assert len(make(host, of(references, batch="per image"), n_iter=2)) >= 2
    assert "'broken.png': The picture file is damaged" in refused(host, of(references))
    beside = of(references, batch="per image")
    beside["images"].append(base64_of(picture(1)))
    assert "a folder stands beside other references, and batch is “per image”" in refused(host, beside)


def img2img(host: Host, settings: dict, **payload: Any) -> list[np.ndarray]:
    start = base64_of(picture(50, (64, 64)))
    return make(host, settings, path="img2img", init_images=[start], denoising_strength=0.9, seed=5, **payload)


@pytest.mark.both_faces
@pytest.mark.parametrize("has_folder", [True, False])
def test_each_file_of_img2imgs_batch_meets_its_own_reference(has_folder: bool, host: Host, references: Path) -> None:
    walk = of(references, batch="per image") if has_folder else unit(seeds=SEEDS, batch="per image")
    made = files_through(host, 4, walk)
    for i, (one,) in enumerate(made):
        (single,) = img2img(host, unit(seeds=(SEEDS[i % 3],)))
        assert np.abs(one - single).max() <= 3, i  # rounding
        assert np.abs(one - made[(i + 1) % 3][0]).mean() > 1
    two = files_through(host, 2, walk, n_iter=2)  # the second file begins with the third
    assert np.abs(two[0][0] - made[0][0]).mean() < 0.2 and np.abs(two[1][0] - made[2][0]).mean() < 0.2
    first, second = files_through(host, 2, unit(seeds=SEEDS))  # who sees all, sees them for every file
    assert np.abs(first[0] - second[0]).max() <= 3


def test_a_plots_cells_are_no_files(host: Host) -> None:
    from types import SimpleNamespace

    from modules import shared

    from lib_ipadapter.webui.host import current

    p = SimpleNamespace(n_iter=2, batch_size=3, init_images=["x"], script_args=[0])
    shared.state.begin("2 out of 9")
    try:
        assert current().pictures(p) == range(6, 12)
        p.script_args = [1]
        assert current().pictures(p) == range(6)
        p.script_args, p.init_images = [0], []
        assert current().pictures(p) == range(6)
    finally:
        shared.state.end()


def test_a_shuffle_walks_through_all_of_them(host: Host, references: Path) -> None:
    singles = [{seed: make(host, unit(seeds=(seed,)), seed=1 + i) for seed in SEEDS} for i in range(3)]

    def walked(seed: int) -> list[int]:
        """Whose pictures the three are, in their order."""
        answer = ask(host, of(references, batch="per image", order="shuffle", seed=seed), n_iter=3, subseed_strength=0)
        made = zip(pixels(answer)[-3:], singles, strict=True)
        return [next(w for w in SEEDS if difference([picture], of_seed[w]) < SAME) for picture, of_seed in made]

    order = walked(7)
    assert walked(7) == order and sorted(order) == sorted(SEEDS)
    assert any(walked(seed) != order for seed in range(4))


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_parameters_presets_and_kept_generations_have_the_folder_itself(host: Host, references: Path, store) -> None:
    settings = of(references, batch="per image", start=1, weight=0.8)
    answer = ask(host, settings, n_iter=2)
    assert "allowed/three" in answer.infotext and str(references.parent) not in answer.infotext
    again = ask(host, n_iter=2, infotext=answer.infotext)
    assert same(pixels(again), pixels(answer))
    kept = store.load(store.recent()[-1])[0]
    assert kept["images"] == [{"folder": str(references), "start": 1}]
    store.save("p", [settings])
    assert store.load("p")[0]["images"] == settings["images"]
    picture(9).save(references / "12.png")
    answer = host.post("txt2img", {"steps": 1, "infotext": answer.infotext})
    assert answer.status_code == 422 and "holds other pictures than it did" in answer.json()["detail"]


def test_a_look_and_a_preview_of_a_folder(host: Host, references: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_ipadapter.presets.looks import Looks
    from lib_ipadapter.webui import process

    looks = Looks(references.parents[1] / "looks")
    monkeypatch.setattr(process, "looks", lambda: looks)
    settings = of(references, combine="average")
    answer = host.client.put("/ip-adapter/looks/three", json={"unit": settings})
    assert answer.status_code == 200, answer.text
    assert same(make(host, {"model": "base", "images": [{"look": "three"}]}), make(host, settings))
    shown = host.client.post("/ip-adapter/preview", json=settings).json()["images"]
    pictures = unit(seeds=SEEDS)
    assert shown == host.client.post("/ip-adapter/preview", json=pictures).json()["images"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_nothing_of_more_than_64_is_left_out_of_what_is_kept(is_folder: bool, host: Host, references: Path) -> None:
    """Where there is no job, either: who keeps them is told that they are too many. A preview shows the first."""
    from tests.helpers.folders import fill

    seeds = tuple(range(100, 165))
    settings = of(fill(references.parent / "many", *seeds)) if is_folder else unit(seeds=seeds)
    settings["batch"] = "per image"
    for answer in (
        host.client.post("/ip-adapter/embeddings", json=settings),
        host.client.put("/ip-adapter/looks/many", json={"unit": settings}),
    ):
        assert answer.status_code == 422 and "at most 64 references, and these are 65" in answer.json()["detail"]
    shown = host.client.post("/ip-adapter/preview", json=settings).json()["images"]
    assert len(shown) == (16 if is_folder else 64)


def test_the_panel_takes_a_folder_where_the_setting_allows_it(host: Host, references: Path) -> None:
    from lib_ipadapter.webui.panel.accordion import presets_units
    from tests.helpers.panel import from_panel, panel_of, put_in

    tab = {"model": "base", "folder": str(references), "combine": "average"}
    assert same(from_panel(host, tab), make(host, of(references, combine="average"), seed=1))
    with pytest.raises(Exception, match="is not there, or not below one that the setting"):
        from_panel(host, {**tab, "folder": str(references.parents[1])})
    item = {"folder": "allowed/three", "order": "shuffle", "seed": 7, "weight": 0.5}
    made = {"model": "base", "images": [base64_of(picture(1)), item]}
    values, notes = put_in(panel_of(host), [made])
    (back, *_) = presets_units(tuple(values))
    assert back["images"][1] == item and not notes
