"""One command at a time in a run's folder. The lock goes with the process, however that ends."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .problems import BatchError, writing

NAME = "run.lock"
_TAKEN = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK, getattr(errno, "EDEADLOCK", errno.EDEADLK)}


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Raises BatchError where somebody else is at work in the folder, and DiskError where it cannot be used."""
    if folder.exists() and not folder.is_dir():
        raise BatchError(f"{folder} is a file: name a folder with --out.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / NAME).open("a+")
    with lock:
        with writing(folder):
            if not locked(lock):
                raise BatchError(f"a run is at work in {folder}: wait for it, or name another folder with --out.")
            lock.truncate(0)
            lock.write(f"{socket.gethostname()} {os.getpid()}\n")
            lock.flush()
        yield


def locked(file: Any, system: str = os.name) -> bool:
    """Whether the file is this process's from now on. Raises OSError where its disk has no locks."""
    try:
        if system == "nt":
            import msvcrt

            file.seek(0)  # the byte from here on is locked, and it has to be everybody's same one
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True
