"""A face's five points as InstantID's network of keypoints was shown them in training.

On black, a limb from each point to the nose, an ellipse 8 pixels thick at 0.6 of the point's colour, and over them a
disc of radius 10 for each point (arXiv 2401.07519). These sizes are pixels of the picture that is made, whatever its
size: they are drawn where they are needed, and never scaled.

InstantID makes pictures of the photo's own form. Where the forms differ, the photo covers the picture and what hangs
over is cut off, as sd-webui-controlnet does it ("Crop and Resize"); but the cut keeps to the face, where the middle
would lose a point of it, and where the face is too large for that, the whole photo fits into the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw

from .face import Point

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

Size = tuple[int, int]  # height, width
Frame = tuple[float, float, float, float]

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))  # of eyes, nose, corners of the mouth
NOSE = 2
RADIUS, HALF_LIMB, DIM = 10, 4, 0.6
WHOLE: Frame = (0.0, 0.0, 1.0, 1.0)


def draw_points(faces: Iterable[Sequence[Point]], size: tuple[int, int]) -> Image.Image:
    """The points of some faces, in pixels of an RGB picture of ``size`` (width, height)."""
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    faces = list(faces)
    for points in faces:
        for i, point in enumerate(points):
            if i != NOSE:
                draw.polygon(_limb(point, points[NOSE]), fill=tuple(round(DIM * value) for value in COLOURS[i]))
    for points in faces:
        for (x, y), colour in zip(points, COLOURS, strict=True):
            draw.ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill=colour)
    return image


def _limb(start: Point, end: Point) -> list[Point]:
    """The outline of an ellipse that reaches from ``start`` to ``end``."""
    along, across = (end[0] - start[0]) / 2, (end[1] - start[1]) / 2
    length = max(math.hypot(along, across), 1e-6)
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    outline = []
    for degree in range(0, 360, 3):
        cosine, sine = math.cos(math.radians(degree)), HALF_LIMB * math.sin(math.radians(degree)) / length
        outline.append((
            middle[0] + along * cosine - across * sine, middle[1] + across * cosine + along * sine,
        ))  # fmt: skip
    return outline


@dataclass(frozen=True)
class DrawnFace:
    """The points of a photo's face, to be drawn into pictures of any form.

    ``landmarks`` are in pixels of the photo, ``photo`` is its (width, height), ``frame`` the part of the picture (left,
    top, width, height, as shares of it) that the photo is to cover: a region's, so that each of several persons stands
    in their own.
    """

    landmarks: tuple[Point, ...]
    photo: tuple[int, int]
    frame: Frame = WHOLE

    def __call__(self, picture: Size, box: tuple[int, int, int, int], size: Size) -> Tensor:
        """[3, height, width] of 0 to 1, fp32: what ``box`` (left, top, width, height in pixels) shows of a picture of
        size ``picture``, drawn at ``size``; both sizes are height and width."""
        left, top, width, height = box
        points = [
            ((x - left) * size[1] / width, (y - top) * size[0] / height) for x, y in self.points_in(picture)
        ]  # fmt: skip
        drawn = np.array(draw_points([points], (size[1], size[0])), dtype=np.float32)
        return torch.from_numpy(drawn).permute(2, 0, 1) / 255

    def points_in(self, picture: Size) -> list[Point]:
        """The points in pixels of a picture of this height and width."""
        left, top, width, height = (
            share * side for share, side in zip(self.frame, (picture[1], picture[0]) * 2, strict=True)
        )
        across, down = ([point[axis] for point in self.landmarks] for axis in (0, 1))
        scale = max(width / self.photo[0], height / self.photo[1])
        if (max(across) - min(across)) * scale > width or (max(down) - min(down)) * scale > height:
            scale = min(width / self.photo[0], height / self.photo[1])
        x0 = _offset(across, self.photo[0], scale, width)
        y0 = _offset(down, self.photo[1], scale, height)
        return [(left + x0 + x * scale, top + y0 + y * scale) for x, y in self.landmarks]


def _offset(points: Sequence[float], photo: int, scale: float, frame: float) -> float:
    """Where a photo begins in its frame, along one side: their middles meet, or else as near to that as the points
    allow. Photo and points are scaled, ``frame`` is not."""
    over = photo * scale - frame
    if over <= 0:
        return -over / 2
    least, most = -min(points) * scale, frame - max(points) * scale  # with the outermost point on the frame's edge
    edge = min(RADIUS, (most - least) / 2)  # so that a disc is seen whole, where there is room
    return max(min(max(-over / 2, least + edge), most - edge, 0.0), -over)
