"""ADetailer: its passes inside a job, which paint parts of the finished pictures again.

Each is a job of its own, with a processing object that bears a mark, and with those scripts of the outer job that its
settings list. Its runner of scripts is a copy of the outer job's, made when a picture is finished: so the outer job
leaves word of itself on its runner, and a pass finds it on the copy.
"""

from __future__ import annotations

import functools
import inspect
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
            _follow_tabs(p, job)


def withdraw(p: Any) -> None:
    runner, job, outer = getattr(p, "scripts", None), record.own(p), outer_job(p)
    if runner is not None and outer is not None and outer.owner is p:
        delattr(runner, OUTER)
    if job is not None and job.tab_pass is not None:
        job.tab_pass.leave()
        job.tab_pass = None


def clean(p: Any) -> None:
    """Take back what jobs that nobody has ended have left on the script of ``p``'s runner."""
    script = host.current().script(p, TITLE)
    while script is not None and isinstance(found := vars(script).get(TAB_PASS), TabPass):
        found.leave()


# Which tab a pass is of: nothing on its processing object says so, but ADetailer works tab by tab.


class TabPass(Private):
    """In the place of ADetailer's method that works through one tab: says meanwhile, on the job, which one it is.

    The script is all jobs', and another extension may have put a method of its own there: that is called, and comes
    back.
    """

    def __init__(self, script: Any) -> None:
        self.script, self.replaced = script, vars(script).get(TAB_PASS)
        setattr(script, TAB_PASS, self)

    def leave(self) -> None:
        """Put back what was there. Where somebody has put something before this since, it stays below, and only calls
        on."""
        if vars(self.script).get(TAB_PASS) is not self:
            return
        if self.replaced is None:
            delattr(self.script, TAB_PASS)
        else:
            setattr(self.script, TAB_PASS, self.replaced)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        method = self.replaced
        if method is None:
            method = functools.partial(getattr(type(self.script), TAB_PASS), self.script)
        p, settings, n = self._told(args, kwargs)
        job = None if p is None else record.own(p)
        detailing = None if job is None else job.detailing
        if detailing is None:
            return method(*args, **kwargs)
        detailing.tab = self._number(p, settings, n)
        try:
            return method(*args, **kwargs)
        finally:
            detailing.tab = None

    def _told(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """The processing object, the tab's settings, and its place, None for what is not there: the first and the third
        argument, and the one called n, however they are passed."""
        try:
            bound = inspect.signature(getattr(type(self.script), TAB_PASS)).bind(self.script, *args, **kwargs)
        except (TypeError, ValueError):  # the call will say so itself
            return None, None, None
        bound.apply_defaults()
        p, _, settings = (*bound.args[1:4], None, None, None)[:3]
        return p, settings, bound.arguments.get("n", bound.kwargs.get("n"))

    def _number(self, p: Any, settings: Any, n: Any) -> int | None:
        """ADetailer counts from 0, and only those tabs whose settings it takes."""
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


def _follow_tabs(p: Any, job: Job) -> None:
    script = host.current().script(p, TITLE)
    if script is None or not callable(getattr(type(script), TAB_PASS, None)):
        return
    if job.tab_pass is None or vars(script).get(TAB_PASS) is not job.tab_pass:
        job.tab_pass = TabPass(script)


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
