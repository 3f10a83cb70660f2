"""One unit's image prompt, ready for the UNet: keys and values of every cross-attention layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weighting import Curve, Spread, scaled_sides, weight_at
from .flux.appended import Appended
from .influence import Influence
from .keyframes import Fade, FadedRegion, Moments, Run, mixed
from .keypoints import Keypoints
from .lora import Lora
from .regions import Part, Region
from .rows import Rows
from .shares import Shares
from .sides import Held, Sides, sides_of
from .step import in_window


@dataclass(frozen=True)
class KeysValues:
    """K_ip and V_ip of all layers, for every picture's cond and uncond side.

    ``keys[i]`` and ``values[i]`` are [2 * pictures, tokens, width of layer i]: the cond sides of all pictures, then
    the uncond sides. They do not depend on the step or the UNet's weights, so one set serves a whole job. The uncond
    sides' keys are ``copies`` times the same ones, one after the other: several references have one side between them.
    Of keyframes they are those of each reference in the place of each picture, and ``norm`` is what still has to be
    done to the keys that are mixed of theirs.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    copies: int = 1
    norm: Callable[[Tensor], Tensor] | None = None

    @property
    def pictures(self) -> int:
        return len(self.keys[0]) // 2

    @property
    def layers(self) -> int:
        return len(self.keys)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that it holds."""
        return (*self.keys, *self.values)

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors)

    def of(self, layer: int, index: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [len(index), tokens, width] of one layer; where they are, or on ``like``'s device."""
        return self.keys[layer][[*index]], self.values[layer][[*index]]

    @classmethod
    def project(
        cls,
        key: Sequence[Tensor],
        value: Sequence[Tensor],
        cond: Tensor,
        uncond: Tensor,
        scale: Tensor | None = None,
        copies: int = 1,
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
        return cls(keys, values, copies)

    def once(self, layer: int, sides: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Those of uncond sides, each token once: equal keys share what they are given, so that their values count by
        their mean."""
        key, value = self.keys[layer][[*sides]], self.values[layer][[*sides]]
        return key.unflatten(1, (self.copies, -1))[:, 0], value.unflatten(1, (self.copies, -1)).mean(dim=1)


@dataclass(frozen=True)
class KeysValuesLater:
    """As ``KeysValues``, of so many pictures that all of them together take too much: those that a batch sees are made,
    layer by layer, when it asks for them.

    ``cond`` [pictures, T, D] and ``uncond`` [pictures or 1, T, D] are image tokens, fp32 in main memory, ``factor``
    [pictures, T] is what multiplies the values of single tokens. ``make`` gives keys and values of a layer, of tokens
    [B, T, D] and factors [B, T, 1].
    """

    cond: Tensor
    uncond: Tensor
    factor: Tensor
    layers: int
    make: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]

    @property
    def pictures(self) -> int:
        return len(self.cond)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that it holds."""
        return self.cond, self.uncond, self.factor

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors)

    def of(self, layer: int, index: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [len(index), tokens, width] of one layer on ``like``'s device, in fp32, or in what the host
        has torch cast products to in this step."""
        n = self.pictures
        tokens = torch.stack([self.cond[i] if i < n else self.uncond[(i - n) % len(self.uncond)] for i in index])
        factor = torch.stack([self.factor[i % n] for i in index])[..., None]
        return self.make(layer, tokens.to(like.device), factor.to(like.device))


@dataclass
class ImagePrompt:
    """Keys and values with what a unit wants of them: strength, where in the UNet and the picture, and when.

    ``start`` and ``end`` are shares of the sampling steps. ``spread`` says what each transformer block makes of the
    weight, ``scaling`` what the weight multiplies, ``region`` where in the picture it acts; without them it is the
    weight everywhere. ``lora`` acts in the steps in which the image prompt does, in all of the picture; ``keypoints``
    act in the same region, by a strength and in steps of their own.
    """

    kv: KeysValues | KeysValuesLater
    weight: float | Curve = 1.0
    start: float = 0.0
    end: float = 1.0
    spread: Spread | None = None
    scaling: str = "V only"
    region: Region | None = None
    keypoints: Keypoints | None = None
    picture_offset: int = 0  # index in the job of the batch's first picture
    part: Part | None = None  # what of the picture is sampled, where that is not all of it
    acted: bool = False  # whether any step so far was one of its own
    fired: bool = False  # whether it has added anything in any layer
    unserved: bool = False  # whether a step of its own was made by a UNet that it does not fit
    influence: Influence | None = None  # what measures where it acts, if anybody asked
    shares: Shares | None = None  # what measures how much it does
    now: float = 0.0  # the weight in the present step
    lora: Lora | None = None  # the one inside the unit's checkpoint
    appended: Appended | None = None  # tokens behind the text, in the place of keys and values
    fade: Fade | None = None  # where its keyframes stand, if its references are some
    moments: Moments | None = None  # what of them the pictures of the present pass have

    def during(self, run: Run) -> None:
        """The coming pass's pictures are those of ``run``."""
        if self.fade is not None and (self.moments is None or self.moments.run != run):
            self.moments = Moments(self.fade, run)
        if isinstance(self.region, FadedRegion):
            self.region = self.region.during(self.moments)

    def acts_in(self, step: int, steps: int) -> bool:
        """Whether the unit acts in step ``step`` of ``steps``, be it by its keypoints alone."""
        keypoints = self.keypoints is not None and self.keypoints.acts_in(step, steps)
        return keypoints or in_window(self.start, self.end, step, steps)

    def begin(self, step: int, steps: int) -> bool:
        """A new step: whether the image tokens act in it, and, in ``now``, how strongly."""
        acts = in_window(self.start, self.end, step, steps)
        self.acted |= self.acts_in(step, steps)
        self.now = weight_at(self.weight, step, steps) if acts else 0.0
        # What does not hang on the weight goes on where a curve comes to 0; a weight that is 0 switches the unit off.
        return acts and (self.now != 0.0 or (not self.steady and self.spread is not None and self.spread.constant))

    @property
    def steady(self) -> bool:
        """Whether the weight is the same in every step."""
        return not isinstance(self.weight, tuple)

    def layer_weight(self, block: int) -> float:
        """The weight, now, in the layers of ``block``."""
        return self.now if self.spread is None else self.spread.at(block, self.now)

    def leave_device(self) -> None:
        """Let go of what a sampling pass has left on the device; what was measured goes to main memory."""
        if self.region is not None:
            self.region.leave_device()
        if self.influence is not None:
            self.influence.leave_device()
        if self.shares is not None:
            self.shares.leave_device()

    def sides(self, block: int, rows: Rows) -> Sides:
        """The entries of the keys and values that rows attend to in the layers of ``block``. Where the reference counts
        against the picture, the conditional rows have none, and the unconditional ones the reference's."""
        inverted = self.spread is not None and block in self.spread.inverted
        if self.moments is None:
            return sides_of(rows, self.kv.pictures, self.picture_offset, inverted)
        return self.moments.sides(rows, inverted)

    def gather(self, layer: int, block: int, sides: Iterable[int], like: Tensor) -> Held:
        """Keys and values of one layer for these ``sides``, on ``like``'s device and in its dtype, with a ``steady``
        weight in them."""
        index = [*sides]
        spare = isinstance(self.kv, KeysValues) and self.kv.copies > 1 and self.moments is None
        brief = [side for side in index if spare and side >= self.kv.pictures]
        whole = [side for side in index if side not in brief]
        held = self._held(layer, block, whole, like)
        return held if not brief else held._replace(brief=self._held(layer, block, brief, like, once=True))

    def _held(self, layer: int, block: int, sides: Sequence[int], like: Tensor, once: bool = False) -> Held:
        kv = self.kv
        if isinstance(kv, KeysValuesLater):
            key, value = kv.of(layer, sides, like)
        elif self.moments is not None:
            key, value = self.moments.keys_values(kv.keys[layer], kv.values[layer], sides)
            key = key if kv.norm is None else kv.norm(key)
        else:
            key, value = kv.once(layer, sides) if once else kv.of(layer, sides, like)
        if self.steady:
            key, value = self.weighted(key, value, block)
        return Held(tuple(sides), key.to(like), value.to(like))

    def tokens_of(self, tokens: Tensor, picture: int) -> Tensor:
        """Of tokens [n, T, D] those of the batch's picture ``picture``; with keyframes n is their number, else the
        pictures take the entries in turn."""
        if self.moments is None:
            return tokens[(self.picture_offset + picture) % len(tokens)]
        return mixed(tokens, self.moments.blend(picture).keys)

    def factors_of(self, factors: Tensor, picture: int) -> Tensor:
        """The same of what the weight of each token is multiplied with, [n, T]."""
        if self.moments is None:
            return factors[(self.picture_offset + picture) % len(factors)]
        return mixed(factors, self.moments.blend(picture).values)

    def nearest(self, picture: int) -> int:
        """What cannot be mixed, as a face's points, is that of this entry for the batch's picture ``picture``."""
        return self.picture_offset + picture if self.moments is None else self.moments.nearest(picture)

    def weighted(self, key: Tensor, value: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """Keys and values [B, tokens, width] with the weight that the layers of ``block`` have now."""
        on_key, on_value, on_mean = scaled_sides(self.scaling, self.layer_weight(block), key.shape[-1])
        if on_key != 1:
            key = key * on_key
        if on_mean:
            return key, value + value.mean(dim=1, keepdim=True) * (on_value - 1)
        return key, value * on_value
