"""Presets in one file, out and in."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lib_ipadapter.encode.picture import content_hash
from lib_ipadapter.presets import archive as preset_archive
from lib_ipadapter.presets.store import PresetError, PresetExists, StorageError, Store, UnknownPreset
from tests.helpers.files import picture, png
from tests.helpers.presets import archive, document, mask, prints, put_png, rows, shown, stored, tables, with_pictures


def test_presets_travel_in_one_file(store: Store, tmp_path: Path) -> None:
    store.save("Ä", [with_pictures(0, 1, layer_weights={"5": 0.4}), {}])
    store.save("b", [with_pictures(1, region_mask=mask(2))])
    store.keep("kept", [with_pictures(3)])
    other = Store(tmp_path / "other")
    assert other.import_(store.export()) == ["b", "Ä"]
    assert other.names() == store.names()
    assert all(shown(other.load(name)) == shown(store.load(name)) for name in store.names())
    assert stored(other) == prints(0, 1) | {content_hash(mask(2))}
    third = Store(tmp_path / "third")
    assert third.import_(store.export(["KEPT", "b", "B"])) == ["kept", "b"]
    assert (third.names(), third.recent()) == (["b", "kept"], [])
    assert other.import_(Store(tmp_path / "none").export()) == []
    with pytest.raises(UnknownPreset):
        store.export(["b", "nobody"])


def test_an_import_is_all_or_nothing(store: Store, tmp_path: Path, monkeypatch) -> None:
    for name in "abc":
        store.save(name, [with_pictures(ord(name))])
    data = store.export()
    other = Store(tmp_path / "other")
    other.save("B", [with_pictures(0)])
    before = rows(other)
    with pytest.raises(PresetExists, match="“b” already"):
        other.import_(data)
    assert rows(other) == before

    with tables(other) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON presets WHEN new.key = 'c' "
            "BEGIN SELECT raise(ABORT, 'database or disk is full'); END"
        )
    with pytest.raises(StorageError, match="no room left.*make room") as caught:
        other.import_(data, overwrite=True)
    assert caught.value.status_code == 500
    assert rows(other) == before
    with tables(other) as connection:
        connection.execute("DROP TRIGGER full")
    assert other.import_(data, overwrite=True) == ["a", "b", "c"]
    assert shown(other.load("b")) == shown([with_pictures(ord("b"))])
    assert stored(other) == prints(*map(ord, "abc"))


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


ONE = content_hash(picture(1))
GOOD = archive([document("a", ONE)], {f"pictures/{ONE}.png": png(picture(1))})


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
        (archive([document("a", ONE)], {f"pictures/{ONE}.png": png(picture(2))}), "no export of presets"),
        (archive([document("a", ONE)], {f"pictures/{ONE}.png": b"<svg/>"}), "no export of presets"),
        (archive([document("a"), document("A")]), "two presets “A”"),
        (archive([document("../a")]), "is damaged"),
        (archive([document("a", "../" + ONE)]), "is damaged"),
        (archive([document("a"), 5]), "is damaged"),
        (archive([document("a"), document("b", version=7, needs=7)]), "newer version"),
        (archive([document("a", units=[{}] * 11)]), "is damaged"),
        (archive([document("a", units=[{"weight": 10**30}])]), "is damaged"),
        (archive([document("a", units=[{"weight": float("inf")}])]), "is damaged"),
        (archive([document("a", units=[{"weight": nested(900)}])]), "is damaged"),
        (archive([document("a", units=[{"weight": 4}])]), "Preset “a” of the file: IP-Adapter unit 1: weight is 4"),
        (archive([document("a", units=[{"swirl": 1}])]), "Preset “a” of the file: IP-Adapter unit 1: unknown field"),
        (archive([document("a", *[ONE] * 65)], {f"pictures/{ONE}.png": png(picture(1))}), "65 pictures: give at most"),
        (archive([document("a", ONE)], {f"pictures/{ONE}.png": webp(picture(1))}), "no export of presets"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # the archives themselves bear the time of day
)  # fmt: skip
def test_what_cannot_be_imported_changes_nothing(data: bytes, sentence: str, store: Store) -> None:
    store.save("x", [with_pictures(0)])
    before = rows(store)
    with pytest.raises(PresetError, match=sentence) as caught:
        store.import_(data)
    assert caught.value.status_code == 422
    assert rows(store) == before


def test_only_what_presets_refer_to_is_taken_out_of_a_file(store: Store, tmp_path: Path) -> None:
    first, second = png(picture(1)), png(picture(2))
    evil = {f"pictures/{ONE}.png": first, "../../evil.png": second, "/tmp/evil": b"x", "presets/x.json": b"{}",
            f"pictures/../{ONE}.png": second, f"pictures/{content_hash(picture(2))}.png": second}  # fmt: skip
    assert store.import_(archive([document("a", ONE)], evil)) == ["a"]
    assert stored(store) == {ONE}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["presets.sqlite3"]


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
    store.save("a", [with_pictures(0)])
    for bound, value in (("MAX_PIXELS", 100), ("MAX_MANIFEST", 20), ("MAX_PRESETS", 0)):
        with monkeypatch.context() as patch:
            patch.setattr(preset_archive, bound, value)
            with pytest.raises(PresetError, match="export fewer"):
                store.export()
    put_png(store, content_hash(picture(0)), b"")
    with pytest.raises(PresetError, match="“a” has lost a picture"):
        store.export()
