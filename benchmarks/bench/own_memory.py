"""What a process takes of main memory, as Linux counts it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # as malloc.h has them


def own_memory() -> int:
    """Bytes of this process's own memory, without what the allocator keeps for the next time; mapped files come and go
    as the system likes."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc's own
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return counted("RssAnon")


def keep_no_spare() -> None:
    """Have the allocator give freed memory back, at the price of time: all threads share one heap, and what is not
    small is a mapping of its own, so that what is in use leaves few holes, whose number is chance."""
    with contextlib.suppress(OSError, AttributeError):  # glibc's own
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_MMAP_THRESHOLD, 2**16)


def largest() -> int:
    """Bytes that were in memory at most since ``forget_largest``, mapped files included."""
    return counted("VmHWM")


def forget_largest() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def counted(name: str) -> int:
    """A line of the process's status, in bytes; 0 where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
    return 0
