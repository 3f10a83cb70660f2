"""One unit's image prompt, ready for the UNet: keys and values of every cross-attention layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .influence import Influence
from .rows import Rows


@dataclass(frozen=True)
class KeysValues:
    """K_ip and V_ip of all layers, for every picture's cond and uncond side.

    ``keys[i]`` and ``values[i]`` are [2 * pictures, tokens, width of layer i]: the cond sides of all pictures, then
    the uncond sides. They do not depend on the step or the UNet's weights, so one set serves a whole job.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def pictures(self) -> int:
        return len(self.keys[0]) // 2

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    @classmethod
    def project(
        cls, key: Sequence[Tensor], value: Sequence[Tensor], cond: Tensor, uncond: Tensor, scale: Tensor | None = None
    ) -> KeysValues:
        """Project image tokens with an adapter's to_k_ip/to_v_ip weights ([C, D], stored dtype), layer by layer.

        ``cond`` and ``uncond`` are tokens [pictures, T, D] in fp32; ``scale`` [pictures, T] multiplies the values of
        single tokens (a reference's own weight), on both sides of the guidance. Computes on the tokens' device,
        where one layer's weights are at a time; the result lies in main memory.
        """
        tokens = torch.cat([cond, uncond])
        factor = 1.0 if scale is None else torch.cat([scale, scale])[..., None].to(tokens)
        keys = tuple(F.linear(tokens, w.to(tokens)).cpu() for w in key)
        values = tuple((F.linear(tokens, w.to(tokens)) * factor).cpu() for w in value)
        return cls(keys, values)


@dataclass
class ImagePrompt:
    """Keys and values with what a unit wants of them: strength and the share of the steps.

    ``layer_factors`` maps a block index t to a factor of ``weight``; blocks that are not listed get 1.
    ``start`` and ``end`` are shares of the sampling steps.
    """

    kv: KeysValues
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    layer_factors: Mapping[int, float] = field(default_factory=dict)
    picture_offset: int = 0  # index in the job of the batch's first picture
    acted: bool = False  # whether any step so far was one of its own
    influence: Influence | None = None  # what measures where it acts, if anybody asked

    def acts_in(self, step: int, steps: int) -> bool:
        """Whether the unit acts in step ``step`` of ``steps``: in those whose middle lies in [start, end).

        So windows that share an end share no step, and the number of steps is the share, rounded. A window too short
        for any middle gets the step that it lies in. Samplers that do more steps than announced stay in the last one.
        """
        tolerance = 1e-6  # of a step: 0.1 + 0.2 of 10 steps is 3 steps
        first, after = (math.ceil(share * steps - 0.5 - tolerance) for share in (self.start, self.end))
        if first >= after:
            first = min(int((self.start + self.end) / 2 * steps), steps - 1)
            after = first + 1
        return first <= min(step, steps - 1) < after

    def layer_weight(self, block: int) -> float:
        """What the values of the layers of ``block`` are multiplied with."""
        return self.weight * self.layer_factors.get(block, 1.0)

    def gather(self, layer: int, block: int, rows: Rows, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Keys and weighted values [len(rows), tokens, width] of one layer for a call's rows, on ``like``'s device
        and in its dtype; None where this layer adds nothing."""
        weight = self.layer_weight(block)
        if weight == 0.0:
            return None
        pictures = self.kv.pictures
        index = torch.tensor(
            [(self.picture_offset + row.picture) % pictures + (0 if row.cond else pictures) for row in rows]
        )
        key, value = self.kv.keys[layer][index], self.kv.values[layer][index] * weight
        return key.to(like), value.to(like)
