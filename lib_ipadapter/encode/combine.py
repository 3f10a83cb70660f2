"""Several references' embeddings -> one embedding.

The formulas are those of ComfyUI_IPAdapter_plus, on encoder embeddings, before the projection. "concat" is not here:
it joins image tokens, after the projection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import MismatchError, UnitError

COMBINE_MODES = ("average", "add", "subtract", "norm average", "max", "min")


def combine(embeddings: Sequence[Tensor], mode: str, weights: Sequence[float]) -> Tensor:
    """One embedding of the same shape and dtype as each of ``embeddings`` (any shape, [..., W], all alike).

    With e_i the embeddings and w_i the references' weights, over n references:

    ==============  =====================================================================================
    average         sum w_i e_i / sum \\|w_i\\|: weights are shares, so one reference alone is not weakened
    add             sum w_i e_i
    subtract        w_0 e_0 - mean(w_1 e_1, w_2 e_2, …)
    norm average    mean(w_i e_i / N), N the Euclidean norm of each channel over the references; N = 0 gives 0
    max, min        the elementwise largest or smallest w_i e_i
    ==============  =====================================================================================

    A single reference has no partner: "average" keeps it (turned around if its weight is negative), every other mode
    gives w_0 e_0. Computed in fp32. The inputs are not changed.

    Raises UnitError for an unknown mode, no reference, weights that are not one finite number for each reference, or
    an average of weights that are all 0; MismatchError for embeddings of different shapes.
    """
    _check(embeddings, mode, weights)
    e = torch.stack([embedding.float() * weight for embedding, weight in zip(embeddings, weights, strict=True)])
    if mode == "average":
        result = e.sum(0) / sum(abs(weight) for weight in weights)
    elif len(e) == 1:
        result = e[0]
    elif mode == "add":
        result = e.sum(0)
    elif mode == "subtract":
        result = e[0] - e[1:].mean(0)
    elif mode == "norm average":
        norm = e.norm(dim=0)
        result = (e / norm.where(norm > 0, torch.ones_like(norm))).mean(0)
    else:
        result = e.amax(0) if mode == "max" else e.amin(0)
    return result.to(embeddings[0].dtype)


def _check(embeddings: Sequence[Tensor], mode: str, weights: Sequence[float]) -> None:
    """Raises what ``combine`` says it does."""
    if mode not in COMBINE_MODES:
        raise UnitError(f"combine “{mode}” is unknown; choose one of {', '.join(COMBINE_MODES)}.")
    if not embeddings:
        raise UnitError("there is no reference to combine; add at least one picture to the unit.")
    if len(weights) != len(embeddings):
        raise UnitError(f"{len(weights)} weights came with {len(embeddings)} references; give each reference one.")
    if not all(math.isfinite(weight) for weight in weights):
        raise UnitError(f"a reference's weight is not a finite number ({list(weights)}); use numbers such as 1.0.")
    first = embeddings[0]
    for other in embeddings[1:]:
        _check_shape(first, other)
    if mode == "average" and not any(weights):
        raise UnitError("all references have weight 0, which has no average; give one of them another weight.")


def _check_shape(first: Tensor, other: Tensor) -> None:
    if other.shape != first.shape:
        raise MismatchError(
            f"the references' embeddings differ in shape ({list(first.shape)} and {list(other.shape)}), so they "
            "cannot be combined; encode all of them with the same image encoder."
        )


class Fold:
    """What ``combine`` does, of embeddings that come one after the other: it holds as much as two of them take, however
    many there are. Sums are in fp64, so that equal embeddings average to themselves."""

    def __init__(self, mode: str, weights: Sequence[float]) -> None:
        if mode not in COMBINE_MODES:
            raise UnitError(f"combine “{mode}” is unknown; choose one of {', '.join(COMBINE_MODES)}.")
        self.mode, self.weights, self.count = mode, weights, 0
        self._first = self._total = self._squares = torch.empty(0)

    def add(self, embedding: Tensor) -> None:
        """The next one. Raises MismatchError for one of another shape than the first."""
        e = embedding.double() * self.weights[self.count]
        if not self.count:
            self._first, self._total, self._squares = e, e, e**2 if self.mode == "norm average" else e
        else:
            _check_shape(self._first, e)
            if self.mode == "norm average":
                self._squares = self._squares + e**2
            pick = {"max": torch.maximum, "min": torch.minimum}.get(self.mode, torch.add)
            self._total = pick(self._total, e)
        self.count += 1

    def result(self) -> Tensor:
        """One embedding, fp32, of all that have come: as many as there are weights, which are not all 0."""
        result = self._total
        if self.mode == "average":
            result = result / sum(abs(weight) for weight in self.weights)
        elif self.count == 1:
            pass
        elif self.mode == "subtract":
            result = self._first - (self._total - self._first) / (self.count - 1)
        elif self.mode == "norm average":
            norm = self._squares.sqrt()
            result = result / norm.where(norm > 0, torch.ones_like(norm)) / self.count
        return result.float()
