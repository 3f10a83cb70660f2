"""Methods of a processing object that something is put before.

The host swallows every exception of a script's callbacks and would go on to make a plain picture, so what refuses a job
has to stand in a place that the host does not guard: in one of the processing object's own methods.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ...errors import clear_frames


class Private:
    """What is left on a processing object, and means nothing in a copy that goes to another machine."""

    def __deepcopy__(self, _memo: dict[int, Any]) -> None:
        return None


class Before(Private):
    """In the place of the method ``name`` of ``p``: it puts that back, calls ``act``, and then the method.

    ``failure`` may give an error to raise after the method, unless another one is on its way.
    """

    def __init__(
        self, p: Any, name: str, act: Callable[[], None], failure: Callable[[], Exception | None] = lambda: None
    ) -> None:
        self.p, self.name, self.act, self.failure = p, name, act, failure
        setattr(p, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        delattr(self.p, self.name)  # the class's own again
        try:
            self.act()
        except Exception as error:
            clear_frames(error)
            raise
        result = getattr(self.p, self.name)(*args, **kwargs)
        failure = self.failure()
        if failure is not None and sys.exc_info()[0] is None:
            raise failure
        return result

    @classmethod
    def on(cls, p: Any, name: str) -> Before | None:
        """What stands before the method on ``p`` itself; it may be that of an object which ``p`` is a copy of."""
        found = vars(p).get(name)
        return found if isinstance(found, cls) else None
