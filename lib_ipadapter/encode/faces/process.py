"""The process with insightface: started, asked, and ended. What is asked of it is in ``worker``.

It has a Python of its own because insightface and onnxruntime want other versions of packages than the WebUI has, and
because whatever a network does to it, it does to this process alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, printable
from . import packages, worker

START = 120.0  # seconds that the packages may take to be imported, from a slow disk
WORK = 120.0  # seconds that a request may take, the reading of a network included
ANSWER_LIMIT = 64_000_000  # bytes
QUIET_ENV = {
    **{
        f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB")
    },  # onnxruntime has its own
    "NO_ALBUMENTATIONS_UPDATE": "1",  # albumentations, if it is there, asks the network for its newest version
}


class Ended(Exception):
    """The process has ended, or had to be ended; the text says why. ``waited``: it took too long."""

    def __init__(self, why: str, *, waited: bool = False) -> None:
        super().__init__(why)
        self.waited = waited


@dataclass(frozen=True)
class Environment:
    """A place that packages are imported from: ``paths`` come first in the process's search."""

    name: str
    paths: tuple[str, ...]


def environments(folder: Path) -> list[Environment]:
    """Where insightface may be, in the order in which it is tried: with the WebUI's packages, and in ``folder``."""
    own = Environment("the WebUI's own packages", tuple(path for path in sys.path if path and os.path.exists(path)))
    return [own, Environment(str(folder), (str(folder),))] if packages.is_installed(folder) else [own]


class Process:
    """A process whose packages are imported. Raises Ended, OSError, RuntimeError or ValueError where there can be none;
    ``problem`` says what it has told of packages that it lacks."""

    def __init__(self, environment: Environment) -> None:
        if not sys.executable or getattr(sys, "frozen", False):  # a program of its own, which would start again
            raise OSError("there is no Python to start")
        self.environment = environment
        self._last_words: deque[str] = deque(maxlen=3)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", worker.__file__, json.dumps(environment.paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **QUIET_ENV},
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        try:
            self._listener = threading.Thread(target=self._listen, daemon=True)
            self._listener.start()
            with self._watched(START):
                self.problem: Mapping[str, Any] = self._answer()
        except BaseException:  # nobody else knows of it yet
            self.end()
            raise
        if "versions" not in self.problem:
            self.end()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: Mapping[str, Any], data: bytes, wait: float) -> dict[str, Any]:
        """The answer to a request, whose ``data`` are pixels. Raises Ended."""
        if len(data) > worker.DATA_LIMIT:
            raise ValueError(f"{len(data)} bytes are more than a request may have")
        line = json.dumps({**request, "bytes": len(data)}).encode() + b"\n"
        with self._watched(wait):
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):  # a process that has gone is seen where its answer is missing
                self._process.stdin.write(line)
                self._process.stdin.write(data)
                self._process.stdin.flush()
            return self._answer()

    @contextlib.contextmanager
    def _watched(self, wait: float) -> Iterator[None]:
        """Ends the process after so many seconds, which ends whatever waits for it. Raises Ended."""
        late = threading.Event()

        def kill() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(wait, kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Ended:
            if late.is_set():
                raise Ended(f"did not answer within {wait:g} seconds", waited=True) from None
            raise
        finally:
            timer.cancel()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline(ANSWER_LIMIT)
        if not line.endswith(b"\n"):
            raise Ended(self._why())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _listen(self) -> None:
        """Keeps the last of what the process complains about."""
        assert self._process.stderr is not None
        with contextlib.suppress(OSError, ValueError), self._process.stderr as errors:
            while line := errors.readline(10_000):
                if text := line.decode("utf-8", "replace").strip():
                    self._last_words.append(text)

    def _why(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1)
            self._listener.join(1)  # what it said last may not have been read yet
            said = f": {printable(self._last_words[-1])[:300]}" if self._last_words and code > 0 else ""
            return f"ended by itself (code {code}{said})"
        return "gave no answer"

    def end(self) -> None:
        """End the process; one that works is not waited for."""
        with contextlib.suppress(OSError):
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, ValueError):
                assert pipe is not None
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)


def started(tried: Sequence[Environment], folder: Path) -> Process:
    """A process from the first of the environments that has working packages.

    Raises CheckpointError: none has them, or one has them and they cannot be imported; with the command to install
    them into ``folder``.
    """
    broken: list[str] = []
    missing: list[list[str]] = []
    for environment in tried:
        try:
            process = Process(environment)
        except Ended as ended:
            broken.append(f"insightface in {environment.name} cannot be imported: the process {ended}")
            continue
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"no process for faces can be started ({error}): give embeddings instead of photos."
            ) from None
        problem = process.problem
        if "versions" in problem:
            return process
        if "broken" in problem:
            broken.append(f"{problem['broken']} in {environment.name} cannot be imported: {problem['why']}")
        else:
            missing.append(sorted(problem["missing"]))
    if broken:
        raise CheckpointError(f"{broken[-1].rstrip('.')}. {_remedy(folder)}")
    lacking = min(missing, key=len, default=sorted(worker.PACKAGES))
    what = f"package {lacking[0]}, which is" if len(lacking) == 1 else f"packages {' and '.join(lacking)}, which are"
    raise CheckpointError(f"faces need the {what} not installed. {_remedy(folder)}")


def _remedy(folder: Path) -> str:
    # What is current is not installed again at the press of a button.
    first = f"Delete the folder {folder} and press" if packages.is_current(folder) else "Press"
    return (
        f"{first} “{packages.BUTTON}” in Settings, IP-Adapter (no restart is needed), or run  "
        f"{packages.shown_command(folder)}"
    )
