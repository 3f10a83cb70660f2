"""The button in Settings that installs face analysis, and what happens to its process with the page."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from demo.start import HOST, Host
from lib_ipadapter.encode.faces import packages
from lib_ipadapter.errors import CheckpointError
from tests.helpers.face_pack import photo
from tests.helpers.paths import ROOT
from tests.host.test_page_memory import event
from tests.setup import faces as setup


def press(host: Host, name: str, headers: dict[str, str] | None = None, **more: object) -> dict:
    """What the page does, as far as the server lets it."""
    for trigger in ("click", "success") if name == "install_faces" else ("click",):
        number = event(host, f"txt2img_ip_adapter_{name}", trigger)
        order = {"fn_index": number, "session_hash": "s", "data": [None] * (trigger == "success"), **more}
        answer = host.client.post("/run/predict", json=order, headers=headers or {})
        if answer.status_code != 200:
            break
    return {"status": answer.status_code, **answer.json()}


def test_the_button_installs(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(packages, "own_folder", lambda: tmp_path / "py3")
    monkeypatch.setattr(packages, "install_packages", lambda folder, say, swapping: asked.append(folder))
    assert press(host, "install_faces")["status"] == 200
    assert asked == [packages.own_folder()]

    def fails(folder: Path, say: object, swapping: object) -> None:
        raise CheckpointError("face analysis could not be installed: no room.")

    monkeypatch.setattr(packages, "install_packages", fails)
    answer = press(host, "install_faces")
    assert answer["status"] == 500 and "no room" in str(answer["error"])


def test_pages_of_other_sites_install_nothing(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whether they press the button, say of their own request what they like, or go on where a press would."""
    asked: list[Path] = []
    monkeypatch.setattr(packages, "own_folder", lambda: tmp_path / "py3")
    monkeypatch.setattr(packages, "install_packages", lambda folder, say, swapping: asked.append(folder))
    foreign = {"Origin": "https://evil.example"}
    refused = press(host, "install_faces", foreign, session_hash="foreign")
    assert refused["status"] == 500 and "another site" in refused["error"]
    told = {"headers": {"host": "testserver", "origin": "http://testserver"}}
    refused = press(host, "install_faces", foreign, session_hash="foreign", request=told)
    assert refused["status"] == 500 and "does not say where it comes from" in refused["error"]
    second = {"fn_index": event(host, "txt2img_ip_adapter_install_faces", "success"), "session_hash": "foreign"}
    for data in ([None], [True]):
        assert host.client.post("/run/predict", json={**second, "data": data}, headers=foreign).status_code == 500
    assert asked == []
    assert press(host, "install_faces", session_hash="own")["status"] == 200 and len(asked) == 1


def test_unloading_and_reloading_end_the_process(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_ipadapter.webui import process, start

    ended: list[str] = []
    monkeypatch.setattr(process.Faces, "end", lambda self: ended.append("end"))
    press(host, "unload")
    assert ended == ["end"]
    start.on_script_unloaded()
    assert ended == ["end"] * 2
    assert process.resources().faces is process.faces()
    before = process.purposes(), process.used_models()
    start.on_script_unloaded()
    assert process.purposes() is not before[0] and process.used_models() is not before[1]


def test_the_start_does_not_load_what_finds_faces() -> None:
    code = (
        "import sys; from lib_ipadapter.webui import process, start; faces = process.resources().faces; faces.end(); "
        "print([name for name in sys.modules if name.startswith('lib_ipadapter.encode.faces')])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HOST)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT, check=True)
    loaded = ast.literal_eval(done.stdout.splitlines()[-1])
    names = {name.rpartition(".")[2] for name in loaded}
    assert "packages" in names and not names & {"finder", "find", "process", "packs", "worker"}


@pytest.mark.downloads
def test_faces_are_found_through_the_process(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the packages and the pack of the tests in the places of a person's."""
    from lib_ipadapter.webui import process
    from lib_ipadapter.webui.host import folders

    files, faces = setup.ready(), process.Faces()
    monkeypatch.setattr(packages, "own_folder", lambda: files.packages)
    monkeypatch.setattr(folders, "face_folders", lambda: [files.packs])
    try:
        assert len(faces.find(photo("person_a_1"), "buffalo_l").faces) == 1
        assert str(files.packs) in str(faces.identity("buffalo_l"))
        pid = faces._finder._process.pid
        with faces.ended(), pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        faces.find(photo("person_a_1"), "buffalo_l")
        pid = faces._finder._process.pid
    finally:
        faces.end()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


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


@pytest.mark.downloads
def test_every_package_is_pinned_and_what_they_need_is_among_them() -> None:
    """They are installed without their requirements: those are all listed, but for what is of no use here."""
    lines = [line for line in packages.REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines) > 10
    folder = setup.ready().packages
    left_out = {
        "opencv-python",  # opencv-python-headless is there
        "colorama", "importlib-metadata",  # tqdm's on Windows; lazy_loader's for old Pythons
        "coloredlogs", "sympy",  # onnxruntime's tools
        "networkx", "pillow", "imageio", "tifffile",  # parts of scikit-image that are not used
    }  # fmt: skip

    def name(text: str) -> str:
        return re.split(r"[^\w.-]", text)[0].lower().replace("_", "-")

    there, needed = set(), set()
    for metadata in folder.glob("*.dist-info/METADATA"):
        head = metadata.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
        values = [line.partition(": ")[::2] for line in head]
        own = dict(values)
        there.add(name(own["Name"]))
        assert pins[next(pin for pin in pins if name(pin) == name(own["Name"]))] == own["Version"]
        needed |= {name(text) for key, text in values if key == "Requires-Dist" and "extra" not in text}
    assert there == {name(pin) for pin in pins}
    assert needed - there <= left_out
