"""Images of any mode -> plain RGB pictures and masks: upright, 8 bits, without transparency and metadata."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import PictureError
from .formats import SAVE_AS
from .sizes import check_size

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def from_array(array: NDArray[Any]) -> Image.Image:
    """An array [H, W] or [H, W, 1 to 4] as an image. Raises PictureError for other shapes, types and values."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (2, 3, 4))) or 0 in array.shape:
        raise PictureError(f"The picture is an array of shape {list(array.shape)}; give height x width x 1, 3 or 4.")
    check_size((array.shape[1], array.shape[0]))
    if array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype == np.uint16:
        array = _scale_16_bits(array)
    elif np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise PictureError("The picture is an array of floats outside 0…1; divide by its largest value first.")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise PictureError(f"The picture is an array of {array.dtype}; give uint8, uint16 or floats in 0…1.")
    return Image.fromarray(np.ascontiguousarray(array))


def _scale_16_bits(values: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """0…65535 -> 0…255, rounded: 65535 = 255 * 257."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF asks; damaged EXIF data is no reason to refuse the picture. PIL turns TIFF files by itself."""
    if image.format == "TIFF":
        return image
    try:
        orientation: Any = image.getexif().get(_ORIENTATION)
    except Exception:
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def to_rgb(image: Image.Image) -> Image.Image:
    """A plain RGB copy: transparency over white, 16 bits scaled, no metadata."""
    opaque, alpha = _parts(image)
    if alpha is not None:
        opaque = Image.composite(opaque, Image.new("RGB", opaque.size, "white"), alpha)
    opaque.info = {}
    return opaque


def to_mask(image: Image.Image) -> Image.Image:
    """A plain "L" copy: luminance, times alpha where that varies."""
    opaque, alpha = _parts(image)
    luminance = opaque.convert("L")
    if alpha is not None and len(set(alpha.getextrema())) > 1:
        luminance = Image.composite(luminance, Image.new("L", luminance.size), alpha)
    luminance.info = {}
    return luminance


def _parts(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours (a new RGB image) and alpha ("L"; None for a picture without), 16 bits scaled."""
    if image.mode == "F":
        raise PictureError(f"The picture holds floating-point values; {SAVE_AS}.")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise PictureError(f"The picture holds values of more than 16 bits; {SAVE_AS}.")
        image = Image.fromarray(_scale_16_bits(values))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or (
        image.mode in ("RGB", "P", "L", "1") and "transparency" in image.info
    ):
        straight = image.convert("LA") if image.mode == "La" else image
        rgba = straight.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
    return image.convert("RGB"), None
