"""References over time: what each picture of a run has of the keyframes between which it lies.

With p the picture's place in the run (0 the first picture, 1 the last), s_i(p) the share of reference i, linear between
neighbouring keyframes and held before the first and after the last, and w_i its weight:

* keys, tokens and masks are sum c_i x_i with c_i = s_i |w_i| / sum s_j |w_j|: a reference of weight 0 adds none of its
  own;
* values, which have the references' weights in them, are sum s_i x_i.

For weights of one sign that is the tokens' mean with these shares c_i, under the weight sum s_i w_i: keys and values
are linear in the tokens. References at one place share its share evenly, so they are averaged by their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .regions import Part, Region, Size
from .rows import Rows
from .sides import Sides

Shares = tuple[tuple[int, float], ...]  # of references, by their places in the unit; they add up to 1


class Run(NamedTuple):
    """The pictures that keyframes are spread over, all of a job's or a film's frames: ``total`` of them, the next
    batch's first one being number ``first`` of them."""

    first: int = 0
    total: int = 1

    def place(self, picture: int) -> float:
        """From 0, the first picture, to 1, the last, of the batch's picture ``picture``."""
        return min(1.0, (self.first + picture) / (self.total - 1)) if self.total > 1 else 0.0


class Blend(NamedTuple):
    """Of which references a picture's keys (tokens, masks) and values are made, and how much of each."""

    keys: Shares
    values: Shares


@dataclass(frozen=True)
class Fade:
    """A unit's keyframes: where each of its references stands, from 0 to 1, and its weight. ``same`` names for each the
    first that is equal to it; ``one_uncond`` says that all bring the same for the unconditional side."""

    places: tuple[float, ...]
    weights: tuple[float, ...]
    same: tuple[int, ...]
    one_uncond: bool = False

    def shares(self, place: float) -> dict[int, float]:
        """What is there of each reference at ``place``, of those that are there at all."""
        stops = sorted(set(self.places))
        if place <= stops[0]:
            return self._at(stops[0], 1.0)
        for before, after in pairwise(stops):
            if place < after:
                later = (place - before) / (after - before)
                return self._at(before, 1.0 - later) | self._at(after, later) if later else self._at(before, 1.0)
        return self._at(stops[-1], 1.0)

    def _at(self, stop: float, share: float) -> dict[int, float]:
        there = [i for i, place in enumerate(self.places) if place == stop]
        return dict.fromkeys(there, share / len(there))

    def blend(self, place: float) -> Blend:
        shares = self.shares(place)
        total = sum(share * abs(self.weights[i]) for i, share in shares.items())
        keys = {i: share * abs(self.weights[i]) / total if total else share for i, share in shares.items()}
        return Blend(self._merged(keys), self._merged(shares))

    def _merged(self, shares: dict[int, float]) -> Shares:
        """Equal references as one, those of no share left out."""
        found: dict[int, float] = {}
        for i, share in shares.items():
            if share:
                found[self.same[i]] = found.get(self.same[i], 0.0) + share
        return ((next(iter(found)), 1.0),) if len(found) == 1 else tuple(sorted(found.items()))

    def nearest(self, place: float) -> int:
        """The reference that stands next to ``place``, the earlier of two."""
        return min(range(len(self.places)), key=lambda i: (abs(self.places[i] - place), self.places[i], i))


class Moments:
    """The blends of a batch's pictures, each once however many pictures it is the same for, worked out when the first
    of these comes: blend n has the sides 2n, the conditional one, and 2n + 1."""

    def __init__(self, fade: Fade, run: Run) -> None:
        self.fade, self.run = fade, run
        self.blends: list[Blend] = []
        self._numbers: dict[Blend, int] = {}
        self._of_pictures: dict[int, int] = {}

    def number(self, picture: int) -> int:
        """Which of the blends is that of the batch's picture; pictures beyond the run are as its last."""
        picture = min(picture, self.run.total - 1 - self.run.first)
        if picture not in self._of_pictures:
            blend = self.fade.blend(self.run.place(picture))
            if blend not in self._numbers:
                self._numbers[blend] = len(self.blends)
                self.blends.append(blend)
            self._of_pictures[picture] = self._numbers[blend]
        return self._of_pictures[picture]

    def blend(self, picture: int) -> Blend:
        return self.blends[self.number(picture)]

    def nearest(self, picture: int) -> int:
        """The reference that stands next to the batch's picture."""
        return self.fade.nearest(self.run.place(picture))

    def sides(self, rows: Rows, inverted: bool) -> Sides:
        """The sides that rows attend to; of unconditional rows one and the same where all references bring that.
        ``inverted``: unconditional rows to the cond side, and conditional ones to nothing."""
        numbers = [self.number(row.picture) for row in rows]
        if inverted:
            return tuple(None if row.cond else 2 * number for row, number in zip(rows, numbers, strict=True))
        return tuple(
            2 * number if row.cond else 1 + 2 * number * (not self.fade.one_uncond)
            for row, number in zip(rows, numbers, strict=True)
        )

    def keys_values(self, key: Tensor, value: Tensor, sides: Sequence[int]) -> tuple[Tensor, Tensor]:
        """[len(sides), …] of ``key`` and ``value`` [2 * references, …], cond sides before uncond sides."""
        references = len(key) // 2
        first = [references * (side % 2) for side in sides]
        of_sides = [self.blends[side // 2] for side in sides]
        return (
            torch.stack([mixed(key, blend.keys, i) for blend, i in zip(of_sides, first, strict=True)]),
            torch.stack([mixed(value, blend.values, i) for blend, i in zip(of_sides, first, strict=True)]),
        )


def mixed(of_references: Tensor, shares: Shares, first: int = 0) -> Tensor:
    """The mean of [references, …], those from ``first`` on, with these shares; exactly what all are where they are
    equal."""
    (i, _), *others = shares
    start = of_references[first + i]
    found = start
    for j, share in others:
        found = found + share * (of_references[first + j] - start)
    return found


class FadedRegion(Region):
    """Where a unit acts over time: the references' regions, faded as their tokens are."""

    def __init__(self, regions: Sequence[Region], moments: Moments | None = None) -> None:
        super().__init__(*(mask for region in regions for mask in region.masks))
        self.regions, self.moments = tuple(regions), moments

    def during(self, moments: Moments | None) -> FadedRegion:
        return FadedRegion(self.regions, moments)

    def at(self, size: Size, like: Tensor, pictures: Sequence[int] = (0,)) -> Tensor:
        assert self.moments is not None, "a pass says which of its pictures come"
        found = torch.stack([
            region.at(size, like, pictures).expand(len(pictures), -1, -1) for region in self.regions
        ])  # fmt: skip
        return torch.stack([
            mixed(found[:, row], self.moments.blend(picture).keys) for row, picture in enumerate(pictures)
        ])  # fmt: skip

    def overlap(self, other: Region) -> Region:
        return FadedRegion([region.overlap(other) for region in self.regions], self.moments)

    def within(self, part: Part) -> Region:
        return FadedRegion([region.within(part) for region in self.regions], self.moments)

    def leave_device(self) -> None:
        for region in self.regions:
            region.leave_device()
