"""Where in the picture a prompt acts: its mask at each layer's own size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]  # height, width
Box = tuple[int, int, int, int]  # left, top, width, height


@dataclass(frozen=True)
class Part:
    """What is sampled of a picture of size ``picture``, as boxes in its pixels: one for each picture of a batch, or one
    for all of them. A box may reach beyond the picture."""

    picture: Size
    boxes: tuple[Box, ...]

    def of(self, index: int) -> Box:
        """The box of the batch's picture ``index``."""
        return self.boxes[index if len(self.boxes) > 1 else 0]


def halved(latent: Size, places: int) -> Size:
    """``latent`` as a UNet's layers shrink it, its sides halved and rounded up until they hold ``places`` or fewer."""
    height, width = latent
    while height * width > places:
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def is_whole(size: Size, of: Size) -> bool:
    """Whether ``size`` is a whole picture of size ``of``, shrunk and rounded, not a part of it."""
    if halved(of, size[0] * size[1]) == size:
        return True
    scale = math.sqrt(size[0] * size[1] / (of[0] * of[1]))
    return all(abs(side - scale * whole) < 1 for side, whole in zip(size, of, strict=True))


class Region:
    """A mask over a whole picture: 1 where a prompt acts, 0 where it does not, anything between in part. Where each
    picture of a batch is another part of the whole, one for each.

    Layers see it at their own height and width: each place has the mean of what it covers, so masks that add up to 1
    add up to 1 in every layer.
    """

    def __init__(self, mask: Tensor, *others: Tensor) -> None:
        """``mask`` [height, width], fp32, of any size; it is stretched over the picture. ``others`` are those of a
        batch's other pictures."""
        self.mask = mask
        self.masks = (mask, *others)
        self._layers: dict[tuple[Size, torch.device, torch.dtype], Tensor] = {}

    @property
    def form(self) -> tuple[int, int]:
        """Width and height of the mask."""
        return self.mask.shape[1], self.mask.shape[0]

    @property
    def everywhere(self) -> bool:
        return all(bool((mask == 1).all()) for mask in self.masks)

    @property
    def is_band(self) -> bool:
        """Whether each row is like the others, or each column: halves and bands, which are the same shares of a picture
        of any form."""
        return any(bool((self.mask == line).all()) for line in (self.mask[:1], self.mask[:, :1]))

    @property
    def nowhere(self) -> bool:
        return not any(bool(mask.any()) for mask in self.masks)

    @property
    def frame(self) -> tuple[float, float, float, float]:
        """Left, top, width and height of the least box that holds what counts at least half as much as its strongest
        place, as shares of the picture; all of it where it is nowhere."""
        spans, half = [], float(self.mask.max()) / 2
        for axis in (0, 1):
            along = (self.mask.amax(axis) >= max(half, 1e-6)).nonzero()[:, 0]
            n = self.mask.shape[1 - axis]
            first, after = (int(along[0]), int(along[-1]) + 1) if len(along) else (0, n)
            spans.append((first / n, (after - first) / n))
        (left, width), (top, height) = spans
        return left, top, width, height

    def at(self, size: Size, like: Tensor, pictures: Sequence[int] = (0,)) -> Tensor:
        """[rows, height * width, 1] for a layer of ``size``, on ``like``'s device and in its dtype: a row for each of
        these ``pictures`` of the batch, or one for all where they are the same."""
        key = (size, like.device, like.dtype)
        if key not in self._layers:
            self._layers[key] = torch.stack([_resized(mask, size).reshape(-1, 1) for mask in self.masks]).to(like)
        found = self._layers[key]
        return found if len(found) == 1 else found[list(pictures)]

    def overlap(self, other: Region) -> Region:
        """Where both act, in part where one of them does in part."""
        size = max(self.mask.shape[0], other.mask.shape[0]), max(self.mask.shape[1], other.mask.shape[1])
        return Region(_resized(self.mask, size) * _resized(other.mask, size))

    def leave_device(self) -> None:
        """Let go of what layers were given."""
        self._layers.clear()

    def within(self, part: Part) -> Region:
        """The region in a ``part`` of the picture: what an inpainted part sees of it, or the tiles of an upscaled one.
        Beyond the picture's edges it goes on as it ends."""
        whole = _resized(self.mask, part.picture)

        def along(start: int, length: int, end: int) -> Tensor:
            return torch.arange(start, start + length).clamp(0, end - 1)

        height, width = part.picture
        return Region(
            *(whole[along(top, h, height)][:, along(left, w, width)].contiguous() for left, top, w, h in part.boxes)
        )


def _resized(mask: Tensor, size: Size) -> Tensor:
    made: Tensor = F.interpolate(mask[None, None], size, mode="area")
    return made[0, 0]


FEATHERED = 256  # shorter side at which a mask is softened


def feathered(mask: Tensor, feather: float) -> Tensor:
    """``mask`` with soft edges: blurred by a Gaussian of deviation ``feather`` / 4 of the shorter side, so that an edge
    fades over about ``feather`` of it. Where 0, the mask as it is. Beyond the borders the mask goes on as it ends.
    """
    if feather <= 0:
        return mask
    scale = FEATHERED / min(mask.shape)
    mask = _resized(mask, (round(mask.shape[0] * scale), round(mask.shape[1] * scale)))
    deviation = feather * FEATHERED / 4
    reach = math.ceil(3 * deviation)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1, dtype=torch.float32) ** 2) / (2 * deviation**2))
    kernel = (kernel / kernel.sum())[None, None]
    for _ in range(2):  # along the rows, then, turned, along the columns
        mask = F.conv1d(F.pad(mask[:, None], (reach, reach), mode="replicate"), kernel)[:, 0].T
    return mask.clamp(0, 1).contiguous()
