"""The colours of influence maps: from dark blue to light yellow, in steps that look equally large to any eye.

They are a path through OKLab (Björn Ottosson, "A perceptual color space for image processing", 2020), in which equal
distances are equally visible. Lightness rises all the way, and the colours go from blue to yellow, which the common
kinds of colour blindness tell apart: so the order can be read by anybody, and in print without colour, too.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEPS = 256
LIGHTNESS = (0.22, 0.96)  # in OKLab, where black is 0 and white is 1
HUE = (275.0, 462.0)  # in degrees: blue, magenta, red, orange, yellow
CHROMA = 0.15  # at most; less where sRGB has no such colour
# OKLab -> the cube roots of the cones' answers -> linear sRGB, from the publication.
ROOTS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
LINEAR = np.array([
    [4.0767416621, -3.3077115913, 0.2309699292],
    [-1.2684380046, 2.6097574011, -0.3413193965],
    [-0.0041960863, -0.7034186147, 1.7076147010],
])  # fmt: skip


def _linear(lab: Floats) -> Floats:
    """OKLab -> linear sRGB, which lies within 0 and 1 for colours that a screen has."""
    made: Floats = (lab @ ROOTS.T) ** 3 @ LINEAR.T
    return made


def _path(places: Floats) -> Floats:
    """Places from 0 to 1 -> OKLab, as colourful as CHROMA and sRGB allow."""
    light, hue = np.interp(places, (0, 1), LIGHTNESS), np.radians(np.interp(places, (0, 1), HUE))
    chroma: Floats = np.zeros_like(places)
    for part in 0.5 ** np.arange(1.0, 12.0):  # the largest share of CHROMA that a screen can show, by halving
        tried = chroma + part * CHROMA
        linear = _linear(np.stack([light, tried * np.cos(hue), tried * np.sin(hue)], axis=-1))
        chroma = np.where(((linear >= 0) & (linear <= 1)).all(-1), tried, chroma)
    # The limit has corners; a mean over a tenth of the path has none, and what is less colourful can be shown as well.
    width = len(places) // 10
    smooth = np.convolve(np.pad(0.93 * chroma, width, mode="edge"), np.full(width, 1 / width), "same")[width:-width]
    return np.stack([light, smooth * np.cos(hue), smooth * np.sin(hue)], axis=-1)


@functools.cache
def table() -> Floats:
    """[STEPS, 3]: RGB from 0 to 255 in steps of the same length in OKLab."""
    places = np.linspace(0, 1, 4 * STEPS)
    path = _path(places)
    walked = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    even: Floats = np.interp(np.linspace(0, walked[-1], STEPS), walked, places)
    lab = np.stack([np.interp(even, places, channel) for channel in path.T], axis=-1)
    linear = _linear(lab).clip(0, 1)
    made = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.power(linear, 1 / 2.4) - 0.055)
    return np.asarray(255 * made, np.float64)


def coloured(values: NDArray[Any]) -> Floats:
    """Values from 0 to 1, of any shape, as RGB from 0 to 255 in a further last axis."""
    stops = np.linspace(0, 1, STEPS)
    return np.stack([np.interp(values, stops, channel) for channel in table().T], axis=-1)
