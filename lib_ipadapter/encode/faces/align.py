"""The face that an image encoder sees: upright, its five landmarks where training had them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from .face import Point


def aligned(image: Image.Image, landmarks: Sequence[Point], size: int) -> Image.Image:
    """Stand-in: the square around the landmarks."""
    xs, ys = [x for x, _ in landmarks], [y for _, y in landmarks]
    half = max(max(xs) - min(xs), max(ys) - min(ys))
    x, y = sum(xs) / 5, sum(ys) / 5
    return image.transform((size, size), Image.Transform.EXTENT, (x - half, y - half, x + half, y + half))
