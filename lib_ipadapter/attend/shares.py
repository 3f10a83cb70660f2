"""How much a prompt did: what it added, in shares of the text's attention, by transformer block and third of the steps.

The measure is that of influence maps (influence.py), without the places: in a layer, the mean over places and
conditional rows of |added| / |text's| (L2 over channels, both before the output projection). On FLUX, where text and
picture share one attention, it is that of what the prompt is added to (flux/beside.py). Of each block only the first
layer is looked at, with two small kernels, and a call ends with a few more; nothing waits for the device until the
job has left it. Two steps stand for a third of them, so that most steps cost nothing at all: the first in which a
block acts, and the middle one. Tokens behind the text (Redux) have no layers to be looked at: what they do is part of
the model's attention, and to take it apart would mean to compute that twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from .rows import Rows

THIRDS = 3


def third_of(step: int, steps: int) -> int:
    """In which third of the steps the middle of ``step`` lies: 0, 1 or 2."""
    return min(THIRDS - 1, int((min(step, steps - 1) + 0.5) / steps * THIRDS))


def middle_of(third: int, steps: int) -> int:
    """The step in the middle of a third of the steps."""
    return int((2 * third + 1) * steps / (2 * THIRDS))


class _Lengths(NamedTuple):
    """Of one layer in one call: the lengths of what was added, and of the text's attention, [conditional rows, tokens]
    in fp32."""

    block: int
    added: Tensor
    text: Tensor


def _sums(call: Sequence[_Lengths]) -> Tensor:
    """For each of these layers, all of one size, the sum over rows of the mean over places of |added| / |text's|."""
    ratios = torch.stack([one.added for one in call]) / torch.stack([one.text for one in call])
    return torch.nan_to_num(ratios, nan=0.0, posinf=0.0, neginf=0.0).mean(2).sum(1)


class Shares:
    """One prompt's, over all passes of a job that it takes part in."""

    def __init__(self) -> None:
        self.lost = False  # whether the device would not measure
        self._active = False  # whether the prompt has acted in any step
        self._layers: Counter[int] = Counter()  # how many each block has
        self._first: dict[int, int] = {}  # block -> the layer that is looked at
        self._third = 0
        self._looked: set[int] = set()  # the blocks that are looked at in this step
        self._steps: Counter[int] = Counter()  # by third
        self._acted: Counter[tuple[int, int]] = Counter()  # steps by third and block, in which it had a weight there
        self._rows: Counter[tuple[int, int]] = Counter()  # conditional rows that were looked at, likewise
        self._call: list[_Lengths] = []
        self._sums: dict[tuple[int, tuple[int, ...]], Tensor] = {}  # of rows' means, by third and blocks

    def attach(self, blocks: Iterable[int]) -> None:
        """Before a pass. ``blocks``: the block of each of the model's layers, in their order."""
        self._layers, self._first = Counter(), {}
        for layer, block in enumerate(blocks):
            self._layers[block] += 1
            self._first.setdefault(block, layer)

    def begin(self, step: int, steps: int, active: bool, acts: Callable[[int], bool]) -> None:
        """A denoising step; ``active``: whether the prompt is one that acts in it, ``acts``: whether it has a weight,
        now, in the layers of a block."""
        self._third, self._call = third_of(step, steps), []
        self._active |= active
        self._steps[self._third] += 1
        middle = step == middle_of(self._third, steps)
        self._looked = {block for block in self._layers if middle or not self._rows[self._third, block]}
        for block in self._layers:
            self._acted[self._third, block] += acts(block)

    def add(self, layer: int, block: int, added: Tensor, text: Tensor, rows: Rows) -> None:
        """What ``layer`` of ``block`` adds to ``text`` (both [B, tokens, width], of these B ``rows``)."""
        if self.lost or block not in self._looked or self._first[block] != layer or len(rows) != len(added):
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

    def settle(self) -> None:
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
        for one in call:
            self._rows[self._third, one.block] += len(one.added)
        key = (self._third, tuple(one.block for one in call))
        known = self._sums.get(key)
        self._sums[key] = sums if known is None else known.to(sums) + sums

    def leave_device(self) -> None:
        """The sums go to main memory; what cannot, after an accident on the device, is lost."""
        self._call = []
        try:
            self._sums = {key: sums.cpu() for key, sums in self._sums.items()}
        except RuntimeError:
            self._lose()

    def _lose(self) -> None:
        self.lost, self._call, self._sums = True, [], {}

    def by_block(self) -> list[dict[int, float]]:
        """For each third of the steps what each block contributed: its mean, as a share of all layers. Their sum is
        the mean over all layers in these steps, those in which the prompt rested counting as 0."""
        found: list[dict[int, float]] = [{} for _ in range(THIRDS)]
        if self.lost:
            return found
        layers = sum(self._layers.values())
        for (third, blocks), sums in self._sums.items():
            for block, total in zip(blocks, sums.tolist(), strict=True):
                mean = total / self._rows[third, block] * self._acted[third, block] / self._steps[third]
                share = mean * self._layers[block] / layers
                found[third][block] = found[third].get(block, 0.0) + share
        return found

    @property
    def blocks(self) -> list[int]:
        """Those in which the prompt may act."""
        return [*self._layers]

    @property
    def unknown(self) -> bool:
        """Whether the prompt has acted and nothing was measured."""
        return self.lost or (self._active and not self._sums)

    @property
    def steps(self) -> list[int]:
        """How many steps were made in each third."""
        return [self._steps[third] for third in range(THIRDS)]
