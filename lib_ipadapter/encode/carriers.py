"""A file of embeddings as a picture that carries it, byte for byte, in its pixels.

Embeddings go wherever references go: into the panel, presets, exports, kept generations, and parameters by their
content hash. All of these keep pictures without losses, so a file of embeddings is one there, too. In the red, green
and blue of its pixels, row by row, stand a mark, the file's length, its SHA-256, and the file; the rest is black.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..errors import PictureError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARK = b"IP-Adapter embeddings\0"
HEAD = len(MARK) + 8 + 32
MIN_SIDE = 16  # pixels
MAX_FILE = 64 * 2**20  # bytes


def is_embeddings(file: bytes) -> bool:
    """Whether a file begins like a safetensors file, which is no picture."""
    return len(file) > 10 and file[8:9] == b"{" and int.from_bytes(file[:8], "little") < len(file)


def carrier(file: bytes) -> Image.Image:
    """The RGB picture that carries ``file``. Raises PictureError for one that is too large."""
    if len(file) > MAX_FILE:
        raise PictureError(f"The embeddings are larger than {MAX_FILE >> 20} MB: keep fewer references in one file.")
    data = MARK + len(file).to_bytes(8, "little") + hashlib.sha256(file).digest() + file
    side = max(MIN_SIDE, math.isqrt(-(-len(data) // 3) - 1) + 1)
    pixels: NDArray[np.uint8] = np.zeros(side * side * 3, dtype=np.uint8)
    pixels[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    return Image.fromarray(pixels.reshape(side, side, 3))


def carries(image: Image.Image) -> bool:
    """Whether a picture is a carrier, by its mark."""
    if image.mode != "RGB" or image.width != image.height or image.width < MIN_SIDE:
        return False
    first: bytes = image.crop((0, 0, MIN_SIDE, 1)).tobytes()
    return first.startswith(MARK)


def carried(image: Image.Image) -> bytes:
    """The file in a carrier. Raises PictureError where it is no longer what it was."""
    data: bytes = image.tobytes()
    length = int.from_bytes(data[len(MARK) : len(MARK) + 8], "little")
    file = data[HEAD : HEAD + length]
    if len(file) != length or hashlib.sha256(file).digest() != data[len(MARK) + 8 : HEAD]:
        raise PictureError(
            "The picture has carried embeddings and was changed or saved with losses since: use the first file."
        )
    return file
