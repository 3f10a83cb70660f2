"""A denoising step as the host announces it."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
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

    ``host_weights`` is there on hosts that write LoRAs of their own into weights within a call: before one in which
    they will, it gives something else.

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
    host_weights: Callable[[], Hashable] | None = None


def in_window(start: float, end: float, step: int, steps: int) -> bool:
    """Whether step ``step`` of ``steps`` is one of those whose middle lies in [``start``, ``end``), shares of them all.

    So windows that share an end share no step, and the number of steps is the share, rounded. A window too short for
    any middle gets the step that it lies in. Samplers that do more steps than announced stay in the last one.
    """
    tolerance = 1e-6  # of a step: 0.1 + 0.2 of 10 steps is 3 steps
    first, after = (math.ceil(share * steps - 0.5 - tolerance) for share in (start, end))
    if first >= after:
        first = min(int((start + end) / 2 * steps), steps - 1)
        after = first + 1
    return first <= min(step, steps - 1) < after
