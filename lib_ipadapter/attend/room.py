"""Work on a device that may be full: once more with nothing kept there, and then a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from ..errors import DeviceMemoryError, is_device_full

T = TypeVar("T")


class Keeper(Protocol):
    """Who keeps things on a device from call to call."""

    keeps: bool

    def keep_nothing(self, device: torch.device) -> None:
        """Let go of what is kept on ``device``, and keep nothing more."""


def with_room(keeper: Keeper, device: torch.device, work: Callable[[], T], sentence: str) -> T:
    """What ``work`` gives; where ``device`` has no room for it, with nothing kept there from call to call. Raises
    DeviceMemoryError with ``sentence`` where even that is too much."""
    error = None
    for _ in range(2):
        try:
            return work()
        except RuntimeError as raised:
            if not is_device_full(raised):
                raise
            error = raised.with_traceback(None)  # which holds what there is no room for
        keeper.keep_nothing(device)
    raise DeviceMemoryError(sentence) from error


def empty_device_cache(device: torch.device) -> None:
    """Give back what torch holds for itself on ``device``, where it does that."""
    empty = getattr(getattr(torch, device.type, None), "empty_cache", None)
    if empty is not None:
        empty()


def has_room(device: torch.device, nbytes: int) -> bool:
    """Whether ``device`` has so many bytes left, as far as it can tell."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + unused >= nbytes


SPARE = 0.25  # of all memory
# What a container may have, and has, in bytes: cgroups of version 2 and 1. Nothing of the machine's memory shows it.
_CGROUP = Path("/sys/fs/cgroup")
_CONTAINERS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def has_plenty(device: torch.device, nbytes: int) -> bool:
    """Whether a quarter of the memory of ``device`` stays free beside so many bytes, which only save time. False where
    nothing tells."""
    return all(free - nbytes >= SPARE * whole for free, whole in _memory(device))


def _memory(device: torch.device) -> list[tuple[float, float]]:
    """Bytes that are free, and of how many: of all limits that there are."""
    if device.type == "cuda":
        return [torch.cuda.mem_get_info(device)]
    try:
        import psutil
    except ImportError:
        psutil = None
    if psutil is None or device.type != "cpu":
        return [(0, 1)]
    machine = psutil.virtual_memory()
    return [(machine.available, machine.total), *_of_container()]


def _of_container() -> Iterator[tuple[float, float]]:
    for limit, used in _CONTAINERS:
        try:
            whole, taken = (int((_CGROUP / name).read_text()) for name in (limit, used))
        except (OSError, ValueError):  # none, "max" for no limit, or no such system
            continue
        yield whole - taken, whole
