"""A denoising step as the host announces it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from .regions import Size
from .rows import Rows, Texts

RowsOfCall = Callable[[Mapping[str, Any], int], "Rows | None"]


class Step(NamedTuple):
    """The rows of one denoising step, and what tells them apart in the UNet's calls.

    ``step`` is its index of ``steps``, ``size`` the height and width of the latent. When the sampler begins to ask,
    ``texts`` gives what the rows are conditioned on, cond and uncond [n, tokens, width], and ``latents`` the rows'
    latents; ``sampler`` is the module that it asks.

    ``rows_of_call`` is there on hosts that announce the rows with each call: it gives those of a call from its keyword
    arguments and the number of its rows, None where these do not fit each other. Nothing else is asked then.
    """

    rows: Rows
    step: int
    steps: int
    texts: Texts | None = None
    size: Size | None = None
    latents: Callable[[], Tensor] | None = None
    sampler: nn.Module | None = None
    rows_of_call: RowsOfCall | None = None
