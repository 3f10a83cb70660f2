"""The browser of the browser tests: one that is there, else Debian's package, else Playwright's own.

    python -m tests.setup.browser

looks for a Chromium and installs one where there is none and it can be done. Says in one line which browser the tests
will use. Where there is none after all, it says that the browser tests will be left out; with ``CI`` set, where nothing
may be left out, it exits with 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
PACKAGE = "chromium"
LIMIT = 600.0  # seconds for one step of an installation
MISSING = (
    f"no Chromium is here ({', '.join(NAMES)}), and neither Debian's package nor Playwright's own could be installed: "
    "install one of them"
)


def find() -> str | None:
    """The path of a browser that runs, None where there is none."""
    on_path = (shutil.which(name) for name in NAMES)
    return next((path for path in (*on_path, *APPLICATIONS) if path and _runs(path)), None) or _of_playwright()


def install() -> str | None:
    """A browser that runs, installed now if need be; None where that cannot be done."""
    for step in (lambda: None, _debian_package, _playwright_package):
        step()
        if (path := find()) is not None:
            return path
    return None


def _runs(path: str) -> bool:
    """Whether ``path`` starts: Ubuntu's ``chromium-browser`` may be a script that only names a snap."""
    return os.access(path, os.X_OK) and _done([path, "--version"], limit=60)


def _of_playwright() -> str | None:
    """Playwright's own browser, where it is there and runs; asking for its place starts a process."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).is_file() and _runs(path) else None


def _debian_package() -> None:
    """apt-get's package, where there is apt-get and a right to use it without a password."""
    if shutil.which("apt-get") is None:
        return
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if root and (shutil.which("sudo") is None or not _done(["sudo", "-n", "true"], limit=30)):
        return
    print(f"Installing Debian's package {PACKAGE} for the browser tests …", flush=True)
    apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    if _done([*apt, "update"]):
        _done([*apt, "install", "-y", "--no-install-recommends", PACKAGE])


def _playwright_package() -> None:
    print("Installing Playwright's own Chromium for the browser tests …", flush=True)
    _done([sys.executable, "-m", "playwright", "install", "chromium"])


def _done(command: Sequence[str], limit: float = LIMIT) -> bool:
    """Whether ``command`` ran without an error in at most ``limit`` seconds. What it prints is not shown."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        return subprocess.run(command, timeout=limit, check=False, **quiet).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> int:
    path = install()
    if path is not None:
        print(f"The browser tests use {path}.")
        return 0
    missing = MISSING[0].upper() + MISSING[1:]
    if os.environ.get("CI"):
        print(f"{missing}. CI is set, so nothing may be left out.")
        return 1
    print(f"{missing}. The browser tests are left out.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
