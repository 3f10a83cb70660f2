"""install.py with the real pip, in an environment that stands in for a host without open_clip."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT


def wheel(folder: Path, name: str, version: str, requires: tuple[str, ...] = ()) -> None:
    """A package of that name, with a module of it that says its version."""
    stem = f"{name}-{version}"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name.removesuffix('_torch')}.py", f"version = {version!r}\n")
        file.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        file.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{stem}.dist-info/RECORD", "")


@pytest.fixture
def host(tmp_path: Path) -> dict[str, str]:
    """A process's variables for such an environment's Python (``PYTHON``) and its packages (``HOST``), and for an index
    with newer packages than it has, and another build of its torch; open_clip's newest wants a newer torch."""
    index, made, lent = tmp_path / "index", tmp_path / "host", tmp_path / "lent"
    index.mkdir()
    for version in ("2.9.1", "2.10.0"):
        wheel(index, "torch", version)
    wheel(index, "numpy", "2.5.0")
    wheel(index, "timm", "1.0", ("torch", "numpy>=2"))
    wheel(index, "safetensors", "0.8.0")
    wheel(index, "open_clip_torch", "3.3.0", ("torch>=2.0", "timm"))
    wheel(index, "open_clip_torch", "4.0.0", ("torch>=2.10", "timm"))
    venv.create(made, symlinks=True)
    lent.mkdir()
    found = importlib.util.find_spec("pip")
    assert found is not None and found.submodule_search_locations
    (lent / "pip").symlink_to(found.submodule_search_locations[0])
    (site,) = made.glob("lib/*/site-packages")
    had = {
        "torch-2.9.1+cu128": "Name: torch\nVersion: 2.9.1+cu128\n",
        "numpy-2.3.5": "Name: numpy\nVersion: 2.3.5\n",
        "safetensors-0.4.2": "Name: safetensors\nVersion: 0.4.2\n",
        "nameless-1.0": "Version: 1.0\n",
        "odd-1.0": "Name: odd\nVersion: 1.0 of my own\n",
    }
    for name, text in had.items():
        (site / f"{name}.dist-info").mkdir()
        (site / f"{name}.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\n{text}")
    for module in ("torch", "numpy", "safetensors"):
        (site / f"{module}.py").write_text("version = 'as it was'\n")
    own = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull, "PYTHONPATH": str(lent)}
    foreign = ("PIP_", "UV_", "INDEX_URL", "COMMANDLINE_ARGS")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
    return {**kept, **own, "PYTHON": str(made / "bin" / "python"), "HOST": str(site)}


def asked(host: dict[str, str], *command: str) -> str:
    done = subprocess.run([host["PYTHON"], *command], capture_output=True, text=True, env=host, check=True)
    assert done.stderr == ""
    return done.stdout


def test_what_is_missing_comes_and_nothing_that_is_there_moves(host: dict[str, str]) -> None:
    installed = asked(host, str(ROOT / "install.py"))
    assert installed == "IP-Adapter: installed open-clip-torch>=2.20.0 (image encoders)\n"
    code = "import open_clip, timm, torch, numpy, safetensors as s; print(open_clip.version, timm.version)"
    assert asked(host, "-c", code + "; print({m.version for m in (torch, numpy, s)})") == "3.3.0 1.0\n{'as it was'}\n"
    names = {one.name for one in Path(host["HOST"]).glob("*.dist-info")}
    assert {"torch-2.9.1+cu128.dist-info", "numpy-2.3.5.dist-info", "safetensors-0.4.2.dist-info"} <= names
    assert len(names) == 7
    assert asked(host, str(ROOT / "install.py")) == ""


def test_leftovers_that_hide_torch_from_pip_do_not_replace_it(host: dict[str, str]) -> None:
    """Where a file in use could not be removed, pip leaves a folder with a tilde. Older ones then see no torch."""
    site = Path(host["HOST"])
    for name in ("~orch-2.7.0", "~rch-2.7.1", "~-rch-2.8.0"):
        (site / f"{name}.dist-info").mkdir()
        text = f"Metadata-Version: 2.1\nName: torch\nVersion: {name.rpartition('-')[2]}\n"
        (site / f"{name}.dist-info" / "METADATA").write_text(text)
    assert asked(host, str(ROOT / "install.py")).startswith("IP-Adapter: ")
    assert asked(host, "-c", "import torch; print(torch.version)") == "as it was\n"
    assert {one.name for one in site.glob("torch*")} == {"torch.py", "torch-2.9.1+cu128.dist-info"}


def test_a_host_whose_packages_contradict_each_other_gets_it_as_well(host: dict[str, str]) -> None:
    """Hosts install what they need past pip's resolver, which then can add nothing to it."""
    site, index = Path(host["HOST"]), Path(host["PIP_FIND_LINKS"])
    with (site / "torch-2.9.1+cu128.dist-info" / "METADATA").open("a") as file:
        file.write("Requires-Dist: numpy<2\n")
    for name, version in (("timm", "1.0.31"), ("ftfy", "6.3.1"), ("wcwidth", "0.9.4")):
        wheel(index, name, version, ("torch", "numpy>=9"))
    assert asked(host, str(ROOT / "install.py")) == "IP-Adapter: installed open-clip-torch>=2.20.0 (image encoders)\n"
    code = "import open_clip, timm, torch, numpy; print(open_clip.version, timm.version, torch.version, numpy.version)"
    assert asked(host, "-c", code) == "3.3.0 1.0.31 as it was as it was\n"
    assert len(list(site.glob("*.dist-info"))) == 9
    assert asked(host, str(ROOT / "install.py")) == ""


def test_what_cannot_come_without_moving_something_does_not_come(host: dict[str, str]) -> None:
    for one in Path(host["PIP_FIND_LINKS"]).glob("open_clip_torch-3*"):
        one.unlink()
    said = asked(host, str(ROOT / "install.py"))
    assert said.startswith("IP-Adapter: open-clip-torch>=2.20.0 (image encoders) could not be installed [")
    assert said.count("\n") == 1 and "remedy: run" in said
    assert len(list(Path(host["HOST"]).glob("*.dist-info"))) == 5
