"""What all projections share: layers applied straight from an adapter's tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor


class Weights:
    """A projection's tensors, applied by name in fp32 on the device of the input.

    There is no ``nn.Module`` here on purpose: nothing is initialised, so nothing is drawn from the global random
    generator, and a 16-bit file is widened one layer at a time instead of as a whole.
    """

    def __init__(self, weights: Mapping[str, Tensor], context_width: int) -> None:
        self.weights = weights
        self.context_width = context_width

    def tensor(self, name: str, like: Tensor) -> Tensor:
        return self.weights[name].to(device=like.device, dtype=like.dtype)

    def linear(self, name: str, x: Tensor) -> Tensor:
        bias = self.tensor(f"{name}.bias", x) if f"{name}.bias" in self.weights else None
        return F.linear(x, self.tensor(f"{name}.weight", x), bias)

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.tensor(f"{name}.weight", x), self.tensor(f"{name}.bias", x))
