"""ADetailer: its passes inside a job, which paint parts of the finished pictures again.

Each is a job of its own, with a processing object that bears a mark, and with those scripts of the outer job that its
settings list. Its runner of scripts is a copy of the outer job's, made when a picture is finished: so the outer job
leaves word of itself on its runner, and a pass finds it on the copy.
"""

from __future__ import annotations

import weakref
from typing import Any

from modules import shared

from .. import options
from ..host import record
from ..host.record import Job

INNER = "_ad_inner"
OUTER = "ip_adapter_outer"  # attribute of a runner of scripts: the job whose pictures are being finished
SCRIPT = "ip_adapter"  # our script's file, by which ADetailer's settings list it
NOTE = "IP-Adapter in ADetailer"  # the entry in a picture's parameters


def is_inner(p: Any) -> bool:
    """Whether ``p`` is one of its passes."""
    return bool(getattr(p, INNER, False))


def announce(p: Any) -> None:
    """The pictures of ``p``'s job are being finished; ``withdraw`` takes it back."""
    runner, job = getattr(p, "scripts", None), record.own(p)
    if runner is not None and not is_inner(p):
        setattr(runner, OUTER, None if job is None else weakref.ref(job))


def withdraw(p: Any) -> None:
    runner = getattr(p, "scripts", None)
    outer = outer_job(p)
    if runner is not None and outer is not None and outer.owner is p:
        delattr(runner, OUTER)


def outer_job(p: Any) -> Job | None:
    """The job whose pictures a pass of ADetailer's goes on with."""
    reference = getattr(getattr(p, "scripts", None), OUTER, None)
    return None if reference is None else reference()


def joined() -> bool:
    """Whether a job's units act in its passes, too: our setting, or ADetailer's own for scripts."""
    if options.inner_passes():
        return True
    listed = str(getattr(shared.opts, "ad_script_names", "")).split(",")
    return not getattr(shared.opts, "ad_only_selected_scripts", True) or SCRIPT in map(str.strip, listed)


def throws_away(p: Any) -> bool:
    """Whether it makes the job's own pass as short as possible and discards its picture ("skip img2img")."""
    return bool(getattr(p, "_ad_skip_img2img", False)) and not getattr(p, "_ad_disabled", False)
