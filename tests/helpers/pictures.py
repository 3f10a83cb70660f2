"""Pictures and the bytes of picture files."""

import base64
import io
import struct
import zlib

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from lib_ipadapter.encode.crops import MEAN, STD, views


def noise(width, height, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photo(width=60, height=40):
    """A smooth picture, so that JPEG keeps it."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 255 / (width - 1), y * 255 / (height - 1), 255 - x * 200 / (width - 1))
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def saved(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def b64(data):
    return base64.b64encode(data).decode()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, rows, *extra):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", header), *extra, chunk(b"IDAT", data), chunk(b"IEND", b"")])


def png16(values):
    """A 16-bit PNG of ``values`` [H, W] or [H, W, 3 or 4]."""
    colour = {2: 0, 3: {3: 2, 4: 6}.get(values.shape[-1])}[values.ndim]
    return png(values.shape[1], values.shape[0], 16, colour, [row.astype(">u2").tobytes() for row in values])


def pixels(image):
    assert image.mode == "RGB" and not image.info
    return np.asarray(image).astype(int)


def bomb(width, height):
    return png(width, height, 8, 2, [b"\0\0\0"])


def webp_bomb():
    body = b"VP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + (16382).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
WHOLE = saved(Image.fromarray(noise(64, 64)))

REFUSED = {
    "empty string": ("", "is empty; choose a picture"),
    "blank string": (" \n", "is empty"),
    "empty bytes": (b"", "is empty"),
    "empty data url": ("data:image/png;base64,", "is empty"),
    "None": (None, "missing .nothing was given"),
    "int": (5, "missing .it is a int"),
    "dict": ({"image": "x"}, "missing .it is a dict"),
    "list": ([WHOLE], "missing .it is a list"),
    "wrong base64": ("no*base64!", "not valid base64"),
    "half a base64 group": (b64(WHOLE)[:-3], "not valid base64"),
    "letters beyond ASCII": ("Bäume", "not valid base64"),
    "path": ("/etc/hostname.png", "not valid base64; paths and web addresses are never opened"),
    "address": ("https://example.com/a.png", "web addresses are never opened"),
    "file address": ("file:///etc/passwd", "web addresses are never opened"),
    "data url without base64": ("data:image/svg+xml;utf8,<svg/>", "data: prefix without base64"),
    "base64 of text": (b64(b"hello, this is text"), "is text, not a picture"),
    "text": (b"hello, this is text", "is text, not a picture"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", "is a PDF document; save it as PNG, JPEG or WebP"),
    "SVG": (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "is an SVG drawing"),
    "zip": (b"PK\x03\x04" + bytes(40), "is a zip archive"),
    "web page": (b"\n<!DOCTYPE html><title>404</title>", "is a web page"),
    "HEIC": (HEIC, "is a HEIC picture"),
    "AVIF": (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "is an AVIF picture"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is a PostScript file"),
    "PPM, which PIL could read": (saved(photo(), "PPM"), "in no format|text"),
    "ICO, which PIL could read": (saved(photo(), "ICO"), "in no format"),
    "random bytes": (bytes(range(256)), "in no format"),
    "PNG bomb": (bomb(50000, 50000), "too large .*megapixels.; scale it down"),
    "PNG a little too large": (bomb(10001, 10000), "too large .10001 x 10000 pixels, more than 100 megapixels"),
    "WebP bomb": (webp_bomb(), "too large .16383 x 16383 pixels"),
    "strip": (saved(Image.new("L", (20000, 1))), "20000 x 1 pixels, too few"),
    "wide strip": (saved(Image.new("L", (2000, 20))), "strip of 2000 x 20 pixels.*; cut a part out"),
    "tall strip": (saved(Image.new("L", (20, 2000))), "strip of 20 x 2000"),
    "one pixel": (saved(Image.new("RGB", (1, 1))), "1 x 1 pixels, too few"),
    "PIL image, strip": (Image.new("RGB", (20000, 1)), "20000 x 1"),
    "PIL image without pixels": (Image.new("RGB", (0, 0)), "0 x 0"),
    "float TIFF": (saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point values; save it"),
    "32-bit": (Image.fromarray(np.full((4, 4), 1 << 20, np.int32)), "more than 16 bits; save it"),
    "array of 5 channels": (np.zeros((4, 4, 5), np.uint8), r"shape \[4, 4, 5\]; give"),
    "flat array": (np.zeros(4, np.uint8), r"shape \[4\]; give"),
    "array of nothing": (np.zeros((0, 4, 3), np.uint8), r"shape \[0, 4, 3\]; give"),
    "array of ints": (np.zeros((4, 4, 3), np.int64), "array of int64; give"),
    "array of objects": (np.full((4, 4), None), "array of object; give"),
    "floats beyond 1": (np.full((4, 4, 3), 255.0), "floats outside 0…1; divide"),
    "NaN": (np.full((4, 4, 3), np.nan), "floats outside 0…1"),
    "strip array": (np.zeros((3, 3000, 3), np.uint8), "strip of 3000 x 3"),
}


def unnormalised(tensor):
    return tensor * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)


def view(*arguments, **options):
    """The only view, or the first."""
    return views(*arguments, **options)[0]


SIZES = st.tuples(st.integers(4, 90), st.integers(4, 90))
