"""The store of presets: what is saved is loaded, whatever else happens; and its routes."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import threading
import time
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from lib_ipadapter.encode.picture import decode_mask, fingerprint
from lib_ipadapter.errors import IPAdapterError
from lib_ipadapter.webui import atomic, preset_archive, preset_format
from lib_ipadapter.webui.presets import PresetError, PresetExists, StorageError, Store, UnknownPreset

from .files import base64_of, picture

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data" / "ip-adapter")


@pytest.fixture
def no_fsync(monkeypatch) -> None:
    """For tests of many presets: what they are about is not the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def unit(*seeds: int, **settings) -> dict[str, Any]:
    return {"model": "base", "images": [picture(seed) for seed in seeds], **settings}


def shown(units: Any) -> Any:
    """Units in a form that can be compared: pictures by their fingerprints."""
    if isinstance(units, Image.Image):
        assert units.mode == "RGB"
        return fingerprint(units)
    if isinstance(units, dict):
        return {name: shown(value) for name, value in units.items()}
    return [shown(value) for value in units] if isinstance(units, (list, tuple)) else units


def stored(store: Store) -> set[str]:
    """The fingerprints of the pictures in the store's folder."""
    return {path.stem for path in store.folder.glob("pictures/*.png")}


def mask(seed: int) -> Image.Image:
    return picture(seed).convert("L").convert("RGB")


def prints(*seeds: int) -> set[str]:
    return {fingerprint(picture(seed)) for seed in seeds}


def files(store: Store) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}


def the_file(store: Store) -> Path:
    [path] = store.folder.glob("presets/*.json")
    return path


def age(store: Store, seconds: float) -> None:
    then = time.time() - seconds
    for path in store.folder.glob("*/*"):
        os.utime(path, (then, then))


# Saving and loading


def test_everything_comes_back(store: Store) -> None:
    units = [
        unit(0, 1, weight=0.5, start=0.1, hires="base"),
        {
            "model": "plus", "enabled": False, "weight": -0.25, "layer_weights": {"5": 0.4}, "from later": [1, None],
            "images": [
                {"image": picture(2), "weight": 0.5, "mask": mask(3)}, {"embeddings": "bm90IGEgcGljdHVyZQ=="}, None,
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
    assert stored(store) == prints(0, 1, 2, 5, 6, 7) | {fingerprint(mask(seed)) for seed in (3, 4)}


def test_a_mask_is_kept_as_what_it_means(store: Store) -> None:
    """Strokes on a transparent layer, or colours: their lightness."""
    layer = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    layer.paste((255, 255, 255, 255), (0, 0, 4, 8))
    store.save("a", [unit(0, region_mask=layer)])
    kept = store.load("a")[0]["region_mask"]
    assert fingerprint(decode_mask(kept)) == fingerprint(decode_mask(layer))
    assert decode_mask(kept).getextrema() == (0, 255)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_references_come_as_base64_too(kind: str, store: Store) -> None:
    buffer = io.BytesIO()
    picture(1).save(buffer, kind, lossless=True)
    text = base64.b64encode(buffer.getvalue()).decode()
    store.save("a", [{"images": [text, {"image": f"data:image/png;base64,{text}", "mask": text}]}])
    images = store.load("a")[0]["images"]
    assert {fingerprint(images[0]), fingerprint(images[1]["image"])} == prints(1)
    assert fingerprint(images[1]["mask"]) == fingerprint(mask(1))
    [unit] = store.load_base64("a")
    image = Image.open(io.BytesIO(base64.b64decode(unit["images"][0])))
    assert image.format == "PNG"
    assert fingerprint(image) == fingerprint(picture(1))


def test_a_picture_is_stored_once_without_what_its_file_said_of_it(store: Store) -> None:
    image = picture(0)
    image.info["parameters"] = "somebody's prompt"
    store.save("a", [{"images": [image, image]}])
    store.save("b", [{"images": [base64_of(picture(0))]}])
    [path] = store.folder.glob("pictures/*")
    assert path.name == f"{fingerprint(picture(0))}.png"
    assert b"prompt" not in path.read_bytes()


def test_loaded_pictures_are_the_callers_own(store: Store) -> None:
    store.save("a", [unit(0, 0)])
    first, second = store.load("a")[0]["images"]
    first.paste("red", (0, 0, 9, 9))
    assert fingerprint(second) == fingerprint(picture(0))


def test_nothing_is_created_by_looking(store: Store) -> None:
    assert (store.names(), store.recent(), store.picture("0" * 64)) == ([], [], None)
    for action in (store.load, store.delete, lambda name: store.rename(name, "y")):
        with pytest.raises(UnknownPreset, match=r"no preset “x”: choose"):
            action("x")
    assert not store.folder.exists()


def test_overwriting_is_asked_for(store: Store) -> None:
    store.save("a", [unit(0)])
    with pytest.raises(PresetExists, match=r"a preset “A” already: choose another name, or overwrite") as caught:
        store.save("A", [unit(1)])
    assert (caught.value.status_code, stored(store)) == (409, prints(0))
    store.save("A", [unit(1)], overwrite=True)
    assert (store.names(), shown(store.load("a"))) == (["A"], shown([unit(1)]))
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
    ],
)  # fmt: skip
def test_what_cannot_be_kept_changes_nothing(units: Any, sentence: str, store: Store) -> None:
    store.save("a", [unit(0)])
    before = files(store)
    for save in (lambda: store.save("a", units, overwrite=True), lambda: store.keep("b", units)):
        with pytest.raises(IPAdapterError, match=sentence):
            save()
    assert {path: data for path, data in files(store).items() if path.endswith("json")} == {
        path: data for path, data in before.items() if path.endswith("json")
    }
    assert not list(store.folder.rglob("*.part"))


# Names


@pytest.mark.parametrize("name", ["a", "名前 ☂ 👩‍👩‍👧", "a" * 100, "con", 'a:b*?"<>|', "...", "~", "é" * 100])
def test_names_are_free_text_and_reach_no_path(name: str, store: Store) -> None:
    store.save(name, [unit(0)])
    assert store.names() == [name]
    assert shown(store.load(name)) == shown([unit(0)])
    assert len(the_file(store).stem) == 64
    assert set(the_file(store).stem) <= set("0123456789abcdef")


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
    store.save(f" {apart} ", [unit(0)])
    assert store.names() == [composed]
    for name in (composed, apart, "CAFÉ", "café "):
        assert shown(store.load(name)) == shown([unit(0)])
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
    store.save("a", [unit(0)])
    store.save("b", [unit(1)])
    with pytest.raises(PresetExists, match="“B”"):
        store.rename("a", "B")
    store.rename("a", "c")
    assert store.names() == ["b", "c"]
    store.rename("c", "b", overwrite=True)
    assert (store.names(), shown(store.load("b")), stored(store)) == (["b"], shown([unit(0)]), prints(0))
    with pytest.raises(UnknownPreset):
        store.rename("a", "d")


def test_pictures_go_with_the_last_preset_that_uses_them(store: Store) -> None:
    store.save("a", [unit(0, 1)])
    store.save("b", [unit(1, 2)])
    store.delete("A")
    assert (store.names(), stored(store)) == (["b"], prints(1, 2))
    store.delete("b")
    assert (store.names(), stored(store)) == ([], set())
    assert not list(store.folder.glob("*/*"))


def test_what_dead_processes_left_is_swept_when_it_is_old(store: Store) -> None:
    store.save("a", [unit(0)])
    loose = store.put_picture(picture(1))
    part = atomic.stage(store.folder / "pictures", b"half a picture")
    foreign = store.folder / "pictures" / "holiday.png"
    foreign.write_bytes(b"somebody else's")
    store.save("b", [])
    store.delete("b")
    assert part.exists()
    assert stored(store) >= {loose}
    age(store, 25 * 3600)
    Store(store.folder).save("b", [])  # a new process does not wait for the first deletion
    assert not part.exists()
    assert stored(store) == prints(0) | {"holiday"}


def test_a_picture_that_is_used_again_is_not_swept(store: Store) -> None:
    store.put_picture(picture(0))
    store.put_picture(picture(1))
    age(store, 25 * 3600)
    assert store.put_picture(picture(0)) == fingerprint(picture(0))
    other = Store(store.folder)
    other.save("a", [])
    assert stored(store) == prints(0)


def test_pictures_of_files_that_cannot_be_understood_stay(store: Store) -> None:
    store.save("a", [unit(0)])
    whole = the_file(store).read_bytes()
    the_file(store).write_bytes(whole[:-5])  # damaged
    future = {"version": 9, "needs": 9, "name": "f", "parts": {"sha256:" + fingerprint(picture(1)): 1}}
    store.put_picture(picture(1))
    (store.folder / "presets" / f"{preset_format.key('f')}.json").write_text(json.dumps(future))
    age(store, 25 * 3600)
    store.save("b", [unit(0, 1, 2)])
    store.delete("b")
    assert stored(store) == prints(0, 1)


def test_nothing_is_swept_while_a_preset_cannot_be_read(store: Store, monkeypatch) -> None:
    store.save("a", [unit(0)])
    store.save("b", [unit(1)])
    hidden, read = Path(store._file("a")), atomic.read

    def refused(path):
        if Path(path) == hidden:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(atomic, "read", refused)
    age(store, 25 * 3600)
    fresh = Store(store.folder)
    fresh.delete("b")
    assert fresh.names() == []
    assert stored(store) == prints(0, 1)
    with pytest.raises(StorageError, match="cannot be read"):
        fresh.load("a")


# Pictures by their fingerprint


def test_pictures_are_found_by_the_beginning_of_their_fingerprint(store: Store) -> None:
    full = store.put_picture(picture(0))
    assert full == fingerprint(picture(0))
    for start in (full, full[:12], full[:40].upper(), f" {full[:12]} "):
        assert fingerprint(store.picture(start)) == full
    for start in (full[:11], full + "0", "", "../" + full, full[:12] + "*", "z" * 12, "0" * 64):
        assert store.picture(start) is None
    twin = store.folder / "pictures" / f"{full[:12]}{'0' * 52}.png"
    twin.write_bytes(b"")
    assert store.picture(full[:12]) is None
    assert fingerprint(store.picture(full[:13])) == full


def test_a_damaged_picture_is_told_and_healed_by_saving(store: Store) -> None:
    store.save("a", [unit(0)])
    [path] = store.folder.glob("pictures/*")
    whole = path.read_bytes()
    for data in (b"", whole[: len(whole) // 2]):
        path.write_bytes(data)
        assert store.picture(path.stem) is None
        with pytest.raises(PresetError, match=r"“a” has lost a picture.*delete the preset"):
            store.load("a")
        store.save("b", [unit(0)], overwrite=True)
        assert shown(store.load("a")) == shown([unit(0)])
    image = io.BytesIO()
    picture(1).save(image, "PNG")
    path.write_bytes(image.getvalue())
    assert store.picture(path.stem) is None  # another picture under this name
    assert store.names() == ["a", "b"]


# Damaged files, other versions


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0\0", b"{", b"[]", b"null", b'"x"', b'{"version": 1}', b'{"version": 1, "name": "a"}', b"[" * 100_000,
        b'{"version": 1, "name": "a", "units": {}}', b'{"version": 1, "name": "a", "units": [1]}',
        b'{"version": "1", "name": "a", "units": []}', b'{"version": 0, "name": "a", "units": []}',
        b'{"name": "a", "units": []}',
        b'{"version": 1, "name": "a", "units": [{"images": ["sha256:12"]}]}',
        b'{"version": 1, "name": "a", "units": [{"image": "../../x"}]}', b'{"version": 1, "name": "a/b", "units": []}',
    ],
)  # fmt: skip
def test_damaged_files_are_left_out_and_told_when_loaded(data: bytes, store: Store) -> None:
    store.save("a", [unit(0)])
    the_file(store).write_bytes(data)
    store.save("b", [])
    assert store.names() == ["b"]
    with pytest.raises(PresetError, match="Preset “a” is damaged: put .* or delete"):
        store.load("a")
    with pytest.raises(PresetError):
        store.rename("a", "c")
    with pytest.raises(PresetExists):
        store.save("a", [])
    store.save("a", [unit(1)], overwrite=True)
    assert shown(store.load("a")) == shown([unit(1)])
    the_file_of_a = store._file("a")
    the_file_of_a.write_bytes(data)
    store.delete("a")
    assert store.names() == ["b"]


def test_a_preset_under_a_foreign_file_name_is_not_listed(store: Store) -> None:
    store.save("a", [])
    the_file(store).rename(store.folder / "presets" / "copy of a.json")
    assert store.names() == []


def test_a_newer_preset_is_used_if_it_can_be(store: Store) -> None:
    store.save("a", [unit(0)])
    document = json.loads(the_file(store).read_bytes())
    the_file(store).write_text(json.dumps({**document, "version": 7, "colour": "red"}))
    assert shown(store.load("a")) == shown([unit(0)])
    store.rename("a", "b")
    assert json.loads(the_file(store).read_bytes())["colour"] == "red"
    assert shown(store.load("b")) == shown([unit(0)])


@pytest.mark.parametrize("change", [{"needs": 7}, {"needs": 7, "units": None}, {"units": {"first": {}}}])
def test_a_newer_preset_says_why_it_cannot_be_used(change: dict, store: Store) -> None:
    store.save("a", [unit(0)])
    document = json.loads(the_file(store).read_bytes())
    the_file(store).write_text(json.dumps({**document, "version": 7, **change}))
    if "needs" in change:
        assert store.names() == ["a"]  # listed, so that people learn why
    with pytest.raises(PresetError, match=r"newer version .* \(format 7, this one reads up to 1\): update"):
        store.load("a")


def test_an_older_preset_is_migrated(store: Store, monkeypatch) -> None:
    store.save("a", [unit(0)])
    old = Store(store.folder).export()
    monkeypatch.setattr(preset_format, "VERSION", 3)
    monkeypatch.setitem(preset_format.MIGRATIONS, 1, lambda d: {**d, "units": [{**u, "weight": 2} for u in d["units"]]})
    monkeypatch.setitem(
        preset_format.MIGRATIONS, 2, lambda d: {**d, "units": [{**u, "weight": u["weight"] + 1} for u in d["units"]]}
    )
    wanted = shown([unit(0, weight=3)])
    assert store.names() == ["a"]
    assert shown(store.load("a")) == wanted
    store.rename("a", "b")
    assert json.loads(the_file(store).read_bytes())["version"] == 3
    assert shown(store.load("b")) == wanted
    assert store.import_(old) == ["a"]
    assert shown(store.load("a")) == wanted


# Kept generations


def test_generations_are_kept_newest_first_and_bounded(tmp_path: Path) -> None:
    store = Store(tmp_path, history=3)
    store.save("00002-7", [unit(9)])
    for number in range(5):
        assert store.keep(f"0000{number}-7", [unit(number)]) == f"0000{number}-7" + " (2)" * (number == 2)
    assert store.recent() == ["00004-7", "00003-7", "00002-7 (2)"]
    assert store.names() == ["00002-7"]
    assert stored(store) == prints(2, 3, 4, 9)
    assert shown(store.load("00002-7 (2)")) == shown([unit(2)])
    store.history = 1
    store.keep("last", [])
    assert store.recent() == ["last"]
    store.history = 0
    assert store.keep("none", []) == ""
    assert store.recent() == ["last"]


def test_a_kept_generation_becomes_a_preset(tmp_path: Path) -> None:
    store = Store(tmp_path, history=2)
    for name in ("a", "b"):
        store.keep(name, [unit(0)])
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
    kept = [store.keep(name, [unit(0)]) for _ in range(3)]
    assert store.recent() == kept[::-1]
    assert len(set(kept)) == 3
    assert all(shown(store.load(one)) == shown([unit(0)]) for one in kept)


# Export and import


def test_presets_travel_in_one_file(store: Store, tmp_path: Path) -> None:
    store.save("Ä", [unit(0, 1, extra={"x": 1}), {}])
    store.save("b", [unit(1, region_mask=mask(2))])
    store.keep("kept", [unit(3)])
    other = Store(tmp_path / "other")
    assert other.import_(store.export()) == ["b", "Ä"]
    assert other.names() == store.names()
    assert all(shown(other.load(name)) == shown(store.load(name)) for name in store.names())
    assert stored(other) == prints(0, 1) | {fingerprint(mask(2))}
    third = Store(tmp_path / "third")
    assert third.import_(store.export(["KEPT", "b", "B"])) == ["kept", "b"]
    assert (third.names(), third.recent()) == (["b", "kept"], [])
    assert other.import_(Store(tmp_path / "none").export()) == []
    with pytest.raises(UnknownPreset):
        store.export(["b", "nobody"])


def test_an_import_is_all_or_nothing(store: Store, tmp_path: Path, monkeypatch) -> None:
    for name in "abc":
        store.save(name, [unit(ord(name))])
    data = store.export()
    other = Store(tmp_path / "other")
    other.save("B", [unit(0)])
    before = files(other)
    with pytest.raises(PresetExists, match="“b” already"):
        other.import_(data)
    assert files(other) == before

    published, publish = [], atomic.publish

    def fails_at_the_third(part: Path, path: Path) -> None:
        if path.suffix == ".json" and not published.append(path) and len(published) == 3:
            raise OSError(28, "No space left on device")
        publish(part, path)

    monkeypatch.setattr(atomic, "publish", fails_at_the_third)
    with pytest.raises(StorageError, match="No space left on device.*make room") as caught:
        other.import_(data, overwrite=True)
    assert caught.value.status_code == 500
    assert (other.names(), shown(other.load("b"))) == (["B"], shown([unit(0)]))
    monkeypatch.undo()
    assert other.import_(data, overwrite=True) == ["a", "b", "c"]
    assert shown(other.load("b")) == shown([unit(ord("b"))])
    assert stored(other) == prints(*map(ord, "abc"))
    assert not list(other.folder.rglob("*.part"))


def archive(documents: Any, pictures: dict[str, bytes] | None = None, pack: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", pack) as file:
        file.writestr("presets.json", json.dumps({"version": 1, "presets": documents}))
        for name, data in (pictures or {}).items():
            file.writestr(name, data)
    return buffer.getvalue()


def document(name: str = "a", *marks: str, **more) -> dict[str, Any]:
    return {"version": 1, "needs": 1, "name": name, "units": [{"images": [f"sha256:{m}" for m in marks]}], **more}


def png(seed: int) -> bytes:
    return base64.b64decode(base64_of(picture(seed)))


ONE = fingerprint(picture(1))
GOOD = archive([document("a", ONE)], {f"pictures/{ONE}.png": png(1)})


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "no export of presets"),
        (b"\x89PNG", "no export of presets"),
        (GOOD[:-30], "no export of presets"),
        (GOOD.replace(b"IDAT", b"IDOT"), "no export of presets"),
        (archive({"a": 1}), "no export of presets"),
        (archive([document("a", ONE)], pack=zipfile.ZIP_LZMA), "no export of presets"),
        (archive([document("a", ONE)]), "lacks pictures"),
        (archive([document("a", ONE)], {f"pictures/{ONE}.png": png(2)}), "no export of presets"),
        (archive([document("a", ONE)], {f"pictures/{ONE}.png": b"<svg/>"}), "no export of presets"),
        (archive([document("a"), document("A")]), "two presets “A”"),
        (archive([document("../a")]), "is damaged"),
        (archive([document("a", "../" + ONE)]), "is damaged"),
        (archive([document("a"), 5]), "is damaged"),
        (archive([document("a"), document("b", version=7, needs=7)]), "newer version"),
        (archive([document("a", units=[{}] * 11)]), "is damaged"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_changes_nothing(data: bytes, sentence: str, store: Store) -> None:
    store.save("x", [unit(0)])
    before = files(store)
    with pytest.raises(PresetError, match=sentence) as caught:
        store.import_(data)
    assert caught.value.status_code == 422
    assert files(store) == before


def test_only_what_presets_refer_to_is_taken_out_of_a_file(store: Store, tmp_path: Path) -> None:
    evil = {f"pictures/{ONE}.png": png(1), "../../evil.png": png(2), "/tmp/evil": b"x", "presets/x.json": b"{}",
            f"pictures/../{ONE}.png": png(2), f"pictures/{fingerprint(picture(2))}.png": png(2)}  # fmt: skip
    assert store.import_(archive([document("a", ONE)], evil)) == ["a"]
    assert stored(store) == {ONE}
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "lock", f"{ONE}.png", the_file(store).name,
    }  # fmt: skip


def test_imports_are_bounded_before_they_are_unpacked(store: Store, monkeypatch) -> None:
    def refused(data: bytes, sentence: str) -> None:
        with pytest.raises(PresetError, match=sentence):
            store.import_(data)
        assert (store.names(), stored(store)) == ([], set())

    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("presets.json", b" " * (65 << 20))
    assert len(bomb.getvalue()) < 100_000
    refused(bomb.getvalue(), "unpacks to more than is allowed")
    # A file that lies about its sizes is not unpacked further than it says.
    lying = bomb.getvalue().replace((65 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    refused(lying, "no export of presets")
    monkeypatch.setattr(preset_archive, "MAX_PIXELS", picture(1).width * picture(1).height - 1)
    refused(GOOD, "too large together")
    monkeypatch.setattr(preset_archive, "MAX_PRESETS", 0)
    refused(archive([document("a")]), "more than 0 presets")
    monkeypatch.setattr(preset_archive, "MAX_ENTRIES", 1)
    refused(archive([document("a")], {"x": b""}), "too many entries")
    monkeypatch.setattr(preset_archive, "MAX_ARCHIVE", 100)
    refused(GOOD, "larger than")


def test_an_export_is_never_larger_than_an_import_takes(store: Store, monkeypatch) -> None:
    store.save("a", [unit(0)])
    for bound, value in (("MAX_PIXELS", 100), ("MAX_MANIFEST", 20), ("MAX_PRESETS", 0)):
        with monkeypatch.context() as patch:
            patch.setattr(preset_archive, bound, value)
            with pytest.raises(PresetError, match="export fewer"):
                store.export()
    next(store.folder.glob("pictures/*")).unlink()
    with pytest.raises(PresetError, match="“a” has lost a picture"):
        store.export()


# At once, and killed


def test_threads_do_not_lose_each_others_changes(tmp_path: Path, no_fsync) -> None:
    """Two tabs and the API in one process: stores of their own, or one."""
    shared, failures = Store(tmp_path), []

    def work(number: int) -> None:
        store = shared if number % 2 else Store(tmp_path)
        try:
            for i in range(6):
                store.save(f"{number} {i}", [unit(number, i)])
                store.save("all", [unit(number + 10)], overwrite=True)
                store.keep("generation", [unit(number)])
                assert len(store.load("all")) == 1
                store.rename(f"{number} {i}", f"{number} renamed {i}")
                if i % 2:
                    store.delete(f"{number} renamed {i}")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert shared.names() == [*(f"{n} renamed {i}" for n in range(4) for i in (0, 2, 4)), "all"]
    assert all(shown(shared.load(f"{n} renamed {i}")) == shown([unit(n, i)]) for n in range(4) for i in (0, 2, 4))
    assert len(shared.recent()) == 24
    assert not list(tmp_path.rglob("*.part"))


def test_only_one_of_those_who_take_a_name_gets_it(tmp_path: Path, no_fsync) -> None:
    won: list[int] = []

    def take(number: int) -> None:
        try:
            Store(tmp_path).save("mine", [unit(number)])
            won.append(number)
        except PresetExists:
            pass

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = won
    assert shown(Store(tmp_path).load("mine")) == shown([unit(winner)])


def test_other_stores_see_changes_at_once(store: Store) -> None:
    other = Store(store.folder)
    store.save("a", [unit(0)])
    assert other.names() == ["a"]
    age(store, 60)
    assert other.names() == ["a"]  # from memory, from now on
    store.save("A", [unit(1)], overwrite=True)
    assert other.names() == ["A"]
    other.delete("a")
    assert store.names() == []


def test_where_locks_are_unknown_a_new_name_is_still_taken_once(store: Store, monkeypatch) -> None:
    def unknown(file) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(atomic, "_try_lock", unknown)
    store.save("a", [unit(0)])
    monkeypatch.setattr(Path, "exists", lambda path: False)  # the other one comes between looking and writing
    with pytest.raises(PresetExists):
        store.save("a", [unit(1)])
    monkeypatch.undo()
    monkeypatch.setattr(atomic, "_try_lock", unknown)
    assert shown(store.load("a")) == shown([unit(0)])
    store.delete("a")
    assert stored(store) == prints(0, 1)  # nobody can tell whether another process is about to use them
    age(store, 25 * 3600)
    Store(store.folder).save("b", [])
    assert stored(store) == set()


def test_where_there_are_no_hard_links(store: Store, monkeypatch) -> None:
    def refused(*_args) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    store.save("a", [unit(0)])
    with pytest.raises(PresetExists):
        store.save("a", [unit(1)])
    assert shown(store.load("a")) == shown([unit(0)])
    assert not list(store.folder.rglob("*.part"))


def test_a_writer_that_waits_for_ever_is_told_why(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(atomic, "PATIENCE", 0.05)
    with atomic.one_writer(store.folder / "lock"), pytest.raises(StorageError, match="Another program .* close other"):
        store.save("a", [])
    store.save("a", [])
    with open(store.folder / "lock", "ab") as file:  # another process
        atomic._try_lock(file)
        with pytest.raises(StorageError, match="Another program"):
            store.delete("a")
    store.delete("a")


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "ip-adapter")
    assert store.names() == []
    for action in (lambda: store.save("a", []), lambda: store.keep("a", []), lambda: store.put_picture(picture())):
        with pytest.raises(StorageError, match="cannot be written .* try again"):
            action()


def test_a_picture_swept_while_it_was_saved_is_written_again(store: Store, monkeypatch) -> None:
    """Another process deletes the last preset with that picture between our look at it and our turn."""
    store.save("a", [unit(0)])
    alone = store._alone

    def late() -> Any:
        monkeypatch.setattr(store, "_alone", alone)
        Store(store.folder).delete("a")
        assert stored(store) == set()
        return alone()

    monkeypatch.setattr(store, "_alone", late)
    store.save("b", [unit(0)])
    assert shown(store.load("b")) == shown([unit(0)])


def test_a_preset_overwritten_while_it_is_loaded_is_loaded_whole(store: Store, monkeypatch) -> None:
    store.save("a", [unit(0, 1)])
    found = Store._picture_file

    def late(self, name):
        monkeypatch.setattr(Store, "_picture_file", found)
        Store(store.folder).save("a", [unit(2)], overwrite=True)
        return found(self, name)

    monkeypatch.setattr(Store, "_picture_file", late)
    assert shown(store.load("a")) == shown([unit(2)])


@pytest.mark.parametrize("at", range(12))
def test_killed_between_two_steps_everything_is_old_or_new(at: int, store: Store, monkeypatch) -> None:
    """Every single step of a writer at which it can die; what it would have tidied up stays."""

    class Killed(BaseException):
        pass

    store.save("a", [unit(0, 1)])
    store.save("b", [unit(2)])
    steps = []

    def step(name: str):
        done = getattr(os, name)

        def dying(*args, **kwargs):
            if len(steps) >= at:
                raise Killed
            steps.append(name)
            return done(*args, **kwargs)

        monkeypatch.setattr(os, name, dying)

    for name in ("fsync", "replace", "link", "unlink", "utime"):
        step(name)
    died = False
    try:
        store.save("a", [unit(1, 3)], overwrite=True)
        store.rename("b", "c")
    except Killed:
        died = True
    monkeypatch.undo()
    fresh = Store(store.folder)
    assert shown(fresh.load("a")) in (shown([unit(0, 1)]), shown([unit(1, 3)]))
    assert fresh.names() in (["a", "b"], ["a", "c"], ["a", "b", "c"])
    assert all(shown(fresh.load(name)) == shown([unit(2)]) for name in fresh.names()[1:])
    if not died:
        assert fresh.names() == ["a", "c"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children start too slowly without fork")
def test_real_processes_at_once_and_killed() -> None:
    """The benchmark with few rounds: it exits with 1 where anything is lost."""
    command = [sys.executable, "-m", "benchmarks.presets", "--presets", "0", "--writers", "3", "--kills", "12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills: 12 at random moments" in done.stdout


def test_a_thousand_presets_are_listed_quickly(tmp_path: Path, no_fsync) -> None:
    store, units = Store(tmp_path), [unit(0, 1, weight=0.5), {"enabled": False}]
    for number in range(1000):
        store.save(f"preset {number}", units)
    times = []
    for _ in range(5):
        started = time.process_time()  # of this process: machines are shared
        assert len(Store(tmp_path).names()) == 1000
        times.append(time.process_time() - started)
    assert min(times) < 0.1  # 0.04 s


# The routes


@pytest.fixture
def api(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "demo" / "host"))
    from modules import shared

    from lib_ipadapter.webui import api

    monkeypatch.setattr(shared.cmd_opts, "api", True, raising=False)
    monkeypatch.setattr(shared.cmd_opts, "nowebui", False, raising=False)
    monkeypatch.setattr(shared.cmd_opts, "api_auth", None, raising=False)
    return api


@pytest.fixture
def client(api, store: Store) -> TestClient:
    app = FastAPI()
    api.add_routes(app, None, store)
    return TestClient(app, raise_server_exceptions=False)


def body(*seeds: int, **settings) -> dict[str, Any]:
    return {"units": [{"model": "base", "images": [base64_of(picture(seed)) for seed in seeds], **settings}]}


def test_presets_through_the_api(client: TestClient, store: Store) -> None:
    assert client.get("/ip-adapter/presets").json() == {"presets": [], "recent": []}
    assert client.put("/ip-adapter/presets/A cat%3F é", json=body(0, weight=0.5)).json() == {"preset": "A cat? é"}
    store.keep("00001-7", [unit(1)])
    assert client.get("/ip-adapter/presets").json() == {"presets": ["A cat? é"], "recent": ["00001-7"]}
    [found] = client.get("/ip-adapter/presets/a cat%3F é").json()["units"]
    assert (found["model"], found["weight"]) == ("base", 0.5)
    image = Image.open(io.BytesIO(base64.b64decode(found["images"][0])))
    assert (image.format, fingerprint(image)) == ("PNG", fingerprint(picture(0)))
    assert client.put("/ip-adapter/presets/A cat%3F é", json={"units": [found]}).status_code == 200
    assert shown(store.load("A cat? é")) == shown([unit(0, weight=0.5)])
    again = client.put("/ip-adapter/presets/a CAT%3F é?overwrite=false", json=body(1))
    assert again.status_code == 409
    assert "overwrite it" in again.json()["detail"]
    assert client.delete("/ip-adapter/presets/A cat%3F é").status_code == 200
    for method in (client.get, client.delete):
        answer = method("/ip-adapter/presets/A cat%3F é")
        assert answer.status_code == 404
        assert answer.json()["detail"].startswith("There is no preset “A cat? é”")


@pytest.mark.parametrize(
    "name", ["%20", "a%2Fb", "a/b", "a%5Cb", "a%00", "a%0A", "%0Aa", "%2E%2E", "%2e", "a" * 101, "..%2F..%2Fx"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_is_no_name_is_a_4xx(method: str, name: str, client: TestClient, store: Store) -> None:
    answer = client.request(method, f"/ip-adapter/presets/{name}", json=body(0) if method == "PUT" else None)
    assert 400 <= answer.status_code < 500
    assert not store.folder.exists()


@pytest.mark.parametrize(
    "unit",
    [
        {}, {"model": None, "images": []}, {"model": "", "image": None}, {"enabled": False}, {"model": "base"},
        {"images": [base64_of(picture(0))]}, {"enabled": False, "model": "base", "image": base64_of(picture(0))},
    ],
)  # fmt: skip
def test_units_that_lack_something_are_stored(unit: dict, client: TestClient) -> None:
    assert client.put("/ip-adapter/presets/a", json={"units": [unit]}).status_code == 200
    [found] = client.get("/ip-adapter/presets/a").json()["units"]
    assert {**found, "image": 1, "images": 1} == {**unit, "image": 1, "images": 1}


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"units": [{}, {"weigth": 1}]}, "IP-Adapter unit 2: unknown field 'weigth'"),
        ({"units": [{"weight": 4}]}, "IP-Adapter unit 1: weight is 4"),
        ({"units": [{"enabled": False, "weight": True}]}, "IP-Adapter unit 1: weight is True"),
        ({"units": [{"enabled": 1}]}, "IP-Adapter unit 1: enabled is 1"),
        ({"units": [{"model": 5}]}, "IP-Adapter unit 1: model is 5"),
        ({"units": [{"image": "x", "images": []}]}, "IP-Adapter unit 1: "),
        ({"units": [{"images": "abc"}]}, "IP-Adapter unit 1: images is 'abc'"),
        ({"units": [{"images": [{"picture": "x"}]}]}, "IP-Adapter unit 1: images[0]: unknown field 'picture'"),
        ({"units": [{"images": ["bm8="]}]}, "IP-Adapter unit 1: images[0]: The picture is text"),
        ({"units": [5]}, "IP-Adapter unit 1: a unit is an object"),
        ({"units": {}}, "The units of a preset are missing"),
        ({"units": [{}] * 11}, "A preset of 11 units is too long"),
        ({}, "The body of a preset is"),
        ([], "The body of a preset is"),
        ({"units": [], "name": "x"}, "The body of a preset is"),
    ],
)  # fmt: skip
def test_what_no_generation_would_accept_is_refused(sent: Any, sentence: str, client: TestClient, store: Store) -> None:
    answer = client.put("/ip-adapter/presets/a", json=sent)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(sentence)
    assert store.names() == []


def test_presets_are_exported_and_imported_through_the_api(api, client: TestClient, store: Store, monkeypatch) -> None:
    for name in ("a", "b & c"):
        store.save(name, [unit(0)])
    answer = client.get("/ip-adapter/presets-export")
    assert answer.headers["content-type"] == "application/zip"
    assert "ip-adapter-presets.zip" in answer.headers["content-disposition"]
    one = client.get("/ip-adapter/presets-export", params={"name": ["b & c"]}).content
    assert client.get("/ip-adapter/presets-export?name=x").status_code == 404
    assert client.post("/ip-adapter/presets-import", content=answer.content).status_code == 409
    assert client.post("/ip-adapter/presets-import?overwrite=true", content=one).json() == {"presets": ["b & c"]}
    store.delete("a")
    store.delete("b & c")
    assert client.post("/ip-adapter/presets-import", content=answer.content).json() == {"presets": ["a", "b & c"]}
    assert shown(store.load("a")) == shown([unit(0)])
    assert client.post("/ip-adapter/presets-import", content=b"PK").status_code == 422
    monkeypatch.setattr(api, "MAX_ARCHIVE", 10)
    assert client.post("/ip-adapter/presets-import", content=answer.content).status_code == 413


def test_preset_routes_ask_for_the_password(api, store: Store, monkeypatch) -> None:
    monkeypatch.setattr(api.shared.cmd_opts, "api_auth", "anna:secret")
    app = FastAPI()
    api.add_routes(app, None, store)
    client = TestClient(app)
    ours = [(method, route.path) for route in app.routes if route.path.startswith("/ip-adapter/presets")
            for method in route.methods]  # fmt: skip
    assert len(ours) == 6
    for method, path in ours:
        assert client.request(method, path.replace("{name}", "a")).status_code == 401
    assert client.get("/ip-adapter/presets", auth=("anna", "secret")).status_code == 200
    assert not store.folder.exists()


def test_without_a_store_or_an_api_there_are_no_routes(api, store: Store, monkeypatch) -> None:
    app = FastAPI()
    api.add_routes(app, None)
    assert TestClient(app).get("/ip-adapter/presets").status_code == 404
    monkeypatch.setattr(api.shared.cmd_opts, "api", False)
    api.add_routes(app, None, store)
    assert TestClient(app).get("/ip-adapter/presets").status_code == 404


def test_the_module_needs_no_webui() -> None:
    code = (
        "import sys; import lib_ipadapter.webui.presets; "
        "sys.exit(any(name.split('.')[0] in ('gradio', 'modules', 'fastapi') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
