"""encode/picture.py: every file that users have at hand, and every file that is none."""

import io
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from lib_ipadapter.encode.picture import content_hash, decode
from lib_ipadapter.errors import PictureError
from tests.helpers.pictures import REFUSED, WHOLE, b64, bomb, chunk, noise, photo, pixels, png, png16, saved

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


@settings(max_examples=150)
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


@settings(max_examples=100)
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


def test_a_content_hash_is_of_the_picture_not_of_the_file():
    image = Image.fromarray(noise(8, 6))
    prints = {content_hash(decode(saved(image, format))) for format in ("PNG", "BMP", "TIFF")}
    assert prints == {content_hash(image)} and len(prints.pop()) == 64
    assert content_hash(image) != content_hash(Image.fromarray(noise(8, 6, seed=1)))
    assert content_hash(Image.new("RGB", (8, 6))) != content_hash(Image.new("RGB", (6, 8)))
