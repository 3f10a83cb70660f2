"""What of a picture the encoder sees: crops and tiles, with CLIPImageProcessor's arithmetic."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessor

from lib_ipadapter.encode.crops import CROPS, MAX_TILES, MEAN, views
from lib_ipadapter.encode.pixels import to_pixels
from lib_ipadapter.errors import UnitError
from tests.helpers.pictures import noise, photo, pixels, unnormalised, view


@settings(max_examples=40)
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


@settings(max_examples=60)
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
