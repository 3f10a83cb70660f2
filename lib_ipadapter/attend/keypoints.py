"""InstantID's keypoints: a face's five points as the hint of a ControlNet, whose context are the face's tokens.

Two deviations of InstantID (arXiv 2401.07519) from an ordinary ControlNet: the hint is a drawing of five points, and
the text has no say in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .control import ControlNetwork
from .regions import Box, Size
from .rows import Rows
from .step import in_window


class Drawing(Protocol):
    """What draws the points of a picture's face."""

    def __call__(self, picture: Size, box: Box, size: Size) -> Tensor:
        """[3, height, width] of 0 to 1, fp32: what ``box`` shows of a picture of size ``picture``, drawn at ``size``
        (height and width in pixels)."""


@dataclass(frozen=True, eq=False)
class Keypoints:
    """The network with what a unit wants of it: which face, how strongly, and when; where is the prompt's region.

    ``drawings`` and the tokens ``cond`` and ``uncond`` [n, tokens, context width] are one for each picture of the job,
    or as many as are then taken in turn; ``uncond`` are those of the unconditional side. ``strength`` multiplies all
    that the network adds; ``start`` and ``end`` are shares of the sampling steps.
    """

    network: ControlNetwork
    drawings: tuple[Drawing, ...]
    cond: Tensor
    uncond: Tensor
    strength: float = 0.8
    start: float = 0.0
    end: float = 1.0

    def acts_in(self, step: int, steps: int) -> bool:
        """Whether the network acts in step ``step`` of ``steps``."""
        return self.strength != 0.0 and in_window(self.start, self.end, step, steps)

    def context(self, rows: Rows, of: Callable[[Tensor, int], Tensor]) -> Tensor:
        """[rows, tokens, width]: the tokens of each row's side; ``of`` gives of one side's those of a picture."""
        return torch.stack([of(self.cond if row.cond else self.uncond, row.picture) for row in rows])

    def drawing(self, picture: int) -> Drawing:
        """That of the job's picture ``picture``, or of the keyframe of that number."""
        return self.drawings[picture % len(self.drawings)]
