"""Picture files as WebUIs answer with them: of which kind, whether whole, and with their parameters inside."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PARAMETERS = b"parameters"
SIDE = 256  # pixels of a preview
MAX_PIXELS = 40_000_000  # of a picture that is looked at for one
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
ENDINGS = ("png", "jpg", "gif", "webp", "avif")  # of picture files' names
_KINDS = ((b"\xff\xd8\xff", "jpg"), (b"GIF8", "gif"), (SIGNATURE, "png"))


def ending(data: bytes) -> str | None:
    """What the name of a picture's file ends with; None where it is no whole picture."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp" if struct.unpack("<I", data[4:8])[0] + 8 <= len(data) + 1 else None
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    found = next((kind for mark, kind in _KINDS if data.startswith(mark)), None)
    if found == "png":
        return found if _texts(data) is not None else None
    if found == "jpg":
        return found if data.rstrip(b"\0")[-2:] == b"\xff\xd9" else None
    return found


def with_parameters(data: bytes, infotext: str) -> bytes:
    """A PNG file that says how it was made; as it came where it does, or is of another kind."""
    texts = _texts(data) if data.startswith(SIGNATURE) else None
    if texts is None or not infotext or PARAMETERS in texts:
        return data
    content = PARAMETERS + b"\0\0\0\0\0" + infotext.encode("utf8", "replace")
    chunk = struct.pack(">I", len(content)) + b"iTXt" + content + struct.pack(">I", zlib.crc32(b"iTXt" + content))
    after_header = len(SIGNATURE) + 25
    return data[:after_header] + chunk + data[after_header:]


def preview(data: bytes) -> bytes:
    """A small JPEG of a picture; b"" where it is none, or too large to be looked at."""
    from PIL import Image

    try:
        with Image.open(BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return b""
            picture.thumbnail((SIDE, SIDE))
            picture.convert("RGB").save(small := BytesIO(), "JPEG", quality=80)
    except Exception:  # a foreign file: what readers of pictures raise is no list
        return b""
    return small.getvalue()


def _texts(data: bytes) -> set[bytes] | None:
    """The names of a PNG file's texts; None where a chunk is missing, cut off or damaged."""
    found, place = set(), len(SIGNATURE)
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, content = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        end = place + 12 + length
        if end > len(data) or struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))) != data[end - 4 : end]:
            return None
        if kind in (b"tEXt", b"iTXt", b"zTXt"):
            found.add(content[:80].partition(b"\0")[0])
        if kind == b"IEND":
            return found
        place = end
    return None
