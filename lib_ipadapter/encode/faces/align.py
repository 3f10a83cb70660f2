"""A face, turned upright and brought to an encoder's size by its five landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from .face import Point

# Where ArcFace's crops of 112 pixels have both eyes, the nose and both corners of the mouth (insightface's
# ``utils/face_align.py``), as x + y·i.
TEMPLATE = np.array(
    [38.2946 + 51.6963j, 73.5318 + 51.5014j, 56.0252 + 71.7366j, 41.5493 + 92.3655j, 70.7299 + 92.2041j]
)
SIDE = 112
WIDE_SIDE, WIDE_MARGIN = 128, 8  # crops of 128 and its multiples have the same face with a margin at both sides


def template(size: int) -> NDArray[np.complex128]:
    """[5]: where the landmarks are in a crop of ``size`` pixels."""
    if size % WIDE_SIDE == 0 and size % SIDE != 0:
        return np.multiply(TEMPLATE + WIDE_MARGIN, size / WIDE_SIDE, dtype=np.complex128)
    return np.multiply(TEMPLATE, size / SIDE, dtype=np.complex128)


def similarity(points: Sequence[Point], size: int) -> tuple[complex, complex]:
    """(a, b) of the turn, scaling and shift z → a·z + b that brings ``points`` nearest to the crop's template.

    The least squares solution over the complex numbers, which has no mirror images in it (Umeyama 1991 in the plane).
    """
    there = template(size)
    here = np.array([complex(x, y) for x, y in points])
    centred = here - here.mean()
    spread = float((abs(centred) ** 2).sum())
    if not spread > 0:
        raise ValueError("the landmarks lie in one point")
    a = complex((centred.conj() * (there - there.mean())).sum() / spread)
    return a, complex(there.mean() - a * here.mean())


def aligned(image: Image.Image, landmarks: Sequence[Point], size: int) -> Image.Image:
    """The face in an RGB ``image`` as insightface's ``norm_crop`` cuts it: RGB, ``size`` pixels square, black beyond
    the picture's edges."""
    a, b = similarity(landmarks, size)
    back, shift = 1 / a, -b / a  # crop → picture: z → back·z + shift, by the middles of pixels
    # Pillow counts from a pixel's corner, so a crop's pixel is read half a pixel off at both ends.
    corner = shift + complex(0.5, 0.5) - back * complex(0.5, 0.5)
    matrix = (back.real, -back.imag, corner.real, back.imag, back.real, corner.imag)
    return image.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
