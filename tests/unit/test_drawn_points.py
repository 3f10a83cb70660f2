"""A face's five points, drawn as InstantID's network knows them, and where a photo's face comes to lie in a picture."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_ipadapter.attend.regions import Region
from lib_ipadapter.encode.faces.drawn import DrawnFace, draw_points
from tests.helpers.tensors import draw

POINTS = ((200.0, 200.0), (300.0, 210.0), (250.0, 260.0), (215.0, 310.0), (290.0, 315.0))
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))


def expected(size: tuple[int, int], wider: float = 0.0) -> np.ndarray:
    """The drawing by the formulas, asked of each pixel, its edges further out: [height, width, 3]."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    made = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for (px, py), colour in zip(POINTS, COLOURS, strict=True):
        nx, ny = POINTS[2]
        half = math.hypot(px - nx, py - ny) / 2
        if half:
            angle = math.atan2(py - ny, px - nx)
            dx, dy = x - (px + nx) / 2, y - (py + ny) / 2
            along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
            made[(along / (half + wider)) ** 2 + (across / (4 + wider)) ** 2 <= 1] = [
                int(0.6 * value) for value in colour
            ]
    for (px, py), colour in zip(POINTS, COLOURS, strict=True):
        made[(x - px) ** 2 + (y - py) ** 2 <= (10 + wider) ** 2] = colour
    return made


def test_the_drawing_is_that_of_the_formulas() -> None:
    ours = np.array(draw_points([POINTS], (400, 420)))
    least, exact, most = (expected((400, 420), wider) for wider in (-1, 0, 1.5))
    assert (least > 0).any(-1).sum() > 2000
    assert (ours[(least > 0).any(-1)] > 0).any(-1).all()
    assert not ours[(most == 0).all(-1)].any()
    assert (ours != exact).any(-1).sum() < 0.15 * (exact > 0).any(-1).sum()  # pixels on edges
    for (x, y), colour in zip(POINTS, COLOURS, strict=True):
        assert tuple(ours[int(y), int(x)]) == colour
    assert tuple(ours[230, 225]) == (153, 0, 0)
    assert {tuple(colour) for colour in ours.reshape(-1, 3)} == {
        (0, 0, 0), *COLOURS, (153, 0, 0), (0, 153, 0), (153, 153, 0), (153, 0, 153),
    }  # fmt: skip


def test_several_faces_are_drawn_into_one_picture() -> None:
    moved = tuple((x + 200, y) for x, y in POINTS)
    both = np.array(draw_points([POINTS, moved], (600, 420)))
    assert (both == np.maximum(*(np.array(draw_points([one], (600, 420))) for one in (POINTS, moved)))).all()


def test_a_picture_of_the_photos_form_is_the_photo_scaled() -> None:
    face = DrawnFace(POINTS, (500, 600))
    assert face.points_in((600, 500)) == list(POINTS)
    assert face.points_in((1200, 1000)) == [(2 * x, 2 * y) for x, y in POINTS]
    hint = face((1200, 1000), (0, 0, 1000, 1200), (1200, 1000))
    assert (hint.shape, hint.dtype, hint.min(), hint.max()) == ((3, 1200, 1000), torch.float32, 0, 1)
    drawn = np.array(draw_points([[(2 * x, 2 * y) for x, y in POINTS]], (1000, 1200)))
    assert torch.equal(hint, torch.from_numpy(drawn).permute(2, 0, 1) / 255)


def test_another_form_is_covered_and_its_middle_kept() -> None:
    wide = DrawnFace(POINTS, (500, 600)).points_in((600, 1000))  # scaled by 2, 600 rows hang over
    assert wide == [(2 * x, 2 * y - 300) for x, y in POINTS]
    tall = DrawnFace(POINTS, (500, 600)).points_in((1200, 600))  # scaled by 2, 400 columns hang over
    assert tall == [(2 * x - 200, 2 * y) for x, y in POINTS]


def test_the_cut_keeps_to_a_face_that_is_not_in_the_middle() -> None:
    points = tuple((x - 180, y) for x, y in POINTS)  # at the photo's left edge
    found = DrawnFace(points, (600, 600)).points_in((600, 300))
    assert min(x for x, _ in found) == pytest.approx(10)
    assert [y for _, y in found] == [y for _, y in points]
    far = DrawnFace(tuple((x + 290, y) for x, y in POINTS), (600, 600)).points_in((600, 300))
    assert max(x for x, _ in far) == pytest.approx(290)


def test_a_face_that_is_too_large_to_be_cut_fits_in_whole() -> None:
    points = ((20.0, 100.0), (580.0, 100.0), (300.0, 300.0), (50.0, 500.0), (550.0, 500.0))
    found = DrawnFace(points, (600, 600)).points_in((600, 300))
    assert found == [(x / 2, y / 2 + 150) for x, y in points]


SIDE = st.integers(64, 2048)


@settings(max_examples=300)
@given(SIDE, SIDE, SIDE, SIDE, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=5, max_size=5))
def test_every_point_of_the_photo_is_in_the_picture(width, height, to_width, to_height, shares) -> None:
    points = tuple((x * width, y * height) for x, y in shares)
    found = DrawnFace(points, (width, height)).points_in((to_height, to_width))
    assert all(-1e-6 <= x <= to_width + 1e-6 and -1e-6 <= y <= to_height + 1e-6 for x, y in found)
    (ax, ay), (bx, by) = points[0], points[1]
    scale = math.dist(found[0], found[1]) / math.dist((ax, ay), (bx, by)) if math.dist((ax, ay), (bx, by)) > 1 else None
    fits = [max(to_width / width, to_height / height), min(to_width / width, to_height / height)]
    assert scale is None or min(abs(scale - fit) / fit for fit in fits) < 1e-6


def test_a_frame_is_where_the_photo_goes() -> None:
    left = DrawnFace(POINTS, (500, 600), (0.0, 0.0, 0.5, 1.0)).points_in((600, 1000))
    right = DrawnFace(POINTS, (500, 600), (0.5, 0.0, 0.5, 1.0)).points_in((600, 1000))
    assert left == list(POINTS)
    assert right == [(x + 500, y) for x, y in POINTS]


def test_a_part_is_drawn_at_its_own_size() -> None:
    face = DrawnFace(POINTS, (500, 600))
    part = face((600, 500), (150, 150, 200, 200), (400, 400))
    drawn = np.array(draw_points([[(2 * (x - 150), 2 * (y - 150)) for x, y in POINTS]], (400, 400)))
    assert torch.equal(part, torch.from_numpy(drawn).permute(2, 0, 1) / 255)
    assert face((600, 500), (0, 400, 200, 200), (400, 400)).max() == 0  # nothing of it is there


def test_the_frame_of_a_region() -> None:
    mask = torch.zeros(10, 20)
    mask[2:7, 5:15] = draw(5, 10, seed=1).sigmoid()
    assert Region(mask).frame == (0.25, 0.2, 0.5, 0.5)
    assert Region(torch.ones(3, 4)).frame == (0.0, 0.0, 1.0, 1.0)
    assert Region(torch.zeros(3, 4)).frame == (0.0, 0.0, 1.0, 1.0)
