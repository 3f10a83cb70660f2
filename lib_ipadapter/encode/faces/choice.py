"""Which of a picture's faces is meant."""

from __future__ import annotations

from ...errors import UnitError
from .face import Face, Found


def chosen(found: Found, face_index: int | str) -> Face:
    """The largest face, or the one of a number from left to right, from 1 on. Raises UnitError beyond the last."""
    if isinstance(face_index, str):
        return max(found.faces, key=lambda face: face.area)
    if face_index > len(found.faces):
        there = "is one face" if len(found.faces) == 1 else f"are {len(found.faces)} faces"
        raise UnitError(
            f"face_index is {face_index}, and there {there}: give a number from 1 to {len(found.faces)}, or “largest”."
        )
    return found.faces[face_index - 1]
