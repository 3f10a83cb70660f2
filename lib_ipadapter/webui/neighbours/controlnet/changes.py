"""ControlNet's units changed for one run, and put back."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...host import record
from .units import is_unit, script


def disabled(value: Any) -> Any:
    """A copy of a unit that does nothing."""
    if isinstance(value, Mapping):
        return {**value, "enabled": False}
    changed = copy.copy(value)
    changed.enabled = False
    return changed


def replace(p: Any, changes: Mapping[int, Any]) -> None:
    """Put other units in the place of those with these numbers, for ``p``'s run. ``restore`` takes it back."""
    reader, arguments = script(p), list(p.script_args)
    assert reader is not None  # whoever has changes has found ControlNet's units
    places = [i for i in range(reader.args_from, reader.args_to) if is_unit(arguments[i])]
    replaced = record.opened(p).replaced
    for number, value in changes.items():
        place = places[number - 1]
        replaced.append((value, arguments[place]))
        arguments[place] = value
    p.script_args = type(p.script_args)(arguments)


@contextmanager
def restored_on_error(p: Any) -> Iterator[None]:
    """A job that is refused leaves its arguments as they were."""
    try:
        yield
    except BaseException:
        restore(p)
        raise


def restore(p: Any) -> None:
    """Put back what ``replace`` has taken out of ``p``'s arguments, or of those that ``p`` is a copy with; what others
    have changed since then stays."""
    job = record.attached(p)
    if job is None:
        return
    replaced = list(job.replaced)
    if job.owner is p:
        job.replaced.clear()
    if not replaced or not p.script_args:
        return
    arguments = list(p.script_args)
    for ours, theirs in reversed(replaced):
        for place, value in enumerate(arguments):
            if value is ours:
                arguments[place] = theirs
    p.script_args = type(p.script_args)(arguments)
