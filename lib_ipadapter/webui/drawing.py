"""Drawn pictures: a map of influence over a picture with its scale, and what they and others are written with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from modules import images
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .host.record import FinishedPicture

if TYPE_CHECKING:
    from typing import TypeAlias

    Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont

# From none to most, each lighter than the one before: readable without colour, too.
COLOURS = ((8, 8, 40), (70, 20, 120), (170, 40, 110), (235, 100, 50), (250, 190, 60), (255, 255, 210))
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


def _coloured(values: NDArray[Any]) -> NDArray[Any]:
    """Values from 0 to 1, of any shape, as RGB in a further last axis."""
    stops = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(values, stops, channel) for channel in np.array(COLOURS, float).T], axis=-1)


def _strip(width: int, caption: str) -> Image.Image:
    """The scale, 0 at the left, and the caption below it."""
    size, edge = max(12, min(28, width // 32)), max(2, round(0.02 * width))
    caption = in_characters_of(font(size), caption)
    while size > 7 and font(size).getlength(caption) > width - 2 * edge:
        size -= 1
    strip = Image.new("RGB", (width, 3 * size), PAPER)
    bar = _coloured(np.linspace(0, 1, width - 2 * edge))[None].repeat(max(4, size - 3), axis=0)
    strip.paste(Image.fromarray(bar.round().astype(np.uint8)), (edge, size // 2))
    ImageDraw.Draw(strip).text((edge, round(1.6 * size)), caption, INK, font(size))
    return strip


def caption(number: int, influence: Tensor) -> str:
    return f"IP-Adapter {number}: influence 0 … {float(influence.max()):.2f}"


def paint(finished: FinishedPicture, influence: Tensor, number: int) -> Image.Image:
    """The map of unit ``number`` ([height, width]) over a picture, as wide as that and a little higher.

    The colours go from 0 to the map's greatest value, which the caption tells.
    """
    picture, (left, top, width, height) = finished.image.convert("RGB"), finished.box
    values = np.ascontiguousarray(influence.float().numpy())
    values = np.asarray(Image.fromarray(values).resize((width, height), Image.BILINEAR))
    peak = float(influence.max())
    heat = _coloured(np.clip(values / peak if peak > 0 else values, 0, 1))
    sampled = picture.crop((left, top, left + width, top + height)).convert("L")
    mixed = SHARE * heat + (1 - SHARE) * np.asarray(sampled, float)[..., None]
    below = _strip(picture.width, caption(number, influence))
    canvas = Image.new("RGB", (picture.width, picture.height + below.height))
    canvas.paste(picture)
    canvas.paste(Image.fromarray(mixed.round().astype(np.uint8)), (left, top))
    canvas.paste(below, (0, picture.height))
    return canvas
