"""One file's way here: a process that fetches it, watched from outside and ended where nobody wants it any more."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from ..checkpoint.folders import partial_folder
from .problems import DownloadError, sentence
from .published import Published

ROOT = Path(__file__).parents[2]
# The WebUI's own places come first, in its order: its version of the library is the one that counts.
BEGIN = (
    "import json, sys; sys.path[:0] = json.loads(sys.argv[1]); from lib_ipadapter.downloads.child import main; main()"
)
LOOK = 0.25  # seconds between looks at what has come
SPAN = 10.0  # seconds over which the speed is taken
# No library's own way around what is counted here, and no bars of its own. Everything else of the environment stays:
# HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HTTPS_PROXY …
QUIET = {
    "HF_HUB_DISABLE_XET": "1", "HF_HUB_ENABLE_HF_TRANSFER": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_SYMLINKS_WARNING": "1",
}  # fmt: skip


class Cancelled(Exception):
    """Somebody has called it off."""


class Transfer:
    """``file`` on its way into ``folder``. Its numbers may be read from any thread."""

    def __init__(self, file: Published, folder: Path) -> None:
        self.file, self.folder = file, folder
        self.partial = partial_folder(folder, file.name)
        self.done = self._before = partly(self.partial)  # bytes
        self.checked: int | None = None  # bytes whose hash is computed, once all have come
        self._samples: deque[tuple[float, int]] = deque([(time.monotonic(), self.done)])
        self._cancelled = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def speed(self) -> float:
        """Bytes a second, over the last seconds."""
        (then, before), (now, after) = self._samples[0], self._samples[-1]
        return max(0, after - before) / (now - then) if now > then else 0.0

    def cancel(self) -> None:
        """End it; what has come stays, and the next one goes on from there."""
        self._cancelled.set()
        self._kill()

    def run(self) -> None:
        """Fetch the file; returns when it has its name. Raises DownloadError or Cancelled."""
        answers = self._started()
        try:
            last: dict[str, Any] = {}
            while (answer := self._next(answers)) is not None:
                last = answer
                self.checked = answer.get("checking", self.checked)
        finally:
            self._kill()
        if last.get("done"):  # even if it was called off at that moment: the file has its name
            self.done = max(self.done, partly(self.partial))
            return
        if self._cancelled.is_set():
            raise Cancelled
        self.done = max(self.done, partly(self.partial))
        told = last.get("told", f"code {self._code()}")
        raise self._error(str(last.get("problem", "ended")), str(told))

    def _error(self, word: str, told: str = "") -> DownloadError:
        come = self.done if self.done > self._before else 0  # what earlier attempts brought says nothing of this one
        return DownloadError(sentence(word, told, self.file, self.folder, come))

    def _started(self) -> queue.SimpleQueue[bytes]:
        """A process at work, and the lines that it says, an empty one at its end."""
        order = {
            "repo": self.file.repo, "revision": self.file.revision, "path": self.file.path, "sha256": self.file.sha256,
            "partial": str(self.partial), "target": str(self.folder / self.file.name),
        }  # fmt: skip
        places = [str(ROOT), *(path for path in sys.path if path and os.path.exists(path))]
        try:
            if not sys.executable or getattr(sys, "frozen", False):  # a program of its own, which would start again
                raise OSError("there is no Python to start")
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", BEGIN, json.dumps(places)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={**os.environ, **QUIET}, creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise self._error("start", str(error)) from None
        self._process = process
        answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(process, answers), daemon=True).start()
        assert process.stdin is not None
        # A process that has gone, or was called off at this moment, is seen where its answer is missing.
        with contextlib.suppress(OSError, ValueError):
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
        return answers

    def _next(self, answers: queue.SimpleQueue[bytes]) -> dict[str, Any] | None:
        """The next answer, None at the end; what has come is looked at meanwhile. Raises DownloadError where more comes
        than the file has."""
        while True:
            try:
                line = answers.get(timeout=LOOK)
                answer: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
                return answer
            except queue.Empty:
                self._look()

    def _look(self) -> None:
        if self._cancelled.is_set():  # while the process was being started
            self._kill()
        if self.checked is not None:
            return
        now, self.done = time.monotonic(), partly(self.partial)
        self._samples.append((now, self.done))
        while self._samples[0][0] < now - SPAN:
            self._samples.popleft()
        if self.file.size is not None and self.done > self.file.size:
            self._kill()
            shutil.rmtree(self.partial, ignore_errors=True)
            raise self._error("large")

    def _code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def _kill(self) -> None:
        """End the process, if there is one; one that is done is not waited for long."""
        if (process := self._process) is None:
            return
        with contextlib.suppress(OSError):
            process.kill()
        assert process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)


def _listen(process: subprocess.Popen[bytes], answers: queue.SimpleQueue[bytes]) -> None:
    assert process.stdout is not None
    with contextlib.suppress(OSError, ValueError), process.stdout as output:
        while line := output.readline(10_000):
            answers.put(line)
    answers.put(b"")


def partly(partial: Path) -> int:
    """How many bytes of a file have come into its own folder so far. The library writes them into one file there, and
    links to it when it is whole."""
    most = 0
    for folder, _, names in os.walk(partial):
        for name in names:
            with contextlib.suppress(OSError):
                most = max(most, os.lstat(os.path.join(folder, name)).st_size)
    return most
