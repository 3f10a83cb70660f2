"""ADetailer: its passes inside a job, which paint parts of the finished pictures again.

Each is a job of its own, with a processing object that bears a mark, and with those scripts of the outer job that its
settings list. Its runner of scripts is a copy of the outer job's, made when a picture is finished: so the outer job
leaves word of itself on its runner, and a pass finds it on the copy.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from modules import shared

from .. import host, options
from ..host import record
from ..host.record import Job
from ..host.replaced import Private

TITLE = "ADetailer"
INNER = "_ad_inner"
TAB_PASS = "_postprocess_image_inner"  # its method that works through one tab, with the tab's place as n
OUTER = "ip_adapter_outer"  # attribute of a runner of scripts: the job whose pictures are being finished
SCRIPT = "ip_adapter"  # our script's file, by which ADetailer's settings list it
NOTE = "IP-Adapter in ADetailer"  # the entry in a picture's parameters
NOT_THERE = ("ADetailer is not installed here", "install it")
OFF = ("ADetailer is off in this job", "switch it on")
INPAINTING = ("ADetailer leaves inpainting alone where it skips img2img", "let it not skip img2img")
PRESENT = (None, "", "None", "Use same checkpoint")  # as a tab's checkpoint: the picture's own


class Passes(NamedTuple):
    """What ADetailer is to do with a job's pictures.

    ``checkpoints`` are the names of its passes' checkpoints by the number of the tab, counted from 1, of those that are
    on; None for the job's own. ``missing`` says why there will be no pass, and what to do about it. ``only``: its
    passes alone make the picture ("skip img2img"). ``told`` says whether a pass tells which tab it is of.
    """

    checkpoints: Mapping[int, str | None] = MappingProxyType({})
    missing: tuple[str, str] | None = None
    only: bool = False
    told: bool = True

    def of(self, tab: int | None) -> tuple[str | None, ...]:
        """The names of the checkpoints of one tab's passes, or of all tabs'."""
        return tuple(name for number, name in self.checkpoints.items() if tab in (None, number))


def passes(p: Any) -> Passes:
    """What ``p``'s arguments for ADetailer say. Whether it finds anything is another matter."""
    script = host.current().script(p, TITLE)
    if script is None:
        return Passes(missing=NOT_THERE)
    values = list(p.script_args[script.args_from : script.args_to])
    on, skips = (values[i] if len(values) > i and isinstance(values[i], bool) else i == 0 for i in (0, 1))
    tabs = {number: tab for number, tab in enumerate(_tabs(p, values), 1) if _is_on(tab)}
    if not on or not tabs or getattr(p, "_ad_disabled", False):
        return Passes(missing=OFF)
    only = skips and bool(getattr(p, "init_images", None))
    if only and getattr(p, "image_mask", None) is not None:
        return Passes(missing=INPAINTING)
    checkpoints = {number: _checkpoint(tab) for number, tab in tabs.items()}
    return Passes(checkpoints, only=only, told=len(tabs) == 1 or callable(getattr(script, TAB_PASS, None)))


def _tabs(p: Any, values: Sequence[Any]) -> list[dict[str, Any]]:
    """The settings of each tab, of those that are off, too."""
    tabs = [dict(value) for value in values if isinstance(value, Mapping)]
    if tabs:
        tabs[0] |= getattr(p, "_ad_xyz", {})  # a plot's values
    return tabs


def _is_on(tab: Mapping[str, Any]) -> bool:
    return tab.get("ad_model", "None") != "None" and bool(tab.get("ad_tab_enable", True))


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
        if job is not None and job.detailing is not None and job.detailing.tabs:
            _follow_tabs(p)


def withdraw(p: Any) -> None:
    runner = getattr(p, "scripts", None)
    outer = outer_job(p)
    if runner is not None and outer is not None and outer.owner is p:
        delattr(runner, OUTER)
        script = host.current().script(p, TITLE)
        if isinstance(vars(script).get(TAB_PASS) if script is not None else None, _TabPass):
            delattr(script, TAB_PASS)


# Which tab a pass is of: nothing on its processing object says so, but ADetailer works tab by tab.


class _TabPass(Private):
    """In the place of ADetailer's method that works through one tab: says meanwhile, on the job, which one it is."""

    def __init__(self, script: Any) -> None:
        self.script = script

    def __call__(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        job = record.own(p)
        detailing = None if job is None else job.detailing
        if detailing is None:
            return getattr(type(self.script), TAB_PASS)(self.script, p, *args, **kwargs)
        detailing.tab = self._number(p, args, kwargs)
        try:
            return getattr(type(self.script), TAB_PASS)(self.script, p, *args, **kwargs)
        finally:
            detailing.tab = None

    def _number(self, p: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
        """ADetailer counts from 0, and only those tabs whose settings it takes."""
        settings, n = args[1] if len(args) > 1 else None, kwargs.get("n")
        if settings is None or not isinstance(n, int):
            return None
        tabs = _tabs(p, p.script_args[self.script.args_from : self.script.args_to])
        taken = [number for number, tab in enumerate(tabs, 1) if _is_taken(type(settings), tab)]
        return taken[n] if n < len(taken) else None


def _is_taken(kind: type, tab: Mapping[str, Any]) -> bool:
    try:
        kind(**tab)
    except ValueError:
        return False
    return True


def _follow_tabs(p: Any) -> None:
    script = host.current().script(p, TITLE)
    if script is not None and callable(getattr(type(script), TAB_PASS, None)):
        setattr(script, TAB_PASS, _TabPass(script))


def present_tab(p: Any, job: Job) -> int | None:
    """The number of the tab whose pass is at work in ``job``, None where nothing tells."""
    told = None if job.detailing is None else job.detailing.tab
    if told is not None:
        return told
    on = [*passes(p).checkpoints]
    return on[0] if len(on) == 1 else None


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
