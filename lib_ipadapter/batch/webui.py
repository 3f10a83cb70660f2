"""A WebUI of the worker's own: started on a free port of loopback, and ended with the worker."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .client import AUTH
from .problems import writing
from .say import plain

LEASH = Path(__file__).with_name("leash.py")


@dataclass(frozen=True)
class Start:
    """``folder`` holds launch.py; ``python``: "" for the folder's own; ``arguments`` come after ours; ``threads``: the
    command's own OMP_NUM_THREADS, in whose place Ray puts another."""

    folder: str
    python: str = ""
    arguments: tuple[str, ...] = ()
    threads: str = ""

    def command(self, port: int) -> list[str]:
        own = [Path(self.folder) / "venv" / place for place in ("bin/python", "Scripts/python.exe")]
        python = self.python or next((str(path) for path in own if path.exists()), sys.executable)
        return [python, "launch.py", "--nowebui", "--api", "--port", str(port), *self.arguments]


class OwnWebUI:
    """``log``: where it writes."""

    def __init__(self, start: Start, log: Path) -> None:
        self._start, self._log = start, log
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, anew where it runs. Raises OSError, and DiskError where its log cannot be written."""
        self.stop()
        self.port = _free_port()
        with writing(self._log.parent):
            self._log.parent.mkdir(parents=True, exist_ok=True)
            opened = self._log.open("wb")
        with opened as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(LEASH), *self._start.command(self.port)],
                cwd=self._start.folder, env=environment_of(os.environ, self._start.threads), stdin=subprocess.PIPE,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def stop(self) -> None:
        if (process := self._process) is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None

    def last_words(self) -> str:
        """The end of what it has written."""
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - 2000))
            lines = log.read().decode(errors="replace").strip().splitlines()
            return plain(lines[-1])[:300] if lines else ""
        return ""


def environment_of(own: Mapping[str, str], threads: str) -> dict[str, str]:
    """What a WebUI gets of a worker's environment: no passwords of other WebUIs, and nothing that is Ray's."""
    kept = {
        name: value
        for name, value in own.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "OMP_NUM_THREADS") and not name.startswith((AUTH, "RAY_"))
    }
    return {**kept, "OMP_NUM_THREADS": threads} if threads else kept


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
