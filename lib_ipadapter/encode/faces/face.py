"""A face as recognition sees it, and who finds faces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable

    from PIL import Image
    from torch import Tensor

Point = tuple[float, float]
Box = tuple[float, float, float, float]
PACKS = ("buffalo_l", "antelopev2")  # the published models that adapters were trained with


@dataclass(frozen=True)
class Face:
    """One face. ``box`` (left, top, right, bottom) and the five ``landmarks`` (both eyes, the nose, both corners of the
    mouth, each pair from left to right in the picture of an upright face) are in the picture's pixels; ``embedding`` is
    [512], fp32, as recognition puts it out: of any length. ``score`` is the detector's, 0 to 1."""

    box: Box
    landmarks: tuple[Point, Point, Point, Point, Point]
    score: float
    embedding: Tensor = field(compare=False)

    @property
    def area(self) -> float:
        """Square pixels of its box."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


@dataclass(frozen=True)
class Found:
    """The faces of a picture from left to right, at least one; ``how`` says what had to be done to find them, as part
    of a sentence ("after a turn by 90°"), and is empty where the first look did."""

    faces: tuple[Face, ...]
    how: str = ""


class FaceFinder(Protocol):
    """Who finds faces."""

    def find(self, image: Image.Image, pack: str) -> Found:
        """The faces of an RGB picture, recognised by one of ``PACKS``.

        Raises PictureError with what was tried where there is none, CheckpointError where the pack or a package is
        missing or broken, with what to get and where to put it.
        """

    def identity(self, pack: str) -> Hashable:
        """What ``find`` finds with the pack is remembered by this: it changes with the pack's files. None where there
        is no such pack. Raises nothing."""
