"""Looks: kept, used by name, mixed, pasted, in presets, and what is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from demo.start import Host
from lib_ipadapter.encode import stored
from lib_ipadapter.encode.look_files import head_of
from lib_ipadapter.presets.looks import Looks
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import ask, ours, pixels


@pytest.fixture(autouse=True)
def looks(tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Looks]:
    """The host's looks are in a folder of the test's own."""
    from lib_ipadapter.webui import process

    made = Looks(tmp_path / "looks")
    monkeypatch.setattr(process, "looks", lambda: made)
    yield made


def keep(host: Host, name: str, settings: dict, **params: Any) -> Any:
    return host.client.put(f"/ip-adapter/looks/{name}", json={"unit": settings}, params=params)


def kept(host: Host, name: str, settings: dict) -> dict:
    answer = keep(host, name, settings)
    assert answer.status_code == 200, answer.text
    return {"look": answer.json()["look"]}


def refused(host: Host, *units: dict) -> str:
    answer = host.post("txt2img", {"steps": 1, "alwayson_scripts": ours(*units)})
    assert answer.status_code == 422, answer.text
    detail: str = answer.json()["detail"]
    return detail


def same(host: Host, one: dict, other: dict) -> bool:
    return np.array_equal(pixels(ask(host, one)), pixels(ask(host, other)))


@pytest.mark.both_faces
@pytest.mark.parametrize("kind", ["base", "plus"])
def test_a_look_of_one_reference_is_that_reference(kind: str, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_ipadapter.jobs import generation

    seen, prepare = [], generation.prepare
    monkeypatch.setattr(generation, "prepare", lambda *given: seen.append(prepare(*given)) or seen[-1])
    photo = unit(kind, (3,))
    look = {**photo, "images": [kept(host, "one", photo)]}
    want, got = ask(host, photo), ask(host, look)
    assert np.array_equal(pixels(got), pixels(want))
    for before, after in zip(*seen, strict=True):  # keys and values, and tokens, bit for bit
        assert torch.equal(before.cond, after.cond) and torch.equal(before.uncond, after.uncond)
        ours_, theirs = vars(before.kv), vars(after.kv)
        assert ours_.keys() == theirs.keys()
        for name in ours_:
            a, b = ours_[name], theirs[name]
            pairs = zip(a, b, strict=True) if isinstance(a, (list, tuple)) else [(a, b)]
            for x, y in pairs:
                assert torch.equal(x, y) if isinstance(x, torch.Tensor) else str(x) == str(y)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("base", {"combine": "average"}),
        ("base", {"combine": "subtract"}),
        ("base", {"noise": 0.4}),
        ("plus", {"negative_images": [base64_of(picture(7)), {"image": base64_of(picture(8)), "weight": 0.5}]}),
        ("plus", {"noise": 0.3, "combine": "norm average"}),
        ("base", {"crop": "tile", "combine": "concat"}),
    ],
)
def test_what_makes_the_embeddings_is_in_the_look(kind: str, settings: dict, host: Host) -> None:
    whole = unit(kind, (1, 2), **settings)
    mask = np.zeros((32, 32, 3), np.uint8)
    mask[:, :16] = 255
    from PIL import Image

    whole["images"] = [
        {"image": whole["images"][0], "weight": 0.7, "mask": base64_of(Image.fromarray(mask))}, whole["images"][1]
    ]  # fmt: skip
    look = {"model": whole["model"], "images": [kept(host, "all of it", whole)]}
    bare = {**unit(kind, (1, 2)), "images": whole["images"]}
    want = pixels(ask(host, whole))
    assert np.array_equal(pixels(ask(host, look)), want)
    assert not np.array_equal(pixels(ask(host, bare)), want)


def test_two_looks_mix_by_weights_as_references_do(host: Host) -> None:
    one, two = kept(host, "one", unit("base", (1,))), kept(host, "two", unit("base", (2,)))
    photos = unit("base", (1, 2))
    photos["images"] = [{"image": image, "weight": w} for image, w in zip(photos["images"], (0.8, 0.3), strict=True)]
    looks = {**photos, "images": [{**one, "weight": 0.8}, {**two, "weight": 0.3}]}
    assert same(host, photos, looks)
    average = {"combine": "average"}
    assert same(host, photos | average, looks | average)
    both = kept(host, "both", looks | average)  # a look of looks
    assert same(host, photos | average, {**photos, "images": [both]})


def test_a_look_with_an_unconditional_side_beside_one_without(host: Host) -> None:
    plain, noisy = unit("base", (1,)), unit("base", (1,), noise=0.5)
    a, b = kept(host, "plain", plain), kept(host, "noisy", noisy)
    one = {**plain, "images": [a, b]}
    other = {**plain, "images": [a, {**b, "weight": 0}]}
    assert not same(host, one, {**plain, "images": [a, a]})
    assert same(host, other, plain)  # by the weights as shares: nothing of it is left


def test_the_list_tells_what_a_look_is(host: Host, looks: Looks) -> None:
    assert host.client.get("/ip-adapter/looks").json() == {"looks": []}
    kept(host, "Oil é", unit("plus", (1, 2)))
    (told,) = host.client.get("/ip-adapter/looks").json()["looks"]
    thumbnail = told.pop("thumbnail")
    encoder = {"penultimate": "ViT (128 wide, 3 layers)"}
    assert told == {"name": "Oil é", "adapter": "plus", "holds": encoder, "references": 2}
    assert base64.b64decode(thumbnail).startswith(b"\xff\xd8")
    file = host.client.get("/ip-adapter/looks/oil é").content
    assert file == looks.file("Oil é") and head_of(file).name == "Oil é"


def test_a_look_goes_away_and_comes_back_as_a_file(host: Host) -> None:
    want = unit("base", (1,))
    look = {**want, "images": [kept(host, "a", want)]}
    file = host.client.get("/ip-adapter/looks/a").content
    assert host.client.delete("/ip-adapter/looks/A").json() == {"look": "A"}
    assert "images[0]: there is no look “a”: keep one first" in refused(host, look)
    for status in (404, 404):
        assert host.client.get("/ip-adapter/looks/a").status_code == status
        assert host.client.delete("/ip-adapter/looks/a").status_code == status
    octets = {"content-type": "application/octet-stream"}
    assert host.client.put("/ip-adapter/looks/b", content=file, headers=octets).json() == {"look": "b"}
    assert same(host, want, {**want, "images": [{"look": "B"}]})
    assert same(host, want, {**want, "images": [{"embeddings": base64.b64encode(file).decode()}]})
    again = host.client.put("/ip-adapter/looks/B?overwrite=false", content=file, headers=octets)
    assert again.status_code == 409 and "a look “b” already" in again.json()["detail"]
    assert keep(host, "B", want, overwrite=False).status_code == 409


def test_an_adapter_of_another_kind_refuses_it_with_both_named(host: Host) -> None:
    detail = refused(host, {"model": "plus", "images": [kept(host, "Oil", unit("base"))]})
    assert detail.startswith("IP-Adapter unit 1: the look 'Oil' holds pooled embeddings of 'ViT (128 wide, 3 layers)'")
    assert "adapter plus takes penultimate embeddings" in detail and "keep the look again with this adapter" in detail


def test_parameters_name_the_look_and_bring_it_back(host: Host, looks: Looks, store: Any) -> None:
    photo = unit("base", (1,))
    look = {**photo, "images": [{**kept(host, 'Oil, “on” "wood": 1', photo), "weight": 0.6}]}
    want = ask(host, look)
    assert "looks: " in want.infotext and "Oil, “on”" in want.infotext
    for name in store.recent():  # the kept generations would have it, too
        store.delete(name)
    assert np.array_equal(pixels(ask(host, infotext=want.infotext)), pixels(want))
    for name in store.recent():
        store.delete(name)
    kept(host, 'Oil, “on” "wood": 1', unit("base", (2,)))  # another one of that name
    answer = host.post("txt2img", {"infotext": want.infotext, "alwayson_scripts": {}, "steps": 1})
    assert answer.status_code == 422
    assert 'the look “Oil, “on” "wood": 1” is not here as it was' in answer.json()["detail"]


def test_a_preset_keeps_what_the_look_holds(host: Host, looks: Looks, store: Any) -> None:
    photo = unit("base", (1,))
    look = {**photo, "images": [kept(host, "Oil", photo)]}
    put = host.client.put("/ip-adapter/presets/with a look", json={"units": [look]})
    assert put.status_code == 200, put.text
    looks.delete("Oil")
    (found,) = host.client.get("/ip-adapter/presets/with a look").json()["units"]
    assert same(host, photo, found)
    put = host.client.put("/ip-adapter/presets/b", json={"units": [{}, look]})
    assert put.status_code == 422
    assert put.json()["detail"].startswith("IP-Adapter unit 2: images[0]: there is no look “Oil”")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "The body of a look is"),
        ({"unit": {}, "name": "x"}, "The body of a look is"),
        ([], "The body of a look is"),
        ({"unit": {"model": "base"}}, "it has no reference picture"),
        ({"unit": {"model": "nowhere", "images": [base64_of(picture(0))]}}, "no adapter is called 'nowhere'"),
        ({"unit": {"model": "base", "images": [{"controlnet": 1}]}}, "ControlNet's pictures are only known while"),
        ({"unit": {"model": "base", "images": [base64_of(picture(0))], "enabled": False}}, "it is disabled"),
        ({"unit": {"model": "base", "images": [{"look": "no"}]}}, "images[0]: there is no look “no”"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_a_422(body: Any, says: str, host: Host, looks: Looks) -> None:
    answer = host.client.put("/ip-adapter/looks/a", json=body)
    assert answer.status_code == 422 and says in answer.json()["detail"], answer.text
    assert not looks.folder.exists()


@pytest.mark.parametrize("name", ["%20", "a%2Fb", "a/b", "a%5Cb", "a%00", "%2E%2E", "a" * 101, "..%2F..%2Fx"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_is_no_name_is_a_4xx(method: str, name: str, host: Host, looks: Looks) -> None:
    body = {"unit": unit("base")} if method == "PUT" else None
    assert 400 <= host.client.request(method, f"/ip-adapter/looks/{name}", json=body).status_code < 500
    assert not looks.folder.exists()


def test_the_routes_refuse_other_sites_other_bodies_and_large_ones(host: Host, monkeypatch, looks: Looks) -> None:
    from lib_ipadapter.webui import looks as routes

    evil = {"Origin": "https://evil.example"}
    put, octets = host.client.put, {"content-type": "application/octet-stream"}
    assert put("/ip-adapter/looks/a", json={"unit": unit()}, headers=evil).status_code == 403
    assert put("/ip-adapter/looks/a", content=b"x", headers={**octets, **evil}).status_code == 403
    assert host.client.delete("/ip-adapter/looks/a", headers=evil).status_code == 403
    assert put("/ip-adapter/looks/a", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert put("/ip-adapter/looks/a", content=b"x", headers=octets).status_code == 422
    monkeypatch.setattr(routes, "MAX_FILE", 10)
    monkeypatch.setattr(routes, "MAX_UNIT", 10)
    assert put("/ip-adapter/looks/a", content=b"x" * 11, headers=octets).status_code == 413
    assert put("/ip-adapter/looks/a", json={"unit": unit()}).status_code == 413
    assert not looks.folder.exists()


def test_a_look_is_negative_too_and_nothing_to_preview(host: Host) -> None:
    photo, other = unit("base", (1,)), base64_of(picture(5))
    look = kept(host, "other", {"model": "base", "images": [other]})
    assert same(host, photo | {"negative_images": [other]}, photo | {"negative_images": [look]})
    answer = host.client.post("/ip-adapter/preview", json={"model": "base", "images": [look]})
    assert answer.status_code == 422 and "nothing to look at" in answer.json()["detail"]


def test_the_embeddings_of_a_look_are_its_own(host: Host, looks: Looks) -> None:
    look = kept(host, "noisy", unit("base", (1,), noise=0.5))
    answer = host.client.post("/ip-adapter/embeddings", json={"model": "base", "images": [look]})
    a, b = stored.read(answer.content), stored.read(looks.file("noisy"))
    assert a.uncond is not None and b.uncond is not None and torch.equal(a.uncond["pooled"], b.uncond["pooled"])
    assert json.dumps(a.made_by) == json.dumps(b.made_by) and a.look == ""


def test_a_look_of_another_encoder_than_the_published_one_fits_where_that_is_used(host: Host, monkeypatch) -> None:
    from lib_ipadapter.jobs import fit, planned, plans

    photo = unit("base", (1,))
    look = {**photo, "images": [kept(host, "one", photo)]}
    for module in (plans, planned):
        monkeypatch.setattr(module, "encoder_kind", lambda spec: "ViT-H-14")
    assert same(host, photo, look)
    monkeypatch.setattr(planned, "kind_of", lambda encoder: fit.kind_of(encoder) + ", newer")
    assert "and adapter base takes pooled embeddings of 'ViT (128 wide, 3 layers), newer'" in refused(host, look)


def test_the_small_picture_shows_no_more_than_counts(host: Host, looks: Looks) -> None:
    from io import BytesIO

    from PIL import Image

    from tests.helpers.files import half

    red = base64_of(Image.new("RGB", (64, 64), "red"))
    kept(host, "half", {"model": "base", "images": [{"image": red, "mask": base64_of(half("left"))}]})
    small = Image.open(BytesIO(looks.find("half").head.thumbnail)).convert("RGB")
    (r, g, _), (hidden, *_rest) = small.getpixel((16, 64)), small.getpixel((112, 64))
    assert r > 230 and g < 30 and 100 < hidden < 156


@pytest.mark.parametrize(
    ("crop", "left", "middle"),
    [("center", "blue", "blue"), ("left", "red", "red"), ("stretch", "red", "blue"), ("tile", "red", "blue")],
)
def test_the_small_picture_is_what_the_encoder_saw(crop: str, left: str, middle: str, host: Host, looks: Looks) -> None:
    from PIL import Image

    wide = Image.new("RGB", (192, 64), "red")
    wide.paste("blue", (64, 0, 128, 64))
    kept(host, "crop", {"model": "base", "images": [base64_of(wide)], "crop": crop})
    small = shown(looks, "crop")
    height = small.height // 2
    assert [colour(small, x, height) for x in (4, small.width // 2)] == [left, middle]


def test_what_has_no_weight_is_not_shown(host: Host, looks: Looks) -> None:
    from PIL import Image

    red, blue = (base64_of(Image.new("RGB", (64, 64), one)) for one in ("red", "blue"))
    both = {"model": "base", "images": [{"image": red, "weight": 0}, {"image": blue}], "combine": "average"}
    kept(host, "blue", both)
    small = shown(looks, "blue")
    assert small.width == small.height and colour(small, 4, 4) == colour(small, 124, 124) == "blue"
    nothing = {"model": "base", "images": [{"image": red, "weight": 0}]}
    kept(host, "nothing", nothing)
    assert looks.find("nothing").head.thumbnail == b""
    silent = {"model": "base", "images": [{"look": "blue", "weight": 0}, {"look": "nothing"}]}
    kept(host, "silent", silent)
    assert looks.find("silent").head.thumbnail == b""
    kept(host, "again", {"model": "base", "images": [{"look": "blue"}]})
    assert looks.find("again").head.thumbnail == looks.find("blue").head.thumbnail


def shown(looks: Looks, name: str) -> Any:
    from io import BytesIO

    from PIL import Image

    return Image.open(BytesIO(looks.find(name).head.thumbnail)).convert("RGB")


def colour(image: Any, x: int, y: int) -> str:
    r, _, b = image.getpixel((x, y))
    return "red" if r > 200 > 60 > b else "blue" if b > 200 > 60 > r else "neither"
