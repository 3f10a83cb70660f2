"""How large a picture may be, and errors about pictures that are not."""

from __future__ import annotations

from ..errors import BudgetError, PictureError

MAX_PIXELS = 100_000_000
MAX_RATIO = 64
MIN_SIDE = 2
BUDGET_PIXELS = 2_000_000_000  # of all pictures of a job, an import or a page: 80 photographs of 24 megapixels


class Budget:
    """The pixels that pictures may have together, counted by what their headers say before anything is decoded."""

    def __init__(self, pixels: int = BUDGET_PIXELS) -> None:
        self.pixels = self.left = pixels

    def take(self, size: tuple[int, int]) -> None:
        """Raises BudgetError where a picture of this size (width, height) is one too many."""
        self.left -= size[0] * size[1]
        if self.left < 0:
            raise BudgetError(
                f"The pictures have more than {self.pixels // 1_000_000:,} megapixels together: scale them down, to "
                "2048 pixels on their longer sides for example, or give fewer."
            )


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
