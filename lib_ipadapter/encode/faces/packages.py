"""insightface and what it needs, in a folder of its own: the versions that it wants are not those of the WebUI.

The standard library is all that this needs: ``install.py`` uses it before the WebUI starts.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from ...errors import CheckpointError

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = ROOT / "requirements-faces.txt"
FLAG = "--ip-adapter-install-faces"
STAMP = "installed-requirements.txt"  # in the folder
BUTTON = "install face analysis"
LOGIN = re.compile(r"://[^/?#\s]*@")  # name and password of an address
STALE = 3600.0  # seconds after which what an installation has left is nobody's any more
TOLD = ("Collecting", "Downloading", "Installing", "Successfully", "ERROR")  # lines of pip that are passed on


def own_folder() -> Path:
    """Where the packages are for this version of Python."""
    return ROOT / ".faces" / f"py{sys.version_info[0]}.{sys.version_info[1]}"


def command(folder: Path) -> list[str]:
    """What installs the packages into ``folder``: exactly those that are listed, none of the WebUI's."""
    found = [sys.executable or "python", "-m", "pip", "install", "--target", str(folder), "--no-deps"]
    found += ["--upgrade", "--prefer-binary", "--disable-pip-version-check", "-r", str(REQUIREMENTS)]
    if os.environ.get("INDEX_URL"):  # the WebUI's own variable
        found += ["--index-url", os.environ["INDEX_URL"]]
    return found


def shown_command(folder: Path) -> str:
    """The same for a person's console, without the name and password with which an index may be logged into: sentences
    go to whoever uses the WebUI."""
    parts = map(_without_login, command(folder))
    return " ".join(f'"{part}"' if any(c in part for c in ' \\/"&;()') else part for part in parts)


def _without_login(text: str) -> str:
    return LOGIN.sub("://", text)


def is_installed(folder: Path) -> bool:
    """Whether insightface is there, whoever has put it there."""
    return os.path.isfile(folder / "insightface" / "__init__.py")


def is_current(folder: Path) -> bool:
    """Whether exactly the listed packages have been installed."""
    try:
        return is_installed(folder) and (folder / STAMP).read_bytes() == REQUIREMENTS.read_bytes()
    except OSError:
        return False


def install_packages(
    folder: Path,
    say: Callable[[str], None],
    swapping: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
) -> None:
    """Install the packages into ``folder``, in the place of those that are there; what pip does is told to ``say``.

    They come there in one go, or not at all; while they do, ``swapping`` keeps everybody from those that were there.
    Raises CheckpointError with pip's last word.
    """
    sweep(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".installing-", dir=folder.parent))
    except OSError as error:
        raise _failed(str(error), folder) from None
    try:
        say(f"installing face analysis into {folder} (about 170 MB to download, 560 MB on the disk)")
        _run(command(made), say, folder)
        shutil.copyfile(REQUIREMENTS, made / STAMP)
        made.chmod(0o755)  # temporary folders are their maker's alone
        with swapping():
            _replace(made, folder)
    except OSError as error:
        raise _failed(str(error), folder) from None
    finally:
        shutil.rmtree(made, ignore_errors=True)
    say(f"face analysis is installed in {folder}")


def _run(arguments: list[str], say: Callable[[str], None], folder: Path) -> None:
    last: deque[str] = deque(maxlen=1)
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
        encoding="utf-8", errors="replace", creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as output:
        for line in output:
            if line := _without_login(line.strip()):
                last.append(line)
                if line.startswith(TOLD):
                    say(line)
    if process.wait() != 0:
        raise _failed(last[0] if last else f"pip ended with {process.returncode}", folder)


def sweep(folder: Path) -> None:
    """What was left beside ``folder`` by installations that were broken off, or whose files were in use, goes."""
    for pattern in (".installing-*", ".old-*"):
        for found in folder.parent.glob(pattern):
            with contextlib.suppress(OSError):
                if time.time() - found.stat().st_mtime > STALE:  # a younger one may be another WebUI's
                    shutil.rmtree(found, ignore_errors=True)


def _replace(made: Path, folder: Path) -> None:
    """Put what is made in the place of what is there."""
    if not os.path.lexists(folder):
        os.replace(made, folder)
        return
    beside = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent))
    try:
        os.replace(folder, beside / folder.name)
        try:
            os.replace(made, folder)
        except OSError:
            with contextlib.suppress(OSError):
                os.replace(beside / folder.name, folder)
            raise
        shutil.rmtree(beside, ignore_errors=True)
    finally:
        with contextlib.suppress(OSError):
            beside.rmdir()  # but for what could not be put back


def _failed(why: str, folder: Path) -> CheckpointError:
    why = _without_login(why)
    return CheckpointError(
        f"face analysis could not be installed into {folder} ({why}): see that this machine reaches a package index "
        f"and that the folder can be written, or run  {shown_command(folder)}"
    )
