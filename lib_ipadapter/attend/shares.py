"""How much a prompt did: what it added, in shares of the text's attention, by transformer block and third of the steps.

The measure is that of influence maps (influence.py), without the places: in a layer, the mean over places and
conditional rows of |added| / |text's| (L2 over channels, both before the output projection). On FLUX, where text and
picture share one attention, it is that of what the prompt is added to (flux/beside.py). Of each block only the first
layer is looked at, with two small kernels, and a call ends with a few more; nothing waits for the device until the
job has left it. Few steps stand for a third of a pass' steps, so that most cost nothing at all: those at a quarter and
at three quarters of it, and, where a block rests in both, the first in which it acts. What is found there is taken to
be in proportion to the block's weight, which is known of each step. Tokens behind the text (Redux) have no layers to
be looked at: what they do is part of the model's attention, and to take it apart would mean to compute that twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .rows import Rows
from .uncompiled import uncompiled

THIRDS = 3
Unknown = Literal["device", "tokens", "rows"]


def third_of(step: int, steps: int) -> int:
    """In which third of the steps the middle of ``step`` lies: 0, 1 or 2."""
    return min(THIRDS - 1, int((min(step, steps - 1) + 0.5) / steps * THIRDS))


def stand_for(third: int, steps: int) -> tuple[int, int]:
    """The steps at a quarter and at three quarters of a third of the steps, as far from its ends as each other, so that
    what grows evenly has its mean in them. Of a third without steps they are none of it."""
    first, after = (-((THIRDS - 2 * one * steps) // (2 * THIRDS)) for one in (third, third + 1))
    quarter = (after - first) // 4
    return first + quarter, after - 1 - quarter


class _Lengths(NamedTuple):
    """Of one layer in one call: the lengths of what was added, and of the text's attention, [conditional rows, tokens]
    in fp32."""

    block: int
    added: Tensor
    text: Tensor


class _Looks(NamedTuple):
    """Of which third, whether in steps that stand for it (others do where a block rests in these), and which blocks."""

    third: int
    planned: bool
    blocks: tuple[int, ...]


def _sums(call: Sequence[_Lengths]) -> Tensor:
    """For each of these layers, all of one size, the sum over rows of the mean over places of |added| / |text's|."""
    ratios = torch.stack([one.added for one in call]) / torch.stack([one.text for one in call])
    return torch.nan_to_num(ratios, nan=0.0, posinf=0.0, neginf=0.0).mean(2).sum(1)


@dataclass
class _Pass:
    """What is found in one pass, whose model has so many ``layers`` in each block."""

    layers: Counter[int] = field(default_factory=Counter)
    steps: Counter[int] = field(default_factory=Counter)  # by third
    weights: defaultdict[tuple[int, int], float] = field(default_factory=lambda: defaultdict(float))
    """|weight| by third and block, summed over steps."""
    looked: defaultdict[tuple[int, bool, int], float] = field(default_factory=lambda: defaultdict(float))
    """|weight| by third, whether planned, and block, summed over the conditional rows that were looked at."""
    sums: dict[_Looks, Tensor] = field(default_factory=dict)  # of rows' means

    def by_block(self) -> list[dict[int, float]]:
        """For each third the sum over its steps of what each block contributed to the mean over all layers."""
        found: list[dict[int, float]] = [{} for _ in range(THIRDS)]
        layers = sum(self.layers.values())
        for (third, planned, blocks), sums in self.sums.items():
            for block, total in zip(blocks, sums.tolist(), strict=True):
                if not planned and self.looked[third, True, block]:
                    continue
                of_one = total / self.looked[third, planned, block]  # what a weight of 1 would do
                share = of_one * self.weights[third, block] * self.layers[block] / layers
                found[third][block] = found[third].get(block, 0.0) + share
        return found


class Shares:
    """One prompt's, over all passes of a job that it takes part in."""

    def __init__(self) -> None:
        self.lost = False  # whether the device would not measure
        self.behind_text = False  # whether the prompt has acted there
        self._odd = False  # whether rows that it was added to were none that can be told apart
        self._passes: list[_Pass] = []
        self._first: dict[int, int] = {}  # block -> the layer that is looked at
        self._third, self._planned = 0, False  # of the present step
        self._looked: dict[int, float] = {}  # the blocks that are looked at in this step, with their |weight|
        self._call: list[_Lengths] = []
        self.add, self.settle = self._add, self._settle

    def attach(self, blocks: Iterable[int]) -> None:
        """Before a pass. ``blocks``: the block of each of the model's layers, in their order."""
        self.add, self.settle = uncompiled(self._add), uncompiled(self._settle)  # the compiler may have come since
        self._first, layers = {}, [*blocks]
        for layer, block in enumerate(layers):
            self._first.setdefault(block, layer)
        self._passes.append(_Pass(Counter(layers)))

    def begin(self, step: int, steps: int, weight: Callable[[int], float]) -> None:
        """A denoising step. ``weight``: that of the prompt, now, in the layers of a block; 0 where it rests."""
        now, third = self._passes[-1], third_of(step, steps)
        self._third, self._planned, self._call, self._looked = third, step in stand_for(third, steps), [], {}
        now.steps[third] += 1
        for block in now.layers:
            if not (strength := abs(weight(block))):
                continue
            now.weights[third, block] += strength
            if self._planned or not any(now.looked.get((third, planned, block)) for planned in (True, False)):
                self._looked[block] = strength

    def _add(self, layer: int, block: int, added: Tensor, text: Tensor, rows: Rows) -> None:
        """What ``layer`` of ``block`` adds to ``text`` (both [B, tokens, width], of these B ``rows``)."""
        if self.lost or block not in self._looked or self._first[block] != layer:
            return
        if len(rows) != len(added):
            self._odd = True
            return
        cond = [i for i, row in enumerate(rows) if row.cond]
        if not cond:
            return
        try:
            first, after = cond[0], cond[-1] + 1
            lengths = [torch.linalg.vector_norm(x[first:after], dim=-1, dtype=torch.float32) for x in (added, text)]
            if len(cond) < after - first:  # unconditional rows between them, which no host has in sight of speed
                lengths = [torch.stack([x[i - first] for i in cond]) for x in lengths]
        except RuntimeError:  # a full device, or one that cannot do this: the picture goes on
            self._lose()
            return
        self._call.append(_Lengths(block, *lengths))

    def _settle(self) -> None:
        """A call of the model is over."""
        call, self._call = self._call, []
        if not call or self.lost:
            return
        try:
            call.sort(key=lambda one: one.added.shape)  # layers of one size are worked through as one
            sums = torch.cat([_sums([*alike]) for _, alike in groupby(call, key=lambda one: one.added.shape)])
        except RuntimeError:
            self._lose()
            return
        now, key = self._passes[-1], _Looks(self._third, self._planned, tuple(one.block for one in call))
        for one in call:
            now.looked[self._third, self._planned, one.block] += self._looked[one.block] * len(one.added)
        known = now.sums.get(key)
        now.sums[key] = sums if known is None else known.to(sums) + sums

    def leave_device(self) -> None:
        """The sums go to main memory; what cannot, after an accident on the device, is lost."""
        self._call = []
        try:
            for one in self._passes[-1:]:  # those before have left it
                one.sums = {key: sums.cpu() for key, sums in one.sums.items()}
        except RuntimeError:
            self._lose()

    def _lose(self) -> None:
        self.lost, self._call = True, []
        for one in self._passes:
            one.sums = {}

    def by_block(self) -> list[dict[int, float]]:
        """For each third of the steps what each block contributed: its mean, as a share of all layers. Their sum is
        the mean over all layers in these steps of all passes, those in which the prompt rested counting as 0."""
        found: list[dict[int, float]] = [{} for _ in range(THIRDS)]
        steps = self.steps
        for one in self._passes:
            for third, of_third in enumerate(one.by_block()):
                for block, value in of_third.items():
                    found[third][block] = found[third].get(block, 0.0) + value / steps[third]
        return found

    @property
    def blocks(self) -> list[int]:
        """Those in which the prompt may act."""
        return [*dict.fromkeys(block for one in self._passes for block in one.layers)]

    @property
    def unknown(self) -> Unknown | None:
        """Why nothing tells how much the prompt did; None where it is known, or the prompt has not acted."""
        if self.lost:
            return "device"
        if self.behind_text:
            return "tokens"
        return "rows" if self._odd and not any(one.sums for one in self._passes) else None

    @property
    def steps(self) -> list[int]:
        """How many steps were made in each third, in all passes."""
        return [sum(one.steps[third] for one in self._passes) for third in range(THIRDS)]
