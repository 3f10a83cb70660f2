"""The process that reads the headers of unknown files: whatever lies in them, it is this process that it harms.

It is started by ``reading``, and imports the standard library, safetensors and the readers alone. Each line that it is
given is a JSON object {"path", "seconds"}; each line of its answers is one file's table, or the sentence about it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import CheckpointError
from .containers import read_table
from .safetensors_files import library
from .tensor_table import KEPT_METADATA, NAME_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY_LIMIT = 512 * 2**20  # bytes beyond what the process takes to begin with, and the file where it is mapped
READY = b"ready\n"
TOO_MUCH = "takes more memory to read than any model's header"
REMEDY = "it is damaged or was made to do harm: delete it, or download the original again."


def main() -> None:
    """Answer until nobody asks any more."""
    answers = _own_output()
    with suppress(ImportError, CheckpointError):
        import numpy  # noqa: F401 (safetensors does so at its first file; here it is not that file's work)

        library()
    answers.write(READY)
    answers.flush()
    for line in sys.stdin.buffer:
        question = json.loads(line)
        answers.write(json.dumps(answer(question["path"], question["seconds"]), separators=(",", ":")).encode() + b"\n")
        answers.flush()


def answer(path: str, seconds: float) -> dict[str, Any]:
    """A file's table, or why there is none: ``passing`` where that is no fault of the file's own."""
    try:
        with bounded(path, seconds):
            table = read_table(path)
    except CheckpointError as error:
        return {"problem": error.detail, "passing": isinstance(error.__cause__, (OSError, ImportError))}
    except MemoryError:
        return {"problem": f"This file {TOO_MUCH}: {REMEDY}", "passing": False}
    texts = {name: table.metadata[name][:NAME_LIMIT] for name in KEPT_METADATA if name in table.metadata}
    return {"entries": {name: [e.dtype, e.shape] for name, e in table.entries.items()}, "metadata": texts}


@contextmanager
def bounded(path: str, seconds: float) -> Iterator[None]:
    """At most so many seconds of work, waiting for the disk aside, and so much memory; where the system has no such
    limits, whoever started this process watches it."""
    with suppress(ImportError, OSError, ValueError):
        _limit_memory(os.stat(path).st_size)
    timer = getattr(signal, "setitimer", None)
    if timer is not None:
        timer(signal.ITIMER_PROF, seconds)  # its signal ends the process, also within a library's loops
    try:
        yield
    finally:
        if timer is not None:
            timer(signal.ITIMER_PROF, 0)


def _limit_memory(mapped: int) -> None:
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = now + mapped + MEMORY_LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _own_output() -> BinaryIO:
    """Where answers go. What anybody else prints goes elsewhere."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no file of its memory where it is ended
    return answers
