"""The environment of catalogues for the tests: what requirements-batch.txt names, without torch.

    python -m tests.setup.batch

makes it beside the checkout's own, once: 110 MB to download, 550 MB on the disk, half a minute. Ray and the WebUI's
pins do not fit together (protobuf, pydantic), so tests run the command in this one as users do.
"""

from __future__ import annotations

import fcntl
import functools
import os
import subprocess
import sys
from pathlib import Path
from zlib import crc32

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements-batch.txt"
LIMIT = 600.0  # seconds


@functools.cache
def ready() -> Path:
    """Its Python, made now where it is not there. Raises what pip raises: no test that needs it is left out."""
    home = ROOT / f".venv-batch-{sys.version_info[0]}.{sys.version_info[1]}"
    stamp, python = home / f".ready-{crc32(REQUIREMENTS.read_bytes()):08x}", home / "bin" / "python"
    home.mkdir(exist_ok=True)
    descriptor = os.open(home / ".setup-lock", os.O_CREAT | os.O_RDWR)  # uv waits for one called .lock
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # tests that run side by side wait for the one that sets up
        if not stamp.exists():
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, timeout=LIMIT)
            _install(python)
            stamp.touch()
    finally:
        os.close(descriptor)
    return python


def _install(python: Path) -> None:
    """By uv, where the tests' environment has it, as the Makefile does: it links what another environment has. Else, or
    where it cannot, by pip."""
    wanted = ["-r", str(REQUIREMENTS)]
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--system-certs", "--python", str(python), *wanted]
    if subprocess.run(uv, timeout=LIMIT, stderr=subprocess.DEVNULL).returncode:
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", *wanted]
        subprocess.run(pip, check=True, timeout=LIMIT)


if __name__ == "__main__":
    print(ready())
