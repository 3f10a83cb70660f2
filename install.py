"""Run by the WebUI before it starts: installs what is missing, and nothing else.

Everything that the extension needs comes with the WebUI, so as a rule this looks and returns. What it does install is
constrained to the versions that are there already, so that none of the host's pins moves. Nothing in here can keep
the WebUI from starting.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tempfile
from typing import NamedTuple


class Requirement(NamedTuple):
    module: str
    package: str
    purpose: str
    # Versions known to work together, by module, for a host where pip can find none: the package's own first, then what
    # it imports that comes with no host.
    alone: tuple[tuple[str, str], ...] = ()


OPEN_CLIP = (
    ("open_clip", "open-clip-torch==3.3.0"),  # for torch from 2.0
    ("timm", "timm==1.0.31"),
    ("ftfy", "ftfy==6.3.1"),
    ("wcwidth", "wcwidth==0.9.4"),
)
REQUIREMENTS = (
    Requirement("open_clip", "open-clip-torch>=2.20.0", "image encoders", OPEN_CLIP),
    Requirement("safetensors", "safetensors>=0.3.1", "adapter files"),
)
FACES = "--ip-adapter-install-faces"
CONTRADICTION = ("ResolutionImpossible", "conflicting dependencies")  # what pip says of one
# A name and a version as PEP 508 and PEP 440 have them.
PIN = re.compile(
    r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?==v?(\d+!)?\d+(\.\d+)*([-_.]?(a|b|c|rc|alpha|beta|pre|preview)[-_.]?\d*)?"
    r"(-\d+|[-_.]?(post|rev|r)[-_.]?\d*)?([-_.]?dev[-_.]?\d*)?(\+[a-z0-9]+([-_.][a-z0-9]+)*)?",
    re.IGNORECASE,
)


def missing(requirements: tuple[Requirement, ...] = REQUIREMENTS) -> list[Requirement]:
    """Those whose module cannot be found; nothing is imported to find out."""
    return [requirement for requirement in requirements if importlib.util.find_spec(requirement.module) is None]


def constraints() -> str:
    """The versions that are installed, as lines of a pip constraints file.

    Of a package that is there twice, the one that Python finds; pip would find no version that is both. What an
    interrupted installation has left, without a name or with no version of Python's form, is left out: pip would refuse
    the whole file for it.
    """
    lines = {line for one in importlib.metadata.distributions() if PIN.fullmatch(line := _pin(one))}
    return "".join(f"{line}\n" for line in sorted(lines))


def _pin(distribution: importlib.metadata.Distribution) -> str:
    """A package as pip writes it, at the version that Python finds; "" where that cannot be told.

    With the build's own part (2.9.1+cu128), which indexes seldom have: where an old pip does not see for leftovers that
    torch is there, it shall find none, rather than put another build in its place.
    """
    try:
        name = distribution.metadata.get("Name")  # not [], which warns where there is none
        return f"{name}=={importlib.metadata.version(name)}" if name else ""  # without one, some find any package
    except Exception:  # damaged metadata raises something else in each Python
        return ""


def install(requirement: Requirement) -> None:
    """Install one package; on failure print one line with the remedy.

    Where the host's own packages contradict each other (they came past pip's resolver), pip can add nothing to them:
    then known versions come alone, without anything that they require.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "constraints.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.write(constraints())
        done = pip(requirement.package, "--constraint", path)
    lacking = [package for module, package in requirement.alone if importlib.util.find_spec(module) is None]
    if done.returncode != 0 and lacking and any(sign in done.stderr for sign in CONTRADICTION):
        again = pip(*lacking, "--no-deps")
        done = again if again.returncode == 0 else done
    if done.returncode == 0:
        print(f"IP-Adapter: installed {requirement.package} ({requirement.purpose})")
    else:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR:")), (lines or ["pip failed"])[-1])
        first = "" if importlib.util.find_spec("pip") else f'"{sys.executable}" -m ensurepip, then '
        print(
            f"IP-Adapter: {requirement.package} ({requirement.purpose}) could not be installed [{reason.strip()}]; "
            f'remedy: run  {first}"{sys.executable}" -m pip install "{requirement.package}"'
        )


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``pip install`` with these."""
    command = [sys.executable, "-m", "pip", "install", *arguments, "--prefer-binary", "--disable-pip-version-check"]
    command += ["--no-input"]  # nobody would see its question
    command += ["--retries", "1", "--timeout", "10"]  # offline, the WebUI shall not wait long
    if os.environ.get("INDEX_URL"):  # the WebUI's own variable
        command += ["--index-url", os.environ["INDEX_URL"]]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def wants_faces() -> bool:
    """Whether the flag for face analysis is given: to this file, or in the variable that the WebUI takes flags from.
    (Those on the WebUI's own command line are not known here: it sees to them itself once it runs.)"""
    told = os.environ.get("COMMANDLINE_ARGS", "")
    try:
        words = shlex.split(told)
    except ValueError:
        words = told.split()
    return FACES in (*sys.argv[1:], *words)


def install_faces() -> None:
    """Put face analysis into a folder of its own, unless it is there; none of the host's packages is touched."""
    from lib_ipadapter.encode.faces import packages

    if packages.is_current(packages.own_folder()):
        return
    try:
        packages.install_packages(packages.own_folder(), lambda line: print(f"IP-Adapter: {line}", flush=True))
    except packages.CheckpointError as error:
        print(f"IP-Adapter: {error.detail}")


def main() -> None:
    try:
        for requirement in missing():
            install(requirement)
    except Exception as error:
        print(f"IP-Adapter: its requirements could not be looked at [{error}]; remedy: install open-clip-torch by hand")
    try:
        if wants_faces():
            install_faces()
    except Exception as error:
        print(f"IP-Adapter: face analysis could not be installed [{error}]; remedy: press the button in Settings")


main()
