"""Image tokens behind the text (Redux): which of them each row of a call has, how strongly, and where.

FLUX attends over text and picture in one sequence, so what stands behind the text is seen like more text. A strength
is a bias of attention: ``log(weight)`` is added to the logits of the tokens' keys, whoever asks for them. Attention
then has ``weight * exp(q k)`` in the place of ``exp(q k)`` in its sums: a token of weight 2 is the same token twice, of
weight 1/2 half of one. So two units of half the weight are one of the whole, masks that add up to 1 do so in the
picture, and a weight near 0 leaves next to nothing of the tokens, while multiplying the tokens themselves leaves them
their share of the attention (at weight 0 farther from the plain picture than Redux is).

A bias on the tokens' own rows as well (they would see less of text and picture, too) has the same ends, but none of
these sums, and wants a matrix for each row of the batch in the place of one line: keys alone are enough, because
nobody sees the states of tokens whose keys nobody sees.

In a region, a place of the picture has the tokens with the mask's value there. Text, and the tokens themselves, have
them with its mean: text that saw them whole would carry the reference all over the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..regions import Size
from ..rows import Row, Rows

if TYPE_CHECKING:
    from ..prompt import ImagePrompt


@dataclass(frozen=True)
class Appended:
    """A unit's image tokens: ``cond`` [pictures, T, D] for every picture's conditional rows, and ``uncond`` for the
    unconditional ones, those of negative references; without them these rows have none. ``factor`` and
    ``uncond_factor`` [pictures, T] are what the unit's weight is multiplied with, token by token. All in main memory.
    """

    cond: Tensor
    factor: Tensor | None = None
    uncond: Tensor | None = None
    uncond_factor: Tensor | None = None

    def has(self, row: Row) -> bool:
        """Whether a row has any tokens."""
        side, _ = self.side(row.cond)
        return side is not None and side.shape[1] > 0

    def side(self, cond: bool) -> tuple[Tensor | None, Tensor | None]:
        return (self.cond, self.factor) if cond else (self.uncond, self.uncond_factor)


@dataclass(frozen=True)
class Part:
    """One prompt's tokens in a call: the sequence's places ``first`` to ``after``, counted from the first token of all.

    ``weights`` [B, T] are those of each row, 0 where it does not see a token; ``places`` [B, height * width], the mask
    where there is a region.
    """

    first: int
    prompt: ImagePrompt
    rows: Rows
    weights: Tensor
    places: Tensor | None = None

    @property
    def after(self) -> int:
        return self.first + self.weights.shape[1]


def parts(prompts: Sequence[ImagePrompt], rows: Rows, size: Size | None) -> list[Part]:
    """What these prompts, active in this step, put behind the text of a call with these rows; of a prompt that no row
    sees, nothing. ``size`` is that of the picture as the model sees it; prompts with a region need one."""
    found: list[Part] = []
    first = 0
    for prompt in prompts:
        part = _part(prompt, rows, size, first)
        if part is not None:
            found.append(part)
            first = part.after
    return found


def _part(prompt: ImagePrompt, rows: Rows, size: Size | None, first: int) -> Part | None:
    of_rows = [_weights(prompt, row) for row in rows]
    length = max(map(len, of_rows), default=0)
    places = _places(prompt, rows, size)
    weights = torch.stack([_longer(one, length) for one in of_rows])
    if places is not None:
        weights = weights * (places.amax(1, keepdim=True) > 0)
    if not bool(weights.any()):
        return None
    return Part(first, prompt, rows, weights, places)


def stacked(part: Part) -> Tensor:
    """The tokens [B, T, D] of each row, fp32 in main memory; zeros where a row has fewer."""
    length = part.weights.shape[1]
    return torch.stack([_longer(_tokens(part.prompt, row), length) for row in part.rows])


def _tokens(prompt: ImagePrompt, row: Row) -> Tensor:
    """[T, D] of one row; none where the row has none."""
    assert prompt.appended is not None, "prompts without tokens of their own put nothing behind the text"
    side, _ = prompt.appended.side(row.cond)
    if side is None:
        return prompt.appended.cond.new_zeros(0, prompt.appended.cond.shape[-1])
    return prompt.tokens_of(side, row.picture)


def _weights(prompt: ImagePrompt, row: Row) -> Tensor:
    """[T]: how strongly one row sees each of its tokens."""
    tokens = _tokens(prompt, row)
    _, factor = prompt.appended.side(row.cond) if prompt.appended is not None else (None, None)
    weights = tokens.new_ones(len(tokens))
    if factor is not None:
        weights = prompt.factors_of(factor, row.picture).to(tokens)
    return (weights * prompt.now).clamp_min(0)


def _longer(tensor: Tensor, length: int) -> Tensor:
    """``tensor`` [T, …] with zeros behind it."""
    return (
        tensor
        if len(tensor) == length
        else torch.cat([tensor, tensor.new_zeros(length - len(tensor), *tensor.shape[1:])])
    )


def _places(prompt: ImagePrompt, rows: Rows, size: Size | None) -> Tensor | None:
    """[B, height * width]: the region's mask for each row; None where it is 1 all over."""
    if prompt.region is None or size is None:
        return None
    mask = prompt.region.at(size, torch.empty(0), [row.picture for row in rows])[..., 0]
    return None if bool((mask == 1).all()) else mask.expand(len(rows), -1)


ALIGNED = 16


class Bias:
    """What attention has to do with the keys behind the text, for one call of the model.

    ``text`` is how many places the text itself has before the tokens. Rows fall into three kinds: those that see no
    token (``without``: their attention is that of the plain model), those that see all of them as they are
    (``free``), and those with a bias.
    """

    def __init__(self, parts: Sequence[Part], text: int) -> None:
        self.parts, self.first, self.after = list(parts), text, text + parts[-1].after
        weights = torch.cat([part.weights for part in parts], dim=1)
        self.rows = len(weights)
        placed = torch.zeros(len(weights), dtype=torch.bool)
        for part in parts:
            if part.places is not None:
                placed |= ((part.places != 1).any(1)) & part.weights.any(1)
        hidden = (weights == 0).all(1)
        whole = (weights == 1).all(1) & ~placed
        self.without, self.free = _where(hidden), _where(whole)
        self.biased = _where(~hidden & ~whole)
        self._masks: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    @property
    def needed(self) -> bool:
        """Whether any row's attention is another than that over all keys."""
        return bool(self.without or self.biased)

    def fits(self, rows: int, length: int) -> bool:
        """Whether attention of so many rows over so many places is one over text, tokens and picture."""
        behind = max([1, *(part.places.shape[1] for part in self.parts if part.places is not None)])
        return rows == self.rows and length >= self.after + behind

    def let_go(self) -> None:
        """Let go of what is kept on the device."""
        self._masks.clear()

    def mask(self, length: int, like: Tensor) -> Tensor:
        """What is added to the logits of the ``biased`` rows: [rows or 1, 1, 1, length], or [rows or 1, 1, length,
        length] where it is not the same for all places; on ``like``'s device and in its dtype."""
        key = length, like.device, like.dtype
        if key not in self._masks:
            self._masks[key] = self._made(length, like)
        return self._masks[key]

    def _made(self, length: int, like: Tensor) -> Tensor:
        alike = all(_same(x[self.biased]) for part in self.parts for x in (part.weights, part.places) if x is not None)
        rows = self.biased[:1] if alike else self.biased
        line = torch.zeros(len(rows), length)
        for part in self.parts:
            line[:, self.first + part.first : self.first + part.after] = part.weights[rows].log()
        mask = line.to(like)[:, None, None, :]
        if all(part.places is None for part in self.parts):
            return mask
        # Rows of a length that divides by 16, of which the rest is left out: attention's kernels want them aligned.
        padded = mask.new_zeros(len(mask), 1, length, -(-length // ALIGNED) * ALIGNED)
        padded[..., :length] = mask
        mask = padded[..., :length]
        for part in self.parts:
            if part.places is not None:
                places = part.places[rows]
                seen = places.mean(1, keepdim=True).repeat(1, length)
                seen[:, self.after : self.after + places.shape[1]] = places
                columns = slice(self.first + part.first, self.first + part.after)
                mask[..., columns] += seen.log().to(like)[:, None, :, None]
        return mask


def _where(of_rows: Tensor) -> list[int]:
    return [int(i) for i in of_rows.nonzero()[:, 0]]


def _same(of_rows: Tensor) -> bool:
    return bool((of_rows == of_rows[:1]).all())
