"""Every generation is kept as a preset."""

from __future__ import annotations

from demo.start import Answer, Host
from lib_ipadapter.encode.picture import content_hash
from tests.helpers.files import base64_of, picture
from tests.helpers.host import ours


def generated(host: Host, *units: dict, **payload) -> Answer:
    payload = {"prompt": "a cat", "steps": 1, "width": 64, "height": 64, **payload}
    return host.txt2img(**payload, alwayson_scripts=ours(*units))


def test_every_generation_is_kept(host: Host, store, monkeypatch) -> None:
    from modules import shared

    generated(host, {"model": "base", "images": [base64_of(picture(0))]}, {"enabled": False})
    (name,) = store.recent()
    (unit, off) = store.load(name)
    assert unit["model"] == "base" and content_hash(unit["images"][0]) == content_hash(picture(0))
    assert off == {"enabled": False}
    generated(host)
    generated(host, {"enabled": False})
    assert store.recent() == [name]
    monkeypatch.setitem(shared.opts.data, "ip_adapter_save_generations", False)
    generated(host, {"model": "base", "images": [base64_of(picture(0))]})
    assert store.recent() == [name]
    monkeypatch.setitem(shared.opts.data, "ip_adapter_save_generations", True)
    monkeypatch.setitem(shared.opts.data, "ip_adapter_history", 1)
    generated(host, {"model": "base", "images": [base64_of(picture(1))]})
    assert len(store.recent()) == 1 and store.recent() != [name]


def test_a_store_that_cannot_be_written_costs_no_picture(host: Host, store, monkeypatch, caplog) -> None:
    from lib_ipadapter.presets.store import StorageError

    def full(*_args) -> str:
        raise StorageError("The disk is full: make room.")

    monkeypatch.setattr(store, "keep", full)
    assert generated(host, {"model": "base", "images": [base64_of(picture(0))]}).images
    assert "The disk is full" in caplog.text


def test_generations_with_large_references_are_not_kept(host: Host, store, monkeypatch, caplog) -> None:
    """Each would be written as a PNG before the answer: 64 photographs take minutes and gigabytes."""
    from lib_ipadapter.webui import history

    one = picture(0).width * picture(0).height
    monkeypatch.setattr(history, "MAX_PIXELS", 2 * one)
    same = base64_of(picture(0))
    generated(host, {"model": "base", "images": [same, same, base64_of(picture(1))]})
    assert len(store.recent()) == 1
    generated(host, {"model": "base", "images": [same, base64_of(picture(1)), base64_of(picture(2))]})
    assert len(store.recent()) == 1
    assert "not kept, because its references have more than 0 megapixels together: save them" in caplog.text


def test_start_pictures_count_for_nothing_in_what_is_kept(host: Host, store, monkeypatch) -> None:
    """The word for them is kept."""
    from lib_ipadapter.webui import history

    monkeypatch.setattr(history, "MAX_PIXELS", 0)
    host.img2img(
        prompt="a cat", steps=1, width=64, height=64, init_images=[base64_of(picture(0, (64, 64)))],
        alwayson_scripts=ours({"model": "base", "images": [{"start_picture": True}]}),
    )  # fmt: skip
    assert len(store.recent()) == 1
