"""What an image encoder sees of a picture: crops, tiles and masks."""

from __future__ import annotations

from PIL import Image

from ..checkpoint.specs import CLIP, SIGLIP
from ..errors import UnitError
from .conversions import to_mask, to_rgb

CROPS = ("center", "top", "bottom", "left", "right", "pad", "stretch", "tile")
# Each tile is encoded on its own and may bring image tokens of its own into every attention layer, so their number is
# bounded. Four show a picture of up to 4:1 at full height: all screens, film formats and most panoramas.
MAX_TILES = 4

# CLIP's statistics, as in transformers' CLIPImageProcessor.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
# The mean and the deviation that each family of encoders is shown pictures by, as in transformers' processors.
STATISTICS = {CLIP: (MEAN, STD), SIGLIP: (HALF, HALF)}


def views(
    image: Image.Image, size: int, crop: str = "center", mask: Image.Image | None = None, family: str = CLIP
) -> list[Image.Image]:
    """What an encoder of ``size`` pixels sees of ``image``: RGB, size x size, one for every crop but "tile". ``family``
    is the encoder's.

    Bicubic, as transformers' processors do it; CLIPImageProcessor's is "center", SiglipImageProcessor's "stretch":

    - "center", "top", "bottom", "left", "right": the shortest side is scaled to ``size`` and the square cut out there,
      or from the middle along a side that the word does not speak of.
    - "pad": the longest side is scaled to ``size``, the rest is the family's mean colour, which the encoder sees as
      zeros.
    - "stretch": proportions are given up.
    - "tile": the shortest side is scaled to ``size``, and squares are cut out along the longest side, from edge to
      edge at equal distances, as few as cover everything. A picture of more than MAX_TILES to 1 is scaled until that
      many tiles cover it, and lies on the mean colour.

    ``mask`` ("L", white where the picture counts, grey in between) may have any size: it is laid over the whole picture
    and cut with it. What it hides blends into the mean colour.

    These are ``pixels.to_pixels``' numbers but for rounding to 8 bits. Raises UnitError for another ``crop``.
    """
    pairs = masked_views(image, size, crop, mask, family)
    mean = _mean((size, size), family)
    return [seen if counts is None else Image.composite(seen, mean, counts) for seen, counts in pairs]


def tile_count(picture: tuple[int, int], size: int) -> int:
    """How many views crop "tile" makes of a picture of these (width, height) for an encoder of ``size`` pixels."""
    return len(_corners(_plan(picture, size, "tile")[1], size, "tile"))


def masked_views(
    image: Image.Image, size: int, crop: str, mask: Image.Image | None, family: str = CLIP
) -> list[tuple[Image.Image, Image.Image | None]]:
    """Each view with how much of it counts ("L"; None: all of it)."""
    if crop not in CROPS:
        raise UnitError(f"crop “{crop}” is not known here; choose one of {', '.join(CROPS)}.")
    image = image if image.mode == "RGB" else to_rgb(image)
    scaled, canvas = _plan(image.size, size, crop)
    seen = image.resize(scaled, Image.Resampling.BICUBIC)
    # Straight to the size that the picture is seen at: a mask scaled twice has softer edges than it was given.
    counts = mask if mask is None or mask.mode == "L" else to_mask(mask)
    counts = None if counts is None else counts.resize(scaled, Image.Resampling.BICUBIC)
    if canvas != scaled:
        place = ((canvas[0] - scaled[0]) // 2, (canvas[1] - scaled[1]) // 2)
        seen = _laid(seen, place, _mean(canvas, family))
        counts = _laid(Image.new("L", scaled, 255) if counts is None else counts, place, Image.new("L", canvas))
    boxes = [(x, y, x + size, y + size) for x, y in _corners(canvas, size, crop)]
    return [(seen.crop(box), None if counts is None else counts.crop(box)) for box in boxes]


def _plan(given: tuple[int, int], size: int, crop: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """What a picture of the ``given`` size is scaled to, and the canvas that it then lies on, in its middle."""
    if crop == "stretch":
        return (size, size), (size, size)
    width, height = given
    short, long = sorted(given)
    if crop == "pad" or (crop == "tile" and long > MAX_TILES * short):
        longest = size if crop == "pad" else MAX_TILES * size
        scaled = (max(1, round(longest * width / long)), max(1, round(longest * height / long)))
        return scaled, (longest if width == long else size, longest if height == long else size)
    scaled = (
        size if width == short else int(size * long / short),
        size if height == short else int(size * long / short),
    )
    return scaled, scaled


def _corners(canvas: tuple[int, int], size: int, crop: str) -> list[tuple[int, int]]:
    """The upper left corners of the squares that ``crop`` cuts out of ``canvas``."""
    x, y = canvas[0] - size, canvas[1] - size
    if crop == "tile" and (steps := -(-max(x, y) // size)):
        return [(x * i // steps, y * i // steps) for i in range(steps + 1)]
    return [({"left": 0, "right": x}.get(crop, x // 2), {"top": 0, "bottom": y}.get(crop, y // 2))]


def _laid(upper: Image.Image, place: tuple[int, int], lower: Image.Image) -> Image.Image:
    lower.paste(upper, place)
    return lower


def _mean(size: tuple[int, int], family: str) -> Image.Image:
    """The family's mean colour, as near as 8 bits come to it."""
    return Image.new("RGB", size, tuple(round(255 * mean) for mean in STATISTICS[family][0]))
