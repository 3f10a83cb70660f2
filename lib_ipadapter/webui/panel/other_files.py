"""Files that are not in a unit's list of models, each with the reason, and what another look at the disk has found."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...checkpoint.entries import Entry, UnusableEntry
from ...checkpoint.names import few
from ...jobs.fit import fits
from . import html_controls

if TYPE_CHECKING:
    from ...attend.layers import Topology
    from ...checkpoint.catalog import Catalog

MOST = 30  # files that are shown
LONGEST = 300  # characters of a reason


def rest(catalog: Catalog, topology: Topology | None) -> str:
    """HTML that is folded: adapters for other checkpoints, which can be chosen all the same, adapters of no use here,
    then files that are none. Empty without any."""
    lines = []
    if topology is not None:
        for adapter in catalog.adapters:
            if not fits(adapter, topology):
                reason = f"It is for {adapter.spec.base}, the checkpoint is {topology.base}."
                lines.append(_line(adapter, reason, is_usable=True))
    lines += [_line(entry, entry.problem) for entry in sorted(catalog.problems, key=lambda one: not one.refused)]
    if not lines:
        return ""
    count, more = len(lines), ""
    if count > MOST:
        more = f"<li><span>and more of them:</span> <b>{count - MOST}</b></li>"
    return (
        "<details class='ip-adapter-rest'>"
        "<summary title='Files that are not in the list of models, and why.'><span>Other files</span> "
        f"<b>{count}</b></summary><ul>{''.join(lines[:MOST])}{more}</ul></details>"
    )


def _line(entry: Entry, reason: str, *, is_usable: bool = False) -> str:
    button = ""
    if is_usable:
        about = html_controls.attributes(data_model=entry.name, aria_label=f"Choose {entry.name}")
        button = f" <button type='button' class='ip-adapter-take'{about}>Choose</button>"
    reason = reason if len(reason) <= LONGEST else f"{reason[: LONGEST - 1]}…"
    title = html_controls.attributes(title=entry.file)
    return f"<li><b{title} translate='no'>{html.escape(entry.name)}</b> <span>{html.escape(reason)}</span>{button}</li>"


# Another look


def files(catalog: Catalog) -> dict[Path, Entry]:
    """All files that the catalogue knows, by path."""
    found = (catalog.adapters, catalog.encoders, catalog.keypoints_networks, catalog.problems)
    return {entry.path: entry for entries in found for entry in entries}


def found(before: Mapping[Path, Entry], catalog: Catalog, topology: Topology | None) -> str:
    """A sentence on what is there now and was not there before, or was of another sort or size, what has gone, and how
    many adapters fit."""
    now = files(catalog)
    new = [_named(entry) for path, entry in now.items() if _is_other(before.get(path), entry)]
    gone = [entry.file_name for path, entry in before.items() if path not in now]
    parts = [f"Found {_count(len(new), 'new file')}: {few(new)}"] if new else []
    parts += [f"{'gone' if parts else 'Gone'}: {few(gone)}"] if gone else []
    return "; ".join([*(parts or ["Found nothing new"]), _fitting(catalog, topology)]) + "."


def _is_other(before: Entry | None, now: Entry) -> bool:
    """Whether a file is a new one, or another one under the same name."""
    return before is None or (type(before), before.size) != (type(now), now.size)


def _named(entry: Entry) -> str:
    return f"{entry.file_name}{' (of no use: see Other files)' if isinstance(entry, UnusableEntry) else ''}"


def _fitting(catalog: Catalog, topology: Topology | None) -> str:
    adapters = catalog.adapters
    if topology is None:
        return f"there {'is' if len(adapters) == 1 else 'are'} {_count(len(adapters), 'adapter')}"
    fitting = sum(fits(one, topology) for one in adapters)
    others = len(adapters) - fitting
    told = f"{_count(fitting, 'adapter')} {'fits' if fitting == 1 else 'fit'} {topology.base}"
    return f"{told}, {others} {'does' if others == 1 else 'do'} not" if others else told


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
