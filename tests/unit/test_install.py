"""install.py as the WebUI runs it: a process of its own, before the start."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.paths import ROOT

STUB_PIP = """
import os, sys
open(os.environ["PIP_LOG"], "a").write(" ".join(sys.argv[1:]) + "\\n")
path = sys.argv[sys.argv.index("--constraint") + 1]
open(os.environ["PIP_LOG"] + ".constraints", "w").write(open(path).read())
print("ERROR: No matching distribution", file=sys.stderr)
sys.exit(int(os.environ["PIP_EXIT"]))
"""


def run(tmp_path: Path, *, hide: str | None, pip_exit: int = 0):
    """Run install.py with a pip that only writes down how it was called; ``hide`` makes one module be missing."""
    site = tmp_path / "site"
    site.mkdir(exist_ok=True)
    (site / "pip").mkdir()
    (site / "pip" / "__main__.py").write_text(STUB_PIP)
    (site / "pip" / "__init__.py").write_text("")
    if hide:
        (site / "usercustomize.py").write_text("")
        (site / "sitecustomize.py").write_text(
            "import importlib.util as u\n_find = u.find_spec\n"
            f"u.find_spec = lambda name, package=None: None if name == {hide!r} else _find(name, package)\n"
        )
    log = tmp_path / "pip.log"
    env = {**os.environ, "PYTHONPATH": str(site), "PIP_LOG": str(log), "PIP_EXIT": str(pip_exit)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "install.py")], capture_output=True, text=True, env=env, check=False
    )
    calls = log.read_text().splitlines() if log.exists() else []
    return done, calls, Path(f"{log}.constraints")


def test_nothing_missing_is_silent(tmp_path: Path) -> None:
    done, calls, _ = run(tmp_path, hide=None)
    assert (done.returncode, done.stdout, done.stderr, calls) == (0, "", "", [])


def test_looking_imports_none_of_what_it_looks_for() -> None:
    """So that it costs the start nothing: a tenth of a second, of which Python's own start is most."""
    command = [sys.executable, "-X", "importtime", str(ROOT / "install.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "importlib" in imported
    assert imported & {"torch", "safetensors", "gradio", "open_clip", "numpy", "PIL"} == set()


def test_only_the_missing_package_is_installed_and_no_version_may_move(tmp_path: Path) -> None:
    done, calls, constraints = run(tmp_path, hide="open_clip")
    assert done.returncode == 0
    assert len(calls) == 1
    assert "install open-clip-torch" in calls[0]
    assert "upgrade" not in calls[0]
    pins = constraints.read_text().splitlines()
    for package in ("torch", "gradio"):
        assert f"{package}=={importlib.metadata.version(package)}" in pins
    assert done.stdout.count("\n") == 1


def test_leftovers_of_other_installations_are_no_constraints(tmp_path: Path) -> None:
    """pip would refuse all of them for one that it cannot read, and find nothing that has two versions at once."""
    leftovers = {
        "torch-99.1+cu130": "Name: torch\nVersion: 99.1+cu130\n",  # found before the environment's own
        "~orch-98.0": "Name: torch\nVersion: 98.0\n",  # pip's, when a file in use could not be removed
        "empty-1.0": None,
        "nameless-1.0": "Version: 1.0\n",
        "versionless": "Name: versionless\n",
        "odd-1.0": "Name: odd\nVersion: 1.0 of my own\n",
        "under_dev-1": "Name: under_dev\nVersion: 1!2.0rc1.post2.dev3+mine\n",
    }
    for name, text in leftovers.items():
        folder = tmp_path / "site" / f"{name}.dist-info"
        folder.mkdir(parents=True)
        if text is not None:
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\n{text}")
    done, _, constraints = run(tmp_path, hide="open_clip")
    assert done.returncode == 0
    assert done.stderr == ""
    pins = constraints.read_text().splitlines()
    assert [pin for pin in pins if pin.startswith("torch==")] == ["torch==99.1+cu130"]
    ours = {"empty", "nameless", "versionless", "odd", "under_dev", "None", "~orch"}
    assert [pin for pin in pins if pin.partition("==")[0] in ours] == ["under_dev==1!2.0rc1.post2.dev3+mine"]


def test_a_failed_install_is_one_line_and_the_start_goes_on(tmp_path: Path) -> None:
    done, calls, _ = run(tmp_path, hide="safetensors", pip_exit=1)
    assert done.returncode == 0
    assert len(calls) == 1
    assert done.stdout.count("\n") == 1
    assert "remedy" in done.stdout
    assert "No matching distribution" in done.stdout


def test_without_pip_the_remedy_begins_with_pip(tmp_path: Path) -> None:
    """Some tools make environments that have none."""
    done, calls, _ = run(tmp_path, hide="open_clip", pip_exit=1)
    assert "ensurepip" not in done.stdout
    (tmp_path / "site" / "pip" / "__main__.py").write_text("import sys; sys.exit('No module named pip')")
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import importlib.util as u\n_find = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name in ('open_clip', 'pip') else _find(name, package)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, str(ROOT / "install.py")], capture_output=True, text=True, env=env)
    assert done.returncode == 0
    assert '-m ensurepip, then "' in done.stdout
    assert done.stdout.count("\n") == 1
