"""Pictures and masks that are decoded once and handed on."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lib_ipadapter.encode import picture as module
from lib_ipadapter.encode.picture import Mask, Picture, content_hash, decode, decode_mask
from lib_ipadapter.errors import PictureError


def file(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8))


@pytest.mark.parametrize(("kind", "decoder"), [(Picture, decode), (Mask, decode_mask)])
def test_what_is_decoded_is_handed_on_as_it_is(kind, decoder, image: Image.Image) -> None:
    made = kind.of(file(image))
    assert made.image.tobytes() == decoder(file(image)).tobytes()
    assert kind.of(made) is made and decoder(made) is made.image


def test_the_hash_is_computed_once_and_is_that_of_the_pixels(image: Image.Image, monkeypatch) -> None:
    counted = []
    monkeypatch.setattr(module, "content_hash", lambda image: counted.append(image) or content_hash(image))
    made = Picture.of(file(image))
    assert not counted
    assert made.content_hash == made.content_hash == content_hash(image)
    assert len(counted) == 1


def test_a_masks_hash_is_that_of_the_picture_kept_of_it(image: Image.Image) -> None:
    made = Mask.of(image)
    assert made.image.mode == "L"
    assert made.content_hash == content_hash(decode_mask(image).convert("RGB")) == content_hash(decode(made))


def test_equal_pictures_are_equal_and_a_mask_is_none(image: Image.Image) -> None:
    grey = image.convert("L")
    assert Picture.of(image) == Picture.of(file(image)) and len({Picture.of(image), Picture.of(file(image))}) == 1
    assert Picture.of(image) != Picture.of(grey) != Mask.of(grey)
    assert Picture.of(image) != image


def test_a_mask_of_a_decoded_picture_and_the_other_way_round(image: Image.Image) -> None:
    assert decode_mask(Picture.of(image)).tobytes() == decode_mask(image).tobytes()
    assert decode(Mask.of(image)).tobytes() == decode_mask(image).convert("RGB").tobytes()
    with pytest.raises(PictureError, match="The mask"):
        Mask.of(b"text")
