"""Views of a picture -> the numbers that the image encoder takes."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from ..checkpoint.specs import CLIP
from .crops import STATISTICS, masked_views


def to_pixels(
    image: Image.Image, size: int, crop: str = "center", mask: Image.Image | None = None, family: str = CLIP
) -> torch.Tensor:
    """The ``views`` of ``image`` as the encoder takes them: fp32 [V, 3, size, size] on the CPU, V of them, normalised
    with the mean and deviation of the encoder's ``family`` and multiplied by ``mask``, so that what is hidden, and what
    "pad" and "tile" add, is exactly 0.

    Without mask this equals transformers' CLIPImageProcessor for CLIP and "center", and SiglipImageProcessor for SigLIP
    and "stretch", both with their defaults. Raises UnitError for an unknown ``crop``.
    """
    mean, deviation = (torch.tensor(numbers).view(3, 1, 1) for numbers in STATISTICS[family])
    pairs = masked_views(image, size, crop, mask, family)
    return torch.stack([_normalised(seen, counts, mean, deviation) for seen, counts in pairs])


def _normalised(
    seen: Image.Image, counts: Image.Image | None, mean: torch.Tensor, deviation: torch.Tensor
) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(seen, dtype=np.float32)).permute(2, 0, 1) / 255
    pixels = (pixels - mean) / deviation
    if counts is not None:
        pixels = pixels * (torch.from_numpy(np.array(counts, dtype=np.float32)) / 255)
    return pixels
