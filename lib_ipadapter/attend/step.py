"""A denoising step as the host announces it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from .regions import Size
from .rows import Rows

RowsOfCall = Callable[[Mapping[str, Any], int], "Rows | None"]


class Step(NamedTuple):
    """The rows of one denoising step, and what tells them apart in the UNet's calls.

    ``step`` is its index of ``steps``. ``text_cond`` and ``text_uncond`` [n, tokens, width] are what the rows are
    conditioned on, ``size`` the height and width of the latent, ``latents`` gives the rows' latents when the sampler
    begins to ask, and ``sampler`` is the module that it asks.

    ``rows_of_call`` is there on hosts that announce the rows with each call: it gives those of a call from its keyword
    arguments and the number of its rows, None where these do not fit each other. Nothing else is asked then.
    """

    rows: Rows
    step: int
    steps: int
    text_cond: Tensor | None = None
    text_uncond: Tensor | None = None
    size: Size | None = None
    latents: Callable[[], Tensor] | None = None
    sampler: nn.Module | None = None
    rows_of_call: RowsOfCall | None = None
