"""Which rows of a UNet call are conditional, which unconditional, and to which picture each belongs.

The WebUI's CFGDenoiser lays the rows of one denoising step out as [cond rows of picture 0, 1, …, uncond rows of
picture 0, 1, …] and feeds them to the UNet in one call or several, always in ascending order, sometimes without the
unconditional rows at the end. A cursor that starts anew with every step therefore knows every row. InstructPix2Pix
has two groups of unconditional rows; AND prompts have several cond rows for one picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from .evidence import Told, kinds_by_text, marks, pictures_by_latent

Texts = Callable[[], "tuple[Tensor | None, Tensor | None]"]


class Row(NamedTuple):
    """One row of a UNet call."""

    cond: bool
    picture: int  # index in the batch


Rows = tuple[Row, ...]


class RowRule(Enum):
    """What told the rows of a call, the surest first."""

    ANNOUNCED = "announced by the host with the call"
    MARKED = "marked by ControlNet in the context"
    TEXT = "told by their text"
    LATENT = "told by their latents"
    ORDER = "the next rows in the sampler's order"
    REPETITION = "whole repetitions of the step's rows"


def layout(prompts_per_picture: Sequence[int], n_rows: int) -> Rows:
    """All rows of one denoising step: cond rows by picture, then uncond rows (one or two groups of all pictures)."""
    cond = [Row(True, i) for i, n in enumerate(prompts_per_picture) for _ in range(n)]
    pictures = max(1, len(prompts_per_picture))
    return tuple(cond + [Row(False, i % pictures) for i in range(n_rows - len(cond))])


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
    sampler and UNet may make several calls of that: for tiles, each with all of these rows; for a region, one part of
    these rows after the other; or any of these rows in any order. So the order is held against what the call itself
    tells, which is surer. Where nothing tells what the sampler has asked for, a call is taken for the sampler's own as
    long as it fits. ``rule`` is what told the rows of the last call, None where nothing did.
    """

    def __init__(self) -> None:
        self.begin(())

    def begin(self, rows: Rows, texts: Texts | None = None, latents: Callable[[], Tensor] | None = None) -> None:
        """A new denoising step. ``texts`` gives what its rows will be conditioned on, cond and uncond [n, tokens,
        width]; ``latents`` the rows' latents; both as they are when the sampler begins to ask."""
        self.rows, self.position = rows, 0
        self.rule: RowRule | None = None
        self.asked: Rows | None = None  # what the sampler is asking for just now
        self.asked_latents: Tensor | None = None
        self.texts, self.latents = texts, latents

    def open(self, n: int, latents: Tensor | None = None) -> None:
        """The sampler asks for the next ``n`` rows, whose ``latents`` [n, channels, height, width] these are."""
        if self.latents is not None:
            self.rows, self.latents = same_pictures(self.rows, self.latents()), None
        rows = self.rows[self.position : self.position + n]
        self.asked, self.part = (rows, 0) if rows and len(rows) == n else (None, 0)
        self.asked_latents = latents if self.asked else None
        self.position += len(rows) if self.asked else 0

    def close(self) -> None:
        """The sampler has its answer."""
        self.asked = self.asked_latents = None

    def take(
        self, n: int, context: Tensor | None = None, x: Tensor | None = None, *, marked: bool = False
    ) -> Rows | None:
        """The rows of a call of the UNet with ``n`` of them; None if nothing tells what they are, or if what tells it
        contradicts itself.

        ``context`` and ``x`` are what the UNet is called with. ``marked``: another extension has replaced the UNet's
        forward and may have marked the context. A call that does not fit what is left of the step comes from an
        extension that calls the UNet in its own order (tiles): without anything surer, its rows are whole repetitions
        of the step's rows.
        """
        expected = self._expected(n)
        told, rule = self._told(n, context, x, marked)
        if len(expected) == n and _agree(expected, told):
            self.rule = RowRule.ORDER
            return expected
        rows = self._by_evidence(told)
        if rows is not None:
            self.rule = rule
            return rows
        repeated = self.rows * (n // max(1, len(self.rows)))
        if len(repeated) == n and _agree(repeated, told):
            self.rule = RowRule.REPETITION
            return repeated
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

    def _told(self, n: int, context: Tensor | None, x: Tensor | None, marked: bool) -> tuple[list[Told], RowRule]:
        """What the call itself tells of each of its rows, and the surest rule that says anything."""
        kinds: list[bool | None] = [None] * n
        rule = RowRule.LATENT
        if marked and (by_marks := marks(context)) is not None:
            kinds, rule = [*by_marks], RowRule.MARKED
        elif context is not None and self.texts is not None:
            cond, uncond = self.texts()
            if cond is not None and uncond is not None:
                kinds = kinds_by_text(context, cond, uncond)
                rule = RowRule.TEXT if any(kind is not None for kind in kinds) else rule
        pictures: list[frozenset[int] | None] = [None] * n
        if x is not None and self.asked is not None and self.asked_latents is not None:
            own = [row.picture for row in self.asked]
            if len(set(own)) > 1:
                pictures = pictures_by_latent(x, self.asked_latents, own)
        return [Told(*one) for one in zip(kinds, pictures, strict=True)], rule

    def _by_evidence(self, told: Sequence[Told]) -> Rows | None:
        """The rows as the call itself tells them, None where it does not tell them all."""
        choices = [self._choices(one) for one in told]
        if all(len(one) == 1 for one in choices):
            return tuple(row for one in choices for row in one)
        kinds = [one.cond for one in told]
        if None in kinds or any(one.pictures is not None for one in told):
            return None
        for kind in (True, False):  # of each kind none, or all that the step has, perhaps several times
            if kinds.count(kind) % max(1, sum(row.cond == kind for row in self.rows)):
                return None
        return self._in_order(kind for kind in kinds if kind is not None)

    def _choices(self, told: Told) -> set[Row]:
        """The rows that one of a call may be: of what the sampler has asked for, else of the whole step."""
        for rows in (self.asked or (), self.rows):
            found = {row for row in rows if told.allows(*row)}
            if found:
                return found
        return set()

    def _in_order(self, kinds: Iterable[bool]) -> Rows:
        """Rows of known kind: the k-th of its kind belongs to the k-th picture of that kind."""
        pictures = {kind: [row.picture for row in self.rows if row.cond == kind] or [0] for kind in (True, False)}
        endless = {kind: itertools.cycle(of_kind) for kind, of_kind in pictures.items()}
        return tuple(Row(kind, next(endless[kind])) for kind in kinds)


def _agree(rows: Rows, told: Sequence[Told]) -> bool:
    """Whether nothing that a call tells of its rows contradicts ``rows``."""
    return all(one.allows(*row) for row, one in zip(rows, told, strict=True))
