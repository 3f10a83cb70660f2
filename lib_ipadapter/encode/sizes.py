"""How large a picture may be, and errors about pictures that are not."""

from __future__ import annotations

from ..errors import PictureError

MAX_PIXELS = 100_000_000
MAX_RATIO = 64
MIN_SIDE = 2


def check_size(size: tuple[int, int]) -> None:
    """PictureError for a picture (width, height) that is too large, too small, or a strip."""
    width, height = size
    if width * height > MAX_PIXELS:
        raise too_large(f"{width} x {height} pixels, ")
    if min(size) < MIN_SIDE:
        raise PictureError(f"The picture has {width} x {height} pixels, too few to see anything; use a larger one.")
    if max(size) > MAX_RATIO * min(size):
        raise PictureError(
            f"The picture is a strip of {width} x {height} pixels, of which an image encoder sees nothing useful; "
            "cut a part out of it that is nearer to a square."
        )


def too_large(size: str) -> PictureError:
    return PictureError(
        f"The picture is too large ({size}more than {MAX_PIXELS // 1_000_000} megapixels); "
        "scale it down, to 2048 pixels on its longer side for example."
    )
