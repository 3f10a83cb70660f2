"""The routes of presets."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from PIL import Image
from starlette.testclient import TestClient

from lib_ipadapter.encode.picture import content_hash
from lib_ipadapter.presets.store import Store
from tests.helpers.files import base64_of, picture
from tests.helpers.presets import shown, with_pictures

ZIP = {"content-type": "application/zip"}


def password(credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008 (FastAPI's form)
    if (credentials.username, credentials.password) != ("anna", "secret"):
        raise HTTPException(401)


def host_app(guarded: bool = False) -> FastAPI:
    """The WebUI's app, with one of its API's routes."""
    app = FastAPI()

    @app.post("/sdapi/v1/txt2img", dependencies=[Depends(password)] if guarded else [])
    def txt2img() -> None: ...

    return app


@pytest.fixture
def api(modules, monkeypatch):
    from modules import shared

    from lib_ipadapter.webui import api

    for flag in ("api_auth", "cors_allow_origins", "cors_allow_origins_regex"):
        monkeypatch.setattr(shared.cmd_opts, flag, None, raising=False)
    return api


@pytest.fixture
def client(api, store: Store) -> TestClient:
    app = host_app()
    api.add_routes(app, None, store)
    return TestClient(app, raise_server_exceptions=False)


def body(*seeds: int, **settings) -> dict[str, Any]:
    return {"units": [{"model": "base", "images": [base64_of(picture(seed)) for seed in seeds], **settings}]}


def test_presets_through_the_api(client: TestClient, store: Store) -> None:
    assert client.get("/ip-adapter/presets").json() == {"presets": [], "recent": []}
    assert client.put("/ip-adapter/presets/A cat%3F é", json=body(0, weight=0.5)).json() == {"preset": "A cat? é"}
    store.keep("00001-7", [with_pictures(1)])
    assert client.get("/ip-adapter/presets").json() == {"presets": ["A cat? é"], "recent": ["00001-7"]}
    [found] = client.get("/ip-adapter/presets/a cat%3F é").json()["units"]
    assert (found["model"], found["weight"]) == ("base", 0.5)
    image = Image.open(io.BytesIO(base64.b64decode(found["images"][0])))
    assert (image.format, content_hash(image)) == ("PNG", content_hash(picture(0)))
    assert client.put("/ip-adapter/presets/A cat%3F é", json={"units": [found]}).status_code == 200
    assert shown(store.load("A cat? é")) == shown([with_pictures(0, weight=0.5)])
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
        store.save(name, [with_pictures(0)])
    answer = client.get("/ip-adapter/presets-export")
    assert answer.headers["content-type"] == "application/zip"
    assert "ip-adapter-presets.zip" in answer.headers["content-disposition"]
    one = client.get("/ip-adapter/presets-export", params={"name": ["b & c"]}).content
    assert client.get("/ip-adapter/presets-export?name=x").status_code == 404
    assert client.post("/ip-adapter/presets-import", headers=ZIP, content=answer.content).status_code == 409
    assert client.post("/ip-adapter/presets-import?overwrite=true", headers=ZIP, content=one).json() == {
        "presets": ["b & c"]
    }
    store.delete("a")
    store.delete("b & c")
    assert client.post("/ip-adapter/presets-import", headers=ZIP, content=answer.content).json() == {
        "presets": ["a", "b & c"]
    }
    assert shown(store.load("a")) == shown([with_pictures(0)])
    assert client.post("/ip-adapter/presets-import", headers=ZIP, content=b"PK").status_code == 422
    monkeypatch.setattr(api, "MAX_ARCHIVE", 10)
    assert client.post("/ip-adapter/presets-import", headers=ZIP, content=answer.content).status_code == 413


def test_preset_routes_ask_for_the_password(api, store: Store, monkeypatch) -> None:
    from modules import shared

    monkeypatch.setattr(shared.cmd_opts, "api_auth", "anna:secret")
    app = host_app(guarded=True)
    api.add_routes(app, None, store)
    client = TestClient(app)
    ours = [(method, route.path) for route in app.routes if route.path.startswith("/ip-adapter/presets")
            for method in route.methods]  # fmt: skip
    assert len(ours) == 6
    for method, path in ours:
        assert client.request(method, path.replace("{name}", "a")).status_code == 401
        assert client.request(method, path.replace("{name}", "a"), auth=("anna", "x")).status_code == 401
    assert client.get("/ip-adapter/presets", auth=("anna", "secret")).status_code == 200
    assert not store.folder.exists()


def test_without_a_store_or_an_api_there_are_no_routes(api, store: Store) -> None:
    app = host_app()
    assert api.add_routes(app, None) is not None
    assert TestClient(app).get("/ip-adapter/presets").status_code == 404
    app = FastAPI()
    assert api.add_routes(app, None, store) is None
    assert TestClient(app).get("/ip-adapter/presets").status_code == 404


def test_a_password_that_is_asked_for_in_an_unknown_way_leaves_no_open_routes(api, store, monkeypatch, caplog) -> None:
    from modules import shared

    monkeypatch.setattr(shared.cmd_opts, "api_auth", "anna:secret")
    app = host_app()
    assert api.add_routes(app, None, store) is None
    assert TestClient(app).get("/ip-adapter/presets").status_code == 404
    assert "has no routes" in caplog.text


# Pages of other sites


def changes(client: TestClient, **headers: str) -> list[int]:
    """The answers to everything that changes something."""
    return [
        client.put("/ip-adapter/presets/a", json={"units": []}, headers=headers).status_code,
        client.post("/ip-adapter/presets-import?overwrite=true", content=b"PK", headers={**ZIP, **headers}).status_code,
        client.delete("/ip-adapter/presets/a", headers=headers).status_code,
    ]


OWN = [200, 422, 200]
REFUSED = [403, 403, 403]


@pytest.mark.parametrize(
    ("headers", "answers"),
    [
        ({}, OWN),  # a program
        ({"sec-fetch-site": "same-origin", "origin": "https://x.tunnel.example"}, OWN),  # behind a tunnel
        ({"sec-fetch-site": "none"}, OWN),  # typed by a person
        ({"sec-fetch-site": "cross-site", "origin": "https://evil.example"}, REFUSED),
        ({"sec-fetch-site": "same-site", "origin": "http://testserver:99"}, REFUSED),
        ({"sec-fetch-site": "cross-site"}, REFUSED),
        ({"origin": "http://testserver"}, OWN),
        ({"origin": "http://TESTSERVER:80"}, OWN),
        ({"origin": "http://evil.example"}, REFUSED),
        ({"origin": "null"}, REFUSED),
        ({"origin": "http://testserver.evil.example"}, REFUSED),
        ({"origin": "http://testserver@evil.example"}, REFUSED),
        ({"origin": "https://mine.example", "x-forwarded-host": "mine.example"}, OWN),  # a proxy that rewrites
        ({"origin": "https://mine.example", "x-forwarded-host": "mine.example:443, inner"}, OWN),
        ({"origin": "http://mine.example:81", "forwarded": 'for=1.2.3.4;host="mine.example:81";proto=http'}, OWN),
        ({"origin": "https://evil.example", "x-forwarded-host": "mine.example"}, REFUSED),
    ],
)  # fmt: skip
def test_no_page_of_another_site_changes_presets(headers: dict, answers: list[int], client: TestClient) -> None:
    assert changes(client, **headers) == answers


def test_sites_that_the_webui_allows(client: TestClient, monkeypatch) -> None:
    from modules import shared

    monkeypatch.setattr(shared.cmd_opts, "cors_allow_origins", "https://a.example,https://b.example")
    monkeypatch.setattr(shared.cmd_opts, "cors_allow_origins_regex", r"https://.*\.c\.example")
    for origin, answers in (("https://b.example", OWN), ("https://x.c.example", OWN),
                            ("https://x.c.example.evil", REFUSED), ("http://b.example", REFUSED)):  # fmt: skip
        assert changes(client, origin=origin, **{"sec-fetch-site": "cross-site"}) == answers


@pytest.mark.parametrize("told", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_body_says_what_it_is(told: str | None, client: TestClient) -> None:
    """What a form or a page without leave can send is not read."""
    headers = {} if told is None else {"content-type": told}
    for send, path in ((client.put, "presets/a"), (client.post, "presets-import")):
        answer = send(f"/ip-adapter/{path}", content=b'{"units": []}', headers=headers)
        assert answer.status_code == 415
        assert "send it as application/" in answer.json()["detail"]
