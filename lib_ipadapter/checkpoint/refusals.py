"""The error for adapters of no use here, and what users are told to get in their place."""

from __future__ import annotations

from ..errors import CheckpointError

INSTEAD = "get an adapter for SD1.5 or SDXL, such as ip-adapter_sd15.safetensors from h94/IP-Adapter."


class RefusedAdapter(CheckpointError):
    """A file that is an image-prompt adapter, but not one for here, or not a whole one."""
