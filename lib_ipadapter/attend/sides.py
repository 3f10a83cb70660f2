"""The rows of a call by the keys and values that they attend to: those of one side of one picture share theirs.

Attention knows no order among queries, so rows that attend to the same keys are one row with as many more places: they
need no copies of what they share.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from .rows import Rows

Sides = tuple["int | None", ...]  # for each row the entry of KeysValues that it attends to, None for a row with none


class Run(NamedTuple):
    """Rows next to each other: for each of ``sides`` (None: rows that attend to nothing) ``rows_each`` of them."""

    first: int
    rows_each: int
    sides: tuple[int, ...] | None

    @property
    def after(self) -> int:
        return self.first + self.rows_each * (1 if self.sides is None else len(self.sides))


class Grouped(NamedTuple):
    """The ``order`` in which rows of one side stand together (None: they do so already), and their runs."""

    order: tuple[int, ...] | None
    runs: tuple[Run, ...]


class Held(NamedTuple):
    """Keys and values [len(sides), tokens, width] of these sides, on a device and in a dtype. ``brief`` are those of
    sides with fewer tokens."""

    sides: tuple[int, ...]
    key: Tensor
    value: Tensor
    brief: Held | None = None

    def serves(self, sides: Sides, query: Tensor) -> bool:
        """Whether they are those that rows of these ``sides`` need for ``query``."""
        there = {*self.sides, *(() if self.brief is None else self.brief.sides)}
        return self.fits(query) and all(side is None or side in there for side in sides)

    def fits(self, query: Tensor) -> bool:
        """Whether they are on the query's device, in its dtype."""
        return (self.key.dtype, self.key.device) == (query.dtype, query.device)

    def changed(self, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Held:
        """Other keys and values for the same sides."""
        brief = None if self.brief is None else self.brief.changed(change)
        return Held(self.sides, *change(self.key, self.value), brief)

    def together(self, sides: tuple[int, ...]) -> Iterator[tuple[Held, list[int]]]:
        """The keys and values of ``sides``, in that order, by who holds them, and their places there."""
        for in_brief, same in groupby(sides, key=lambda side: side not in self.sides):
            held = self.brief if in_brief and self.brief is not None else self
            yield held, [held.sides.index(side) for side in same]


@functools.lru_cache(maxsize=256)
def sides_of(rows: Rows, pictures: int, offset: int, inverted: bool) -> Sides:
    """The entries of ``KeysValues`` of so many ``pictures`` that rows attend to, the first picture of the batch being
    the job's picture ``offset``. ``inverted``: unconditional rows to the cond side, and conditional ones to nothing."""
    found: list[int | None] = []
    for row in rows:
        picture = (offset + row.picture) % pictures
        if inverted:
            found.append(None if row.cond else picture)
        else:
            found.append(picture if row.cond else pictures + picture)
    return tuple(found)


@functools.lru_cache(maxsize=256)
def grouped(sides: Sides) -> Grouped:
    """The rows of these ``sides``, brought together."""
    order = sorted(range(len(sides)), key=lambda i: sides.index(sides[i]))  # by where each side comes first
    counts = [(side, len(list(same))) for side, same in groupby(sides[i] for i in order)]
    runs, first = [], 0
    for (nothing, rows_each), same in groupby(counts, key=lambda one: (one[0] is None, one[1])):
        of_run = tuple(side for side, _ in same if side is not None)
        runs.append(Run(first, rows_each, None if nothing else of_run))
        first = runs[-1].after
    return Grouped(None if order == sorted(order) else tuple(order), tuple(runs))


class Part(NamedTuple):
    """So many rows next to each other, and what they attend to, [places, tokens, width]; None: to nothing."""

    rows: int
    key: Tensor | None = None
    value: Tensor | None = None


class Plan(NamedTuple):
    """What the rows of a call attend to, found once for all calls with such rows: their parts, and, where these do not
    stand as the rows do, the ``order`` that brings them together, and the way ``back``."""

    parts: tuple[Part, ...]
    order: Tensor | None
    back: Tensor | None
    copied: bool  # whether there are keys and values that are no views of those held

    @classmethod
    def of(cls, sides: Sides, held: Held) -> Plan:
        order, runs = grouped(sides)
        device, parts, copied = held.key.device, [], False
        for run in runs:
            if run.sides is None:
                parts.append(Part(run.rows_each))
                continue
            for holder, places in held.together(run.sides):
                first, after = places[0], places[0] + len(places)
                index: slice | Tensor = slice(first, after)
                if places != [*range(first, after)]:
                    index, copied = torch.tensor(places, device=device), True
                parts.append(Part(run.rows_each * len(places), holder.key[index], holder.value[index]))
        if order is None:
            return cls(tuple(parts), None, None, copied)
        back = sorted(range(len(order)), key=order.__getitem__)
        return cls(tuple(parts), torch.tensor(order, device=device), torch.tensor(back, device=device), copied)

    def attend(self, query: Tensor, attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """``attention`` of the rows of ``query`` [B, L, C] to their keys and values; [B, L, C], 0 in rows without."""
        rows = query if self.order is None else query[self.order]
        split = [rows] if len(self.parts) == 1 else rows.split([part.rows for part in self.parts])
        # Of as many of both; the compiler of torch 2.1 knows no ``strict``.
        outs = [_attended(query, part, attention) for query, part in zip(split, self.parts)]  # noqa: B905
        out = outs[0] if len(outs) == 1 else torch.cat(outs)
        return out if self.back is None else out[self.back]


def _attended(query: Tensor, part: Part, attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    if part.key is None or part.value is None:
        return torch.zeros_like(query)
    places = part.key.shape[0]
    if places == part.rows:
        return attention(query, part.key, part.value)
    return attention(query.reshape(places, -1, query.shape[-1]), part.key, part.value).reshape(query.shape)
