"""The extension's own routes."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.start import Host


def test_the_list_of_models(host: Host, folder: Path) -> None:
    body = host.client.get("/ip-adapter/models").json()
    names = {adapter["name"]: adapter for adapter in body["adapters"]}
    assert set(names) >= {"base", "plus", "full-face", "wide", "two"}
    assert names["wide"]["base"] == "SDXL"
    assert set(names["base"]) == {"name", "variant", "base", "encoder", "tokens", "parameters", "file"}
    assert names["base"]["file"] == "base.safetensors"
    assert {"name": "encoder", "kind": "ViT (128 wide, 3 layers)", "file": "encoder.safetensors"} in body["encoders"]
    assert str(folder) in body["folders"]


@pytest.mark.host("guarded")
def test_routes_ask_for_the_apis_password(host: Host) -> None:
    get = host.client.get
    assert get("/ip-adapter/models").status_code == 401
    assert get("/ip-adapter/models", auth=("bob", "y")).status_code == 401
    assert get("/ip-adapter/models", auth=("eve", "x")).status_code == 401
    assert get("/ip-adapter/models", auth=("bob", "x")).status_code == 200
