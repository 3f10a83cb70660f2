"""Files, base64 and arrays -> RGB pictures -> what the image encoder sees."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from ..errors import PictureError, UnitError

if TYPE_CHECKING:
    from typing_extensions import Self

CROPS = ("center", "top", "bottom", "left", "right", "pad", "stretch", "tile")
# Each tile is encoded on its own and may bring image tokens of its own into every attention layer, so their number is
# bounded. Four show a picture of up to 4:1 at full height: all screens, film formats and most panoramas.
MAX_TILES = 4

# CLIP's statistics, as in transformers' CLIPImageProcessor.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

MAX_PIXELS = 100_000_000
MAX_RATIO = 64
MIN_SIDE = 2

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_SAVE_AS = "save it as PNG, JPEG or WebP and use that file"
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that is decoded: ``image`` is what ``decode`` gives, a plain RGB image.

    Its content hash is computed once, when it is first asked for; two pictures are equal if their hashes are.
    """

    image: Image.Image

    @classmethod
    def of(cls, data: Any) -> Self:
        """The picture in ``data``, whatever ``decode`` takes; one that is decoded already is returned as it is."""
        return data if isinstance(data, cls) else cls(decode(data))

    @cached_property
    def content_hash(self) -> str:
        return content_hash(self.image)

    def __eq__(self, other: object) -> bool:
        return self is other or (type(other) is type(self) and self.content_hash == other.content_hash)

    def __hash__(self) -> int:
        return hash(self.content_hash)


class Mask(Picture):
    """A mask that is decoded: ``image`` is what ``decode_mask`` gives, a plain "L" image.

    Its content hash is that of the RGB picture that is kept of it, in presets for example.
    """

    @classmethod
    def of(cls, data: Any) -> Self:
        """The mask in ``data``, whatever ``decode_mask`` takes; one that is decoded already is returned as it is."""
        return data if isinstance(data, cls) else cls(decode_mask(data))

    @cached_property
    def content_hash(self) -> str:
        return content_hash(self.image.convert("RGB"))


def decode(data: bytes | str | Image.Image | NDArray[Any] | Picture) -> Image.Image:
    """The picture in ``data`` as a plain RGB image, upright.

    ``data``: a file's bytes (PNG, JPEG, WebP, GIF, BMP, TIFF), the same as base64 with or without a ``data:`` prefix,
    a PIL image, or an array [H, W] or [H, W, 1 to 4], 8 or 16 bits, bool, or floats in 0…1. A string is never taken
    for a path or an address. Of a Picture the image is returned as it is.

    EXIF orientation is applied, 16-bit values are scaled to 8 bits, an animation means its first frame, and what is
    transparent lies over white (fully opaque pixels keep their colour exactly; colour profiles are ignored, as
    CLIPImageProcessor does). The size is checked before the pixels are decoded, and no setting of PIL is changed.

    Raises PictureError for everything else, with what is wrong and what to do.
    """
    if isinstance(data, Picture) and not isinstance(data, Mask):
        return data.image
    return _decoded(data, _to_rgb)


def decode_mask(data: bytes | str | Image.Image | NDArray[Any] | Picture) -> Image.Image:
    """The mask in ``data`` (whatever ``decode`` takes) as a plain "L" image, upright, white where the reference counts.

    Its values are the picture's luminance. What is transparent was not painted and is black: where the alpha channel
    varies, the mask is alpha times luminance, so white strokes on a transparent layer are a mask as they are. An alpha
    channel that is the same everywhere says nothing and is ignored.

    Of a Mask the image is returned as it is. Raises PictureError as ``decode`` does.
    """
    if isinstance(data, Mask):
        return data.image
    try:
        return _decoded(data, _to_mask)
    except PictureError as error:
        sentence = error.detail.replace("The picture", "The mask", 1)
        sentence = sentence.replace("choose a picture, or remove this reference", "choose one, or leave it out")
        raise PictureError(sentence) from error.__cause__


def content_hash(image: Image.Image) -> str:
    """SHA-256 of size, mode and pixels, in hex: equal for equal pictures, whatever file they came in."""
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


fingerprint = content_hash


def views(image: Image.Image, size: int, crop: str = "center", mask: Image.Image | None = None) -> list[Image.Image]:
    """What an encoder of ``size`` pixels sees of ``image``: RGB, size x size, one for every crop but "tile".

    Bicubic, as CLIPImageProcessor does it:

    - "center", "top", "bottom", "left", "right": the shortest side is scaled to ``size`` and the square cut out there,
      or from the middle along a side that the word does not speak of.
    - "pad": the longest side is scaled to ``size``, the rest is CLIP's mean colour, which the encoder sees as zeros.
    - "stretch": proportions are given up.
    - "tile": the shortest side is scaled to ``size``, and squares are cut out along the longest side, from edge to
      edge at equal distances, as few as cover everything. A picture of more than MAX_TILES to 1 is scaled until that
      many tiles cover it, and lies on CLIP's mean colour.

    ``mask`` ("L", white where the picture counts, grey in between) may have any size: it is laid over the whole picture
    and cut with it. What it hides blends into CLIP's mean colour.

    These are ``to_pixels``' numbers but for rounding to 8 bits. Raises UnitError for another ``crop``.
    """
    pairs = _views(image, size, crop, mask)
    return [seen if counts is None else Image.composite(seen, _mean(seen.size), counts) for seen, counts in pairs]


def tile_count(image: Image.Image, size: int) -> int:
    """How many views crop "tile" makes of ``image`` for an encoder of ``size`` pixels."""
    return len(_corners(_plan(image.size, size, "tile")[1], size, "tile"))


def to_pixels(image: Image.Image, size: int, crop: str = "center", mask: Image.Image | None = None) -> torch.Tensor:
    """The ``views`` of ``image`` as the encoder takes them: fp32 [V, 3, size, size] on the CPU, V of them, normalised
    with CLIP's mean and deviation and multiplied by ``mask``, so that what is hidden, and what "pad" and "tile" add,
    is exactly 0.

    With crop "center" and no mask this equals transformers' CLIPImageProcessor with its defaults. Raises UnitError for
    an unknown ``crop``.
    """
    return torch.stack([_normalised(*pair) for pair in _views(image, size, crop, mask)])


def _normalised(seen: Image.Image, counts: Image.Image | None) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(seen, dtype=np.float32)).permute(2, 0, 1) / 255
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    if counts is not None:
        pixels = pixels * (torch.from_numpy(np.array(counts, dtype=np.float32)) / 255)
    return pixels


def _views(
    image: Image.Image, size: int, crop: str, mask: Image.Image | None
) -> list[tuple[Image.Image, Image.Image | None]]:
    """Each view with how much of it counts ("L"; None: all of it)."""
    if crop not in CROPS:
        raise UnitError(f"crop “{crop}” is not known here; choose one of {', '.join(CROPS)}.")
    image = image if image.mode == "RGB" else _to_rgb(image)
    scaled, canvas = _plan(image.size, size, crop)
    seen = image.resize(scaled, Image.Resampling.BICUBIC)
    # Straight to the size that the picture is seen at: a mask scaled twice has softer edges than it was given.
    counts = mask if mask is None or mask.mode == "L" else _to_mask(mask)
    counts = None if counts is None else counts.resize(scaled, Image.Resampling.BICUBIC)
    if canvas != scaled:
        place = ((canvas[0] - scaled[0]) // 2, (canvas[1] - scaled[1]) // 2)
        seen = _laid(seen, place, _mean(canvas))
        counts = _laid(Image.new("L", scaled, 255) if counts is None else counts, place, Image.new("L", canvas))
    boxes = [(x, y, x + size, y + size) for x, y in _corners(canvas, size, crop)]
    return [(seen.crop(box), None if counts is None else counts.crop(box)) for box in boxes]


def _plan(given: tuple[int, int], size: int, crop: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """What a picture of the ``given`` size is scaled to, and the canvas that it then lies on, in its middle."""
    if crop == "stretch":
        return (size, size), (size, size)
    width, height = given
    short, long = sorted(given)
    if crop == "pad" or (crop == "tile" and long > MAX_TILES * short):
        longest = size if crop == "pad" else MAX_TILES * size
        scaled = (max(1, round(longest * width / long)), max(1, round(longest * height / long)))
        return scaled, (longest if width == long else size, longest if height == long else size)
    scaled = (
        size if width == short else int(size * long / short),
        size if height == short else int(size * long / short),
    )
    return scaled, scaled


def _corners(canvas: tuple[int, int], size: int, crop: str) -> list[tuple[int, int]]:
    """The upper left corners of the squares that ``crop`` cuts out of ``canvas``."""
    x, y = canvas[0] - size, canvas[1] - size
    if crop == "tile" and (steps := -(-max(x, y) // size)):
        return [(x * i // steps, y * i // steps) for i in range(steps + 1)]
    return [({"left": 0, "right": x}.get(crop, x // 2), {"top": 0, "bottom": y}.get(crop, y // 2))]


def _laid(upper: Image.Image, place: tuple[int, int], lower: Image.Image) -> Image.Image:
    lower.paste(upper, place)
    return lower


def _mean(size: tuple[int, int]) -> Image.Image:
    """CLIP's mean colour, as near as 8 bits come to it."""
    return Image.new("RGB", size, tuple(round(255 * mean) for mean in MEAN))


def _decoded(data: Any, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The picture in ``data``, upright and converted; every trouble with it is a PictureError."""
    try:
        image = _image_in(data)
        _check_size(image.size)
        image.load()
        _check_size(image.size)
        return convert(_upright(image))
    except PictureError:
        raise
    except MemoryError as error:
        raise PictureError("The picture needs more memory than there is; scale it down and use that file.") from error
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise _damaged() from error


def _image_in(data: Any) -> Image.Image:
    """The picture in ``data``, not necessarily decoded yet."""
    if isinstance(data, str):
        data = _from_base64(data)
    if isinstance(data, (bytes, bytearray, memoryview)):
        return _open(bytes(data))
    if isinstance(data, Image.Image):
        return data
    if isinstance(data, Picture):
        return data.image
    if isinstance(data, np.ndarray):
        return _from_array(data)
    what = "nothing was given" if data is None else f"it is a {type(data).__name__}"
    raise PictureError(f"The picture is missing ({what}); give the picture file as base64.")


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


def _open(data: bytes) -> Image.Image:
    """The picture file in ``data``, its header read, its pixels not yet."""
    # Importing a plug-in registers it: without this, PIL would import every decoder it has to find these two.
    from PIL import TiffImagePlugin, WebPImagePlugin  # noqa: F401

    if not data:
        raise PictureError("The picture is empty; choose a picture, or remove this reference.")
    kind = _kind(data)
    if kind not in _FORMATS:
        raise PictureError(f"The picture is {kind}; {_SAVE_AS}.")
    # libwebp sets aside memory for the whole canvas when a file is opened; the others wait until it is decoded.
    if kind == "WEBP":
        _check_size(_webp_size(data))
    try:
        image = Image.open(io.BytesIO(data), formats=[kind])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large("") from error
    except UnidentifiedImageError as error:
        raise _damaged() from error
    # Another extension may have told PIL to make do with half a file.
    if ImageFile.LOAD_TRUNCATED_IMAGES and not _is_whole(data, kind, image):
        raise _damaged()
    if getattr(image, "default_image", False) and getattr(image, "n_frames", 1) > 1:
        image.seek(1)  # an animated PNG whose still picture is not part of the animation
    return image


def _kind(data: bytes) -> str:
    """The format's name if this module reads it, else what the file seems to be, in words."""
    head = data[:1024]
    for kind, starts in (
        ("PNG", (b"\x89PNG\r\n\x1a\n",)),
        ("JPEG", (b"\xff\xd8\xff",)),
        ("GIF", (b"GIF87a", b"GIF89a")),
        ("TIFF", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
        ("BMP", (b"BM",)),
        ("a PDF document", (b"%PDF",)),
        ("a PostScript file", (b"%!PS",)),
        ("a zip archive or an Office document", (b"PK\x03\x04", b"PK\x05\x06")),
        ("a Photoshop file", (b"8BPS",)),
        ("a JPEG XL picture", (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    ):
        if head.startswith(starts):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return "an AVIF picture" if b"avif" in head[8:32] else "a HEIC picture or a video"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in text:
        return "an SVG drawing"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if all(byte >= 32 or byte in b"\t\r\n\f" for byte in head):
        return "text, not a picture"
    return "in no format that can be read here"


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height from a WebP file's first chunk, (0, 0) if it has none (developers.google.com/speed/webp)."""
    chunk, body = data[12:16], data[20:30]
    if len(body) < 10:
        raise _damaged()
    if chunk == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def _is_whole(data: bytes, kind: str, image: Image.Image) -> bool:
    """Whether the file reaches as far as its format says."""
    if kind == "PNG":
        return b"\0\0\0\0IEND\xaeB`\x82" in data
    if kind == "JPEG":
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    if kind == "GIF":
        return data.rstrip(b"\0").endswith(b";")
    if kind == "TIFF":
        strips, tiles = (273, 279), (324, 325)  # tags: offsets, byte counts
        return all(
            offset + count <= len(data)
            for offsets, counts in (strips, tiles)
            for offset, count in zip(image.tag_v2.get(offsets, ()), image.tag_v2.get(counts, ()), strict=False)
        )
    return kind != "BMP" or int.from_bytes(data[2:6], "little") <= len(data)


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width} x {height} pixels, ")
    if min(size) < MIN_SIDE:
        raise PictureError(f"The picture has {width} x {height} pixels, too few to see anything; use a larger one.")
    if max(size) > MAX_RATIO * min(size):
        raise PictureError(
            f"The picture is a strip of {width} x {height} pixels, of which an image encoder sees nothing useful; "
            "cut a part out of it that is nearer to a square."
        )


def _too_large(size: str) -> PictureError:
    return PictureError(
        f"The picture is too large ({size}more than {MAX_PIXELS // 1_000_000} megapixels); "
        "scale it down, to 2048 pixels on its longer side for example."
    )


def _damaged() -> PictureError:
    return PictureError(
        "The picture file is damaged or incomplete; send the whole file again, or open it in an image editor and save "
        "it anew."
    )


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (2, 3, 4))) or 0 in array.shape:
        raise PictureError(f"The picture is an array of shape {list(array.shape)}; give height x width x 1, 3 or 4.")
    _check_size((array.shape[1], array.shape[0]))
    if array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype == np.uint16:
        array = _scale_16_bits(array)
    elif np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise PictureError("The picture is an array of floats outside 0…1; divide by its largest value first.")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise PictureError(f"The picture is an array of {array.dtype}; give uint8, uint16 or floats in 0…1.")
    return Image.fromarray(np.ascontiguousarray(array))


def _scale_16_bits(values: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """0…65535 -> 0…255, rounded: 65535 = 255 * 257."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF asks; damaged EXIF data is no reason to refuse the picture. PIL turns TIFF files by itself."""
    if image.format == "TIFF":
        return image
    try:
        orientation: Any = image.getexif().get(_ORIENTATION)
    except Exception:
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_rgb(image: Image.Image) -> Image.Image:
    """A plain RGB copy: transparency over white, 16 bits scaled, no metadata."""
    opaque, alpha = _parts(image)
    if alpha is not None:
        opaque = Image.composite(opaque, Image.new("RGB", opaque.size, "white"), alpha)
    opaque.info = {}
    return opaque


def _to_mask(image: Image.Image) -> Image.Image:
    """A plain "L" copy: luminance, times alpha where that varies."""
    opaque, alpha = _parts(image)
    luminance = opaque.convert("L")
    if alpha is not None and len(set(alpha.getextrema())) > 1:
        luminance = Image.composite(luminance, Image.new("L", luminance.size), alpha)
    luminance.info = {}
    return luminance


def _parts(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours (a new RGB image) and alpha ("L"; None for a picture without), 16 bits scaled."""
    if image.mode == "F":
        raise PictureError(f"The picture holds floating-point values; {_SAVE_AS}.")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise PictureError(f"The picture holds values of more than 16 bits; {_SAVE_AS}.")
        image = Image.fromarray(_scale_16_bits(values))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or (
        image.mode in ("RGB", "P", "L", "1") and "transparency" in image.info
    ):
        straight = image.convert("LA") if image.mode == "La" else image
        rgba = straight.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
    return image.convert("RGB"), None
