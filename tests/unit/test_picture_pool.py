"""The pictures of all pages: bounded, each page's its own, and drawn once."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from lib_ipadapter.encode.picture import KEPT_PIXELS, Picture, content_hash
from lib_ipadapter.errors import BudgetError, IPAdapterError, UnitError
from tests.helpers.files import base64_of, half, picture

pytestmark = pytest.mark.usefixtures("modules")

SIDE = 64
BYTES = SIDE * SIDE * 3


@pytest.fixture(autouse=True)
def small_pool(monkeypatch: pytest.MonkeyPatch):
    """A pool for three small pictures."""
    from lib_ipadapter.webui.panel import picture_pool

    made = picture_pool.PicturePool(3 * BYTES, 10_000)
    monkeypatch.setattr(picture_pool, "pool", lambda: made)
    return made


def state(*keys: str) -> str:
    return json.dumps({"shown": 1, "units": [{"images": [{"key": key} for key in keys]}]})


def inbox(key: str, seed: int) -> str:
    return json.dumps({"key": key, "data": base64_of(picture(seed, (SIDE, SIDE)))})


def items(text: str) -> list:
    from lib_ipadapter.webui.panel.panel_state import PanelState

    return PanelState.parse(text).items


def test_pages_share_a_pool_of_bounded_size(small_pool) -> None:
    """The picture that no page has used for longest goes first, and its page says so; the other pages have theirs."""
    from lib_ipadapter.webui.panel import panel_state
    from lib_ipadapter.webui.panel.controls import COMPONENTS
    from lib_ipadapter.webui.panel.picture_pool import PagePictures
    from lib_ipadapter.webui.panel.reference_cards import Look, cards

    values = [control.default for control in COMPONENTS]

    def units(held: dict) -> list:
        return panel_state.objects(state("a"), None, held, *values)

    def drawn(held: dict) -> str:
        return cards(items(state("a")), PagePictures(held), Look())

    pages = [panel_state.take(state("a"), inbox("a", seed), None)[1] for seed in range(3)]
    assert all(units(held) for held in pages)
    assert "<img" in drawn(pages[0])  # used again: the second page's is the oldest
    pages.append(panel_state.take(state("a"), inbox("a", 3), None)[1])
    assert small_pool._pictures.nbytes == 3 * BYTES
    assert ["<img" in drawn(held) for held in pages] == [True, False, True, True]
    assert "not there any more: add it again" in drawn(pages[1])
    with pytest.raises(UnitError, match="unit 1: 1 of its 1 references is not on the server any more"):
        units(pages[1])
    _, pages[1] = panel_state.take(state("a"), inbox("a", 1), pages[1])
    assert units(pages[1])[0]["images"][0]["image"].content_hash == content_hash(picture(1, (SIDE, SIDE)))


def test_a_session_keeps_no_pictures() -> None:
    from lib_ipadapter.webui.panel import panel_state

    _, held = panel_state.take(state("a"), inbox("a", 0), None)
    assert len(json.dumps(held)) < 100


def test_a_page_reaches_no_other_pages_pictures() -> None:
    """Neither by the key of one, nor by putting another under that key."""
    from lib_ipadapter.webui.panel import panel_state
    from lib_ipadapter.webui.panel.picture_pool import PagePictures

    _, one = panel_state.take(state("a"), inbox("a", 0), None)
    assert PagePictures({}).get("a") is None
    _, other = panel_state.take(state("a"), inbox("a", 1), {})
    assert [PagePictures(held)["a"].content_hash for held in (one, other)] == [
        content_hash(picture(seed, (SIDE, SIDE))) for seed in (0, 1)
    ]


def test_the_pixels_of_a_page_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what headers say; a picture that stands in two places counts once, one that is removed no more."""
    from lib_ipadapter.webui.panel import panel_state, picture_pool

    monkeypatch.setattr(picture_pool, "PAGE_PIXELS", 2 * SIDE * SIDE)
    _, held = panel_state.take(state("a", "b"), inbox("a", 0), {})
    _, held = panel_state.take(state("a", "b"), inbox("b", 1), held)
    with pytest.raises(BudgetError, match="The pictures of this page have more than .* together: remove references"):
        panel_state.take(state("a", "b", "c"), inbox("c", 2), held)
    _, held = panel_state.take(state("a", "c"), inbox("c", 2), held)
    assert held.keys() == {"a", "b", "c"}  # the removed one is there for an undo, and counts for nothing
    intake = picture_pool.Intake([held["a"], held["a"], held["c"]])
    with pytest.raises(BudgetError):
        intake.mask(half("left", (8, 8)))
    assert picture_pool.Intake([held["a"], held["a"]]).mask(half("left", (8, 8)))


def test_a_card_is_drawn_once(small_pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large picture, decoded for nothing else: with what the encoder sees, and with a mask."""
    from lib_ipadapter.webui.panel import panel_state
    from lib_ipadapter.webui.panel.picture_pool import PagePictures
    from lib_ipadapter.webui.panel.reference_cards import Look, cards

    buffer = io.BytesIO()
    side = int(KEPT_PIXELS**0.5) + 1
    Image.new("RGB", (side, side), "red").save(buffer, "JPEG")
    decoded = []
    plain = Picture._decode
    monkeypatch.setattr(
        Picture, "_decode", staticmethod(lambda *args: decoded.append(1) or plain(*args))
    )  # what it is called for does not matter
    large = Picture.of(buffer.getvalue())
    data = base64_of(large.image)
    decoded.clear()
    _, held = panel_state.take(state("a"), json.dumps({"key": "a", "data": data}), {}, Look(42))
    assert decoded == [1]
    drawn = cards(items(state("a")), PagePictures(held), Look(42))
    assert drawn.count("<img") == 2 and decoded == [1]
    _, held = panel_state.take(
        json.dumps({"shown": 1, "units": [{"images": [{"key": "a", "mask": "m"}]}]}),
        json.dumps({"key": "m", "data": base64_of(half("left", (8, 8)))}), held,
    )  # fmt: skip
    decoded.clear()
    masked = [cards([{"key": "a", "weight": 1, "mask": "m"}], PagePictures(held), Look(42)) for _ in range(2)]
    assert masked[0] == masked[1] != drawn and decoded == [1]
    for crop in ("top", "bottom", "left", "pad"):
        cards(items(state("a")), PagePictures(held), Look(42, crop))
    assert small_pool._previews.nbytes <= 10_000


def test_what_is_no_picture_is_not_kept(small_pool) -> None:
    from lib_ipadapter.webui.panel import panel_state

    with pytest.raises(IPAdapterError, match="not a picture"):
        panel_state.take(state("a"), json.dumps({"key": "a", "data": "aGVsbG8gd29ybGQ="}), {})
    assert small_pool._pictures.nbytes == 0


def test_whether_a_mask_is_empty_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_ipadapter.webui.panel import picture_pool

    looks: list[Picture] = []
    has_white = picture_pool._has_white
    monkeypatch.setattr(picture_pool, "_has_white", lambda mask: looks.append(mask) or has_white(mask))
    full, empty = Picture.of(Image.new("RGB", (8, 8), "white")), Picture.of(Image.new("RGB", (8, 8), "black"))
    for _ in range(2):
        assert not picture_pool.is_empty(full) and picture_pool.is_empty(empty) and not picture_pool.is_empty(None)
    assert looks == [full, empty]
    kept = picture_pool.pool()._previews
    assert kept.nbytes == len("full") + len("empty")  # bounded, as all that is remembered
