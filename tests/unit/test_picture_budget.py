"""Pictures that come from outside take bounded memory and time, whatever they claim and however many they are."""

from __future__ import annotations

import base64
import io
import struct
import time
from typing import Any

import pytest
from PIL import Image

from lib_ipadapter.encode import picture as pictures
from lib_ipadapter.encode.picture import KEPT_PIXELS, Mask, Picture, Pictures, content_hash, decode, decode_mask
from lib_ipadapter.encode.sizes import BUDGET_PIXELS, Budget
from lib_ipadapter.errors import BudgetError, PictureError
from tests.helpers.files import base64_of, picture, png


def webp(side: int, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "WEBP", method=0)
    return buffer.getvalue()


LARGE = webp(int(KEPT_PIXELS**0.5) + 1)


def test_of_a_large_picture_only_the_file_is_kept() -> None:
    for data in (LARGE, base64.b64encode(LARGE).decode()):
        large = Picture.of(data)
        assert large.given == LARGE
        assert content_hash(large.image) == content_hash(decode(LARGE)) == large.content_hash
        assert large.size == large.image.size
        mask = Mask.of(data)
        assert mask.given == LARGE
        assert mask.content_hash == content_hash(decode_mask(LARGE).convert("RGB"))
        assert mask.image.mode == "L"
    small = Picture.of(png(picture(0)))
    assert isinstance(small.given, Image.Image)
    assert small.content_hash == content_hash(picture(0))
    assert Picture.of(decode(LARGE)).given.size == large.size  # somebody else holds it anyway


def test_each_picture_is_decoded_once(monkeypatch) -> None:
    decoded, decode_one = [], pictures._decoded
    monkeypatch.setattr(pictures, "_decoded", lambda *args: decoded.append(args) or decode_one(*args))
    same, other, image = base64_of(picture(0)), base64_of(picture(1)), picture(2)
    job = Pictures()
    all_of_them = [job.of(Picture, data) for data in [same] * 150 + [other, image, image]]
    assert len(decoded) == 3
    assert len({one.content_hash for one in all_of_them}) == 3
    job.of(Mask, same)
    assert len(decoded) == 4


def test_what_is_too_large_together_is_refused_before_it_is_decoded(monkeypatch) -> None:
    loaded, upright = [], pictures.upright
    monkeypatch.setattr(pictures, "upright", lambda image: loaded.append(image) or upright(image))
    budget = Budget(3 * 64 * 64)
    with pytest.raises(BudgetError, match=r"more than 0 megapixels together: scale them down.*or give fewer"):
        for seed in range(4):
            decode(png(picture(seed, (64, 64))), budget)
    assert len(loaded) == 3
    with pytest.raises(BudgetError, match="megapixels together"):
        decode_mask(png(picture(0)), Budget(1))


def test_sixty_four_photographs_pass() -> None:
    budget = Budget()
    for _ in range(64):
        budget.take((6000, 4000))
    assert budget.left > 0
    with pytest.raises(BudgetError, match="2,000 megapixels together"):
        budget.take((BUDGET_PIXELS, 1))


def test_a_job_can_be_interrupted_between_two_pictures() -> None:
    class Stopped(Exception):
        pass

    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise Stopped

    job = Pictures(check=check)
    with pytest.raises(Stopped):
        for seed in range(9):
            job.of(Picture, base64_of(picture(seed)))
    assert len(asked) == 3


def progressive(side: int, extra: int) -> bytes:
    """A progressive JPEG whose last pass comes ``extra`` more times."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * extra + data[-2:]


def test_a_jpeg_of_a_thousand_passes_is_refused_at_once() -> None:
    data = progressive(2000, 1000)
    assert len(data) < 300_000
    started = time.process_time()
    with pytest.raises(PictureError, match=r"JPEG in 1\d\d\d passes, which takes too long; save it as PNG"):
        decode(data)
    assert time.process_time() - started < 0.5
    assert decode(progressive(2000, 0)).size == (2000, 2000)
    assert decode(progressive(100, 1000)).size == (100, 100)  # quick, whatever it asks for


def tiled(tile: int) -> bytes:
    """A grey TIFF of 10 x 10 pixels in one tile."""
    short, long = 3, 4
    tags: list[tuple[int, int, int]] = [
        (256, short, 10), (257, short, 10), (258, short, 8), (259, short, 1), (262, short, 1), (277, short, 1),
        (322, long, tile), (323, long, tile), (324, long, 8), (325, long, 256),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in tags)
    pixels = bytes(range(256))
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + bytes(4)


def test_a_tiff_with_one_huge_tile_is_refused() -> None:
    assert decode(tiled(16)).size == (10, 10)
    with pytest.raises(PictureError, match="TIFF with tiles larger than itself; save it as PNG"):
        decode(tiled(60_000))


@pytest.mark.parametrize("data", [b"", 5, "%%%", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_told_each_time(data: Any) -> None:
    job = Pictures()
    for _ in range(2):
        with pytest.raises(PictureError):
            job.of(Picture, data)
