"""What the panel draws as plain HTML: cards of references, controls of our own."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest

from lib_ipadapter.encode.picture import Picture, decode
from tests.helpers.files import half, picture

pytestmark = pytest.mark.usefixtures("modules")


def test_cards() -> None:
    from lib_ipadapter.webui.panel import reference_cards as references

    items = [{"key": "a", "weight": 1.0}, {"key": "b", "weight": 0.5}]
    one, two, mask = map(Picture.of, (picture(0), picture(1), MASK))
    look, none = references.Look(42), references.Look()
    html = references.cards(items, {"a": one, "b": two}, look, "stamp")
    assert html.count("<img") == 4 and "value='0.5'" in html and "data-stamp='stamp'" in html
    assert html.count("seen by the encoder") == html.count("<small>reference</small>") == 2
    hidden = "<label title='Weight of this reference' hidden>"  # the unit's says it all
    assert hidden in references.cards(items[:1], {}, look)
    assert hidden not in html and hidden not in references.cards(items[1:], {}, look)
    assert references.cards(items, {"a": one, "b": two}, none).count("<img") == 2
    assert "not there any more" in references.cards(items, {"a": one}, none)
    assert "on its way" in references.cards([{**items[0], "waiting": True}], {}, none)
    assert "ControlNet Unit 1<" in references.cards([{**items[0], "controlnet": 2}], {}, none)
    long = Picture.of(picture(0, (126, 42)))
    assert references.cards(items[:1], {"a": long}, references.Look(42, "tile")).count("ip-adapter-seen") == 3
    masked = references.cards([{**items[0], "mask": "m", "negative": True}], {"a": one, "m": mask}, look)
    assert masked.count("aria-pressed='true'") == 2 and "data-mask='data:image/png;base64," in masked
    assert html.count("aria-pressed='true'") == 0 and "data-mask" not in html


def test_the_region_line_tells_the_region_and_carries_those_of_all_units() -> None:
    from lib_ipadapter.webui.panel.panel_state import PanelState
    from lib_ipadapter.webui.panel.region_line import drawn

    mask = Picture.of(MASK)
    nowhere = drawn(PanelState.blank(2), {})
    assert "the whole picture" in nowhere and "Remove" not in nowhere and "What the others leave" not in nowhere
    first = drawn(PanelState(1, [{"region": "one'"}, {}]), {"one'": mask})
    assert "<img src='data:image/png" in first and "Remove" in first and "What the others leave" not in first
    second = drawn(PanelState(2, [{"region": "one'"}, {}]), {"one'": mask})
    assert "the whole picture" in second and "What the others leave" in second
    for line in (first, second):
        carried = json.loads(html.unescape(re.search("data-masks='([^']*)'", line)[1]))
        assert list(carried) == ["one'"]
        assert np.array_equal(np.asarray(decode(carried["one'"].split(",")[1]).convert("RGB")), np.asarray(MASK))
    gone = drawn(PanelState(1, [{"region": "one"}]), {})
    assert "not there any more" in gone and "Remove" in gone


MASK = half("left", (8, 8)).convert("RGB")


def test_html_controls_know_their_values_whatever_the_page_shows() -> None:
    """The WebUI translates texts in the page; the names of choices are values all the same."""
    from lib_ipadapter.fields import choices_of, settings_of
    from lib_ipadapter.unit import Unit
    from lib_ipadapter.webui.panel.controls import HTML_CONTROLS

    assert {control.field for control in HTML_CONTROLS} >= {
        name for name in settings_of(Unit) if choices_of(Unit, name)
    }
    for control in HTML_CONTROLS:
        drawn = control.html("an-id")
        assert f"title='{html.escape(control.at.tooltip)}'" in drawn
        assert f"<span>{html.escape(control.at.label)}</span>" in drawn
        for name in choices_of(Unit, control.setting.name):
            assert f"<option value='{html.escape(name)}'>{html.escape(name)}</option>" in drawn


def test_a_question_needs_a_name_only_where_it_asks_for_one(modules: None) -> None:
    from lib_ipadapter.webui.panel.html_controls import question

    plain = question("id_{}".format, "Replace them?", "Replace", {"do": "replace"}, is_named=False)
    assert "<input" not in plain and ">Replace</button>" in plain and "id='id_no'" in plain
    named = question("id_{}".format, "Its name?", "Save", {"do": "save", "name": "a 'b'"}, is_named=True)
    assert "<input" in named and "value='a &#x27;b&#x27;'" in named


def test_the_page_loads_every_script_of_the_panel() -> None:
    """``PANEL`` in the page's script names the files in panel/, each once."""
    scripts = Path(__file__).resolve().parents[2] / "javascript"
    listed = re.search(r"const PANEL = \[(.*?)\]", (scripts / "ip_adapter_page.js").read_text(encoding="utf-8"), re.S)
    assert listed is not None
    assert sorted(re.findall(r'"(\w+)"', listed[1])) == sorted(file.stem for file in (scripts / "panel").glob("*.js"))
