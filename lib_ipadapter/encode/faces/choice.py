"""Which of a picture's faces is meant."""

from __future__ import annotations

from ...errors import UnitError
from .face import Face, Found


def chosen(found: Found, face_index: int | str, called: str = "face_index") -> Face:
    """The largest face, or the one of a number from left to right, from 1 on. Raises UnitError beyond the last, in
    which the number is ``called`` so."""
    if isinstance(face_index, str):
        return max(found.faces, key=lambda face: face.area)
    if face_index > len(found.faces):
        count = len(found.faces)
        there, remedy = f"are {count} faces", f"give a number from 1 to {count}, or “largest”"
        if count == 1:
            there, remedy = "is one face", "leave it at “largest”"
        raise UnitError(f"{called} is {face_index}, and there {there}: {remedy}.")
    return found.faces[face_index - 1]
