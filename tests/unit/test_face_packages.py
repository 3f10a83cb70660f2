"""Face analysis is installed when somebody asks for it: into a folder of its own, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI, HTTPException
from starlette.testclient import TestClient

from lib_ipadapter.encode.faces import packages
from lib_ipadapter.encode.faces.packages import install_packages, is_current
from lib_ipadapter.errors import CheckpointError
from tests.helpers.paths import ROOT

PIP = """
import os, sys
arguments = sys.argv[1:]
with open(os.environ["PIP_LOG"], "a") as log:
    log.write("\\n".join(arguments) + "\\n\\n")
target = arguments[arguments.index("--target") + 1]
os.makedirs(os.path.join(target, "insightface"))
open(os.path.join(target, "insightface", "__init__.py"), "w").write(os.environ["PIP_LOG"])
print("Looking in indexes: a place")
print("Downloading insightface (1.2 MB)")
error = os.environ.get("PIP_ERROR", "No space left on device")
print(f"ERROR: {error}" if os.environ["PIP_EXIT"] != "0" else "Successfully installed insightface")
sys.exit(int(os.environ["PIP_EXIT"]))
"""


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pip that writes down what it is asked for; the file with it."""
    site = tmp_path / "site" / "pip"
    site.mkdir(parents=True)
    (site / "__init__.py").touch()
    (site / "__main__.py").write_text(PIP)
    for name, value in (("PYTHONPATH", str(site.parent)), ("PIP_LOG", str(tmp_path / "log")), ("PIP_EXIT", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("INDEX_URL", raising=False)
    return tmp_path / "log"


def asked(log: Path) -> list[list[str]]:
    return [call.split("\n") for call in log.read_text().split("\n\n") if call] if log.exists() else []


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir())


def test_what_is_installed(tmp_path: Path, pip: Path, monkeypatch) -> None:
    folder, said = tmp_path / "faces" / "py3", []
    install_packages(folder, said.append)
    [call] = asked(pip)
    target = Path(call[2])
    assert call[:2] == ["install", "--target"] and target.parent == folder.parent and target != folder
    assert "--no-deps" in call and call[-2:] == ["-r", str(packages.REQUIREMENTS)]
    assert (folder / "insightface" / "__init__.py").exists() and is_current(folder) and left(folder) == ["py3"]
    assert folder.stat().st_mode & 0o777 == 0o755
    assert said[1:-1] == ["Downloading insightface (1.2 MB)", "Successfully installed insightface"]
    assert str(folder) in said[0] and "170 MB" in said[0] and said[-1] == f"face analysis is installed in {folder}"
    monkeypatch.setenv("INDEX_URL", "https://mirror.example/simple")
    install_packages(folder, said.append)
    assert asked(pip)[1][-2:] == ["--index-url", "https://mirror.example/simple"]


def test_nobody_is_shown_how_the_index_is_logged_into(tmp_path: Path, pip: Path, monkeypatch) -> None:
    secret = "https://me:s3cr%40t@mirror.example/simple"
    monkeypatch.setenv("INDEX_URL", secret)
    monkeypatch.setenv("PIP_EXIT", "1")
    monkeypatch.setenv("PIP_ERROR", f"no such package at {secret}")
    said: list[str] = []
    with pytest.raises(CheckpointError) as refused:
        install_packages(tmp_path / "faces" / "py3", said.append)
    assert asked(pip)[0][-1] == secret
    for text in (refused.value.detail, *said):
        assert "s3cr" not in text and "me:" not in text
    assert "no such package at https://mirror.example/simple" in refused.value.detail
    assert refused.value.detail.endswith('--index-url "https://mirror.example/simple"')


def test_what_earlier_installations_left_goes(tmp_path: Path, pip: Path) -> None:
    folder = tmp_path / "faces" / "py3"
    for name in (".installing-a", ".old-py3", ".old-b", ".installing-now"):
        (folder.parent / name / "insightface").mkdir(parents=True)
        if name != ".installing-now":  # of another WebUI
            os.utime(folder.parent / name, (time.time() - 4000,) * 2)
    install_packages(folder, print)
    assert left(folder) == [".installing-now", "py3"]


def test_the_swap_alone_is_guarded(tmp_path: Path, pip: Path) -> None:
    folder, seen = tmp_path / "faces" / "py3", []

    @contextlib.contextmanager
    def guard() -> Iterator[None]:
        seen.append((len(asked(pip)), is_current(folder)))
        yield
        seen.append((len(asked(pip)), is_current(folder)))

    install_packages(folder, print, guard)
    assert seen == [(1, False), (1, True)]


def test_a_failure_leaves_what_was_there(tmp_path: Path, pip: Path, monkeypatch) -> None:
    folder = tmp_path / "faces" / "py3"
    install_packages(folder, print)
    (folder / "older").touch()
    monkeypatch.setenv("PIP_EXIT", "1")
    with pytest.raises(CheckpointError) as refused:
        install_packages(folder, print)
    assert refused.value.detail.startswith(
        f"face analysis could not be installed into {folder} (ERROR: No space left on device): see that this machine "
        f'reaches a package index and that the folder can be written, or run  "{sys.executable}" -m pip install '
    )
    assert (folder / "older").exists() and is_current(folder) and left(folder) == ["py3"]
    monkeypatch.setenv("PIP_EXIT", "0")
    install_packages(folder, print)
    assert not (folder / "older").exists() and left(folder) == ["py3"]
    with pytest.raises(CheckpointError, match="could not be installed into"):
        install_packages(pip / "below" / "a file", print)


def test_what_was_there_comes_back_where_the_new_cannot_take_its_place(tmp_path: Path, pip: Path, monkeypatch) -> None:
    folder, replace = tmp_path / "faces" / "py3", os.replace
    install_packages(folder, print)
    (folder / "older").touch()

    def refuse(source: Path, target: Path) -> None:
        if Path(source).name.startswith(".installing-"):
            raise PermissionError("a file is in use")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(CheckpointError, match="a file is in use"):
        install_packages(folder, print)
    assert (folder / "older").exists() and is_current(folder) and left(folder) == ["py3"]


def test_what_was_there_is_kept_where_it_cannot_come_back(tmp_path: Path, pip: Path, monkeypatch) -> None:
    folder, replace = tmp_path / "faces" / "py3", os.replace
    install_packages(folder, print)
    (folder / "older").touch()

    def refuse(source: Path, target: Path) -> None:
        if target == folder:
            raise PermissionError("a file is in use")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(CheckpointError, match="a file is in use"):
        install_packages(folder, print)
    [kept] = folder.parent.iterdir()
    assert kept.name.startswith(".old-") and (kept / "py3" / "older").exists()


def test_other_pins_are_not_current(tmp_path: Path, pip: Path, monkeypatch) -> None:
    folder, pins = tmp_path / "faces" / "py3", tmp_path / "requirements.txt"
    assert not is_current(folder)
    monkeypatch.setattr(packages, "REQUIREMENTS", pins)
    pins.write_text("insightface==1\n")
    install_packages(folder, print)
    assert is_current(folder)
    pins.write_text("insightface==2\n")
    assert not is_current(folder) and packages.is_installed(folder)


def test_the_folder_is_this_pythons_own_and_no_commit_has_it() -> None:
    folder = packages.own_folder()
    assert folder == ROOT / ".faces" / f"py{sys.version_info[0]}.{sys.version_info[1]}"
    done = subprocess.run(["git", "check-ignore", "-q", str(folder)], cwd=ROOT, check=False)
    assert done.returncode == 0 or not (ROOT / ".git").exists()


# install.py and the flag


def run(arguments: list[str], checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    command = [sys.executable, str(checkout / "install.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The extension as far as ``install.py`` needs it."""
    made = tmp_path / "extension"
    (made / "lib_ipadapter").mkdir(parents=True)
    for file in ("install.py", "requirements-faces.txt", "lib_ipadapter/__init__.py", "lib_ipadapter/errors.py"):
        shutil.copy(ROOT / file, made / file)
    for folder in ("encode", "encode/faces"):
        shutil.copytree(ROOT / "lib_ipadapter" / folder, made / "lib_ipadapter" / folder, dirs_exist_ok=True)
    return made


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        ([packages.FLAG], ""), ([], f"--xformers {packages.FLAG} --api"), ([], f"--ckpt 'it's {packages.FLAG}"),
    ],
)  # fmt: skip
def test_install_py_installs_where_the_flag_is_given(checkout: Path, pip: Path, arguments, variable: str) -> None:
    folder = checkout / ".faces" / f"py{sys.version_info[0]}.{sys.version_info[1]}"
    done = run(arguments, checkout, COMMANDLINE_ARGS=variable)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(f"IP-Adapter: installing face analysis into {folder}") and len(asked(pip)) == 1
    assert (folder / "insightface" / "__init__.py").exists()
    again = run(arguments, checkout, COMMANDLINE_ARGS=variable)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "") and len(asked(pip)) == 1


def test_install_py_installs_nothing_unasked(checkout: Path, pip: Path) -> None:
    done = run([], checkout, COMMANDLINE_ARGS="--api")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and asked(pip) == []
    assert not (checkout / ".faces").exists()


def test_install_py_tells_a_failure_and_the_start_goes_on(checkout: Path, pip: Path) -> None:
    done = run([packages.FLAG], checkout, PIP_EXIT="1")
    assert done.returncode == 0 and done.stderr == ""
    assert "IP-Adapter: face analysis could not be installed into" in done.stdout.splitlines()[-1]
    assert "No space left" in done.stdout


def test_the_host_knows_the_flag() -> None:
    import preload

    parser = ArgumentParser()
    preload.preload(parser)
    assert parser.parse_args([packages.FLAG]).ip_adapter_install_faces is True
    assert parser.parse_args([]).ip_adapter_install_faces is False


# In the running WebUI


@pytest.fixture
def web(modules, monkeypatch, tmp_path: Path):
    """The module behind button and route, whose folder is a test's."""
    from modules import shared

    from lib_ipadapter.webui import face_install

    for flag in ("api_auth", "cors_allow_origins", "cors_allow_origins_regex", "disable_extension_access"):
        monkeypatch.setattr(shared.cmd_opts, flag, None, raising=False)
    monkeypatch.setattr(packages, "own_folder", lambda: tmp_path / "own" / "py3")
    return face_install


def client() -> TestClient:
    from lib_ipadapter.webui import api

    app = FastAPI()

    def password(answer: str = "") -> None:
        if answer != "yes":
            raise HTTPException(401)

    app.post("/sdapi/v1/txt2img", dependencies=[Depends(password)])(lambda: None)
    api.add_routes(app, None, None)
    return TestClient(app, raise_server_exceptions=False)


def test_the_route(web, pip: Path, tmp_path: Path, capsys) -> None:
    route = "/ip-adapter/faces-install"
    assert client().post(route).status_code == 401
    other = client().post(
        f"{route}?answer=yes", headers={"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    )
    assert other.status_code == 403 and asked(pip) == []
    done = client().post(f"{route}?answer=yes")
    assert (done.status_code, done.json()) == (200, {"folder": str(tmp_path / "own" / "py3")})
    assert is_current(tmp_path / "own" / "py3") and "IP-Adapter: Successfully installed" in capsys.readouterr().out
    assert client().get(f"{route}?answer=yes").status_code == 405


def test_a_failure_through_the_route(web, pip: Path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_EXIT", "1")
    answer = client().post("/ip-adapter/faces-install?answer=yes")
    assert answer.status_code == 422 and "No space left on device" in answer.json()["detail"]


def test_a_webui_that_is_open_to_others_installs_nothing_whoever_asks(web, pip: Path, monkeypatch) -> None:
    from modules import shared

    monkeypatch.setattr(shared.cmd_opts, "disable_extension_access", True, raising=False)
    answer = client().post("/ip-adapter/faces-install?answer=yes")
    detail = answer.json()["detail"]
    assert answer.status_code == 422 and asked(pip) == []
    assert packages.FLAG in detail and "be it from its page or for a client" in detail


def test_one_installation_at_a_time(web, pip: Path, monkeypatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(folder: Path, say, swapping) -> None:
        begun.set()
        go_on.wait(20)

    monkeypatch.setattr(packages, "install_packages", slow)
    first = threading.Thread(target=web.install)
    first.start()
    assert begun.wait(20)
    with pytest.raises(CheckpointError, match="is being installed already"):
        web.install()
    go_on.set()
    first.join(20)
    assert web.install()


def test_what_is_installed_is_not_installed_again(web, pip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own" / "py3"
    assert web.install() == web.install() == str(folder) and len(asked(pip)) == 1
    (folder / packages.STAMP).write_text("older pins")
    web.install()
    assert len(asked(pip)) == 2 and is_current(folder)


def test_faces_are_found_while_pip_works_and_not_while_folders_change_places(web, pip: Path, monkeypatch) -> None:
    """A process that has begun meanwhile would keep files of the folder."""
    from lib_ipadapter.webui import process

    events: list[str] = []

    @contextlib.contextmanager
    def ended(self) -> Iterator[None]:
        events.append("ended")
        yield
        events.append("may begin")

    monkeypatch.setattr(process.Faces, "ended", ended)
    run, replace = packages._run, packages._replace
    monkeypatch.setattr(packages, "_run", lambda *given: (events.append("pip"), run(*given)))
    monkeypatch.setattr(packages, "_replace", lambda *given: (events.append("swap"), replace(*given)))
    web.install()
    assert events == ["pip", "ended", "swap", "may begin"]


def test_the_flag_on_the_webuis_own_command_line(web, pip: Path, monkeypatch, tmp_path: Path) -> None:
    from modules import shared

    def wait() -> None:
        for thread in threading.enumerate():
            if thread.name == web.THREAD:
                thread.join(20)

    monkeypatch.setattr(shared.cmd_opts, "ip_adapter_install_faces", False, raising=False)
    web.install_if_told()
    wait()
    assert asked(pip) == []
    monkeypatch.setattr(shared.cmd_opts, "ip_adapter_install_faces", True, raising=False)
    monkeypatch.setattr(shared.cmd_opts, "disable_extension_access", True, raising=False)  # who starts it, may
    for _ in range(2):
        web.install_if_told()
        wait()
    assert len(asked(pip)) == 1 and is_current(tmp_path / "own" / "py3")


def test_the_settings_have_a_button_that_the_page_knows(web) -> None:
    from lib_ipadapter.webui import options

    text, function = options.FACES.button
    script = (ROOT / "javascript" / "ip_adapter_page.js").read_text()
    assert text == packages.BUTTON and options.FACES in options.OPTIONS
    assert f'const {function.removeprefix("ipAdapter.")} = () => tabs.txt2img.press("install_faces")' in script
