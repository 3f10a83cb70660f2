"""ADetailer: its passes inside a job, which paint parts of the finished pictures again.

Each is a job of its own, with a processing object that bears a mark, and with those scripts of the outer job that its
settings list.
"""

from __future__ import annotations

from typing import Any

from modules import shared

from .. import options

MARK = "_ad_inner"
SCRIPT = "ip_adapter"  # our script's file, by which ADetailer's settings list it
NOTE = "IP-Adapter in ADetailer"  # the entry in a picture's parameters


def is_inner(p: Any) -> bool:
    """Whether ``p`` is one of its passes."""
    return bool(getattr(p, MARK, False))


def joined() -> bool:
    """Whether a job's units act in its passes, too: our setting, or ADetailer's own for scripts."""
    if options.inner_passes():
        return True
    listed = str(getattr(shared.opts, "ad_script_names", "")).split(",")
    return not getattr(shared.opts, "ad_only_selected_scripts", True) or SCRIPT in map(str.strip, listed)


def throws_away(p: Any) -> bool:
    """Whether it makes the job's own pass as short as possible and discards its picture ("skip img2img")."""
    return bool(getattr(p, "_ad_skip_img2img", False)) and not getattr(p, "_ad_disabled", False)
