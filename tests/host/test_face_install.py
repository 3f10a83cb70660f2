"""The button in Settings that installs face analysis, and what happens to its process with the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.start import Host
from lib_ipadapter.encode.faces import packages
from lib_ipadapter.errors import CheckpointError
from tests.host.test_page_memory import event


def press(host: Host, name: str) -> dict:
    order = {"fn_index": event(host, f"txt2img_ip_adapter_{name}", "click"), "session_hash": "s", "data": []}
    answer = host.client.post("/run/predict", json=order)
    return {"status": answer.status_code, **answer.json()}


def test_the_button_installs(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(packages, "install_packages", lambda folder, say: asked.append(folder))
    assert press(host, "install_faces")["status"] == 200
    assert asked == [packages.own_folder()]

    def fails(folder: Path, say: object) -> None:
        raise CheckpointError("face analysis could not be installed: no room.")

    monkeypatch.setattr(packages, "install_packages", fails)
    answer = press(host, "install_faces")
    assert answer["status"] == 500 and "no room" in str(answer["error"])


def test_unloading_and_reloading_end_the_process(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_ipadapter.webui import process, start

    ended: list[str] = []
    monkeypatch.setattr(type(process.faces()), "end", lambda self: ended.append("end"))
    press(host, "unload")
    assert ended == ["end"]
    start.on_script_unloaded()
    assert ended == ["end"] * 2
    assert process.resources().faces is process.faces()


def test_the_folders_that_packs_are_looked_for_in(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import paths, shared

    from lib_ipadapter.webui.host import folders

    monkeypatch.setitem(shared.opts.data, "ip_adapter_faces_path", "/packs")
    monkeypatch.setitem(shared.opts.data, "control_net_modules_path", "/annotators")
    found = folders.face_folders()
    models = Path(paths.models_path).absolute()
    assert found[0] == models / "insightface" and models in found
    assert {Path("/packs"), Path("/annotators/insightface"), Path.home() / ".insightface"} <= set(found)
    assert set(folders.adapter_folders()) <= set(found)
    assert folders.face_archives().is_relative_to(Path(paths.data_path))
