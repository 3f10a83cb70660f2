"""The store of presets: what is saved is loaded, under its name; and what nothing uses goes."""

from __future__ import annotations

import base64
import io
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lib_ipadapter.encode.picture import content_hash, decode_mask
from lib_ipadapter.errors import IPAdapterError
from lib_ipadapter.presets.store import PresetError, PresetExists, Store, UnknownPreset
from tests.helpers.files import base64_of, picture, png
from tests.helpers.presets import age, mask, prints, put_png, rows, shown, stored, tables, with_pictures

# Saving and loading


def test_everything_comes_back(store: Store) -> None:
    units = [
        with_pictures(0, 1, weight=0.5, start=0.1, hires="base"),
        {
            "model": "plus", "enabled": False, "weight": -0.25, "layer_weights": {"5": 0.4}, "from later": [1, None],
            "images": [
                {"image": picture(2), "weight": 0.5, "mask": mask(3)}, {"of later": "bm90IGEgcGljdHVyZQ=="}, None,
            ],
            "region_mask": mask(4), "negative_images": [picture(5), {"image": picture(6), "weight": 2}],
        },
        {"image": {"image": picture(7), "weight": 0.5}, "region_mask": None},
        {"image": picture(0)},
        {"enabled": False},
        {},
    ]  # fmt: skip
    before = shown(units)
    store.save("All kinds", units)
    assert shown(store.load("All kinds")) == before
    assert shown(units) == before  # what was handed in is as it was
    assert shown(Store(store.folder).load("All kinds")) == before
    assert stored(store) == prints(0, 1, 2, 5, 6, 7) | {content_hash(mask(seed)) for seed in (3, 4)}


def test_a_mask_is_kept_as_what_it_means(store: Store) -> None:
    """Strokes on a transparent layer, or colours: their lightness."""
    layer = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    layer.paste((255, 255, 255, 255), (0, 0, 4, 8))
    store.save("a", [with_pictures(0, region_mask=layer)])
    kept = store.load("a")[0]["region_mask"]
    assert content_hash(decode_mask(kept)) == content_hash(decode_mask(layer))
    assert decode_mask(kept).getextrema() == (0, 255)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_references_come_as_base64_too(kind: str, store: Store) -> None:
    buffer = io.BytesIO()
    picture(1).save(buffer, kind, lossless=True)
    text = base64.b64encode(buffer.getvalue()).decode()
    store.save("a", [{"images": [text, {"image": f"data:image/png;base64,{text}", "mask": text}]}])
    images = store.load("a")[0]["images"]
    assert {content_hash(images[0]), content_hash(images[1]["image"])} == prints(1)
    assert content_hash(images[1]["mask"]) == content_hash(mask(1))
    [unit] = store.load_base64("a")
    image = Image.open(io.BytesIO(base64.b64decode(unit["images"][0])))
    assert image.format == "PNG"
    assert content_hash(image) == content_hash(picture(1))


def test_a_picture_is_stored_once_without_what_its_file_said_of_it(store: Store) -> None:
    image = picture(0)
    image.info["parameters"] = "somebody's prompt"
    store.save("a", [{"images": [image, image]}])
    store.save("b", [{"images": [base64_of(picture(0))]}])
    assert stored(store) == prints(0)
    assert b"prompt" not in store.database.path.read_bytes()


def test_a_picture_that_comes_again_is_in_memory_once(store: Store) -> None:
    store.save("a", [with_pictures(0, 0), with_pictures(0)])
    [[first, second], [third]] = [unit["images"] for unit in store.load("a")]
    assert first is second is third
    first.paste("red", (0, 0, 9, 9))
    assert content_hash(store.load("a")[0]["images"][0]) == content_hash(picture(0))


def test_nothing_is_created_by_looking(store: Store) -> None:
    assert (store.names(), store.recent(), store.picture("0" * 64)) == ([], [], None)
    for action in (store.load, store.delete, lambda name: store.rename(name, "y")):
        with pytest.raises(UnknownPreset, match=r"no preset “x”: choose"):
            action("x")
    assert not store.folder.exists()


def test_overwriting_is_asked_for(store: Store) -> None:
    store.save("a", [with_pictures(0)])
    with pytest.raises(PresetExists, match=r"a preset “A” already: choose another name, or overwrite") as caught:
        store.save("A", [with_pictures(1)])
    assert (caught.value.status_code, stored(store)) == (409, prints(0))
    store.save("A", [with_pictures(1)], overwrite=True)
    assert (store.names(), shown(store.load("a"))) == (["A"], shown([with_pictures(1)]))
    assert stored(store) == prints(1)
    store.save("new", [], overwrite=True)
    assert store.load("new") == []


@pytest.mark.parametrize(
    ("units", "sentence"),
    [
        ([{}, {"images": ["bm8="]}], r"^IP-Adapter unit 2: images\[0\]: The picture is text"),
        ([{"region_mask": "C:/mask.png"}], r"^IP-Adapter unit 1: region_mask: The mask is not valid base64"),
        ([{"images": [{"image": picture(), "mask": 3}]}], r"^IP-Adapter unit 1: images\[0\]: mask: The mask is mis"),
        ([{"image": "sha256:" + "0" * 64}], r"^IP-Adapter unit 1: image: The picture is not valid base64"),
        (["base"], r"^IP-Adapter unit 1: it is no object"),
        ([{}] * 11, r"11 units is too long: give at most 10"),
        ("units", r"give a list of units"),
        ({"model": "base"}, r"give a list of units"),
        ([{"weight": float("nan")}], r"cannot be stored"),
        ([{"model": object()}], r"cannot be stored"),
        ([{"model": "\ud800"}], r"cannot be stored"),
        ([{"later": 1 << 63}], r"more than 64 bits"),
        ([{"later": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}], r"32 levels"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_changes_nothing(units: Any, sentence: str, store: Store) -> None:
    store.save("a", [with_pictures(0)])
    before = rows(store)
    for save in (lambda: store.save("a", units, overwrite=True), lambda: store.keep("b", units)):
        with pytest.raises(IPAdapterError, match=sentence):
            save()
    assert rows(store) == before


# Names


@pytest.mark.parametrize("name", ["a", "名前 ☂ 👩‍👩‍👧", "a" * 100, "con", 'a:b*?"<>|', "...", "~", "é" * 100])
def test_names_are_free_text_and_reach_no_path(name: str, store: Store) -> None:
    store.save(name, [with_pictures(0)])
    assert store.names() == [name]
    assert shown(store.load(name)) == shown([with_pictures(0)])
    assert [path.name for path in store.folder.iterdir()] == ["presets.sqlite3"]


@pytest.mark.parametrize(
    "name",
    [
        "", " ", ".", "..", " .. ", "a/b", "a\\b", "../x", "a\0", "a\n", "\x7f", "a\x85", "\u2028", "\ud800", "a" * 101,
        None, 5,
    ],
)  # fmt: skip
def test_what_is_no_name(name: Any, store: Store) -> None:
    actions = [
        lambda: store.save(name, []), lambda: store.load(name), lambda: store.delete(name),
        lambda: store.rename("a", name), lambda: store.rename(name, "a"), lambda: store.export([name]),
    ]  # fmt: skip
    for action in actions:
        with pytest.raises(PresetError, match="1 to 100 characters") as caught:
            action()
        assert caught.value.status_code == 422
    assert not store.folder.exists()


def test_case_and_unicode_form_make_no_difference(store: Store) -> None:
    composed, apart = unicodedata.normalize("NFC", "Café"), unicodedata.normalize("NFD", "Café")
    assert composed != apart
    store.save(f" {apart} ", [with_pictures(0)])
    assert store.names() == [composed]
    for name in (composed, apart, "CAFÉ", "café "):
        assert shown(store.load(name)) == shown([with_pictures(0)])
        with pytest.raises(PresetExists):
            store.save(name, [])
    store.rename(composed, "CAFÉ")
    assert store.names() == ["CAFÉ"]


def test_names_are_sorted_as_people_do(store: Store) -> None:
    for name in ("b", "C", "a", "B2"):
        store.save(name, [])
    assert store.names() == ["a", "b", "B2", "C"]


# Renaming, deleting, sweeping


def test_renaming(store: Store) -> None:
    store.save("a", [with_pictures(0)])
    store.save("b", [with_pictures(1)])
    with pytest.raises(PresetExists, match="“B”"):
        store.rename("a", "B")
    store.rename("a", "c")
    assert store.names() == ["b", "c"]
    store.rename("c", "b", overwrite=True)
    assert (store.names(), shown(store.load("b")), stored(store)) == (["b"], shown([with_pictures(0)]), prints(0))
    with pytest.raises(UnknownPreset):
        store.rename("a", "d")


def test_pictures_go_with_the_last_preset_that_uses_them(store: Store) -> None:
    store.save("a", [with_pictures(0, 1)])
    store.save("b", [with_pictures(1, 2)])
    store.delete("A")
    assert (store.names(), stored(store)) == (["b"], prints(1, 2))
    store.delete("b")
    assert (store.names(), stored(store)) == ([], set())
    assert [name for name, *_ in rows(store)] == []


def left_behind(store: Store, seed: int) -> None:
    """A process that was killed when the picture was written and its preset was not."""
    store._write(content_hash(picture(seed)), lambda: picture(seed), 1)


def test_what_dead_processes_left_is_swept_when_it_is_old(store: Store) -> None:
    store.save("a", [with_pictures(0)])
    left_behind(store, 1)
    store.save("b", [])
    store.delete("b")
    assert stored(store) == prints(0, 1)
    age(store, 23 * 3600)
    store.save("b", [])
    assert stored(store) == prints(0, 1)
    age(store, 2 * 3600)
    store.save("c", [])
    assert stored(store) == prints(0)


def test_a_picture_that_is_used_again_is_not_swept(store: Store) -> None:
    left_behind(store, 0)
    left_behind(store, 1)
    store.save("a", [with_pictures(0)])
    age(store, 25 * 3600)
    store.save("b", [])
    assert stored(store) == prints(0)
    assert shown(store.load("a")) == shown([with_pictures(0)])


def test_space_is_given_back(store: Store) -> None:
    large = Image.effect_noise((512, 512), 90).convert("RGB")
    store.save("a", [with_pictures(0)])
    small = store.database.path.stat().st_size
    store.save("b", [{"image": large}])
    assert store.database.path.stat().st_size > small + 100_000
    store.delete("b")
    assert store.database.path.stat().st_size < small + 30_000
    assert shown(store.load("a")) == shown([with_pictures(0)])


# Pictures by their content_hash


def test_pictures_are_found_by_the_beginning_of_their_content_hash(store: Store) -> None:
    full = content_hash(picture(0))
    store.save("a", [with_pictures(0)])
    for start in (full, full[:12], full[:40].upper(), f" {full[:12]} "):
        assert content_hash(store.picture(start)) == full
    for start in (full[:11], full + "0", "", "../" + full, full[:12] + "*", full[:12] + "%", "z" * 12, "0" * 64):
        assert store.picture(start) is None
    with tables(store) as connection:  # a twin
        connection.execute("INSERT INTO pictures VALUES (?, '', '')", (f"{full[:12]}{'0' * 52}",))
    assert store.picture(full[:12]) is None
    assert content_hash(store.picture(full[:13])) == full


def test_a_damaged_picture_is_told_and_healed_by_saving(store: Store) -> None:
    store.save("a", [with_pictures(0)])
    [name] = stored(store)
    whole = png(picture(0))
    middle = len(whole) // 2
    for data in (
        b"",
        whole[:middle],
        whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        png(picture(1)),
    ):
        put_png(store, name, data)
        assert store.picture(name) is None
        for load in (store.load, store.load_base64):
            with pytest.raises(PresetError, match=r"“a” has lost a picture.*delete the preset"):
                load("a")
        store.save("b", [with_pictures(0)], overwrite=True)
        assert shown(store.load("a")) == shown([with_pictures(0)])
    put_png(store, name, b"")
    store.keep("generation", [with_pictures(0)])
    assert shown(store.load("a")) == shown([with_pictures(0)])
    assert store.names() == ["a", "b"]


# Kept generations


def test_generations_are_kept_newest_first_and_bounded(tmp_path: Path) -> None:
    store = Store(tmp_path, history=3)
    store.save("00002-7", [with_pictures(9)])
    for number in range(5):
        assert store.keep(f"0000{number}-7", [with_pictures(number)]) == f"0000{number}-7" + " (2)" * (number == 2)
    assert store.recent() == ["00004-7", "00003-7", "00002-7 (2)"]
    assert store.names() == ["00002-7"]
    assert stored(store) == prints(2, 3, 4, 9)
    assert shown(store.load("00002-7 (2)")) == shown([with_pictures(2)])
    store.history = 1
    store.keep("last", [])
    assert store.recent() == ["last"]
    store.history = 0
    assert store.keep("none", []) == ""
    assert store.recent() == ["last"]


def test_a_kept_generation_becomes_a_preset(tmp_path: Path) -> None:
    store = Store(tmp_path, history=2)
    for name in ("a", "b"):
        store.keep(name, [with_pictures(0)])
    store.rename("a", "mine")
    assert (store.names(), store.recent()) == (["mine"], ["b"])
    store.rename("b", "b")
    assert (store.names(), store.recent()) == (["b", "mine"], [])
    store.keep("c", [])
    with pytest.raises(PresetExists):
        store.save("C", [])
    store.save("C", [], overwrite=True)
    assert (store.names(), store.recent()) == (["b", "C", "mine"], [])
    store.keep("d", [])
    store.delete("d")
    assert store.recent() == []


@pytest.mark.parametrize("name", ["2024/05\\x", "..", "", "a" * 300, "\ud800\n"])
def test_no_generation_is_refused_for_its_name(name: str, store: Store) -> None:
    kept = [store.keep(name, [with_pictures(0)]) for _ in range(3)]
    assert store.recent() == kept[::-1]
    assert len(set(kept)) == 3
    assert all(shown(store.load(one)) == shown([with_pictures(0)]) for one in kept)
