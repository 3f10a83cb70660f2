"""Folders of references: what is listed, in which order, what is known of files, and averages that come one by one."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_ipadapter import infotext
from lib_ipadapter.encode import folders
from lib_ipadapter.encode.combine import COMBINE_MODES, Fold, combine
from lib_ipadapter.encode.folders import FolderMark, FolderPictures, KnownFiles, fingerprint, listed, natural, order_of
from lib_ipadapter.encode.picture import Picture
from lib_ipadapter.errors import IPAdapterError, PictureError, UnitError
from lib_ipadapter.jobs.generation import prepare_generation
from lib_ipadapter.jobs.resources import Resources
from lib_ipadapter.reference import Reference
from lib_ipadapter.unit import Unit
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.folders import fill, of_folder
from tests.helpers.jobs import DEVICE, generation
from tests.helpers.tensors import close, draw

# --- what is in it ---------------------------------------------------------------------------------------------------


def test_pictures_are_known_by_content_and_sorted_as_people_do(tmp_path: Path) -> None:
    folder = fill(tmp_path / "refs", 1, 2, 3, name="b{}.png")
    picture(4).save(folder / "B10.dat", "JPEG")
    picture(5).save(folder / ".hidden.png")
    (folder / "notes.png").write_text("no picture")
    (folder / "empty.jpg").touch()
    (folder / "inside").mkdir()
    fill(folder / "inside", 6)
    found = listed(folder, lambda path: False, KnownFiles())
    assert [file.path.name for file in found.files] == ["b0.png", "b1.png", "b2.png", "B10.dat"]
    assert found.notes == ["passed over 2 of its files, in which there is no picture to be read here."]


def test_links_are_followed_only_to_what_is_allowed(tmp_path: Path) -> None:
    folder, outside = fill(tmp_path / "refs", 1), fill(tmp_path / "outside", 2, 3)
    (folder / "in.png").symlink_to(outside / "0.png")
    (folder / "out.png").symlink_to(outside / "1.png")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = listed(folder, lambda path: path.name == "0.png", KnownFiles())
    assert [file.path for file in found.files] == [folder / "0.png", (outside / "0.png").resolve()]
    assert found.leading_out == 2


def test_nobody_waits_for_a_pipe(tmp_path: Path) -> None:
    folder = fill(tmp_path / "refs", 1)
    os.mkfifo(folder / "0a.png")
    assert len(listed(folder, lambda path: True, KnownFiles()).files) == 1


@pytest.mark.parametrize(
    ("bound", "says"),
    [("MAX_PICTURES", "more than 2 pictures"), ("MAX_ENTRIES", "more than 2 files"), ("MAX_BYTES", "take more than 0")],
)
def test_what_is_read_is_bounded(bound: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, bound, 2)
    with pytest.raises(UnitError, match=says):
        listed(fill(tmp_path / "refs", 1, 2, 3), lambda path: False, KnownFiles())


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "refs", 1, 2)
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:200])
    known = KnownFiles()
    with pytest.raises(PictureError, match=r"^'1\.png': The picture file is damaged"):
        folders.pictures_of(listed(folder, lambda path: False, known).files, known)


def test_a_file_is_read_anew_only_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, known = fill(tmp_path / "refs", 1), KnownFiles()
    reads: list[Path] = []
    read = folders.FolderFile.read
    monkeypatch.setattr(folders.FolderFile, "read", lambda self, *a: reads.append(self.path) or read(self, *a))
    (file,) = listed(folder, lambda path: False, known).files
    first = known.picture(file)
    before, mark = len(reads), fingerprint([file], known)
    listed(folder, lambda path: False, known)
    assert known.picture(file) == first == Picture.of(picture(1)) and len(reads) == before
    picture(2).save(folder / "0.png")
    os.utime(folder / "0.png", ns=(1, 1))
    with pytest.raises(PictureError, match=r"^The file '0\.png' has changed meanwhile: make the picture again\.$"):
        _ = first.image
    (changed,) = listed(folder, lambda path: False, known).files
    assert known.picture(changed) == Picture.of(picture(2)) and fingerprint([changed], known) != mark


def test_numbers_in_names_count_as_numbers() -> None:
    names = ["a10", "a9", "A1", "a01b", "9", "10", "b", "²"]
    assert sorted(names, key=natural) == ["9", "10", "A1", "a01b", "a9", "a10", "b", "²"]


def test_a_shuffle_is_a_permutation_that_its_seed_repeats() -> None:
    state = random.getstate()
    first = order_of(50, "shuffle", 7)
    assert first == order_of(50, "shuffle", 7) != order_of(50, "shuffle", 8)
    assert sorted(first) == order_of(50, "name", 7) == [*range(50)] != first
    assert random.getstate() == state


# --- items -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"folder": ""}, "folder is ''"),
        ({"folder": 3}, "folder is 3"),
        ({"folder": "a\0b"}, "give the path of a folder"),
        ({"folder": "a", "order": "size"}, "order is 'size': choose one of name, shuffle"),
        ({"folder": "a", "seed": -1}, "seed is -1: give a whole number"),
        ({"folder": "a", "start": True}, "start is True"),
        ({"folder": "a", "image": "b"}, "folder is given beside image"),
        ({"folder": "a", "mask": "b"}, "folder is given beside mask"),
        ({"image": "a", "order": "name"}, "unknown field 'order'"),
    ],
)
def test_what_is_wrong_with_an_item_is_said(item: dict, says: str) -> None:
    with pytest.raises(UnitError) as caught:
        Unit.parse({"model": "m", "images": [item]})
    assert says in caught.value.detail


def test_an_item_is_written_as_it_was_read() -> None:
    items = [{"folder": "a/b"}, {"folder": "c", "order": "shuffle", "seed": 3, "start": 2, "weight": 0.5}]
    assert Unit.parse({"model": "m", "images": items}).to_object()["images"] == items
    with pytest.raises(UnitError, match="negative_images holds a folder"):
        Unit.parse({"model": "m", "images": ["x"], "negative_images": items})


def test_more_than_side_by_side_may_be_given_where_they_become_one() -> None:
    for settings in ({"combine": "average"}, {"batch": "per image"}):
        assert len(Unit.parse({"model": "m", "images": ["x"] * 1000, **settings}).references) == 1000
        with pytest.raises(UnitError, match="holds 1001 pictures: give at most 1000"):
            Unit.parse({"model": "m", "images": ["x"] * 1001, **settings})


# --- one by one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", COMBINE_MODES)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_comes_one_by_one_becomes_what_comes_at_once(mode: str, count: int) -> None:
    embeddings = [draw(1, 3, 8, seed=i) for i in range(count)]
    weights = [0.5, -1.0, 0.0, 2.0, 1.0][:count]
    fold = Fold(mode, weights)
    for embedding in embeddings:
        fold.add(embedding)
    assert close(fold.result(), combine(embeddings, mode, weights), 1e-5)


def test_equal_embeddings_average_to_themselves() -> None:
    embedding, fold = draw(1, 7, 64, seed=3), Fold("average", [0.7] * 77)
    for _ in range(77):
        fold.add(embedding)
    assert torch.equal(fold.result(), embedding)


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_a_folder_of_equal_pictures_is_one_picture(kind: str, tmp_path: Path, unet, resources) -> None:
    """Also of more than may act side by side; and the same as the pictures one by one."""
    one = generation(unet, resources, {"model": kind, "images": [base64_of(picture(0))]})
    folder = fill(tmp_path / "refs", *[0] * 70)
    many = of_folder(folder, KnownFiles(), model=kind, combine="average")
    job = prepare_generation([many], unet, resources, DEVICE)
    for before, after in zip(one.prompts, job.prompts, strict=True):
        want, got = before.prompt.kv, after.prompt.kv
        for a, b in zip(want.keys + want.values, got.keys + got.values, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_a_folder_averages_as_its_pictures_do(kind: str, tmp_path: Path, unet, resources) -> None:
    settings = {"model": kind, "combine": "average", "noise": 0.3}
    folder = fill(tmp_path / "refs", 0, 1, 2)
    pictures = {**settings, "images": [base64_of(picture(seed)) for seed in range(3)]}
    want = generation(unet, resources, pictures).prompts[0].prompt.kv
    got = (
        prepare_generation([of_folder(folder, KnownFiles(), **settings)], unet, resources, DEVICE).prompts[0].prompt.kv
    )
    for a, b in zip(want.keys + want.values, got.keys + got.values, strict=True):
        assert close(a, b, 1e-4)


def test_a_folder_of_one_picture_is_that_picture(tmp_path: Path, unet, catalog) -> None:
    """By all that anything is remembered by."""
    resources, settings = Resources(catalog), {"combine": "average"}
    generation(unet, resources, unit("base", (4,), **settings))
    keys = {*resources.cache._items}
    folder = of_folder(fill(tmp_path / "refs", 4), KnownFiles(), **settings)
    prepare_generation([folder], unet, resources, DEVICE)
    assert {*resources.cache._items} == keys


def test_pictures_are_let_go_of_and_progress_is_told(tmp_path: Path, unet, catalog, monkeypatch) -> None:
    """Though nothing is remembered: each is encoded once, from a file of its own."""
    decoded: list[Picture] = []
    told: list[str] = []
    image = Picture.image.fget
    assert image is not None

    def counted(self: Picture) -> Any:
        decoded.append(self)
        return image(self)

    monkeypatch.setattr(Picture, "image", property(counted))
    made = of_folder(fill(tmp_path / "refs", *range(66)), KnownFiles(), combine="average")
    decoded.clear()
    prepare_generation([made], unet, Resources(catalog, cache_bytes=0), DEVICE, progress=told.append)
    assert len(decoded) == 66
    encoding = [text for text in told if text.startswith("encoding")]
    assert encoding == [f"encoding reference {i} of 66" for i in range(1, 67)]
    assert all(callable(one.given) for one in made.references[0].image.pictures)


def test_too_many_side_by_side_are_refused_with_the_remedy(tmp_path: Path, unet, resources) -> None:
    made = of_folder(fill(tmp_path / "refs", *range(65)), KnownFiles())
    with pytest.raises(IPAdapterError, match="images holds 65 references.*set combine to “average”, or batch to"):
        prepare_generation([made], unet, resources, DEVICE)


# --- parameters ------------------------------------------------------------------------------------------------------


def test_parameters_name_the_folder_and_bring_it_back(tmp_path: Path, unet, resources) -> None:
    folder = fill(tmp_path / "a, b: c | 50%", 0, 1)
    made = of_folder(folder, KnownFiles(), combine="average")
    reference = made.references[0]
    mark = FolderMark(reference.image.mark.content_hash, folder.name, "shuffle", 7, 12)
    found = FolderPictures(mark, reference.image.pictures, reference.image.names)
    reference = Reference(found, 0.5, folder=reference.folder)
    job = prepare_generation([Unit(**{**vars(made), "references": (reference,)})], unet, resources, DEVICE)
    entries = infotext.parameters(job.plans)
    assert f"references: {mark.content_hash[:12]}*0.5" in entries["IP-Adapter 1"]
    there = {folder.name: mark.content_hash}

    def restored() -> tuple[list[dict[str, Any]], list[str]]:
        return infotext.restored(
            entries,
            lambda hash: None,
            folder=lambda mark: (mark.name, there[mark.name]) if mark.name in there else None,
        )

    units, notes = restored()
    item = {"folder": folder.name, "order": "shuffle", "seed": 7, "start": 12, "weight": 0.5}
    assert (units[0]["images"], notes) == ([item], [])
    there[folder.name] = "0" * 64
    assert restored()[1] == [
        f"Unit 1: the folder “{folder.name}” holds other pictures than it did: put those back, or go on with these."
    ]
    there.clear()
    units, notes = restored()
    assert units[0]["images"] == [] and "“Folders for references” allows" in notes[0] and len(notes) == 1


@pytest.mark.parametrize("name", ["refs/%00", "a" * 5000, "%0", "%ED%A0%80"])
def test_a_mark_is_no_odder_than_an_item(name: str) -> None:
    mark = FolderMark.of_text(f"0123456789ab {name}")
    assert mark is None or Unit.parse({"model": "m", "images": [mark.item]}).references[0].folder
    assert (mark is None) == (name in ("refs/%00", "a" * 5000))


# --- the panel -------------------------------------------------------------------------------------------------------


def test_an_endless_line_is_refused_at_once(modules: None) -> None:
    """Whatever is in it."""
    from lib_ipadapter.webui.panel.controls import folder_item

    for line in ("a" + " " * 20_000 + "b", "a" + " weight:" * 5_000, "a" + " weight:1" * 5_000, "a" * 50_000):
        began = time.process_time()
        with pytest.raises(UnitError, match="give the path of a folder with pictures"):
            Unit.parse({"model": "m", "images": [folder_item(line)]})
        assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("a  weight:0.5  shuffle:7 ", {"folder": "a", "order": "shuffle", "seed": 7, "weight": 0.5}),
        ("weight:2", {"folder": "weight:2"}),
        ("", None),
        ("  ", None),
        ("a b/c: d", {"folder": "a b/c: d"}),
        ("a shuffle:7 start:2 weight:0.5", {"folder": "a", "order": "shuffle", "seed": 7, "start": 2, "weight": 0.5}),
        ("a weight:5 b", {"folder": "a weight:5 b"}),
    ],
)
def test_the_panels_line_is_an_item(text: str, item: dict | None, modules: None) -> None:
    from lib_ipadapter.webui.panel.controls import folder_item, folder_text

    assert folder_item(text) == item
    assert folder_item(folder_text(item)) == item and folder_text(item).split()[:1] == text.split()[:1]
    for wrong in ("a shuffle:x", "a start:-1", "a weight:x"):
        with pytest.raises(UnitError):
            Unit.parse({"model": "m", "images": [folder_item(wrong)]})
