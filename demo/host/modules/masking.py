"""Inpainting masks: which part of the picture to work on, and what to put under the mask."""

import numpy as np
from PIL import Image


def region(mask, padding, proportions):
    """The box around everything masked, padded and grown to ``proportions`` as far as the mask's picture allows; None
    for an empty mask."""
    box = mask.getbbox()
    if box is None:
        return None
    spans = []
    for low, high, limit in ((box[0], box[2], mask.width), (box[1], box[3], mask.height)):
        spans.append((max(0, low - padding), min(limit, high + padding), limit))
    scale = max((high - low) / side for (low, high, _), side in zip(spans, proportions, strict=True))
    grown = []
    for (low, high, limit), side in zip(spans, proportions, strict=True):
        size = min(limit, int(side * scale))
        start = min(max(0, (low + high - size) // 2), limit - size)
        grown.append((start, start + size))
    (x1, x2), (y1, y2) = grown
    return x1, y1, x2, y2


def fill(image, mask):
    """Cover what is masked with the mean colour of the rest."""
    pixels, shown = np.asarray(image.convert("RGB"), dtype=float), 255.0 - np.asarray(mask.convert("L"), dtype=float)
    mean = np.average(pixels.reshape(-1, 3), axis=0, weights=shown.ravel() + 1e-6)
    return Image.composite(Image.new("RGB", image.size, tuple(int(c) for c in mean)), image, mask.convert("L"))
