"""Files, base64 and arrays -> plain RGB pictures and masks, decoded once and known by their content."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import PictureError
from .carriers import carrier, carries, is_embeddings
from .conversions import from_array, to_mask, to_rgb, upright
from .formats import damaged, open_file
from .sizes import Budget, check_size

if TYPE_CHECKING:
    from typing_extensions import Self


_P = TypeVar("_P", bound="Picture")

KEPT_PIXELS = 4_000_000  # a larger picture is decoded again when it is needed, and only its file is kept


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that is known to be usable: ``image`` is what ``decode`` gives, a plain RGB image.

    Of a large one only the file is kept, or what reads it, and ``image`` is decoded each time that it is asked for, so
    that one of many large pictures is in memory at a time. Two pictures are equal if their content hashes are.
    """

    given: Image.Image | bytes | Callable[[], bytes]

    @classmethod
    def of(
        cls,
        data: Any,
        budget: Budget | None = None,
        look: Callable[[Self, Image.Image], None] | None = None,
        kept_pixels: int = KEPT_PIXELS,
    ) -> Self:
        """The picture in ``data``, whatever ``decode`` takes; one that is known already is returned as it is.

        ``budget`` is asked before the pixels are decoded. ``look`` is shown the new picture while its image is at hand.
        Of one with more than ``kept_pixels`` only the file is kept. Raises PictureError.
        """
        if isinstance(data, cls):
            return data
        image = cls._decode(data, budget)
        file = _file_in(data) if image.width * image.height > kept_pixels else None
        picture = cls(image if file is None else file)
        if file is not None:
            picture.__dict__.update(cls._facts(image))  # known while there is an image to tell them
        if look is not None:
            look(picture, image)
        return picture

    @classmethod
    def facts_of(cls, file: bytes) -> dict[str, Any]:
        """What ``known`` wants to know of a picture's file. Raises PictureError."""
        return cls._facts(cls._decode(file))

    @classmethod
    def known(cls, read: Callable[[], bytes], facts: Mapping[str, Any]) -> Self:
        """The picture in the file that ``read`` gives, with what ``facts_of`` said of that."""
        picture = cls(read)
        picture.__dict__.update(facts)
        return picture

    @staticmethod
    def _decode(data: Any, budget: Budget | None = None) -> Image.Image:
        return decode(data, budget)

    @classmethod
    def _facts(cls, image: Image.Image) -> dict[str, Any]:
        """What is remembered of the image, by the names of the properties that give it."""
        return {"content_hash": cls._hash(image), "size": image.size, "carries_embeddings": carries(image)}

    @staticmethod
    def _hash(image: Image.Image) -> str:
        return content_hash(image)

    @property
    def image(self) -> Image.Image:
        if isinstance(self.given, Image.Image):
            return self.given
        return self._decode(self.given() if callable(self.given) else self.given)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        width, height = self.image.size
        return width, height

    @cached_property
    def content_hash(self) -> str:
        return self._hash(self.image)

    @cached_property
    def carries_embeddings(self) -> bool:
        """Whether it is a file of embeddings in a picture's form, and nothing to be looked at."""
        return carries(self.image)

    def __eq__(self, other: object) -> bool:
        return self is other or (type(other) is type(self) and self.content_hash == other.content_hash)

    def __hash__(self) -> int:
        return hash(self.content_hash)


class Mask(Picture):
    """A mask that is known to be usable: ``image`` is what ``decode_mask`` gives, a plain "L" image.

    Its content hash is that of the RGB picture that is kept of it, in presets for example.
    """

    @staticmethod
    def _decode(data: Any, budget: Budget | None = None) -> Image.Image:
        return decode_mask(data, budget)

    @classmethod
    def _facts(cls, image: Image.Image) -> dict[str, Any]:
        return {**super()._facts(image), "extrema": image.getextrema()}

    @staticmethod
    def _hash(image: Image.Image) -> str:
        return content_hash(image.convert("RGB"))

    @cached_property
    def extrema(self) -> tuple[int, int]:
        """The darkest and the lightest of its values, 0 to 255."""
        low, high = self.image.getextrema()
        return low, high


class Pictures:
    """The pictures of one job, import or page: each decoded once, all of them within one budget of pixels.

    ``check`` is called before each, and may raise to end it all.
    """

    def __init__(self, budget: Budget | None = None, check: Callable[[], None] = lambda: None) -> None:
        self.budget = budget or Budget()
        self.check = check
        self._known: dict[tuple[type[Picture], Any], Picture] = {}

    def of(self, kind: type[_P], data: Any, kept_pixels: int = KEPT_PIXELS) -> _P:
        """The Picture or Mask in ``data``; of one with more than ``kept_pixels`` only the file is kept. Raises
        PictureError, and BudgetError where all are too large together."""
        name = (kind, data if isinstance(data, (str, bytes)) else id(data))
        known = self._known.get(name)
        if not isinstance(known, kind):
            self.check()
            known = self._known[name] = kind.of(data, self.budget, kept_pixels=kept_pixels)
        return known


def decode(data: bytes | str | Image.Image | NDArray[Any] | Picture, budget: Budget | None = None) -> Image.Image:
    """The picture in ``data`` as a plain RGB image, upright.

    ``data``: a file's bytes (PNG, JPEG, WebP, GIF, BMP, TIFF; or of embeddings, which become a picture that carries
    them), the same as base64 with or without a ``data:`` prefix, a PIL image, or an array [H, W] or [H, W, 1 to 4], 8
    or 16 bits, bool, or floats in 0…1. A string is never taken for a path or an address. Of a Picture the image is
    returned as it is.

    EXIF orientation is applied, 16-bit values are scaled to 8 bits, an animation means its first frame, and what is
    transparent lies over white (fully opaque pixels keep their colour exactly; colour profiles are ignored, as
    CLIPImageProcessor does). The size is checked before the pixels are decoded, and taken from ``budget``; no setting
    of PIL is changed.

    Raises PictureError for everything else, with what is wrong and what to do.
    """
    if isinstance(data, Picture) and not isinstance(data, Mask):
        return data.image
    return _decoded(data, to_rgb, budget)


def decode_mask(data: bytes | str | Image.Image | NDArray[Any] | Picture, budget: Budget | None = None) -> Image.Image:
    """The mask in ``data`` (whatever ``decode`` takes) as a plain "L" image, upright, white where the reference counts.

    Its values are the picture's luminance. What is transparent was not painted and is black: where the alpha channel
    varies, the mask is alpha times luminance, so white strokes on a transparent layer are a mask as they are. An alpha
    channel that is the same everywhere says nothing and is ignored.

    Of a Mask the image is returned as it is. Raises PictureError as ``decode`` does.
    """
    if isinstance(data, Mask):
        return data.image
    try:
        if (isinstance(data, Picture) and data.carries_embeddings) or is_embeddings(_file_in(data) or b""):
            raise PictureError("The picture is a file of embeddings; choose a picture, or remove this reference.")
        return _decoded(data, to_mask, budget)
    except PictureError as error:
        sentence = error.detail.replace("The picture", "The mask", 1)
        sentence = sentence.replace("choose a picture, or remove this reference", "choose one, or leave it out")
        raise type(error)(sentence) from error.__cause__


def content_hash(image: Image.Image) -> str:
    """SHA-256 of size, mode and pixels, in hex: equal for equal pictures, whatever file they came in."""
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _decoded(data: Any, convert: Callable[[Image.Image], Image.Image], budget: Budget | None = None) -> Image.Image:
    """The picture in ``data``, upright and converted; every trouble with it is a PictureError."""
    try:
        image = _image_in(data)
        check_size(image.size)
        if budget is not None:
            budget.take(image.size)
        image.load()
        check_size(image.size)
        return convert(upright(image))
    except PictureError:
        raise
    except MemoryError as error:
        raise PictureError("The picture needs more memory than there is; scale it down and use that file.") from error
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise damaged() from error


def _image_in(data: Any) -> Image.Image:
    """The picture in ``data``, not necessarily decoded yet."""
    file = _file_in(data)
    if file is not None:
        return carrier(file) if is_embeddings(file) else open_file(file)
    if isinstance(data, Image.Image):
        return data
    if isinstance(data, Picture):
        return data.image
    if isinstance(data, np.ndarray):
        return from_array(data)
    what = "nothing was given" if data is None else f"it is a {type(data).__name__}"
    raise PictureError(f"The picture is missing ({what}); give the picture file as base64.")


def _file_in(data: Any) -> bytes | None:
    """The picture file in ``data``, None where it is no file."""
    if isinstance(data, str):
        return _from_base64(data)
    return bytes(data) if isinstance(data, (bytes, bytearray, memoryview)) else None


def _from_base64(text: str) -> bytes:
    head, comma, body = text[:200].partition(",")
    if comma and head.lstrip().lower().startswith("data:"):
        if not head.rstrip().lower().endswith(";base64"):
            raise PictureError("The picture has a data: prefix without base64; send the picture file as base64.")
        text = text[len(head) + 1 :]
    text = "".join(text.split())
    if not text:
        raise PictureError("The picture is empty; choose a picture, or remove this reference.")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise PictureError(
            "The picture is not valid base64; paths and web addresses are never opened, so send the picture file "
            "itself, encoded as base64."
        ) from error
