"""Which rows of a UNet call are conditional, which unconditional, and to which picture each belongs.

The WebUI's CFGDenoiser lays the rows of one denoising step out as [cond rows of picture 0, 1, …, uncond rows of
picture 0, 1, …] and feeds them to the UNet in one call or several, always in ascending order, sometimes without the
unconditional rows at the end. A cursor that starts anew with every step therefore knows every row. InstructPix2Pix
has two groups of unconditional rows; AND prompts have several cond rows for one picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

MARK = 1024.0  # |value| of the token with which sd-webui-controlnet marks a context: + cond, - uncond


class Row(NamedTuple):
    """One row of a UNet call."""

    cond: bool
    picture: int  # index in the batch


Rows = tuple[Row, ...]


class RowRule(Enum):
    """What told the rows of a call, the surest first."""

    ANNOUNCED = "announced by the host with the call"
    MARKED = "marked by ControlNet in the context"
    ORDER = "the next rows in the sampler's order"
    TEXT = "told by their text"
    REPETITION = "whole repetitions of the step's rows"


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


def first_row(part: Tensor, n: int) -> int | None:
    """Where in a tensor of ``n`` rows ``part``, a run of these rows, begins; None if it is a tensor of its own."""
    size = part[0].numel()
    if not part.is_contiguous() or part.untyped_storage().nbytes() != n * size * part.element_size():
        return None
    return part.storage_offset() // size


def same_pictures(rows: Rows, latents: Tensor) -> Rows:
    """``rows``, their pictures corrected to those of ``latents`` [n, …], in which an extension may have put the rows
    of AND prompts into another order: all rows of a picture have the same latent in every step."""
    cond = [row for row in rows if row.cond]
    pictures = 1 + max((row.picture for row in rows), default=0)
    if pictures == 1 or len(cond) <= pictures or len(latents) < len(cond) + pictures:
        return rows
    own = latents[len(cond) : len(cond) + pictures]  # of the unconditional rows, which are in order
    found = []
    for row, latent in zip(cond, latents, strict=False):
        alike = [i for i in range(pictures) if torch.equal(latent, own[i])]
        found.append(row if row.picture in alike or len(alike) != 1 else Row(True, alike[0]))
    return (*found, *rows[len(cond) :])


class RowCursor:
    """Hands out the rows of one denoising step.

    What the sampler asks for in one go (``open`` to ``close``) is always the next rows in order. An extension between
    sampler and UNet may make several calls of that: for tiles, each with all of these rows, or for a region, one part
    of these rows after the other. Where nothing tells what the sampler has asked for, a call is taken for the sampler's
    own as long as it fits. ``rule`` is what told the rows of the last call, None where nothing did.
    """

    def __init__(self) -> None:
        self.begin(())

    def begin(
        self,
        rows: Rows,
        text_cond: Tensor | None = None,
        text_uncond: Tensor | None = None,
        latents: Callable[[], Tensor] | None = None,
    ) -> None:
        """A new denoising step. The texts [n, tokens, width] are what its rows will be conditioned on; ``latents``
        gives the rows' latents as they are when the sampler begins to ask."""
        self.rows, self.position = rows, 0
        self.rule: RowRule | None = None
        self.asked: Rows | None = None  # what the sampler is asking for just now
        self.texts = None if text_cond is None or text_uncond is None else (text_cond, text_uncond)
        self.latents = latents

    def open(self, n: int) -> None:
        """The sampler asks for the next ``n`` rows."""
        if self.latents is not None:
            self.rows, self.latents = same_pictures(self.rows, self.latents()), None
        rows = self.rows[self.position : self.position + n]
        self.asked, self.part = (rows, 0) if rows and len(rows) == n else (None, 0)
        self.position += len(rows) if self.asked else 0

    def close(self) -> None:
        """The sampler has its answer."""
        self.asked = None

    def take(self, n: int, context: Tensor | None = None, *, marked: bool = False) -> Rows | None:
        """The rows of a call of the UNet with ``n`` of them; None if nothing tells what they are.

        ``marked``: another extension has replaced the UNet's forward and may have marked the context, which then
        decides. A call that does not fit what is left of the step comes from an extension that calls the UNet in its
        own order (tiles): its rows are told by their text, or by being whole repetitions of the step's rows.
        """
        expected = self._expected(n)
        kinds = marks(context) if marked else None
        if kinds is not None and [row.cond for row in expected] != kinds:
            self.rule = RowRule.MARKED
            return self._with_pictures(kinds)
        if len(expected) == n:
            self.rule = RowRule.ORDER
            return expected
        kinds = self._compare(context)
        if kinds is not None:
            self.rule = RowRule.TEXT
            return self._with_pictures(kinds)
        if self.rows and n % len(self.rows) == 0:
            self.rule = RowRule.REPETITION
            return self.rows * (n // len(self.rows))
        self.rule = None
        return None

    def _expected(self, n: int) -> Rows:
        """The rows of the next call by what has been asked for, fewer than ``n`` where it does not fit."""
        if self.asked is None:
            rows = self.rows[self.position : self.position + n]
            self.position += n if len(rows) == n else 0
            return rows
        if n % len(self.asked) == 0:
            return self.asked * (n // len(self.asked))
        rows = self.asked[self.part : self.part + n]
        self.part = (self.part + len(rows)) % len(self.asked)
        return rows

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
