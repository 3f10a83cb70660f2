"""The routes of looks ask for the API's password, as all others."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from tests.unit.test_preset_routes import api, host_app  # noqa: F401 (a fixture)


@pytest.mark.parametrize("auth", [None, ("anna", "x")])
def test_the_routes_ask_for_the_password(api, monkeypatch, tmp_path, auth) -> None:  # noqa: F811
    from modules import shared

    from lib_ipadapter.presets.looks import Looks
    from lib_ipadapter.webui import looks, process

    monkeypatch.setattr(shared.cmd_opts, "api_auth", "anna:secret")
    monkeypatch.setattr(process, "looks", lambda: Looks(tmp_path / "looks"))
    app = host_app(guarded=True)
    guards = api.add_routes(app, None)
    looks.add_routes(app, lambda: pytest.fail("it was asked for"), guards)
    client = TestClient(app)
    ours = [(method, route.path) for route in app.routes if route.path.startswith("/ip-adapter/looks")
            for method in route.methods]  # fmt: skip
    assert len(ours) == 4
    for method, path in ours:
        assert client.request(method, path.replace("{name}", "a"), auth=auth).status_code == 401
    assert client.get("/ip-adapter/looks", auth=("anna", "secret")).json() == {"looks": []}
