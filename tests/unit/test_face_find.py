"""What is tried to find a face, and that coordinates are the given picture's whatever was tried."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lib_ipadapter.encode.faces import find
from lib_ipadapter.encode.faces.choice import chosen
from lib_ipadapter.encode.faces.face import Face, Found
from lib_ipadapter.encode.faces.find import Candidate, look
from lib_ipadapter.errors import PictureError, UnitError
from tests.helpers.face_pack import noise
from tests.helpers.tensors import draw

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))  # of the landmarks
MARKS = ((20, 30), (50, 28), (36, 45), (24, 60), (48, 61))
Seen = tuple[Image.Image, int, float]


def marked(width: int, height: int, side: int = 9, at: tuple[int, int] = (0, 0), scale: float = 1.0) -> Image.Image:
    """A grey picture in which squares of five colours stand for the landmarks of a face."""
    picture = Image.new("RGB", (width, height), (60, 60, 60))
    drawing = ImageDraw.Draw(picture)
    for (x, y), colour in zip(MARKS, COLOURS, strict=True):
        x, y = at[0] + x * scale, at[1] + y * scale
        drawing.rectangle((x - side // 2, y - side // 2, x + side // 2, y + side // 2), colour)
    return picture


class Eye:
    """A detector that finds the marks where ``finds`` says that it does, with that score."""

    def __init__(self, finds: Callable[[Image.Image, int], float]) -> None:
        self.finds, self.seen = finds, []

    def __call__(self, picture: Image.Image, size: int, threshold: float) -> list[Candidate]:
        self.seen.append((picture.size, size))
        score = self.finds(picture, size)
        return [self.face(picture, score)] if score >= threshold else []

    @staticmethod
    def face(picture: Image.Image, score: float) -> Candidate:
        pixels = np.asarray(picture).astype(np.int16)
        points = []
        for colour in COLOURS:
            rows, columns = np.nonzero(np.abs(pixels - np.array(colour, np.int16)).max(2) < 60)
            points.append((float(columns.mean()), float(rows.mean())))
        xs, ys = [x for x, _ in points], [y for _, y in points]
        return Candidate((min(xs), min(ys), max(xs), max(ys)), tuple(points), score)


def is_upright(picture: Image.Image) -> bool:
    face = Eye.face(picture, 1.0)
    return face.leaning < 45


def check(face: Candidate, at: tuple[float, float] = (0, 0), scale: float = 1.0, within: float = 0.01) -> None:
    expected = [(at[0] + x * scale, at[1] + y * scale) for x, y in MARKS]
    assert np.abs(np.array(face.landmarks) - expected).max() <= within
    xs, ys = [x for x, _ in expected], [y for _, y in expected]
    assert np.abs(np.array(face.box) - [min(xs), min(ys), max(xs), max(ys)]).max() <= within


def test_one_look_is_enough_for_a_clear_face() -> None:
    eye = Eye(lambda *_: 0.9)
    [face], how = look(marked(100, 80), eye)
    check(face)
    assert how == "" and eye.seen == [((100, 80), 640)]


@pytest.mark.parametrize("size", [512, 384, 256, 192, 128])
def test_smaller_sizes(size: int) -> None:
    [face], how = look(marked(100, 80), Eye(lambda _, shown: 0.9 if shown == size else 0.0))
    check(face)
    assert how == f"at detection size {size}"


def test_a_large_size_for_large_pictures_only() -> None:
    def only_large(_: Image.Image, size: int) -> float:
        return 0.9 if size == 1280 else 0.0

    [face], how = look(marked(1000, 700), Eye(only_large))
    check(face)
    assert how == "at detection size 1280"
    eye = Eye(only_large)
    with pytest.raises(PictureError, match="from 640 to 128"):
        look(marked(640, 500), eye)
    assert max(size for _, size in eye.seen) == 640


@pytest.mark.parametrize("scale", [2.0, 3.7])
def test_large_photos_are_shown_smaller(scale: float) -> None:
    """Coordinates are right on the average of many places; a single one is rounded to what is shown."""
    width, height, apart = round(1280 * scale), round(900 * scale), []
    for place in range(200, 208):
        eye = Eye(lambda *_: 0.9)
        [face], _ = look(marked(width, height, side=41, at=(place, place), scale=4.0), eye)
        assert eye.seen == [((1280, 900), 640)]
        apart.append(np.array(face.landmarks) - [(place + 4 * x, place + 4 * y) for x, y in MARKS])
    assert np.abs(np.mean(apart, axis=(0, 1))).max() < 0.15 and np.abs(apart).max() < scale / 2


def test_a_border_around_a_face_that_fills_the_picture() -> None:
    [face], how = look(marked(100, 80), Eye(lambda picture, _: 0.9 if picture.width > 100 else 0.0))
    check(face)
    assert how == "with a border around the picture"


def test_a_border_around_a_large_picture() -> None:
    def finds(picture: Image.Image, _: int) -> float:
        return 0.9 if picture.getpixel((0, 0)) == find.FILL else 0.0

    eye = Eye(finds)
    [face], how = look(marked(1280, 900, side=41, at=(200, 300), scale=4.0), eye)
    check(face, (200, 300), 4.0, within=1.5)
    assert how == "with a border around the picture" and max(max(size) for size, _ in eye.seen) <= 1280


@pytest.mark.parametrize("turn", find.TURNS)
def test_turned_pictures(turn: int) -> None:
    """The picture has to be turned by ``turn`` to be upright; its marks are where they were."""
    given = marked(100, 80).rotate(turn, expand=True)  # against the clock
    [face], how = look(given, Eye(lambda picture, _: 0.9 if is_upright(picture) else 0.0))
    there = Eye.face(given, 0.9)
    assert np.allclose(face.landmarks, there.landmarks, atol=0.01) and np.allclose(face.box, there.box, atol=0.01)
    assert how == f"after a turn by {turn}°"


@pytest.mark.parametrize("turn", find.TURNS)
def test_a_face_that_is_found_in_a_picture_that_is_not_upright(turn: int) -> None:
    """Detectors find it all the same, less surely, and take its chin for its brow."""
    given = marked(100, 80).rotate(turn, expand=True)
    eye = Eye(lambda picture, _: 0.9 if is_upright(picture) else 0.7)
    [face], how = look(given, eye)
    assert how == f"after a turn by {turn}°" and face.score == 0.9
    assert np.allclose(face.landmarks, Eye.face(given, 0.9).landmarks, atol=0.01)
    assert len(eye.seen) == 4


def test_a_face_that_is_not_clear_and_upright_stays() -> None:
    eye = Eye(lambda picture, _: 0.7 if is_upright(picture) else 0.71)
    [face], how = look(marked(100, 80), eye)
    check(face)
    assert how == "" and len(eye.seen) == 4


@pytest.mark.parametrize(("score", "threshold"), [(0.4, 0.3), (0.2, 0.15)])
def test_lower_thresholds(score: float, threshold: float) -> None:
    eye = Eye(lambda picture, _: score if is_upright(picture) else 0.0)
    [face], how = look(marked(100, 80), eye)
    check(face)
    assert how == f"with a detection threshold of {threshold:g}"
    assert len(set(eye.seen)) < len(eye.seen) <= 15  # turns of a square's size; nothing is looked at twice


def test_with_a_low_threshold_only_what_is_nearly_as_clear_as_the_best_is_a_face() -> None:
    face = Eye.face(marked(100, 80), 0.4)

    def seen(_: Image.Image, size: int, threshold: float) -> list[Candidate]:
        scores = [score for score in (0.4, 0.35, 0.31, 0.2) if score >= threshold]
        return [Candidate(face.box, face.landmarks, score) for score in scores] if size == 640 else []

    faces, _ = look(marked(100, 80), seen)
    assert [face.score for face in faces] == [0.4, 0.35]


def test_faces_come_from_left_to_right_and_their_boxes_end_with_the_picture() -> None:
    points = MARKS

    def seen(*_) -> list[Candidate]:
        return [Candidate((left, -5.0, left + 30, 120.0), points, 0.9) for left in (80.0, -4.0, 40.0)]

    faces, _ = look(marked(100, 80), seen)
    assert [face.box for face in faces] == [(0, 0, 26, 80), (40, 0, 70, 80), (80, 0, 100, 80)]


def test_no_face_says_what_was_tried() -> None:
    eye = Eye(lambda *_: 0.0)
    with pytest.raises(PictureError) as refused:
        look(noise((900, 700)), eye)
    assert refused.value.detail == (
        "no face was found, neither at detection sizes from 1280 to 128 nor with a border around the picture, turned "
        "by 90°, 180° and 270°, or with a detection threshold down to 0.15: give a picture that shows a face from the "
        "front, larger or cut to head and shoulders."
    )
    assert {size for _, size in eye.seen} == {1280, 640, 512, 384, 320, 256, 192, 128}
    assert len(eye.seen) == 16 and ((700, 900), 640) in eye.seen


@pytest.mark.parametrize("size", [(1, 1), (5000, 20), (15, 400)])
def test_a_strip_has_no_face(size: tuple[int, int]) -> None:
    eye = Eye(lambda *_: 0.9)
    with pytest.raises(PictureError, match="no face"):
        look(Image.new("RGB", size), eye)
    assert eye.seen == []


def test_choosing_a_face() -> None:
    def face(left: float, side: float) -> Face:
        return Face((left, 0, left + side, side), MARKS, 0.9, draw(512, seed=int(left)))

    found = Found((face(0, 10), face(20, 30), face(60, 20)))
    assert chosen(found, "largest") is found.faces[1]
    assert [chosen(found, number) for number in (1, 2, 3)] == list(found.faces)
    with pytest.raises(
        UnitError, match="face_index is 4, and there are 3 faces: give a number from 1 to 3, or “largest”."
    ):
        chosen(found, 4)
    with pytest.raises(UnitError, match="face_index is 2, and there is one face"):
        chosen(Found(found.faces[:1]), 2)
