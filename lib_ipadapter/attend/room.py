"""How much room a device has."""

from __future__ import annotations

import torch


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
