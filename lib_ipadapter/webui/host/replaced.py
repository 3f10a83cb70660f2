"""Methods of a processing object that something is put before.

The host swallows every exception of a script's callbacks and would go on to make a plain picture, so what refuses a job
has to stand in a place that the host does not guard: in one of the processing object's own methods.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from ...errors import clear_frames

JOB = "process_images_inner"  # the host's function that makes a job, from its prompts to its last picture


class Private:
    """What is left on a processing object, and means nothing in a copy that goes to another machine."""

    def __deepcopy__(self, _memo: dict[int, Any]) -> None:
        return None


class Before(Private):
    """In the place of the method ``name`` of ``p``: it puts back what was there, calls ``act``, and then the method.

    ``failure`` may give an error to raise after the method, unless another one is on its way. ``in_job`` says that the
    host calls the method in the course of the job, and not after it.

    Another extension may have put a method of its own there: that is called, and comes back. Where one has put
    something before this since, it stays below, and only calls on once it has acted. And shallow copies of ``p`` bear
    this, too: a job that the host makes of one is not ``p``'s.
    """

    def __init__(
        self,
        p: Any,
        name: str,
        act: Callable[[], None],
        failure: Callable[[], Exception | None] = lambda: None,
        in_job: bool = True,
    ) -> None:
        self.p, self.name, self.act, self.failure, self.in_job = p, name, act, failure, in_job
        there = vars(p).get(name)
        self.replaced: Any = there.replaced if isinstance(there, Before) else there
        self.is_due = True
        setattr(p, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.in_job:
            owner = next(_jobs(), self.p)
            if owner is not self.p and Before.on(owner, self.name) is self:
                Before.take_off(owner, self.name)
                return getattr(owner, self.name)(*args, **kwargs)
        elif any(owner is self.p for owner in _jobs()):
            return None  # a copy is closed, which frees memory and nothing else; nothing tells which one
        is_due, self.is_due = self.is_due, False
        if Before.on(self.p, self.name) is self:
            Before.take_off(self.p, self.name)
        if is_due:
            try:
                self.act()
            except Exception as error:
                clear_frames(error)
                raise
        result = self._method()(*args, **kwargs)
        failure = self.failure() if is_due else None
        if failure is not None and sys.exc_info()[0] is None:
            raise failure
        return result

    def _method(self) -> Callable[..., Any]:
        """What this stands before."""
        if self.replaced is not None:
            method: Callable[..., Any] = self.replaced
            return method
        return functools.partial(getattr(type(self.p), self.name), self.p)

    @classmethod
    def on(cls, p: Any, name: str) -> Before | None:
        """What stands before the method on ``p`` itself; it may be that of an object which ``p`` is a copy of."""
        found = vars(p).get(name)
        return found if isinstance(found, cls) else None

    @classmethod
    def take_off(cls, p: Any, name: str) -> None:
        """Put back on ``p`` what was there before; where it is a copy, the object that it was copied from keeps its
        own."""
        before = cls.on(p, name)
        if before is None:
            return
        if before.replaced is None:
            delattr(p, name)
        else:
            setattr(p, name, before.replaced)
        if before.p is p:
            before.is_due = False


def _jobs() -> Iterator[Any]:
    """The processing objects of the jobs that the host is in the middle of, the innermost first. Nothing but its own
    calls tells: ``p`` is passed on as it is, and a copy's attributes are the original's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == JOB and (p := frame.f_locals.get("p")) is not None:
            yield p
        frame = frame.f_back
