"""Whatever removes or overwrites can be undone."""

from __future__ import annotations

import json

import pytest

from tests.helpers.files import picture
from tests.helpers.page import Page, accept, paint

pytestmark = pytest.mark.host("page")


def keys(page: Page) -> list[list[str]]:
    return [[one["key"] for one in unit.get("images", ())] for unit in json.loads(page.state())["units"]]


def test_what_was_removed_or_overwritten_comes_back(page: Page) -> None:
    undo = page.page.locator("#txt2img_ip_adapter .ip-adapter-undo > button")
    page.choose("model", "demo-sd15")
    for i in range(3):
        page.add(picture(i))
    before = keys(page)
    page.cards().nth(1).locator(".ip-adapter-remove").click()
    page.wait(lambda: page.drawn(2) and undo.is_visible())
    assert undo.inner_text() == "Undo: removed reference 2"
    page.cards().nth(0).locator("input").fill("0.5")
    page.add(picture(3))  # what is done meanwhile stays done
    undo.click()
    page.wait(lambda: page.drawn(4))
    assert keys(page)[0][:3] == before[0] and len(keys(page)[0]) == 4
    assert page.cards().nth(0).locator("input").input_value() == "0.5"
    assert "not there any more" not in page.cards().nth(1).inner_text()
    assert not undo.is_visible()

    # A preset that is loaded: all units, the values of gradio's components, the pictures, and the tick.
    page.preset("save")
    page.find("preset_name").fill("Undone")
    page.preset("yes")
    page.wait(lambda: "Saved" in page.note())
    page.number("weight", 0.25)
    page.find("drop_area").locator(".ip-adapter-clear").click()
    page.wait(lambda: page.drawn(0))
    page.add(picture(5))
    kept = keys(page)
    page.tick()
    page.preset("load")
    page.wait(lambda: page.drawn(4) and page.is_ticked() and page.number("weight") == 0.7)
    page.wait(undo.is_visible)
    assert undo.inner_text() == "Undo: loaded “Undone”"
    undo.click()
    page.wait(lambda: page.drawn(1) and not page.is_ticked())
    assert keys(page) == kept and page.number("weight") == 0.25 and page.model() == "demo-sd15"
    assert page.cards().locator("img").count() == 2
    # What has been undone by mistake can be had again, until something else is removed or overwritten.
    redo = page.page.locator("#txt2img_ip_adapter .ip-adapter-redo > button")
    assert redo.inner_text() == "Redo: loaded “Undone”"
    redo.click()
    page.wait(lambda: page.drawn(4) and page.is_ticked() and page.number("weight") == 0.7 and not redo.is_visible())
    page.find("enabled").locator("input").focus()  # no field of text
    page.page.keyboard.press("Control+z")
    page.wait(lambda: page.drawn(1) and not page.is_ticked())
    page.find("enabled").locator("input").focus()  # no field of text
    page.page.keyboard.press("Control+z")
    page.wait(lambda: page.drawn(5))  # what had been removed before, and what has been added since


def test_masks_and_regions_come_back(page: Page) -> None:
    """What is painted, painted over or removed; what is done with other things meanwhile stays."""
    undo = page.page.locator("#txt2img_ip_adapter .ip-adapter-undo > button")

    def mask() -> str | None:
        (one,) = json.loads(page.state())["units"][0]["images"]
        return one.get("mask")

    page.add(picture(0, (80, 60)))
    page.cards().first.locator(".ip-adapter-mask").click()
    paint(page)
    accept(page)
    page.wait(lambda: page.drawn(1) and page.cards().locator("[data-mask]").count() == 1)
    painted = mask()
    page.cards().first.locator(".ip-adapter-more").click()
    page.page.locator(".ip-adapter-card-menu button", has_text="Without mask").click()
    page.wait(lambda: mask() is None)
    assert undo.inner_text() == "Undo: removed the mask of reference 1"
    page.cards().first.locator(".ip-adapter-negate").click()
    undo.click()
    page.wait(lambda: mask() == painted and page.drawn(1) and page.cards().locator("[data-mask]").count() == 1)
    assert page.cards().locator(".ip-adapter-negate[aria-pressed=true]").count() == 1
    assert undo.inner_text() == "Undo: painted the mask of reference 1"
    undo.click()
    page.wait(lambda: mask() is None and page.drawn(1))
