"""encode/picture.py: every file users have at hand, every file that is none, and CLIPImageProcessor's arithmetic."""

import base64
import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from transformers import CLIPImageProcessor

from lib_ipadapter.encode import CROPS, MAX_TILES, decode, decode_mask, fingerprint, to_pixels, views
from lib_ipadapter.encode.picture import MEAN, STD
from lib_ipadapter.errors import PictureError, UnitError


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


# What is accepted


@pytest.mark.parametrize("wrap", [
    bytes,
    bytearray,
    memoryview,
    b64,
    lambda data: "data:image/png;base64," + b64(data),
    lambda data: " DATA:image/png;charset=utf-8;BASE64,\n" + b64(data),
    lambda data: "\n".join(b64(data)[i : i + 76] for i in range(0, len(b64(data)), 76)) + "\n",
])  # fmt: skip
def test_bytes_and_base64(wrap):
    array = noise(9, 7)
    assert (pixels(decode(wrap(saved(Image.fromarray(array))))) == array).all()


@pytest.mark.parametrize(("format", "options", "tolerance"), [
    ("PNG", {}, 0),
    ("BMP", {}, 0),
    ("TIFF", {}, 0),
    ("TIFF", {"compression": "tiff_lzw"}, 0),
    ("WEBP", {"lossless": True}, 0),
    ("WEBP", {"quality": 95}, 16),
    ("JPEG", {"quality": 95}, 8),
    ("JPEG", {"quality": 95, "progressive": True}, 8),
])  # fmt: skip
def test_formats(format, options, tolerance):
    image = photo()
    assert abs(pixels(decode(saved(image, format, **options))) - pixels(image)).max() <= tolerance


UNDO = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # EXIF orientation: the Transpose that stores an upright picture so


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG", "TIFF"])
def test_exif_orientation(format, orientation):
    array = noise(6, 4)
    if format == "JPEG":
        array = np.kron(array, np.ones((16, 16, 1), np.uint8))
    stored = Image.fromarray(array)
    if orientation in UNDO:
        stored = stored.transpose(Image.Transpose(UNDO[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"TIFF": {"tiffinfo": {0x0112: orientation}}, "WEBP": {"lossless": True, "exif": exif}}
    data = saved(stored, format, **options.get(format, {"exif": exif}))
    upright = decode(data)
    assert upright.size == (array.shape[1], array.shape[0])
    difference = abs(pixels(upright) - array)
    assert difference.mean() < 12 if format == "JPEG" else difference.max() == 0
    assert (pixels(decode(upright)) == pixels(upright)).all(), "turned twice"
    if format != "TIFF":
        assert (pixels(decode(Image.open(io.BytesIO(data)))) == pixels(upright)).all()


def test_damaged_exif_is_no_reason_to_refuse():
    image = photo()
    data = saved(image, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert (pixels(decode(data)) == pixels(image)).all()


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.linspace(0, 65535, 400).round().astype(np.uint16).reshape(20, 20)
    expected = np.rint(values / 257)[:, :, None]
    assert (pixels(decode(png16(values))) == expected).all()
    assert (pixels(decode(values)) == expected).all()
    assert (pixels(decode(saved(Image.fromarray(values), "TIFF"))) == expected).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_is_scaled_not_clipped(channels):
    values = np.random.default_rng(0).integers(0, 65536, (12, 10, channels))
    values[:, :, 3:] = 65535
    assert abs(pixels(decode(png16(values))) - values[:, :, :3] / 257).max() <= 1


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_palette(format):
    image = Image.fromarray(noise(16, 16)).quantize(32)
    assert (pixels(decode(saved(image, format))) == pixels(image.convert("RGB"))).all()


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_palette_with_a_transparent_colour_lies_over_white(format):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 10, 20])
    image.paste(0, (0, 0, 4, 8))
    result = pixels(decode(saved(image, format, transparency=0)))
    assert (result[:, :4] == 255).all() and (result[:, 4:] == [200, 10, 20]).all()


def test_palette_with_alpha_for_each_colour():
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 200, 10, 20])
    result = pixels(decode(saved(image, transparency=b"\xff\x80")))
    assert abs(result - (np.array([200, 10, 20]) * 128 + 255 * 127) / 255).max() <= 1


def test_alpha_lies_over_white_and_opaque_pixels_keep_their_colour():
    array = noise(16, 16, 4)
    array[:8, :, 3] = 255
    array[8:12, :, 3] = 0
    alpha = array[:, :, 3:] / 255
    expected = array[:, :, :3] * alpha + 255 * (1 - alpha)
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        result = pixels(decode(saved(Image.fromarray(array), format, **options)))
        assert (result[:8] == array[:8, :, :3]).all() and (result[8:12] == 255).all()
        assert abs(result - expected).max() <= 1


@pytest.mark.parametrize("modes", [["RGBa"], ["LA"], ["LA", "La"], ["PA"]])
def test_other_alpha_modes(modes):
    alpha = Image.new("L", (4, 4))
    alpha.paste(255, (0, 0, 2, 4))
    image = Image.new("P" if modes == ["PA"] else "RGB", (4, 4), 0 if modes == ["PA"] else (90, 90, 90))
    if image.mode == "P":
        image.putpalette([90, 90, 90])
    image.putalpha(alpha)
    for mode in modes:
        image = image.convert(mode)
    result = pixels(decode(image))
    assert (result[:, :2] == 90).all() and (result[:, 2:] == 255).all()


def test_transparent_colour_of_rgb_grey_and_16_bit_pngs():
    colour = png(2, 2, 8, 2, [bytes([9, 9, 9, 7, 8, 6])] * 2, chunk(b"tRNS", struct.pack(">HHH", 7, 8, 6)))
    assert pixels(decode(colour))[0].tolist() == [[9, 9, 9], [255, 255, 255]]
    grey = png(2, 2, 8, 0, [bytes([9, 7])] * 2, chunk(b"tRNS", struct.pack(">H", 7)))
    assert pixels(decode(grey))[0].tolist() == [[9, 9, 9], [255, 255, 255]]
    deep = png(2, 2, 16, 2, [struct.pack(">6H", 2570, 2570, 2570, 0, 0, 0)] * 2, chunk(b"tRNS", bytes(6)))
    assert pixels(decode(deep))[0].tolist() == [[10, 10, 10], [255, 255, 255]]


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "HSV", "LAB"])
def test_other_modes_equal_pils_conversion(mode):
    try:
        image = photo().convert(mode)
    except ValueError:
        image = Image.new(mode, (4, 4), (120, 128, 128))
    assert (pixels(decode(image)) == np.asarray(image.convert("RGB"))).all()


def test_grey_png():
    array = noise(8, 8, 1)
    assert (pixels(decode(saved(Image.fromarray(array)))) == array[:, :, None]).all()


@pytest.mark.parametrize("rgb", [(250, 5, 5), (5, 250, 5), (240, 240, 240), (10, 10, 10)])
def test_cmyk_jpeg_in_adobes_inverted_form(rgb):
    data = saved(Image.new("RGB", (16, 16), rgb).convert("CMYK"), "JPEG", quality=98)
    assert b"Adobe" in data[:64]
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert abs(pixels(decode(data)) - rgb).max() <= 6


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_means_its_first_frame(format):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    first, *others = [Image.new("RGB", (16, 16), colour) for colour in colours]
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(first, format, save_all=True, append_images=others, duration=100, **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (pixels(decode(data)) == [255, 0, 0]).all()


def test_an_animated_pngs_still_picture_is_no_frame():
    first, *others = [Image.new("RGB", (16, 16), colour) for colour in [(255, 0, 0), (0, 255, 0), (0, 0, 255)]]
    data = saved(first, save_all=True, append_images=others, default_image=True, duration=100)
    assert (pixels(decode(data)) == [0, 255, 0]).all()


@pytest.mark.parametrize(("array", "expected"), [
    (noise(5, 4, 1), lambda a: a[:, :, None]),
    (noise(5, 4, 1)[:, :, None], lambda a: a),
    (noise(5, 4), lambda a: a),
    (noise(5, 4)[::-1, ::-1], lambda a: a),
    (noise(5, 4).astype(np.float32) / 255, lambda a: np.rint(a * 255)),
    (noise(5, 4, 1) > 100, lambda a: a[:, :, None] * 255),
    (np.dstack([noise(5, 4), np.full((4, 5), 255, np.uint8)]), lambda a: a[:, :, :3]),
    (np.dstack([noise(5, 4, 1), np.zeros((4, 5), np.uint8)]), lambda a: np.full((4, 5, 3), 255)),
])  # fmt: skip
def test_arrays(array, expected):
    assert (pixels(decode(array)) == expected(array)).all()


def test_the_given_picture_is_not_changed():
    image = Image.fromarray(noise(6, 4))
    image.info["note"] = "mine"
    image.getexif()[0x0112] = 6
    result = decode(image)
    assert result is not image and result.size == (4, 6)
    assert image.size == (6, 4) and image.info["note"] == "mine"


# What is refused


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


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason_and_a_remedy(name):
    data, says = REFUSED[name]
    with pytest.raises(PictureError, match=says) as caught:
        decode(data)
    sentence = caught.value.detail
    assert sentence.startswith("The picture ") and sentence.endswith(".")
    assert "; " in sentence and "\n" not in sentence and "0x" not in sentence


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("lenient", [False, True])
def test_truncated_files_are_refused(format, share, lenient, monkeypatch):
    """Also where another extension has told PIL to make do with half a picture."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    whole = saved(Image.fromarray(noise(64, 64)), format)
    decode(whole)
    with pytest.raises(PictureError, match=r"^The picture file is damaged or incomplete; send|^The picture is text"):
        decode(whole[: int(len(whole) * share)])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_never_raise_anything_else(data):
    format = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]))
    file = bytearray(saved(photo(20, 10), format))
    for _ in range(data.draw(st.integers(1, 6))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode(bytes(file))
    except PictureError:
        return
    assert image.mode == "RGB"


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(max_size=60), st.binary(max_size=60)))
def test_anything_else_is_a_picture_error(data):
    with pytest.raises(PictureError):
        decode(data)


def test_a_bomb_is_refused_without_pils_own_limit_and_with_warnings_as_errors(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(PictureError, match="too large .50000 x 50000 pixels"):
        decode(bomb(50000, 50000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PictureError, match="too large"):
            decode(bomb(40, 40))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_only_the_decoder_that_the_file_names_is_offered_it(format, monkeypatch):
    offered = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda file, **options: offered.append(options) or real(file, **options))
    decode(saved(photo(), format))
    assert offered == [{"formats": [format]}]


def test_a_string_never_reaches_the_disk_or_the_net(monkeypatch, tmp_path):
    path = tmp_path / "AAAA"
    path.write_bytes(WHOLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket", None)
    opened = []
    monkeypatch.setattr("builtins.open", lambda name, *rest: opened.append(name))
    for name in ("AAAA", str(path), f"file://{path}", "http://127.0.0.1/a.png"):
        with pytest.raises(PictureError):
            decode(name)
    with pytest.raises(PictureError, match="missing"):
        decode(path)
    assert not opened


def test_pil_stays_as_it_was_and_threads_do_not_disturb_each_other():
    before = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters))
    arrays = [noise(30 + i, 20, seed=i) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(decode, [saved(Image.fromarray(array)) for array in arrays]))
    assert all((pixels(result) == array).all() for result, array in zip(results, arrays, strict=True))
    assert before == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters))


# Fingerprint


def test_fingerprint_is_of_the_picture_not_of_the_file():
    image = Image.fromarray(noise(8, 6))
    prints = {fingerprint(decode(saved(image, format))) for format in ("PNG", "BMP", "TIFF")}
    assert prints == {fingerprint(image)} and len(prints.pop()) == 64
    assert fingerprint(image) != fingerprint(Image.fromarray(noise(8, 6, seed=1)))
    assert fingerprint(Image.new("RGB", (8, 6))) != fingerprint(Image.new("RGB", (6, 8)))


# What the encoder sees


def unnormalised(tensor):
    return tensor * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)


def view(*arguments, **options):
    """The only view, or the first."""
    return views(*arguments, **options)[0]


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 500), st.integers(4, 500), st.sampled_from([30, 224, 336]), st.integers(0, 1000))
def test_center_equals_clip_image_processor(width, height, size, seed):
    if max(width, height) > 16 * min(width, height):
        width = height
    image = Image.fromarray(noise(width, height, seed=seed))
    processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size=size)
    theirs = processor(image, return_tensors="pt").pixel_values[0]
    (ours,) = pixels = to_pixels(image, size)
    assert pixels.shape == (1, 3, size, size) and pixels.dtype == torch.float32 and pixels.is_contiguous()
    assert (unnormalised(ours) - unnormalised(theirs)).abs().max() <= 1 / 255
    assert (ours - theirs).abs().max() < 1e-5


def test_defaults_equal_the_processors_defaults():
    image = photo(500, 333)
    theirs = CLIPImageProcessor()(image, return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(to_pixels(image, 224)[0], theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("crop", "wide", "tall"), [
    ("center", "G", "G"), ("left", "R", "G"), ("right", "B", "G"), ("top", "G", "R"), ("bottom", "G", "B"),
])  # fmt: skip
def test_the_square_is_cut_where_the_word_says(crop, wide, tall):
    colours = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255)}
    picture = Image.new("RGB", (90, 30))
    for i, colour in enumerate(colours.values()):
        picture.paste(colour, (30 * i, 0, 30 * i + 30, 30))
    assert view(picture, 10, crop).getpixel((5, 5)) == colours[wide]
    turned = picture.transpose(Image.Transpose.ROTATE_270)
    assert turned.getpixel((5, 5)) == colours["R"]
    assert view(turned, 10, crop).getpixel((5, 5)) == colours[tall]


def test_edge_crops_reach_the_very_edge():
    image = Image.fromarray(noise(400, 200))
    whole = np.asarray(image.resize((100, 50), Image.Resampling.BICUBIC))
    assert (np.asarray(view(image, 50, "left")) == whole[:, :50]).all()
    assert (np.asarray(view(image, 50, "right")) == whole[:, 50:]).all()
    assert (np.asarray(view(image, 50, "center")) == whole[:, 25:75]).all()


def test_pad_shows_everything_on_what_the_encoder_sees_as_nothing():
    image = Image.new("RGB", (80, 40), (255, 0, 0))
    seen = np.asarray(view(image, 20, "pad"))
    assert (seen[5:15] == [255, 0, 0]).all()
    assert (to_pixels(image, 20, "pad")[:, :, [0, 1, 2, 3, 4, 15, 16, 17, 18, 19]] == 0).all()
    assert (seen[:5] == [round(255 * mean) for mean in MEAN]).all()
    assert view(Image.new("RGB", (2, 128)), 20, "pad").size == (20, 20)


def test_stretch_shows_everything_out_of_proportion():
    image = photo(90, 30)
    expected = image.resize((24, 24), Image.Resampling.BICUBIC)
    assert (np.asarray(view(image, 24, "stretch")) == np.asarray(expected)).all()


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("size", [(64, 64), (2, 128), (128, 2), (37, 41), (100, 30)])
@pytest.mark.parametrize("mask", [None, Image.fromarray(noise(30, 20, 1))])
def test_every_crop_gives_squares_and_the_preview_shows_them(crop, size, mask):
    image = Image.fromarray(noise(*size))
    seen, pixels = views(image, 28, crop, mask), to_pixels(image, 28, crop, mask)
    assert len(seen) == len(pixels) and (len(seen) == 1 or crop == "tile")
    for one, tensor in zip(seen, pixels, strict=True):
        assert one.size == (28, 28) and one.mode == "RGB"
        back = unnormalised(tensor).permute(1, 2, 0) * 255
        # 8 bits hold no grey between two levels, nor CLIP's mean exactly.
        tolerance = 1.01 if mask else 0.51 if crop in ("pad", "tile") else 1e-3
        torch.testing.assert_close(back, torch.from_numpy(np.asarray(one).astype(np.float32)), rtol=0, atol=tolerance)


def test_square_pictures_look_the_same_under_every_crop():
    image = Image.fromarray(noise(64, 64))
    for mask in (None, Image.fromarray(noise(64, 64, 1))):
        assert len({view(image, 28, crop, mask).tobytes() for crop in CROPS}) == 1
        assert all(torch.equal(to_pixels(image, 28, crop, mask), to_pixels(image, 28, mask=mask)) for crop in CROPS)


def test_pictures_that_were_not_decoded_first_are_seen_over_white():
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert view(image, 8).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("crop", ["tiles", "Center", "", None])
def test_an_unknown_crop_is_named(crop):
    for function in (views, to_pixels):
        with pytest.raises(UnitError, match=f"crop “{crop}” is not known here; choose one of center, .*stretch, tile."):
            function(photo(), 28, crop)


# Tiles


def ramp(width, height):
    """A picture whose red tells the column and whose green tells the row."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


@pytest.mark.parametrize(("width", "height", "size", "corners"), [
    (56, 28, 28, [0, 28]),  # a whole number: side by side
    (84, 28, 28, [0, 28, 56]),
    (112, 28, 28, [0, 28, 56, 84]),
    (40, 28, 28, [0, 12]),
    (57, 28, 28, [0, 14, 29]),  # a little more than two: three that overlap by half
    (100, 28, 28, [0, 24, 48, 72]),
    (29, 28, 28, [0, 1]),
    (28, 28, 28, [0]),
])  # fmt: skip
@pytest.mark.parametrize("tall", [False, True])
def test_tiles_stand_at_equal_distances_from_edge_to_edge(width, height, size, corners, tall):
    image = ramp(height, width) if tall else ramp(width, height)
    tiles = views(image, size, "tile")
    assert [tile.getpixel((0, 0))[tall] for tile in tiles] == corners
    assert tiles[-1].getpixel((size - 1, size - 1))[tall] == width - 1
    for i, tile in zip(corners, tiles, strict=True):
        box = (0, i, size, i + size) if tall else (i, 0, i + size, size)
        assert tile.tobytes() == image.crop(box).tobytes()


def test_a_side_that_is_longer_by_less_than_a_pixel_of_the_encoder_makes_no_second_tile():
    image = Image.fromarray(noise(513, 512))
    assert len(views(image, 224, "tile")) == 1
    assert torch.equal(to_pixels(image, 224, "tile"), to_pixels(image, 224))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 130), st.integers(2, 130), st.sampled_from([16, 28, 30]))
def test_tiles_cover_everything_evenly_and_are_few(width, height, size):
    if max(width, height) > 64 * min(width, height):
        width = height
    image = Image.fromarray(noise(width, height, seed=width * height))
    tiles = [np.asarray(tile).astype(int) for tile in views(image, size, "tile")]
    ratio = max(width, height) / min(width, height)
    assert len(tiles) in {min(MAX_TILES, np.ceil(ratio)), min(MAX_TILES, np.ceil(ratio - 1 / size))}
    tall = height > width
    if ratio <= MAX_TILES:
        long = int(size * max(width, height) / min(width, height))
        whole = image.resize((size, long) if tall else (long, size), Image.Resampling.BICUBIC)
    else:  # scaled down until MAX_TILES are enough, on the mean colour
        short = max(1, round(size * MAX_TILES / ratio))
        small = image.resize((short, size * 4) if tall else (size * 4, short), Image.Resampling.BICUBIC)
        whole = Image.new("RGB", (size, size * 4) if tall else (size * 4, size), tuple(round(255 * m) for m in MEAN))
        whole.paste(small, ((size - short) // 2, 0) if tall else (0, (size - short) // 2))
    strip = np.asarray(whole).astype(int)
    strip, tiles = (strip.transpose(1, 0, 2), [t.transpose(1, 0, 2) for t in tiles]) if tall else (strip, tiles)
    covered, gaps, last = np.zeros(strip.shape[1], bool), [], 0
    for tile in tiles:
        corners = [x for x in range(last, strip.shape[1] - size + 1) if (strip[:, x : x + size] == tile).all()]
        gaps.append(corners[0] - last)
        last = corners[0]
        covered[last : last + size] = True
    assert covered.all() and last == strip.shape[1] - size
    assert gaps[0] == 0 and max(gaps) <= size and (len(gaps) < 3 or max(gaps[1:]) - min(gaps[1:]) <= 1)


@pytest.mark.parametrize(("size", "first", "last"), [((90, 40), "left", "right"), ((40, 90), "top", "bottom")])
def test_the_outer_tiles_are_the_edge_crops_and_the_middle_one_of_three_the_central(size, first, last):
    image = Image.fromarray(noise(*size))
    mask = Image.fromarray(noise(*size, 1))
    for hidden in (None, mask):
        one, two, three = views(image, 28, "tile", hidden)
        expected = [view(image, 28, crop, hidden) for crop in (first, "center", last)]
        assert [t.tobytes() for t in (one, two, three)] == [e.tobytes() for e in expected]


def test_turning_the_picture_turns_its_tiles():
    image = photo(90, 40)
    turned = views(image.transpose(Image.Transpose.TRANSPOSE), 28, "tile")
    for one, other in zip(turned, views(image, 28, "tile"), strict=True):
        difference = pixels(one.transpose(Image.Transpose.TRANSPOSE)) - pixels(other)
        assert abs(difference).max() <= 1  # PIL scales the width first and rounds in between


def test_a_strip_is_scaled_down_until_its_tiles_show_all_of_it():
    image = Image.new("RGB", (1000, 100), (255, 0, 0))
    tiles, pixels = views(image, 20, "tile"), to_pixels(image, 20, "tile")
    assert len(tiles) == MAX_TILES == 4
    for tile, tensor in zip(tiles, pixels, strict=True):
        assert (np.asarray(tile)[6:14] == [255, 0, 0]).all()
        assert (tensor[:, [0, 5, 14, 19]] == 0).all() and (tensor[:, 6:14] != 0).all()


# Masks of references


SIZES = st.tuples(st.integers(4, 90), st.integers(4, 90))


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, st.sampled_from(CROPS), st.integers(0, 99))
def test_a_white_mask_hides_nothing_and_a_black_one_everything(size, mask_size, crop, seed):
    image = Image.fromarray(noise(*size, seed=seed))
    white, black = (Image.new("L", mask_size, level) for level in (255, 0))
    plain = to_pixels(image, 28, crop)
    assert torch.equal(to_pixels(image, 28, crop, white), plain)
    assert [v.tobytes() for v in views(image, 28, crop, white)] == [v.tobytes() for v in views(image, 28, crop)]
    hidden = to_pixels(image, 28, crop, black)
    assert hidden.shape == plain.shape and not hidden.any()
    mean = bytes(round(255 * m) for m in MEAN) * 28 * 28
    assert {v.tobytes() for v in views(image, 28, crop, black)} == {mean}


@settings(max_examples=40, deadline=None)
@given(SIZES, st.sampled_from(CROPS), st.integers(0, 99))
def test_a_mask_is_cut_exactly_as_its_picture(size, crop, seed):
    """A grey picture that is its own mask: what is left is the square of it."""
    grey = Image.fromarray(noise(*size, 1, seed=seed))
    level = torch.stack([torch.from_numpy(np.asarray(v.convert("L"), np.float32)) for v in views(grey, 28, crop)]) / 255
    plain, masked = to_pixels(grey, 28, crop), to_pixels(grey, 28, crop, grey)
    inside = (plain != 0).any(1)  # what "pad" and "tile" add counts nothing with any mask
    torch.testing.assert_close(masked, plain * level[:, None] * inside[:, None], rtol=0, atol=1e-6)


def test_soft_edges_weaken_and_values_are_multiplied_after_normalisation():
    image, mask = Image.new("RGB", (28, 28), (200, 30, 90)), Image.new("L", (28, 28), 51)
    torch.testing.assert_close(to_pixels(image, 28, mask=mask), to_pixels(image, 28) * 0.2, rtol=0, atol=1e-6)
    expected = [0.2 * c + 0.8 * 255 * m for c, m in zip((200, 30, 90), MEAN, strict=True)]
    seen = view(image, 28, mask=mask).getpixel((3, 3))
    assert max(abs(a - b) for a, b in zip(seen, expected, strict=True)) <= 1


@pytest.mark.parametrize("scale", [0.5, 1, 3])
@pytest.mark.parametrize("crop", ["left", "right", "stretch", "pad", "tile"])
def test_a_mask_of_any_size_lies_over_the_whole_picture(scale, crop):
    image = Image.new("RGB", (80, 40), (255, 0, 0))
    mask = Image.new("L", (int(80 * scale), int(40 * scale)))
    mask.paste(255, (0, 0, mask.width // 2, mask.height))
    pixels = to_pixels(image, 40, crop, mask)
    red = (pixels[:, 0] > 0.5).float().mean((1, 2))
    expected = {"left": [1], "right": [0], "stretch": [0.5], "pad": [0.25], "tile": [1, 0]}[crop]
    assert torch.allclose(red, torch.tensor(expected, dtype=torch.float32), atol=0.03)


def test_a_mask_in_colour_is_taken_by_its_luminance():
    image = Image.fromarray(noise(40, 40))
    mask = Image.fromarray(noise(40, 40))
    assert torch.equal(to_pixels(image, 28, mask=mask), to_pixels(image, 28, mask=mask.convert("L")))


def levels(image):
    assert image.mode == "L" and not image.info
    return np.asarray(image).astype(int)


def test_masks_are_luminance():
    array = noise(9, 7)
    text = b64(saved(Image.fromarray(array)))
    for data in (array, text, "data:image/png;base64," + text):
        assert (levels(decode_mask(data)) == np.asarray(Image.fromarray(array).convert("L"))).all()
    grey = noise(9, 7, 1)
    assert (levels(decode_mask(saved(Image.fromarray(grey)))) == grey).all()
    assert (levels(decode_mask(grey > 90)) == (grey > 90) * 255).all()
    deep = np.linspace(0, 65535, 400).round().astype(np.uint16).reshape(20, 20)
    assert (levels(decode_mask(png16(deep))) == np.rint(deep / 257)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "P"])
def test_what_was_not_painted_is_black(mode):
    """White strokes on a transparent layer, whatever colour the transparent pixels have underneath."""
    alpha = Image.new("L", (8, 8))
    alpha.paste(255, (0, 0, 4, 8))
    if mode == "P":
        image = Image.new("P", (8, 8), 1)
        image.putpalette([9, 9, 9, 255, 255, 255])
        image.paste(0, (4, 0, 8, 8))
        image = Image.open(io.BytesIO(saved(image, transparency=0)))
    else:
        image = Image.new("LA" if mode == "LA" else "RGBA", (8, 8), "white")
        image.putalpha(alpha)
        image = image.convert(mode)
    assert (levels(decode_mask(image)) == np.asarray(alpha)).all()


def test_alpha_and_luminance_multiply():
    array = noise(16, 16, 4)
    luminance = np.asarray(Image.fromarray(array[:, :, :3].copy()).convert("L")).astype(int)
    assert abs(levels(decode_mask(array)) - luminance * array[:, :, 3] / 255).max() <= 0.51


@pytest.mark.parametrize("alpha", [0, 100, 255])
def test_alpha_that_is_the_same_everywhere_says_nothing(alpha):
    array = noise(16, 16, 4)
    array[:, :, 3] = alpha
    luminance = np.asarray(Image.fromarray(array[:, :, :3].copy()).convert("L"))
    assert (levels(decode_mask(array)) == luminance).all()


def test_masks_are_turned_upright_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_mask(saved(Image.fromarray(noise(6, 4, 1)), exif=exif)).size == (4, 6)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_no_mask_and_is_called_one(name):
    data, _ = REFUSED[name]
    with pytest.raises(PictureError) as caught:
        decode_mask(data)
    sentence = caught.value.detail
    assert sentence.startswith("The mask ") and sentence.endswith(".") and "; " in sentence
    assert "reference" not in sentence and "The picture" not in sentence
