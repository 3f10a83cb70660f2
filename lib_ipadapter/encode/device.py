"""Where and how a job computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """``dtype`` is the image encoder's; projections are always fp32."""

    device: torch.device
    dtype: torch.dtype
    make_room: Callable[[], None] = lambda: None  # called before an encoder moves to the device
