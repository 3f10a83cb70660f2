"""Where in the picture a prompt acts: its mask at each layer's own size."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]  # height, width
Box = tuple[int, int, int, int]  # left, top, width, height


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
    """A mask over a whole picture: 1 where a prompt acts, 0 where it does not, anything between in part.

    Layers see it at their own height and width: each place has the mean of what it covers, so masks that add up to 1
    add up to 1 in every layer.
    """

    def __init__(self, mask: Tensor) -> None:
        """``mask`` [height, width], fp32, of any size; it is stretched over the picture."""
        self.mask = mask
        self._layers: dict[tuple[Size, torch.device, torch.dtype], Tensor] = {}

    @property
    def form(self) -> tuple[int, int]:
        """Width and height of the mask."""
        return self.mask.shape[1], self.mask.shape[0]

    @property
    def everywhere(self) -> bool:
        return bool((self.mask == 1).all())

    @property
    def nowhere(self) -> bool:
        return not bool(self.mask.any())

    def at(self, size: Size, like: Tensor) -> Tensor:
        """[1, height * width, 1] for a layer of ``size``, on ``like``'s device and in its dtype."""
        key = (size, like.device, like.dtype)
        if key not in self._layers:
            self._layers[key] = _resized(self.mask, size).reshape(1, -1, 1).to(like)
        return self._layers[key]

    def leave_device(self) -> None:
        """Let go of what layers were given."""
        self._layers.clear()

    def within(self, box: Box, picture: Size) -> Region:
        """The region in a part of the ``picture``, both in pixels: what an inpainted part sees of it."""
        left, top, width, height = box
        whole = _resized(self.mask, picture)
        return Region(whole[top : top + height, left : left + width].contiguous())


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
