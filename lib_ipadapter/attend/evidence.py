"""What a call of the UNet itself tells of its rows: whose text they are conditioned on, and whose latent they hold.

Each is one small comparison on the device with one answer to main memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MARK = 1024.0  # |value| of the token with which sd-webui-controlnet marks a context: + cond, - uncond
CHANNELS = 8  # of a text's embedding that are compared, at every token
VALUES = 4096  # of a latent that are compared
SCALED = 1e-2  # how far a latent that was scaled and rounded (bf16 at the worst) may lie from itself, both of length 1


class Told(NamedTuple):
    """What is known of one row: its kind, and the pictures whose row it may be. None where nothing tells."""

    cond: bool | None = None
    pictures: frozenset[int] | None = None

    def allows(self, cond: bool, picture: int) -> bool:
        return self.cond in (None, cond) and (self.pictures is None or picture in self.pictures)


def marks(context: Tensor | None) -> list[bool] | None:
    """Cond or uncond for each row of a context that ControlNet has marked with a first token of ±1024, else None."""
    if context is None or context.ndim != 3 or context.shape[1] == 0:
        return None
    first = context[:, 0].float()
    if not torch.all((first.abs() - MARK).abs() < 0.5):
        return None
    return [value > 0 for value in first[:, 0].tolist()]


def kinds_by_text(context: Tensor, cond: Tensor, uncond: Tensor) -> list[bool | None]:
    """Cond or uncond for each row of ``context`` [n, tokens, width], None where both or neither match.

    ``cond`` and ``uncond`` [n, tokens, width] are the step's texts. Hosts pad or cut a side to the other's length, so
    texts of another length are compared as far as both go; one of the row's own length goes before them.
    """
    if not all(side.ndim == 3 and side.shape[-1] == context.shape[-1] for side in (cond, uncond)):
        return [None] * len(context)
    found = torch.stack([_has_text(context, side) for side in (cond, uncond)], dim=1).tolist()
    exact = [side.shape[1] == context.shape[1] for side in (cond, uncond)]
    kinds: list[bool | None] = []
    for is_cond, is_uncond in found:
        if is_cond and is_uncond and exact[0] != exact[1]:
            is_cond, is_uncond = exact
        kinds.append(is_cond if is_cond != is_uncond else None)
    return kinds


def _has_text(context: Tensor, texts: Tensor) -> Tensor:
    """[n] bool: which rows have one of the ``texts``."""
    tokens, apart = min(context.shape[1], texts.shape[1]), max(1, context.shape[-1] // CHANNELS)
    rows, known = (side[:, :tokens, ::apart] for side in (context, texts))
    return (rows[:, None] == known.to(context)).flatten(2).all(-1).any(-1)


def pictures_by_latent(x: Tensor, latents: Tensor, pictures: Sequence[int]) -> list[frozenset[int] | None]:
    """For each row of ``x`` [n, channels, height, width] the pictures whose latent it holds, None where it holds none.

    ``latents`` are the rows that the sampler has asked for, ``pictures`` theirs. The UNet sees them scaled, in its own
    dtype, perhaps with more channels behind.
    """
    nothing: list[frozenset[int] | None] = [None] * len(x)
    if x.ndim != 4 or x.shape[2:] != latents.shape[2:] or x.shape[1] < latents.shape[1]:
        return nothing
    rows, known = (_directions(side[:, : latents.shape[1]]) for side in (x, latents))
    found = []
    for distances in torch.linalg.vector_norm(rows[:, None] - known.to(rows.device), dim=-1).tolist():
        nearest = min(distances)
        near = frozenset(
            picture for picture, d in zip(pictures, distances, strict=True) if d <= 2 * nearest + SCALED / 1e4
        )
        found.append(near if nearest < SCALED else None)
    return found


def _directions(latents: Tensor) -> Tensor:
    """[n, values] of length 1 in fp32, of some of the values of each row."""
    values = latents.flatten(1)
    return F.normalize(values[:, :: -(-values.shape[1] // VALUES)].float(), dim=-1)
