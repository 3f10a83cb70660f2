"""Work on a device that may be full: once more with nothing kept there, and then a sentence."""

from __future__ import annotations

from collections.abc import Callable
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


def has_plenty(device: torch.device, nbytes: int) -> bool:
    """Whether a quarter of the memory of ``device`` stays free beside so many bytes, which only save time. False where
    nothing tells."""
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
    elif device.type == "cpu":
        try:
            import psutil
        except ImportError:
            return False
        memory = psutil.virtual_memory()
        free, whole = memory.available, memory.total
    else:
        return False
    return bool(free - nbytes >= SPARE * whole)
