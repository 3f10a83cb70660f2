"""The extension's own routes."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from demo.start import Host
from tests.helpers.files import picture
from tests.helpers.paths import ROOT


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


@pytest.mark.parametrize("model", ["base", "nowhere"])
def test_the_example_of_the_api_page(model: str, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there, for a small picture with an adapter that is here, and for one that is not."""

    def post(url: str, json: dict) -> SimpleNamespace:
        payload = {**json, "width": 128, "height": 128, "steps": 2}
        answer = host.client.post(url.removeprefix("http://127.0.0.1:7860"), json=payload)
        return SimpleNamespace(ok=answer.status_code < 400, json=answer.json)

    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example.count('"ip-adapter_sd15"') == 1
    monkeypatch.setitem(sys.modules, "requests", SimpleNamespace(post=post))
    monkeypatch.chdir(tmp_path)
    picture(0).save("reference.png")
    code = compile(example.replace("ip-adapter_sd15", model), "docs/api.md", "exec")
    if model == "nowhere":
        with pytest.raises(SystemExit, match="^IP-Adapter unit 1: no adapter is called 'nowhere'"):
            exec(code, {})
        return
    exec(code, {})
    made = Image.open("picture.png")
    assert made.size == (128, 128)
    assert "IP-Adapter 1: " in made.info["parameters"] and "model: base" in made.info["parameters"]


def test_no_page_of_another_site_reads_or_changes_anything(host: Host) -> None:
    """Browsers ask before they send what a form cannot; nobody may say yes, as in the WebUI itself."""
    foreign = {"Origin": "https://evil.example", "Access-Control-Request-Method": "PUT"}
    for path in ("/ip-adapter/presets/a", "/ip-adapter/presets-import", "/ip-adapter/models", "/sdapi/v1/txt2img"):
        asked = host.client.options(path, headers=foreign)
        assert "access-control-allow-origin" not in asked.headers, path
    assert (
        host.client.post("/ip-adapter/preview", json={}, headers={"Origin": "https://evil.example"}).status_code == 403
    )
    assert host.client.get("/ip-adapter/models").headers.get("access-control-allow-origin") is None


def test_the_list_of_models_has_files_under_any_name(host: Host, folder: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.safetensors"))
    odd.write_bytes((folder / "base.safetensors").read_bytes())
    try:
        answer = host.client.get("/ip-adapter/models?refresh=true")
        assert answer.status_code == 200
        assert "caf?.safetensors" in [adapter["file"] for adapter in answer.json()["adapters"]]
    finally:
        odd.unlink()
        host.client.get("/ip-adapter/models?refresh=true")
