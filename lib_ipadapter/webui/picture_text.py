"""Pictures as text: base64 for clients, addresses with the picture in them for the page."""

from __future__ import annotations

import base64
from typing import Any

from PIL import Image

from ..encode.formats import file_of


def base64_of(picture: Image.Image, file_format: str = "PNG", **settings: Any) -> str:
    """The picture's file as base64; ``settings`` are those of PIL's ``save``."""
    return base64.b64encode(file_of(picture, file_format, **settings)).decode()


def jpeg_url(file: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(file).decode()}"


def data_url(picture: Image.Image, file_format: str = "PNG", **settings: Any) -> str:
    return f"data:image/{file_format.lower()};base64,{base64_of(picture, file_format, **settings)}"
