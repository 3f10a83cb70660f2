"""The shelf's answers to the page, and pictures that the page names by their content hash."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from demo.start import Host
from lib_ipadapter.encode.picture import content_hash
from lib_ipadapter.errors import UnitError
from lib_ipadapter.presets.shelf import PAGE
from tests.helpers.files import picture
from tests.helpers.panel import held_of, panel_of
from tests.helpers.presets import with_pictures


def hash_of(seed: int) -> str:
    return content_hash(picture(seed))


@pytest.fixture
def ask(host: Host, store: Any) -> Any:
    made = panel_of(host)

    def ask(held: dict[str, str] | None = None, **question: Any) -> dict[str, Any]:
        answer = json.loads(made.shelf.answer(json.dumps({**question, "stamp": "s"}), held))
        assert answer.pop("stamp") == "s"
        return answer

    return ask


def test_the_shelf_is_told_in_pages(ask: Any, store: Any) -> None:
    nothing = ask(ask="open")
    assert (nothing["entries"], nothing["lately"], nothing["totals"]) == ([], [], {"recent": 0, "presets": 0})
    for number in range(PAGE + 1):
        store.save(f"preset {number:02}", [with_pictures(number % 3)])
    opened = ask(ask="open")
    assert opened["group"] == "presets" and opened["total"] == PAGE + 1 and len(opened["entries"]) == PAGE
    assert set(opened["small"]) == {hash_of(seed) for seed in range(3)} and all(opened["small"].values())
    more = ask(ask="group", group="presets", start=PAGE)
    assert [one["name"] for one in more["entries"]] == [f"preset {PAGE}"]
    store.keep("made", [with_pictures(4)], Image.new("RGB", (64, 64), "red"))
    opened = ask(ask="open")
    assert opened["group"] == "recent" and opened["lately"][0] == hash_of(4)
    assert opened["entries"][0]["picture"].startswith("data:image/jpeg;base64,")
    assert list(ask(ask="small", names=[hash_of(1)])["small"]) == [hash_of(1)]


def test_why_there_is_no_shelf_is_told(ask: Any, store: Any) -> None:
    store.save("a", [with_pictures(0)])
    store.database.path.write_bytes(b"nothing of the kind" * 100)
    assert "is damaged" in ask(ask="open")["problem"]


def test_the_page_learns_how_its_pictures_come_back(ask: Any, store: Any, monkeypatch) -> None:
    """Those that presets have by their content hash, others as files; nothing but the session's own."""
    from lib_ipadapter.webui.panel import shelf

    store.save("a", [with_pictures(1)])
    held = held_of(stored=picture(1), other=picture(2), third=picture(3))
    kept = ask(held, ask="kept", keys=["stored", "other", "gone", hash_of(1)])["pictures"]
    assert kept["stored"] == f"sha256:{hash_of(1)}" and set(kept) == {"stored", "other"}
    image = Image.open(io.BytesIO(base64.b64decode(kept["other"].partition(",")[2])))
    assert content_hash(image) == hash_of(2)
    monkeypatch.setattr(shelf, "MAX_GIVEN", picture(2).width * picture(2).height)
    assert set(ask(held, ask="kept", keys=["other", "third", "stored"])["pictures"]) == {"other", "stored"}


def test_a_picture_that_presets_have_need_not_be_sent(host: Host, store: Any) -> None:
    from lib_ipadapter.webui.panel import panel_state

    store.save("a", [with_pictures(1)])
    text = json.dumps({"shown": 1, "units": [{"images": [{"key": "k", "weight": 1, "waiting": True}]}]})
    inbox = json.dumps({"key": "k", "data": f"sha256:{hash_of(1)}"})
    assert panel_state.take(text, inbox, {}) == ("k", {"k": hash_of(1)})
    values = [control.default for control in panel_state.COMPONENTS]
    [unit] = panel_state.objects(text, inbox, {}, *values)  # a press of Generate, before it was taken out
    assert unit["images"][0]["image"].content_hash == hash_of(1)
    store.delete("a")
    with pytest.raises(UnitError, match="no longer among the presets"):
        panel_state.take(text, inbox, {})
