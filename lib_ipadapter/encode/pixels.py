"""Views of a picture -> the numbers that the image encoder takes."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from .crops import MEAN, STD, masked_views


def to_pixels(image: Image.Image, size: int, crop: str = "center", mask: Image.Image | None = None) -> torch.Tensor:
    """The ``views`` of ``image`` as the encoder takes them: fp32 [V, 3, size, size] on the CPU, V of them, normalised
    with CLIP's mean and deviation and multiplied by ``mask``, so that what is hidden, and what "pad" and "tile" add,
    is exactly 0.

    With crop "center" and no mask this equals transformers' CLIPImageProcessor with its defaults. Raises UnitError for
    an unknown ``crop``.
    """
    return torch.stack([_normalised(*pair) for pair in masked_views(image, size, crop, mask)])


def _normalised(seen: Image.Image, counts: Image.Image | None) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(seen, dtype=np.float32)).permute(2, 0, 1) / 255
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    if counts is not None:
        pixels = pixels * (torch.from_numpy(np.array(counts, dtype=np.float32)) / 255)
    return pixels
