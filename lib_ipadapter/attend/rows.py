"""Which rows of a UNet call are conditional, which unconditional, and to which picture each belongs.

The WebUI's CFGDenoiser lays the rows of one denoising step out as [cond rows of picture 0, 1, …, uncond rows of
picture 0, 1, …] and feeds them to the UNet in one call or several, always in ascending order, sometimes without the
unconditional rows at the end. A cursor that starts anew with every step therefore knows every row. InstructPix2Pix
has two groups of unconditional rows; AND prompts have several cond rows for one picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MARK = 1024.0  # |value| of the token with which sd-webui-controlnet marks a context: + cond, - uncond


class Row(NamedTuple):
    """One row of a UNet call."""

    cond: bool
    picture: int  # index in the batch


Rows = tuple[Row, ...]


def layout(prompts_per_picture: Sequence[int], n_rows: int) -> Rows:
    """All rows of one denoising step: cond rows by picture, then uncond rows (one or two groups of all pictures)."""
    cond = [Row(True, i) for i, n in enumerate(prompts_per_picture) for _ in range(n)]
    pictures = max(1, len(prompts_per_picture))
    return tuple(cond + [Row(False, i % pictures) for i in range(n_rows - len(cond))])


def marks(context: Tensor | None) -> list[bool] | None:
    """Cond or uncond for each row of a context that ControlNet has marked with a first token of ±1024, else None."""
    if context is None or context.ndim != 3 or context.shape[1] == 0:
        return None
    first = context[:, 0].float()
    if not torch.all((first.abs() - MARK).abs() < 0.5):
        return None
    return [value > 0 for value in first[:, 0].tolist()]


class RowCursor:
    """Hands out the rows of one denoising step, call by call."""

    def __init__(self) -> None:
        self.rows: Rows = ()
        self.position = 0
        self.texts: tuple[Tensor, Tensor] | None = None

    def begin(self, rows: Rows, text_cond: Tensor | None = None, text_uncond: Tensor | None = None) -> None:
        """A new denoising step. The texts [n, tokens, width] are what its rows will be conditioned on."""
        self.rows, self.position = rows, 0
        self.texts = None if text_cond is None or text_uncond is None else (text_cond, text_uncond)

    def take(self, n: int, context: Tensor | None = None, *, marked: bool = False) -> Rows | None:
        """The next ``n`` rows; None if nothing tells what they are.

        ``marked``: another extension has replaced the UNet's forward and may have marked the context, which then
        decides. A call that does not fit what is left of the step comes from an extension that calls the UNet in its
        own order (tiles): its rows are told by their text, or by being whole repetitions of the step's rows.
        """
        expected = self.rows[self.position : self.position + n]
        kinds = marks(context) if marked else None
        if kinds is not None and [row.cond for row in expected] != kinds:
            return self._with_pictures(kinds)
        if len(expected) == n:
            self.position += n
            return expected
        kinds = self._compare(context)
        if kinds is not None:
            return self._with_pictures(kinds)
        if self.rows and n % len(self.rows) == 0:
            return self.rows * (n // len(self.rows))
        return None

    def _with_pictures(self, kinds: list[bool]) -> Rows:
        """Rows of known kind in unknown order: the k-th of its kind belongs to the k-th picture of that kind."""
        pictures = {kind: [row.picture for row in self.rows if row.cond == kind] or [0] for kind in (True, False)}
        seen = {True: 0, False: 0}
        rows = []
        for kind in kinds:
            rows.append(Row(kind, pictures[kind][seen[kind] % len(pictures[kind])]))
            seen[kind] += 1
        return tuple(rows)

    def _compare(self, context: Tensor | None) -> list[bool] | None:
        """Cond or uncond for each row by its text, None where both or neither match."""
        if context is None or self.texts is None:
            return None
        kinds = []
        for row in context:
            cond, uncond = (
                any(text.shape == row.shape and torch.equal(text.to(row), row) for text in texts)
                for texts in self.texts
            )
            if cond == uncond:
                return None
            kinds.append(cond)
        return kinds
