"""ADetailer: its passes inside a job, which paint parts of the finished pictures again.

Each is a job of its own, with a processing object that bears a mark, and with those scripts of the outer job that its
settings list. Its runner of scripts is a copy of the outer job's, made when a picture is finished: so the outer job
leaves word of itself on its runner, and a pass finds it on the copy.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

from modules import shared

from .. import host, options
from ..host import record
from ..host.record import Job

TITLE = "ADetailer"
INNER = "_ad_inner"
OUTER = "ip_adapter_outer"  # attribute of a runner of scripts: the job whose pictures are being finished
SCRIPT = "ip_adapter"  # our script's file, by which ADetailer's settings list it
NOTE = "IP-Adapter in ADetailer"  # the entry in a picture's parameters
NOT_THERE = ("ADetailer is not installed here", "install it")
OFF = ("ADetailer is off in this job", "switch it on")
INPAINTING = ("ADetailer leaves inpainting alone where it skips img2img", "let it not skip img2img")
PRESENT = (None, "", "None", "Use same checkpoint")  # as a tab's checkpoint: the picture's own


class Passes(NamedTuple):
    """What ADetailer is to do with a job's pictures.

    ``checkpoints`` are the names of its passes' checkpoints, one for each tab that is on, None for the job's own.
    ``missing`` says why there will be no pass, and what to do about it. ``only``: its passes alone make the picture
    ("skip img2img").
    """

    checkpoints: tuple[str | None, ...] = ()
    missing: tuple[str, str] | None = None
    only: bool = False


def passes(p: Any) -> Passes:
    """What ``p``'s arguments for ADetailer say. Whether it finds anything is another matter."""
    script = host.current().script(p, TITLE)
    if script is None:
        return Passes(missing=NOT_THERE)
    values = list(p.script_args[script.args_from : script.args_to])
    on, skips = (values[i] if len(values) > i and isinstance(values[i], bool) else i == 0 for i in (0, 1))
    tabs = [dict(value) for value in values if isinstance(value, Mapping)]
    if tabs:
        tabs[0] |= getattr(p, "_ad_xyz", {})  # a plot's values
    tabs = [tab for tab in tabs if tab.get("ad_model", "None") != "None" and tab.get("ad_tab_enable", True)]
    if not on or not tabs or getattr(p, "_ad_disabled", False):
        return Passes(missing=OFF)
    only = skips and bool(getattr(p, "init_images", None))
    if only and getattr(p, "image_mask", None) is not None:
        return Passes(missing=INPAINTING)
    return Passes(tuple(map(_checkpoint, tabs)), only=only)


def _checkpoint(tab: Mapping[str, Any]) -> str | None:
    name = tab.get("ad_checkpoint")
    return None if not tab.get("ad_use_checkpoint") or name in PRESENT else str(name)


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
    """Whether units that do not say where they act do so in its passes, too: our setting, or ADetailer's own for
    scripts."""
    if options.inner_passes():
        return True
    listed = str(getattr(shared.opts, "ad_script_names", "")).split(",")
    return not getattr(shared.opts, "ad_only_selected_scripts", True) or SCRIPT in map(str.strip, listed)
