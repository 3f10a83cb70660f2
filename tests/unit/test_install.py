"""install.py as the WebUI runs it: a process of its own, before the start."""

from __future__ import annotations

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
    site.mkdir()
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
    assert "torch==2.1.2" in pins
    assert any(pin.startswith("gradio==3.41.2") for pin in pins)
    assert done.stdout.count("\n") == 1


def test_a_failed_install_is_one_line_and_the_start_goes_on(tmp_path: Path) -> None:
    done, calls, _ = run(tmp_path, hide="safetensors", pip_exit=1)
    assert done.returncode == 0
    assert len(calls) == 1
    assert done.stdout.count("\n") == 1
    assert "remedy" in done.stdout
    assert "No matching distribution" in done.stdout
