"""The set-up of `make`: which Python it takes, which browser, and what waits for what."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import place_of, pytest_make_parametrize_id
from tests.setup import batch, browser
from tests.unit.conftest import NUMBERS, pytest_collection_modifyitems

SCRIPT = Path(__file__).parents[1] / "setup" / "python.sh"
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def found(home: Path, *wanted: str, **environment: str) -> tuple[int, str]:
    """Exit code and answer of the search, where PATH holds ``home/bin`` and nothing else that is a Python."""
    tools = home / "tools"
    tools.mkdir(exist_ok=True)
    if not (tools / "sh").exists():
        (tools / "sh").symlink_to("/bin/sh")
    environment = {"PATH": f"{home / 'bin'}{os.pathsep}{tools}", "HOME": str(home), **environment}
    answer = subprocess.run(["/bin/sh", SCRIPT, *wanted], env=environment, capture_output=True, text=True)
    return answer.returncode, answer.stdout.strip()


def test_a_stub_that_starts_nothing_is_passed_over(tmp_path):
    executable(tmp_path / "bin" / f"python{VERSION}", "echo 'no such version is chosen' >&2; exit 127")
    kept = tmp_path / ".pyenv" / "versions" / f"{VERSION}.1" / "bin" / f"python{VERSION}"
    executable(kept, f'exec "{sys.executable}" "$@"')
    by_name = (f"python{VERSION}",)
    for wanted in ((), by_name) if VERSION in ("3.10", "3.11") else (by_name,):  # others have to be asked for
        assert found(tmp_path, *wanted) == (0, str(kept))


def test_a_path_means_that_interpreter_alone(tmp_path):
    good = executable(tmp_path / "somewhere" / "py", f'exec "{sys.executable}" "$@"')
    stub = executable(tmp_path / "somewhere" / "stub", "exit 1")
    assert found(tmp_path, str(good)) == (0, str(good))
    assert found(tmp_path, str(stub)) == (1, "")


def test_another_version_is_no_answer(tmp_path):
    executable(tmp_path / "bin" / "python3", "exit 1")  # what the search's own question answers on 3.9 or 3.12
    code, answer = found(tmp_path, PYENV_ROOT=str(tmp_path / "none"))
    if (code, answer) != (1, ""):  # a machine may keep one in a folder of the whole system
        assert not answer.startswith(str(tmp_path))
    assert found(tmp_path, "python3.12") == (1, "")


def test_forge_neos_python_is_an_answer_where_it_is_asked_for(tmp_path):
    """Its pins are others, and only the fast tests are for it."""
    takes_neo = 'case " $* " in *" 3.13 "*) exit 0 ;; esac; exit 1'  # what the search's own question answers on 3.13
    newer = executable(tmp_path / "bin" / "python3.13", takes_neo)
    (tmp_path / "bin" / "python3").symlink_to(newer)
    assert found(tmp_path, "python3.13") == (0, str(newer))
    assert found(tmp_path, str(newer)) == (0, str(newer))
    _, answer = found(tmp_path)
    assert not answer.startswith(str(tmp_path))
    assert not found(tmp_path, "python3.11")[1].startswith(str(tmp_path))


def test_a_browser_that_does_not_start_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(browser, "APPLICATIONS", ())
    monkeypatch.setattr(browser, "_of_playwright", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert browser.find() is None
    executable(tmp_path / "chromium-browser", "echo 'install the snap' >&2; exit 1")
    assert browser.find() is None
    works = executable(tmp_path / "google-chrome", "echo Chromium 1")
    assert browser.find() == str(works)


@pytest.mark.parametrize(("ci", "code", "end"), [("", 0, "left out."), ("true", 1, "nothing may be left out.")])
def test_without_a_browser_one_line_says_so(monkeypatch, capsys, ci, code, end):
    monkeypatch.setattr(browser, "find", lambda: None)
    monkeypatch.setattr(browser, "_debian_package", lambda: None)
    monkeypatch.setattr(browser, "_playwright_package", lambda: None)
    monkeypatch.setenv("CI", ci)
    assert browser.main() == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].startswith("No Chromium is here") and lines[0].endswith(end)


@pytest.mark.parametrize("works", ["_debian_package", "_playwright_package"])
def test_the_first_way_that_works_is_the_last_that_is_tried(monkeypatch, works):
    tried: list[str] = []
    monkeypatch.setattr(browser, "find", lambda: "/a/browser" if works in tried else None)
    for way in ("_debian_package", "_playwright_package"):
        monkeypatch.setattr(browser, way, lambda way=way: tried.append(way))
    assert browser.install() == "/a/browser"
    assert tried[-1] == works


def test_what_the_other_python_leaves_out_has_the_mark_and_nothing_else_has():
    """Every file of these tests, and one of each name elsewhere, through the hook that gives marks."""
    here = Path(__file__).parent
    paths = [*here.glob("test_*.py"), *(here.parent / "host" / f"test_{name}.py" for name in NUMBERS)]
    marked = []
    pytest_collection_modifyitems(
        [SimpleNamespace(path=path, add_marker=lambda mark, path=path: marked.append((path, mark))) for path in paths]
    )
    assert sorted(marked) == sorted((here / f"test_{name}.py", "numbers") for name in NUMBERS)


def test_the_mark_chooses():
    """``-m`` sees it: of two files the one that compares numbers is left."""
    here = Path(__file__).parent
    files = [here / "test_rows.py", here / "test_file_names.py"]
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0", "-m", "numbers", *files],
        cwd=here.parents[1], capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "test_rows.py" in listed and "test_file_names.py" not in listed


def test_no_name_of_a_test_is_a_whole_file(request: pytest.FixtureRequest) -> None:
    assert all(len(item.name) < 500 for item in request.session.items)
    for whole in ("x" * 70, "é" * 100_000, b"\x89PNG\r\n" * 100_000):
        name = pytest_make_parametrize_id(whole)
        assert name is not None and len(name) < 400 and name.endswith("...")
    assert [pytest_make_parametrize_id(one) for one in ("x" * 60, b"", None, ["x" * 100])] == [None] * 4


def test_what_waits_for_a_download_is_the_last_of_its_host() -> None:
    def item(name: str, host: str | None, *more: str) -> SimpleNamespace:
        marks = {mark: pytest.Mark(mark, (host,), {}) for mark in (*more, *(["host"] if host else []))}
        return SimpleNamespace(name=name, fixturenames=["hosts"] if host else [], get_closest_marker=marks.get)

    given = [
        item("page", "page"), item("plain, waits", "plain", "downloads"), item("waits", None, "downloads"),
        item("plain", "plain"), item("none", None),
    ]  # fmt: skip
    assert [one.name for one in sorted(given, key=place_of)] == ["none", "waits", "plain", "plain, waits", "page"]


def test_uv_has_the_lock_that_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It locks an environment by a file of this name: one that the setup held kept it waiting for five minutes."""

    def install(python: Path) -> None:
        with (python.parents[1] / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        installed.append(python)

    installed: list[Path] = []
    (tmp_path / "requirements-batch.txt").write_text("ray\n")
    monkeypatch.setattr(batch, "ROOT", tmp_path)
    monkeypatch.setattr(batch, "REQUIREMENTS", tmp_path / "requirements-batch.txt")
    monkeypatch.setattr(batch, "_install", install)
    assert [batch.ready.__wrapped__()] == installed
