"""Small pictures of references, looks and presets in the grids of X/Y/Z plots, at their axis.

The host writes texts along a grid, and nothing else. But it announces each grid before it puts it together, and lets
extensions exchange the pictures: those of the first row, or column, come with a small picture in their corner. The
cells' own pictures stay what they are. What is to be shown there travels on the cell's picture, as the host's own notes
on it do, so nothing is left behind.
"""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

from PIL import Image

from .. import looks, options
from ..drawing import PAPER
from ..host import record
from .xyz_sources import LOOK, OF_ALL, REFERENCE

ATTRIBUTE = "ip_adapter_axes"  # of a cell's picture: {place: small JPEG file}
SHARE = 4  # of a cell's shorter side
MIN_SIDE = 24  # pixels


def mark(p: Any, image: Image.Image) -> None:
    """Write down on a finished picture what stands for its cell's values, if ``p`` is a cell of such an axis."""
    job = record.attached(p)
    if job is None or not job.axis_values or not options.grid_pictures():
        return
    shown = {}
    for place in job.axis_values:
        number, field = place.split()
        if field not in (REFERENCE, LOOK) and place != OF_ALL:
            continue
        unit = next((one for one in job.units if place == OF_ALL or one.number == int(number)), None)
        if unit is not None and (small := looks.small(unit.references)):
            shown[place] = small
    if shown:
        setattr(image, ATTRIBUTE, shown)


def draw(params: Any) -> None:
    """``image_grid``: a grid is about to be put together, ``params.cols`` by ``params.rows``.

    Cells that were refused, or not made, have no mark: the others of their row or column say what stands for it. What
    differs along both is nobody's axis."""
    marks = [getattr(image, ATTRIBUTE, {}) for image in params.imgs]
    pictures, columns = [*params.imgs], int(params.cols)
    for place in {place: None for mark in marks for place in mark}:
        values = [mark.get(place) for mark in marks]
        rows = [_told(values[start : start + columns]) for start in range(0, len(values), columns)]
        down = [_told(values[start::columns]) for start in range(min(columns, len(values)))]
        along, across = (any(len({*line}) > 1 for line in lines) for lines in (rows, down))
        if along == across:
            continue
        for i, line in enumerate(down if along else rows):
            cell = i if along else i * columns  # of the first row, or column
            pictures[cell] = _with_small(pictures[cell], line[0] if line else None, at_top=along)
    if any(one is not other for one, other in zip(pictures, params.imgs, strict=True)):
        params.imgs = pictures


def _told(line: list[bytes | None]) -> list[bytes]:
    return [one for one in line if one is not None]


def _with_small(picture: Image.Image, jpeg: bytes | None, *, at_top: bool) -> Image.Image:
    """A copy of a cell's picture with the small one in its corner; itself where there is none, or no room."""
    side = min(picture.size) // SHARE
    if jpeg is None or side < MIN_SIDE:
        return picture
    with suppress(OSError, ValueError):  # ValueError: of a kind that no colours go into
        small = Image.open(io.BytesIO(jpeg)).convert("RGB")
        small.thumbnail((side, side))
        edge = max(1, side // 24)
        framed = Image.new("RGB", (small.width + 2 * edge, small.height + 2 * edge), PAPER)
        framed.paste(small, (edge, edge))
        copy = picture.copy()
        copy.paste(framed, (0, 0 if at_top else picture.height - framed.height))
        return copy
    return picture
