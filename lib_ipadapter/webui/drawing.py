"""Drawn pictures: a map of influence over a picture with its scale, and what they and others are written with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from modules import images
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from . import colour_map
from .host.record import FinishedPicture

if TYPE_CHECKING:
    from typing import TypeAlias

    Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont

SHARE = 0.65  # of the colours; the picture below, without its own colours, has the rest
PAPER, INK = (24, 24, 27), (244, 244, 245)


def font(size: int) -> Font:
    """The host's font, or Pillow's own, which has one size and plain letters only."""
    letters: Font = images.get_font(size) if hasattr(images, "get_font") else ImageFont.load_default()
    return letters


def in_characters_of(letters: Font, text: str) -> str:
    """``text`` in the characters that a font has."""
    if isinstance(letters, ImageFont.FreeTypeFont):
        return text
    return text.replace("…", "...").encode("latin-1", "replace").decode("latin-1")


def _along(count: int, length: int) -> NDArray[np.float64]:
    """Which of the ``count`` values along a row its ``length`` pixels show: each value is shown as it is by one pixel,
    those between two of these lie in between, those beyond the outermost are like them."""
    centres = np.round((np.arange(count) + 0.5) * length / count - 0.5)
    return np.interp(np.arange(length), centres, np.arange(count))


def enlarged(values: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Values [h, w] as [height, width], bilinear. Where that is larger, every value is at one of the pixels, so that
    neither the least nor the greatest is lost between them."""
    for axis, length in enumerate((height, width)):
        place = _along(values.shape[axis], length)
        below = np.floor(place).astype(int)
        above = np.minimum(below + 1, values.shape[axis] - 1)
        share = np.expand_dims(place - below, 1 - axis)
        values = values.take(below, axis) * (1 - share) + values.take(above, axis) * share
    return values


def number_text(value: float) -> str:
    """An influence in three digits."""
    return f"{float(f'{value:.3g}'):g}"


def _shares(values: NDArray[Any]) -> NDArray[Any]:
    """Values as shares of their own range, from 0 for the least to 1 for the greatest. Where all are the same: 0 for
    none at all, else the middle."""
    low, high = float(values.min()), float(values.max())
    if high > low:
        return (values - low) / (high - low)
    return np.full_like(values, 0.5 if high > 0 else 0.0)


def _strip(width: int, name: str, low: float, high: float) -> Image.Image:
    """The scale: the colours, below its ends what they stand for, and between or below these what is shown."""
    size, edge = max(12, min(28, width // 32)), max(2, round(0.02 * width))
    room, (left, right) = width - 2 * edge, (number_text(value) for value in (low, high))
    name = in_characters_of(font(size), name)
    while size > 7 and max(font(size).getlength(text) for text in (name, f"{left}  {right}")) > room:
        size -= 1
    letters = font(size)
    length = letters.getlength
    name_left = (width - length(name)) / 2
    is_between = name_left > edge + size + max(length(left), length(right))
    strip = Image.new("RGB", (width, 3 * size if is_between else round(4.3 * size)), PAPER)
    bar = colour_map.coloured(_shares(np.linspace(low, high, room)))[None].repeat(max(4, size - 3), axis=0)
    strip.paste(Image.fromarray(bar.round().astype(np.uint8)), (edge, size // 2))
    draw, top = ImageDraw.Draw(strip), round(1.6 * size)
    draw.text((edge, top), left, INK, letters)
    draw.text((width - edge - length(right), top), right, INK, letters)
    draw.text((name_left, top) if is_between else (edge, round(2.9 * size)), name, INK, letters)
    return strip


def caption(number: int) -> str:
    return f"IP-Adapter {number}: influence"


def paint(finished: FinishedPicture, influence: Tensor, number: int) -> Image.Image:
    """The map of unit ``number`` ([height, width]) over a picture, as wide as that and a little higher.

    The colours go from the least value that is shown to the greatest; a scale below says what these are.
    """
    picture, (left, top, width, height) = finished.image.convert("RGB"), finished.box
    values = enlarged(influence.double().numpy(), height, width)
    sampled = picture.crop((left, top, left + width, top + height)).convert("L")
    mixed = SHARE * colour_map.coloured(_shares(values)) + (1 - SHARE) * np.asarray(sampled, float)[..., None]
    below = _strip(picture.width, caption(number), float(values.min()), float(values.max()))
    canvas = Image.new("RGB", (picture.width, picture.height + below.height))
    canvas.paste(picture)
    canvas.paste(Image.fromarray(mixed.round().astype(np.uint8)), (left, top))
    canvas.paste(below, (0, picture.height))
    return canvas
