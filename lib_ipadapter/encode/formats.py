"""Picture files: which format they are of, opening them with the one decoder that is for it, and writing them."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageFile, UnidentifiedImageError

from ..errors import PictureError
from .sizes import check_size, too_large

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
HEAD = 1024  # bytes of a file that tell its format
COMMON_PASSES = 12
MAX_PASSED_PIXELS = 1_000_000_000  # pixels times passes of a JPEG in more passes than is common
MAX_TILE = 4_000_000  # pixels of a TIFF's tile, in pictures that are smaller
SAVE_AS = "save it as PNG, JPEG or WebP and use that file"


def open_file(data: bytes) -> Image.Image:
    """The picture file in ``data``, its header read, its pixels not yet."""
    # Importing a plug-in registers it: without this, PIL would import every decoder it has to find these two.
    from PIL import TiffImagePlugin, WebPImagePlugin  # noqa: F401

    if not data:
        raise PictureError("The picture is empty; choose a picture, or remove this reference.")
    kind = kind_of(data)
    if kind not in FORMATS:
        raise PictureError(f"The picture is {kind}; {SAVE_AS}.")
    # libwebp sets aside memory for the whole canvas when a file is opened; the others wait until it is decoded.
    if kind == "WEBP":
        check_size(_webp_size(data))
    try:
        image = Image.open(io.BytesIO(data), formats=[kind])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large("") from error
    except UnidentifiedImageError as error:
        raise damaged() from error
    # Another extension may have told PIL to make do with half a file.
    if ImageFile.LOAD_TRUNCATED_IMAGES and not _is_whole(data, kind, image):
        raise damaged()
    _check_passes(data, image)
    _check_tiles(image)
    if getattr(image, "default_image", False) and getattr(image, "n_frames", 1) > 1:
        image.seek(1)  # an animated PNG whose still picture is not part of the animation
    return image


def file_of(image: Image.Image, file_format: str = "PNG", **settings: Any) -> bytes:
    """The picture as a file; ``settings`` are those of PIL's ``save``. (The host's own ``encode_pil_to_base64`` writes
    whatever format its settings choose for pictures, with losses.)"""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **settings)
    return buffer.getvalue()


def kind_of(data: bytes) -> str:
    """Of a file, or of its first ``HEAD`` bytes: the format's name if this module reads it, else what the file seems to
    be, in words."""
    head = data[:HEAD]
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


def _check_passes(data: bytes, image: Image.Image) -> None:
    """PictureError for a progressive JPEG whose passes over the picture would take long. A few hundred bytes can ask
    for a thousand of them; real ones have about ten."""
    if image.format != "JPEG":
        return
    passes = data.count(b"\xff\xda")  # in a pass's own data, 255 is followed by 0
    if passes > COMMON_PASSES and passes * image.width * image.height > MAX_PASSED_PIXELS:
        raise PictureError(f"The picture is a JPEG in {passes} passes, which takes too long; {SAVE_AS}.")


def _check_tiles(image: Image.Image) -> None:
    """PictureError for a TIFF whose tiles are far larger than the picture: each takes memory for all of itself."""
    tags = getattr(image, "tag_v2", {})
    tile = int(tags.get(322, 0)) * int(tags.get(323, 0))  # TileWidth, TileLength
    if tile > max(4 * image.width * image.height, MAX_TILE):
        raise PictureError(f"The picture is a TIFF with tiles larger than itself; {SAVE_AS}.")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height from a WebP file's first chunk, (0, 0) if it has none (developers.google.com/speed/webp)."""
    chunk, body = data[12:16], data[20:30]
    if len(body) < 10:
        raise damaged()
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


def damaged() -> PictureError:
    """The error for a file that does not hold what its format promises."""
    return PictureError(
        "The picture file is damaged or incomplete; send the whole file again, or open it in an image editor and save "
        "it anew."
    )
