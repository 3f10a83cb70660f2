"""Files that are whole or not there, and one writer at a time, on every system that the WebUI runs on."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")

PART = ".part"  # the ending of files that are not published yet
PATIENCE = 30.0  # seconds that a writer waits for another one

_IN_PROCESS = threading.Lock()  # where the file system knows no locks, the threads of one process still take turns


def _patiently(action: Callable[[], T]) -> T:
    """``action``'s result. Windows refuses to touch a file that somebody else is just reading: it is tried again."""
    for wait in (0.01, 0.03, 0.1, 0.3, 0.6) if os.name == "nt" else ():
        try:
            return action()
        except PermissionError:
            time.sleep(wait)
    return action()


def read(path: Path | str) -> bytes:
    def whole() -> bytes:
        with open(path, "rb", buffering=0) as file:  # a thousand of them in one list: no more calls than needed
            return file.readall()

    return _patiently(whole)


def remove(path: Path) -> None:
    """Raises OSError, but not where the file is gone already."""
    _patiently(lambda: path.unlink(missing_ok=True))


def stage(folder: Path, data: bytes) -> Path:
    """``data`` in a new file of ``folder``, on the disk for sure, to be published there under its name."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{uuid.uuid4().hex}{PART}"
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            remove(part)
        raise
    return part


def publish(part: Path, path: Path) -> None:
    """``part`` becomes ``path``, in the place of any file there: readers see the old one or the new one."""
    _patiently(lambda: os.replace(part, path))
    _sync_folder(path.parent)


def publish_new(part: Path, path: Path) -> None:
    """``part`` becomes ``path``. Raises FileExistsError, and leaves both alone, where ``path`` exists."""
    try:
        os.link(part, path)  # also refuses when two writers come at once, whether or not locks work
    except FileExistsError:
        raise
    except (OSError, AttributeError, NotImplementedError):  # no hard links here
        if os.name == "nt":
            _patiently(lambda: os.rename(part, path))  # refuses on Windows, and only there
        elif path.exists():
            raise FileExistsError(str(path)) from None
        else:
            os.replace(part, path)
    else:
        with contextlib.suppress(OSError):  # published it is
            remove(part)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """The new name is on the disk too, not only the bytes. Windows has no such call, and does it by itself."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def one_writer(path: Path) -> Iterator[bool]:
    """One writer at a time among all threads and processes that use the lock file ``path``; who dies lets go of it.

    Yields whether other processes are kept out too; some network folders know no locks. Raises TimeoutError where
    another writer does not come to an end.
    """
    deadline = time.monotonic() + PATIENCE
    if not _IN_PROCESS.acquire(timeout=PATIENCE):
        raise TimeoutError(str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:  # never removed: whoever waits for a removed file waits for nothing
            alone = _lock(file, deadline)
            try:
                yield alone
            finally:
                if alone:
                    _unlock(file)
    finally:
        _IN_PROCESS.release()


def _lock(file: IO[bytes], deadline: float) -> bool:
    """Whether ``file`` could be locked; False where this is not possible at all."""
    while True:
        try:
            _try_lock(file)
            return True
        except (BlockingIOError, PermissionError):
            if time.monotonic() > deadline:
                raise TimeoutError(file.name) from None
            time.sleep(random.uniform(0.001, 0.01))
        except OSError:
            return False


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def _unlock(file: IO[bytes]) -> None:
        file.seek(0)
        with contextlib.suppress(OSError):
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(file: IO[bytes]) -> None:
        # Said aloud: a child that another extension has forked meanwhile would hold on to the lock otherwise.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
