"""What differs between hosts, and the folders that all of them have.

Ask ``current()``: nothing outside this package asks a host's model, a job's passes or the like.
"""

from __future__ import annotations

from .a1111 import A1111
from .choice import current
from .controlnet import ControlNet
from .interface import Host, Interrupted, SamplingPass

__all__ = ["A1111", "ControlNet", "Host", "Interrupted", "SamplingPass", "current"]
