"""A miniature WebUI host: the extension runs on it without a WebUI, a GPU or a download."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from demo.start import Host


def host_start(*args: Any, **kwargs: Any) -> Host:
    """Start the host; see ``demo.start.host_start``."""
    from demo.start import host_start as start

    return start(*args, **kwargs)
