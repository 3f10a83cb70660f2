"""What of a reference a face is looked for in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from .face import Point

SIDES = (
    "top",
    "bottom",
    "left",
    "right",
)  # crops that cut; "center" is what nobody has chosen, and would behead people
GREY = (127, 127, 127)


def photo(image: Image.Image, mask: Image.Image | None, crop: str) -> Image.Image:
    """The RGB ``image`` with what ``mask`` ("L", any size; white counts) hides in grey, and cut to the square at the
    side that ``crop`` names; another crop leaves it whole."""
    if mask is not None:
        counts = mask.resize(image.size, Image.Resampling.BICUBIC)
        image = Image.composite(image, Image.new("RGB", image.size, GREY), counts)
    if crop not in SIDES:
        return image
    (x, y), short = offset(image.size, crop), min(image.size)
    return image.crop((x, y, x + short, y + short))


def offset(size: tuple[int, int], crop: str) -> tuple[int, int]:
    """Where in a picture of ``size`` (width, height) the ``photo``'s upper left corner is, in pixels."""
    width, height = size
    short = min(size)
    x = {"left": 0, "right": width - short}.get(crop, (width - short) // 2)
    y = {"top": 0, "bottom": height - short}.get(crop, (height - short) // 2)
    return (x, y) if crop in SIDES else (0, 0)


def in_whole(point: Point, size: tuple[int, int], crop: str) -> Point:
    """A point of the ``photo`` as one of the whole picture of ``size`` (width, height)."""
    x, y = offset(size, crop)
    return point[0] + x, point[1] + y
