"""Faces without a face recognition: each picture has those that its pixels say."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from PIL import Image

from lib_ipadapter.encode.faces.face import Face, Found
from lib_ipadapter.encode.picture import content_hash
from lib_ipadapter.errors import PictureError
from tests.helpers.tensors import draw

LENGTH = 20.0  # of an embedding as recognition puts it out, about


def face(seed: int, left: float = 10.0, size: float = 30.0) -> Face:
    """A face of the person ``seed``."""
    at = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    embedding = draw(512, seed=1000 + seed)
    points = tuple((left + size * x, 5 + size * y) for x, y in at)
    return Face((left, 5.0, left + size, 5 + size), points, 0.9, embedding / embedding.norm() * LENGTH)


class Finder:
    """Finds in every picture the faces that ``faces`` says, by default one of a person of the picture's own."""

    def __init__(self, faces: Callable[[Image.Image], list[Face]] | None = None, how: str = "") -> None:
        self.faces = faces or (lambda image: [face(int(content_hash(image)[:6], 16))])
        self.how = how
        self.asked: list[tuple[Image.Image, str]] = []

    def find(self, image: Image.Image, pack: str) -> Found:
        self.asked.append((image, pack))
        found = self.faces(image)
        if not found:
            raise PictureError("no face was found: use a photo that shows one.")
        return Found(tuple(found), self.how)

    def identity(self, pack: str) -> Hashable:
        """Other ``faces`` are those of another pack."""
        return (pack, self.faces)


def similar(one: torch.Tensor, share: float, seed: int = 1) -> torch.Tensor:
    """An embedding with that cosine to ``one`` [512]."""
    other = draw(512, seed=seed)
    other = other - one * (one @ other) / (one @ one)
    return one * share + other / other.norm() * one.norm() * (1 - share**2) ** 0.5
