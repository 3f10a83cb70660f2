"""Where and how a job computes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from ..errors import is_device_full

log = logging.getLogger("ip-adapter")
T = TypeVar("T")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Device:
    """``dtype`` is the image encoder's; projections are always of fp32 tensors."""

    device: torch.device
    dtype: torch.dtype
    # Called before an encoder moves to the device, with the bytes that it takes there.
    make_room: Callable[[int], None] = lambda nbytes: None


@dataclass
class Fallback:
    """Work that is done on ``device`` and, from the moment at which that has no room, on the CPU.

    ``place`` is where the latest work was done: results of both are remembered apart.
    """

    device: Device
    full: bool = field(default=False, init=False)

    @property
    def now(self) -> torch.device:
        return CPU if self.full else self.device.device

    @property
    def place(self) -> str:
        return str(self.now)

    def run(self, what: str, work: Callable[[torch.device], T]) -> T:
        """What ``work`` gives on the device, or else on the CPU, where it begins anew; ``what`` is told in the log."""
        if not self.full:
            try:
                return work(self.now)
            except RuntimeError as error:
                if self.now == CPU or not is_device_full(error):
                    raise
            log.warning("IP-Adapter: no room for the %s on the device, so it works on the CPU.", what)
            self.full = True
            self.device.make_room(0)
        return work(CPU)
