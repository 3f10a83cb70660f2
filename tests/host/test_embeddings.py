"""Embeddings instead of pictures, through the API: made, used, kept and pasted."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from safetensors import safe_open

from demo.start import Host
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import ask, ours, pixels


def made(host: Host, settings: dict) -> bytes:
    answer = host.client.post("/ip-adapter/embeddings", json=settings)
    assert answer.status_code == 200, answer.text
    return answer.content


def refused(host: Host, *units: dict) -> str:
    answer = host.post("txt2img", {"steps": 1, "alwayson_scripts": ours(*units)})
    assert answer.status_code == 422, answer.text
    detail: str = answer.json()["detail"]
    return detail


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_a_picture_from_embeddings_is_the_one_from_the_pictures(kind: str, host: Host, tmp_path) -> None:
    photos = unit(kind, (0, 1), combine="average")
    file = made(host, photos)
    (tmp_path / "look.safetensors").write_bytes(file)
    with safe_open(str(tmp_path / "look.safetensors"), "pt") as opened:
        part = {"base": "pooled", "plus": "penultimate"}[kind]
        assert set(opened.keys()) == {f"0.{part}", f"1.{part}"}
        assert opened.metadata()["encoder"] == "ViT (128 wide, 3 layers)"
    kept = {**photos, "images": [{"embeddings": base64.b64encode(file).decode()}]}
    want, got = ask(host, photos), ask(host, kept)
    assert np.array_equal(pixels(got), pixels(want))
    again = host.client.post("/ip-adapter/embeddings", json=kept)
    assert again.content == file


def test_parameters_bring_embeddings_back(host: Host) -> None:
    kept = {"model": "base", "images": [{"embeddings": base64.b64encode(made(host, unit(seeds=(0, 1)))).decode()}]}
    want = ask(host, kept)
    text = want.infotext
    assert text.count("references: ") == 1
    again = ask(host, infotext=text)
    assert np.array_equal(pixels(again), pixels(want))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "model is missing"),
        (unit("nowhere"), "no adapter is called 'nowhere'"),
        (unit(enabled=False), "it is disabled"),
        ({"model": "base", "images": [{"controlnet": 1}]}, "ControlNet's pictures are only known while"),
        ({"model": "base", "images": ["!"]}, "the reference: "),
        (unit("faceid"), "face"),
    ],
)
def test_what_cannot_be_embedded_is_a_422(settings: dict, says: str, host: Host) -> None:
    answer = host.client.post("/ip-adapter/embeddings", json=settings)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("IP-Adapter unit 1: ")
    assert says in answer.json()["detail"]


def test_embeddings_of_another_encoder_are_refused_with_both_named(host: Host) -> None:
    file = made(host, unit("base"))
    kept = {"model": "plus", "images": [{"embeddings": base64.b64encode(file).decode()}]}
    detail = refused(host, kept)
    assert "the embeddings hold pooled embeddings of 'ViT (128 wide, 3 layers)'" in detail
    assert "and adapter plus takes penultimate embeddings of 'ViT (128 wide, 3 layers)'" in detail


def test_the_route_refuses_other_sites_and_other_bodies(host: Host) -> None:
    post = host.client.post
    assert post("/ip-adapter/embeddings", json={}, headers={"Origin": "https://evil.example"}).status_code == 403
    assert post("/ip-adapter/embeddings", data="{}", headers={"Content-Type": "text/plain"}).status_code in (415, 422)


def test_embeddings_have_no_mask(host: Host) -> None:
    item = {"embeddings": base64.b64encode(made(host, unit())).decode(), "mask": base64_of(picture(3))}
    assert "a mask changes nothing of embeddings" in refused(host, {"model": "base", "images": [item]})
