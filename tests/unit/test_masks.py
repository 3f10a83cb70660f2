"""Masks: what they hide of a picture, and which files they are."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib_ipadapter.encode.crops import CROPS, MEAN, views
from lib_ipadapter.encode.picture import decode_mask
from lib_ipadapter.encode.pixels import to_pixels
from lib_ipadapter.errors import PictureError
from tests.helpers.pictures import REFUSED, SIZES, b64, noise, png16, saved, view


@settings(max_examples=60)
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


@settings(max_examples=40)
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
