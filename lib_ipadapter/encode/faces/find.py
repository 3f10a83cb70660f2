"""Where the faces of a picture are: what is tried, one after the other, until a detector finds some.

The usual look first, as everybody has it; then what faces need that are large or small in their picture, that fill it,
that lie on their side, or are drawn. All coordinates are the given picture's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from PIL import Image

from ...errors import PictureError
from .face import Box, Point

USUAL_SIZE = 640  # side of the square in which detectors are shown a picture, in pixels
SIZES = (USUAL_SIZE, 512, 384, 256, 192, 128)
LARGE_SIZE = 1280  # for small faces in large pictures
BORDER_SIZES = (USUAL_SIZE, 320, 128)
TURNED_SIZES = (USUAL_SIZE, 256)
USUAL_THRESHOLD, LOW_THRESHOLDS = 0.5, (0.3, 0.15)
TURNS = (90, 180, 270)
# An upside-down face is found all the same, with landmarks as if it were upright, and is nobody then (cosine 0.01 to
# 0.24 to the same face upright). Its score is lower: 0.51 to 0.78 against 0.84 to 0.90, on six portraits.
SURE_SCORE = 0.8
BETTER = 0.03  # by so much do scores have to rise for a turn to be right
LEANING = 45.0  # degrees from which a face is better looked at in a turned picture
SMALLEST = 16  # pixels of a picture's shorter side
NEARLY = 0.8  # below the usual threshold, what is a face has this share of the best score
FILL = (127, 127, 127)
Landmarks = tuple[Point, Point, Point, Point, Point]


@dataclass(frozen=True)
class Candidate:
    """A face that a detector has found: like a ``Face``, not recognised yet."""

    box: Box
    landmarks: Landmarks
    score: float

    @property
    def leaning(self) -> float:
        """Degrees by which it is turned, 0 for an upright one."""
        (left, right), (mouth_left, mouth_right) = self.landmarks[:2], self.landmarks[3:]
        x = mouth_left[0] + mouth_right[0] - left[0] - right[0]
        y = mouth_left[1] + mouth_right[1] - left[1] - right[1]
        return abs(math.degrees(math.atan2(x, y)))


# (RGB picture of at most LARGE_SIZE, side of the square, least score) → faces in that picture's pixels
Detector = Callable[[Image.Image, int, float], list[Candidate]]


@dataclass(frozen=True)
class Attempt:
    """One look at a picture: how large, with a border of half its sides or not, turned clockwise by so many degrees."""

    size: int = USUAL_SIZE
    border: bool = False
    turn: int = 0
    threshold: float = USUAL_THRESHOLD

    @property
    def how(self) -> str:
        parts = [
            f"at detection size {self.size}" if self.size != USUAL_SIZE else "",
            "with a border around the picture" if self.border else "",
            f"after a turn by {self.turn}°" if self.turn else "",
            f"with a detection threshold of {self.threshold:g}" if self.threshold != USUAL_THRESHOLD else "",
        ]
        return ", ".join(part for part in parts if part)


def look(image: Image.Image, detector: Detector) -> tuple[list[Candidate], str]:
    """The faces of an RGB picture from left to right, and what helped to find them (``Found.how``).

    Raises PictureError with what was tried where there is none.
    """
    shown = _bounded(image)
    across, down = image.width / shown.width, image.height / shown.height

    def to_given(x: float, y: float) -> Point:
        return _scaled(x, across), _scaled(y, down)

    found, helped = _Search(shown, detector).run()
    faces = [_inside(_mapped(face, to_given), image.size) for face in found]
    return sorted(faces, key=_middle), helped.how


class _Search:
    """The attempts at one picture. Each look is taken once: what it sees below a threshold is known, too."""

    def __init__(self, shown: Image.Image, detector: Detector) -> None:
        self.shown, self.detector = shown, detector
        self.seen: dict[Attempt, list[Candidate]] = {}

    def run(self) -> tuple[list[Candidate], Attempt]:
        """The faces in ``shown`` and the attempt that found them. Raises PictureError where there is none."""
        is_large = max(self.shown.size) > USUAL_SIZE
        for attempt in _attempts(is_large) if min(self.shown.size) >= SMALLEST else ():
            found, helped = self._best(attempt)
            if found:
                return found, helped
        raise PictureError(
            f"no face was found, neither at detection sizes from {LARGE_SIZE if is_large else USUAL_SIZE} to "
            f"{SIZES[-1]} nor with a border around the picture, turned by "
            f"{', '.join(f'{turn}°' for turn in TURNS[:-1])} and {TURNS[-1]}°, or with a detection threshold down to "
            f"{LOW_THRESHOLDS[-1]:g}: give a picture that shows a face from the front, larger or cut to head and "
            "shoulders."
        )

    def _best(self, attempt: Attempt) -> tuple[list[Candidate], Attempt]:
        """What an attempt finds, or what it finds in a turned picture where that has clearer faces; an attempt that is
        turned stands for all turns."""
        found = [] if attempt.turn else self._above(attempt)
        if not attempt.turn and not _is_doubtful(found):
            return found, attempt
        best, clearest = attempt, sum(face.score for face in found) + (BETTER if found else 0.0)
        for turn in TURNS:
            turned = replace(attempt, turn=turn)
            faces = self._above(turned)
            if (score := sum(face.score for face in faces)) > clearest:
                found, best, clearest = faces, turned, score
        return found, best

    def _above(self, attempt: Attempt) -> list[Candidate]:
        """What is seen with the attempt's threshold; below the usual one, only what is nearly as clear as the best."""
        seen = replace(attempt, threshold=LOW_THRESHOLDS[-1])
        if seen not in self.seen:
            self.seen[seen] = _look(self.shown, seen, self.detector)
        least = attempt.threshold
        if least < USUAL_THRESHOLD:
            least = max(least, NEARLY * max((face.score for face in self.seen[seen]), default=0.0))
        return [face for face in self.seen[seen] if face.score >= least]


def _attempts(is_large: bool) -> Iterator[Attempt]:
    """What is tried; where a turned picture is looked at, the best of all turns is meant."""
    upright, bordered = [Attempt(size) for size in SIZES], [Attempt(size, border=True) for size in BORDER_SIZES]
    yield from upright
    if is_large:
        yield Attempt(LARGE_SIZE)
    yield from bordered
    yield from (Attempt(size, turn=TURNS[0]) for size in TURNED_SIZES)
    for threshold in LOW_THRESHOLDS:
        yield from (replace(attempt, threshold=threshold) for attempt in (*upright, *bordered))


def _is_doubtful(found: list[Candidate]) -> bool:
    """Whether faces that were found may be turned ones. Drawn ones, which are never clear, are taken as they are."""
    clearest = max(found, key=lambda face: face.score, default=None)
    if clearest is None or clearest.score < USUAL_THRESHOLD:
        return False
    return clearest.score < SURE_SCORE or clearest.leaning > LEANING


def _look(shown: Image.Image, attempt: Attempt, detector: Detector) -> list[Candidate]:
    """The faces in ``shown``, in its pixels."""
    across, down = (shown.width // 2, shown.height // 2) if attempt.border else (0, 0)
    picture = shown
    if attempt.border:
        picture = Image.new("RGB", (shown.width + 2 * across, shown.height + 2 * down), FILL)
        picture.paste(shown, (across, down))
    width, height = picture.size
    picture, back = _turned(picture, attempt.turn)
    bounded = _bounded(picture)
    scale = max(picture.size) / max(bounded.size)

    def to_shown(x: float, y: float) -> Point:
        x, y = back(_scaled(x, scale), _scaled(y, scale), width, height)
        return x - across, y - down

    return [_mapped(face, to_shown) for face in detector(bounded, attempt.size, attempt.threshold)]


Back = Callable[[float, float, int, int], Point]
_BACK: dict[int, Back] = {  # from a turned picture's pixels to those of the width × height that was turned
    0: lambda x, y, width, height: (x, y),
    90: lambda x, y, width, height: (y, height - 1 - x),
    180: lambda x, y, width, height: (width - 1 - x, height - 1 - y),
    270: lambda x, y, width, height: (width - 1 - y, x),
}
# Pillow counts its turns against the clock.
_TRANSPOSED = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}


def _turned(picture: Image.Image, turn: int) -> tuple[Image.Image, Back]:
    return picture.transpose(_TRANSPOSED[turn]) if turn else picture, _BACK[turn]


def _bounded_size(size: tuple[int, int]) -> tuple[int, int]:
    share = min(1.0, LARGE_SIZE / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def _bounded(image: Image.Image) -> Image.Image:
    """No larger than is of use: detectors are shown at most half of that, whose pixels then are means of its own."""
    size = _bounded_size(image.size)
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)


def _scaled(value: float, scale: float) -> float:
    """A coordinate in a picture that is ``scale`` times as large; both count from the middle of the first pixel."""
    return (value + 0.5) * scale - 0.5


def _mapped(face: Candidate, to: Callable[[float, float], Point]) -> Candidate:
    left, top, right, bottom = face.box
    (x1, y1), (x2, y2) = to(left, top), to(right, bottom)
    a, b, c, d, e = (to(*point) for point in face.landmarks)
    return replace(face, box=(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), landmarks=(a, b, c, d, e))


def _inside(face: Candidate, size: tuple[int, int]) -> Candidate:
    """With a box that ends where the picture does; landmarks may lie beyond."""
    (left, top, right, bottom), (width, height) = face.box, size
    return replace(face, box=(max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))))


def _middle(face: Candidate) -> float:
    return (face.box[0] + face.box[2]) / 2
