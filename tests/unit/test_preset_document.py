"""Presets that are damaged, or of another version."""

from __future__ import annotations

import json

import pytest

from lib_ipadapter.presets.document import HASH_PREFIX, content_hashes, document_of, reference_hashes
from lib_ipadapter.presets.store import PresetError, PresetExists, Store
from tests.helpers.files import base64_of, half, picture
from tests.helpers.presets import prints, put_document, raw_document, shown, stored, with_pictures


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
def test_damaged_presets_are_told_when_loaded(data: bytes, store: Store) -> None:
    store.save("a", [with_pictures(0)])
    put_document(store, "a", data)
    store.save("b", [])
    assert store.names() == ["a", "b"]  # listed, so that people can delete them
    assert stored(store) == prints(0)  # and what is whole of them stays
    with pytest.raises(PresetError, match="Preset “a” is damaged: delete"):
        store.load("a")
    with pytest.raises(PresetError):
        store.rename("a", "c")
    with pytest.raises(PresetExists):
        store.save("a", [])
    store.save("a", [with_pictures(1)], overwrite=True)
    assert shown(store.load("a")) == shown([with_pictures(1)])
    put_document(store, "a", data)
    store.delete("a")
    assert store.names() == ["b"]


def test_a_newer_preset_is_used_if_it_can_be(store: Store) -> None:
    store.save("a", [with_pictures(0)])
    put_document(store, "a", json.dumps({**raw_document(store, "a"), "version": 7, "colour": "red"}).encode())
    assert shown(store.load("a")) == shown([with_pictures(0)])
    store.rename("a", "b")
    assert raw_document(store, "b")["colour"] == "red"
    assert shown(store.load("b")) == shown([with_pictures(0)])


@pytest.mark.parametrize("change", [{"needs": 7}, {"needs": 7, "units": None}, {"units": {"first": {}}}])
def test_a_newer_preset_says_why_it_cannot_be_used(change: dict, store: Store) -> None:
    store.save("a", [with_pictures(0)])
    put_document(store, "a", json.dumps({**raw_document(store, "a"), "version": 7, **change}).encode())
    assert store.names() == ["a"]  # listed, so that people learn why
    with pytest.raises(PresetError, match=r"newer version .* \(format 7, this one reads up to 1\): update"):
        store.load("a")


def test_the_region_of_a_reference_is_one_of_the_pictures() -> None:
    region = base64_of(half("left"))
    unit = {"model": "base", "images": [{"image": base64_of(picture(0)), "region": region, "at": 0.25}]}
    document, pictures = document_of("a", [unit])
    (item,) = document["units"][0]["images"]
    assert item["at"] == 0.25
    assert item["region"].startswith(HASH_PREFIX) and content_hashes(document) == set(pictures) and len(pictures) == 2
    assert reference_hashes(document) == [item["image"][len(HASH_PREFIX) :]]  # where it acts is nothing to look at
