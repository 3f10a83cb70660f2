"""The state with which the page tells of its units."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lib_ipadapter.encode.picture import Picture, content_hash
from tests.helpers.files import base64_of, half, picture
from tests.helpers.panel import held_of

pytestmark = pytest.mark.usefixtures("modules")


@given(st.text() | st.recursive(
    st.none() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text() | st.sampled_from(
        ["shown", "units", "images", "key", "weight", "controlnet"]), x)).map(json.dumps)
)  # fmt: skip
def test_no_state_but_the_pages_own_is_understood(text: str) -> None:
    from lib_ipadapter.errors import UnitError
    from lib_ipadapter.webui.panel.panel_state import PanelState

    try:
        PanelState.parse(text)
    except UnitError as error:
        assert "reload the page" in error.detail


def test_pictures_are_taken_in() -> None:
    """Into the unit in which the page has announced them. What no unit has any more stays for an undo."""
    from lib_ipadapter.webui.panel import panel_state

    def page(*keys: str) -> str:
        return json.dumps({"shown": 1, "units": [{}, {"images": [{"key": key} for key in keys]}]})

    def inbox(key: str, data: str = base64_of(picture(1))) -> str:
        return json.dumps({"key": key, "data": data})

    a, b, gone = (content_hash(picture(i)) for i in range(3))
    held = held_of(a=picture(0), gone=picture(2))
    key, kept = panel_state.take(page("a", "b"), inbox("b"), held)
    assert (key, kept) == ("b", {"a": a, "b": b, "gone": gone})
    assert panel_state.take(page("a"), inbox("b"), held) == ("b", kept)  # removed on its way: an undo may want it
    many = {**held, **{str(i): gone for i in range(2 * panel_state.KEPT)}}
    _, kept = panel_state.take(page("a", "b"), inbox("b"), many)
    assert len(kept) == panel_state.KEPT + 2 and "gone" not in kept and str(2 * panel_state.KEPT - 1) in kept
    with pytest.raises(Exception, match="not a picture"):
        panel_state.take(page("a"), inbox("a", "aGVsbG8gd29ybGQ="), {})
    with pytest.raises(Exception, match="at most 64"):
        panel_state.take(page(*map(str, range(65))), inbox("64"), {})


def test_what_comes_beside_a_picture_that_is_taken_in_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """All events of a page have one object with its pictures; a preset has put its own into it meanwhile."""
    from lib_ipadapter.webui.panel import panel_state
    from lib_ipadapter.webui.panel.picture_pool import changed, now

    held = held_of(a=picture(0), gone=picture(2))
    loaded = {str(i): held["a"] for i in range(2 * panel_state.KEPT)}
    picture_of = panel_state.Arriving.picture

    def load(arriving: panel_state.Arriving) -> object:
        before = now(held)
        changed(held, before, {"a": before["a"], **loaded})
        return picture_of(arriving)

    monkeypatch.setattr(panel_state.Arriving, "picture", load)
    text = json.dumps({"shown": 1, "units": [{"images": [{"key": "a"}, {"key": "b"}]}]})
    key, kept = panel_state.take(text, json.dumps({"key": "b", "data": base64_of(picture(1))}), held)
    assert kept is held and key == "b" and held["b"] == content_hash(picture(1))
    assert {"a", *loaded} <= held.keys()


MASK = half("left", (8, 8)).convert("RGB")


def test_a_references_region_is_one_of_its_pictures() -> None:
    """A negative reference has none, though it keeps what it had in the page."""
    from lib_ipadapter.errors import UnitError
    from lib_ipadapter.webui.panel import panel_state, reference_cards, region_line
    from lib_ipadapter.webui.panel.controls import COMPONENTS

    values = [control.default for control in COMPONENTS]
    items = [{"key": "a", "weight": 1, "region": "r"}, {"key": "b", "weight": 1, "region": "r", "negative": True}]
    text = json.dumps({"shown": 1, "units": [{"images": items}]})
    pictures = held_of(a=picture(0), b=picture(1), r=MASK)
    (unit,) = panel_state.objects(text, None, pictures, *values)
    assert unit["images"][0]["region"] == Picture.of(MASK)
    assert "region" not in unit["negative_images"][0]
    with pytest.raises(UnitError, match="unit 1: the mask of a reference's region is not on the server"):
        panel_state.objects(text, None, {key: one for key, one in pictures.items() if key != "r"}, *values)
    state = panel_state.PanelState.parse(text)
    assert "r" in state.used() and state.items[0]["region"] == "r"
    decoded = panel_state.PagePictures(pictures)
    drawn = reference_cards.cards(state.items, decoded, reference_cards.Look())
    assert drawn.count("class='ip-adapter-place'") == 1 and "aria-label='Region of reference 1'" in drawn
    assert "&quot;r&quot;" in region_line.drawn(state, decoded)  # for the painter
    black = panel_state.PagePictures(held_of(a=picture(0), b=picture(1), r=Image.new("RGB", (8, 8))))
    assert reference_cards.EMPTY_REGION in reference_cards.cards(state.items[:1], black, reference_cards.Look())


def test_a_references_place_over_time_is_on_its_card() -> None:
    """One that comes later is at the end; negative ones have none, and one alone is no keyframe."""
    from lib_ipadapter.webui.panel import panel_state, reference_cards
    from lib_ipadapter.webui.panel.controls import COMPONENTS

    values = [control.default for control in COMPONENTS]
    items = [
        {"key": "a", "weight": 1, "at": 0}, {"key": "b", "weight": 1}, {"key": "c", "weight": 1, "negative": True},
        {"key": "d", "weight": 1, "at": 0.25},
    ]  # fmt: skip
    pictures = held_of(**{key: picture(i) for i, key in enumerate("abcd")})
    text = json.dumps({"shown": 1, "units": [{"images": items}, {"images": items[2:3]}]})
    unit, _ = panel_state.objects(text, None, pictures, *values)
    assert [one["at"] for one in unit["images"]] == [0, 1, 0.25] and "at" not in unit["negative_images"][0]
    state, decoded = panel_state.PanelState.parse(text), panel_state.PagePictures(pictures)
    drawn = reference_cards.cards(state.items, decoded, reference_cards.Look())
    assert drawn.count("class='ip-adapter-at'") == 3 and "value='0.25' aria-label='Reference 4 over time'" in drawn
    assert "ip-adapter-at" not in reference_cards.cards(state.items[:1], decoded, reference_cards.Look())
    for wrong in ("x", None, 2, True):
        text = json.dumps({"shown": 1, "units": [{"images": [{"key": "a", "weight": 1, "at": wrong}]}]})
        assert "at" not in panel_state.PanelState.parse(text).items[0]


def test_an_api_objects_keyframes_come_into_the_panel() -> None:
    from lib_ipadapter.checkpoint.catalog import Catalog
    from lib_ipadapter.webui.panel import panel_entry
    from lib_ipadapter.webui.panel.picture_pool import Intake

    given = [{"image": picture(i), "at": at} for i, at in enumerate((0, 0.5, "x"))]
    shown, _, notes = panel_entry.entry({"model": "m", "images": given}, Catalog([], []), Intake())
    assert [one["at"] for one in shown["images"]] == [0, 0.5]
    assert len(notes) == 1 and notes[0].startswith("a reference was left out. at is 'x'")


def test_an_api_objects_regions_come_into_the_panel() -> None:
    from lib_ipadapter.checkpoint.catalog import Catalog
    from lib_ipadapter.webui.panel import panel_entry
    from lib_ipadapter.webui.panel.picture_pool import Intake

    item = {"image": picture(0), "region": MASK, "mask": MASK}
    broken = {"image": picture(0), "region": "no picture"}
    shown, pictures, notes = panel_entry.entry({"model": "m", "images": [item, broken]}, Catalog([], []), Intake())
    (kept,) = shown["images"]
    assert pictures[kept["region"]] == pictures[kept["mask"]] and kept["region"] != kept["mask"]
    assert len(notes) == 1 and notes[0].startswith("a reference was left out.")


def test_a_mask_that_has_not_arrived_is_told() -> None:
    from lib_ipadapter.errors import UnitError
    from lib_ipadapter.webui.panel import panel_state
    from lib_ipadapter.webui.panel.controls import COMPONENTS

    values = [control.default for control in COMPONENTS]
    items = [{"key": "a", "weight": 1, "mask": "m"}]
    text = json.dumps({"shown": 1, "units": [{"images": items, "region": "r"}]})
    pictures = held_of(a=picture(0), m=MASK, r=MASK)
    (unit,) = panel_state.objects(text, None, pictures, *values)
    assert unit["images"][0]["mask"] == unit["region_mask"] == Picture.of(MASK)
    for gone, says in (("m", "unit 1: the mask of a reference is not"), ("r", "unit 1: the mask of the region is not")):
        with pytest.raises(UnitError, match=says):
            panel_state.objects(text, None, {key: value for key, value in pictures.items() if key != gone}, *values)
    arriving = json.dumps({"key": "m", "data": base64_of(MASK)})
    (unit,) = panel_state.objects(text, arriving, held_of(a=picture(0), r=MASK), *values)
    assert unit["images"][0]["mask"].content_hash == content_hash(MASK)
    assert panel_state.take(text, arriving, held_of(a=picture(0)))[1].keys() == {"a", "m"}
