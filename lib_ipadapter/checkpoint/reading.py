"""The headers of unknown files, read by another process, which is bounded and may come to harm.

One process reads all of them. A file that takes it too long, or too much memory, or ends it, is told as such, and the
next one gets a new process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, printable
from . import child
from .containers import read_table
from .tensor_table import Table, TensorEntry

log = logging.getLogger("ip-adapter")

ROOT = Path(__file__).parents[2]
BEGIN = "import json, sys; sys.path += json.loads(sys.argv[1]); from lib_ipadapter.checkpoint.child import main; main()"
START = 30.0  # seconds that a process may take to begin
WORK = 5.0  # seconds that a header may take to be read: a real one takes some thousandths
WAIT = 30.0  # seconds that it may take with what the disk takes to answer
LEAST = 0.5  # seconds of work that a file gets after many others have used up theirs
AHEAD = 16  # files that the process is asked for before their turn
LOOK = 0.1  # seconds between looks at the process
ANSWER_LIMIT = 64_000_000  # bytes
# Libraries for numbers would start a thread, with its memory, for each processor.
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB")}
WAITS = "check the disk that it lies on, and refresh the list of models."


class Ended(Exception):
    """The process ended, or had to be ended; the text says why. ``passing``: not by the file's fault for sure."""

    def __init__(self, why: str, *, passing: bool = False) -> None:
        super().__init__(why)
        self.passing = passing


class Reading:
    """Reads tables of files, in another process as long as there can be one. To be used in a ``with``.

    ``paths`` are the files that will be asked for, in that order: the process reads the next ones meanwhile.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._to_come = deque(paths)
        self._asked: deque[Path] = deque()
        self._child: Child | None = None
        self._alone = False
        self._culprits = 0

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.end()

    def table(self, path: Path) -> Table:
        """The table of a file. Raises CheckpointError like ``read_table``, and for a file that cannot be read within
        bounds."""
        reader = self._reader()
        if reader is None:
            log.warning("IP-Adapter: reading %s", printable(str(path)))  # whatever happens, the last file is why
            return read_table(path)
        try:
            self._ask(reader, path)
            answer = reader.answer(max(2 * LEAST, WAIT * self._share))
        except Ended as ended:
            reader.end()
            self._child, self._culprits = None, self._culprits + 1
            self._to_come.extendleft(reversed([one for one in self._asked if one != path]))
            self._asked.clear()
            log.warning("IP-Adapter: %s %s", printable(str(path)), ended)
            # What may have been the disk's fault is tried again another time, as if it could not be opened.
            if ended.passing:
                raise CheckpointError(f"This file {ended}: {WAITS}") from TimeoutError()
            raise CheckpointError(f"This file {ended}: {child.REMEDY}") from None
        self._asked.popleft()
        return _table(answer)

    @property
    def _share(self) -> float:
        """Of the time that a file may take, what is left after those that used theirs up."""
        return float(0.5**self._culprits)

    def _ask(self, reader: Child, path: Path) -> None:
        """Ask for a file, if that has not been done, and for some of those that come after it."""
        assert not self._asked or self._asked[0] == path, "files are asked for in their order"
        if not self._asked and (not self._to_come or self._to_come[0] != path):
            self._to_come.appendleft(path)
        if len(self._asked) > AHEAD // 2:  # several are asked for at once: each time, the two processes change places
            return
        coming = [self._to_come.popleft() for _ in range(min(AHEAD - len(self._asked), len(self._to_come)))]
        for one in coming:
            log.info("IP-Adapter: reading %s", printable(str(one)))
        if coming:
            self._asked.extend(coming)
            reader.ask(coming, max(LEAST, WORK * self._share))

    def _reader(self) -> Child | None:
        """The process, started where there is none; None where there can be none."""
        if self._child is None and not self._alone:
            try:
                self._child = Child()
            except (OSError, ValueError, Ended) as error:
                self._alone = True
                log.warning("IP-Adapter: model files are looked at without a process of their own (%s)", error)
        return self._child


class Child:
    """A process that reads. Raises OSError, ValueError or Ended where there can be none."""

    def __init__(self) -> None:
        if not sys.executable or getattr(sys, "frozen", False):  # a program of its own, which would start again
            raise OSError("there is no Python to start")
        places = [str(ROOT), *(path for path in sys.path if path and os.path.exists(path))]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", BEGIN, json.dumps(places)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ONE_THREAD},
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            if self._next(START, watched=False) != child.READY:
                raise Ended("did not begin as it should")
        except Ended:
            self.end()
            raise

    def ask(self, paths: Sequence[Path], work: float) -> None:
        """Ask for files, each of which may take ``work`` seconds of work. Raises Ended where the process has gone."""
        questions = [json.dumps({"path": str(path), "seconds": work}).encode() + b"\n" for path in paths]
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # a process that has gone is seen where its answer is missing
            self._process.stdin.write(b"".join(questions))
            self._process.stdin.flush()

    def answer(self, wait: float) -> Any:
        """The next answer, waited for so many seconds. Raises Ended."""
        line = self._next(wait)
        if not line.endswith(b"\n"):
            raise Ended(self._why() if len(line) < ANSWER_LIMIT else "has a larger table of tensors than any model")
        return json.loads(line)

    def _listen(self) -> None:
        """Puts down what the process says, an empty line at its end."""
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError), self._process.stdout as output:
            while line := output.readline(ANSWER_LIMIT):
                self._answers.put(line)
        self._answers.put(b"")

    def _next(self, wait: float, *, watched: bool = True) -> bytes:
        until = time.monotonic() + wait
        while True:
            try:
                return self._answers.get(timeout=LOOK)
            except queue.Empty:
                if watched and _memory(self._process.pid) > 2 * child.MEMORY_LIMIT:
                    raise Ended(child.TOO_MUCH) from None
                if time.monotonic() > until:
                    # A process that counts its own work has done less than it may: it waits for something.
                    waits = hasattr(signal, "setitimer")
                    raise Ended(f"could not be read within {wait:g} seconds", passing=waits) from None

    def _why(self) -> str:
        """Why the process is gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process.wait(1) == -getattr(signal, "SIGPROF", 0):
                return "takes far longer to read than any model's header"
        return "ends the process that reads its header"

    def end(self) -> None:
        """End the process; one that works is not waited for."""
        with contextlib.suppress(OSError):
            self._process.kill()
        assert self._process.stdin is not None  # whoever listens closes the other pipe
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)


def _table(answer: Any) -> Table:
    """An answer's table. Raises CheckpointError for one with a problem."""
    if "problem" in answer:
        raise CheckpointError(answer["problem"]) from (OSError() if answer["passing"] else None)
    entries = {name: TensorEntry(dtype, tuple(shape)) for name, (dtype, shape) in answer["entries"].items()}
    return Table(entries, answer["metadata"])


def _memory(pid: int) -> int:
    """Bytes that a process and its own take, where that can be known; 0 elsewhere. Only for systems without limits."""
    if sys.platform == "linux":
        return 0
    try:
        import psutil

        process = psutil.Process(pid)
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
    except Exception:  # not installed, or the process has gone meanwhile
        return 0
