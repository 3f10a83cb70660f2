"""Regions, masks and the other advanced settings."""

from __future__ import annotations

import numpy as np
import pytest

from tests.browser.test_regions import counts
from tests.helpers.files import half, picture, png
from tests.helpers.page import Page, accept, advanced, paint

pytestmark = pytest.mark.host("page")


def test_a_region_is_painted_over_the_last_picture(page: Page) -> None:
    page.small()
    page.add(picture(0))
    page.choose("model", "demo-sd15")
    whole = page.generate()
    advanced(page)
    page.find("region").locator(".ip-adapter-region-draw").click()
    paint(page, (-0.2, 0.2))
    accept(page)
    page.wait(lambda: page.find("region").locator("img").count() == 1)
    painted = page.generate()
    assert np.abs(painted - whole).mean() > 0.1
    page.find("region").locator(".ip-adapter-region-draw").click()
    page.page.locator(".ip-adapter-painter button", has_text="Everything").click()
    accept(page)
    page.wait(lambda: not page.find("references").evaluate("e => e.classList.contains('ip-adapter-stale')"))
    page.wait(lambda: np.abs(page.generate() - whole).mean() == 0)
    page.find("region").locator(".ip-adapter-region-draw").click()
    page.page.locator(".ip-adapter-painter").wait_for()
    page.page.keyboard.press("Escape")
    page.page.locator(".ip-adapter-painter").wait_for(state="detached")
    page.find("region").locator(".ip-adapter-region-clear").click()
    page.wait(lambda: page.find("region").locator("img").count() == 0)
    assert np.abs(page.generate() - whole).mean() == 0


def test_a_reference_gets_a_mask_and_turns_negative(page: Page) -> None:
    page.small()
    page.add(picture(0))
    page.choose("model", "demo-sd15")
    whole = page.generate()
    page.cards().first.locator(".ip-adapter-mask").click()
    paint(page)
    accept(page)
    page.wait(lambda: page.cards().first.locator("[aria-pressed=true]").count() == 1 and page.drawn(1))
    page.wait(lambda: page.cards().first.locator("[data-mask]").count() == 1)
    assert np.abs(page.generate() - whole).mean() > 0.1
    page.cards().first.locator(".ip-adapter-negate").click()
    page.wait(lambda: page.cards().first.locator("[aria-pressed=true]").count() == 2 and page.drawn(1))
    assert page.used() == []
    assert "it has only negative references" in page.generate()


def test_advanced_settings_act_and_travel_with_presets(page: Page) -> None:
    page.small()
    page.add(picture(0))
    page.choose("model", "demo-sd15")
    plain = page.generate()
    advanced(page)
    before = page.find("bars").inner_html()
    page.find("weight_type").locator("select").select_option("style and composition")
    page.wait(lambda: page.find("bars").inner_html() != before)
    assert page.find("bars").locator("rect").count() == 16
    styled = page.generate()
    assert np.abs(styled - plain).mean() > 0.1
    page.find("layer_weights").locator("input").fill("5:0.4 6")
    assert "IP-Adapter unit 1: “Layer weights” is “5:0.4 6”" in page.generate()
    page.find("layer_weights").locator("input").fill("")
    page.find("influence_map").locator("input").check()
    assert page.number("composition_weight", 7) == page.number("composition_weight", 5) == 5
    page.find("composition_weight").locator("input[type=range]").fill("0.5")
    assert page.number("composition_weight") == 0.5
    page.unit(2)
    assert page.number("composition_weight") == 1 and not page.find("influence_map").locator("input").is_checked()
    page.wait(lambda: page.find("weight_type").locator("select").input_value() == "linear")
    page.unit(1)
    page.wait(lambda: page.find("weight_type").locator("select").input_value() == "style and composition")
    assert page.number("composition_weight") == 0.5 and page.find("influence_map").locator("input").is_checked()
    page.find("influence_map").locator("input").uncheck()
    page.number("composition_weight", 1)
    assert np.abs(page.generate() - styled).mean() == 0


def test_the_strength_of_keypoints_is_instantids(page: Page) -> None:
    advanced(page)
    page.choose("model", "demo-sd15")
    page.wait(lambda: "Base" in page.find("details").inner_text())
    assert not page.find("keypoints_weight").is_visible()
    page.take_other("instant-id")
    page.wait(page.find("keypoints_weight").is_visible)
    page.number("keypoints_weight", 0.5)
    page.unit(2)
    page.wait(lambda: not page.find("keypoints_weight").is_visible())
    page.unit(1)
    page.wait(page.find("keypoints_weight").is_visible)
    assert page.number("keypoints_weight") == 0.5


def test_a_mask_from_a_file_leaves_nothing_behind(page: Page) -> None:
    """Its address is given back, whether it is a picture or not; a chooser that is closed without one says nothing."""
    page.add(picture(0))
    page.page.evaluate(
        """() => {
            window.open = new Set();
            const {createObjectURL, revokeObjectURL} = URL;
            URL.createObjectURL = (file) => { const url = createObjectURL(file); open.add(url); return url; };
            URL.revokeObjectURL = (url) => { open.delete(url); revokeObjectURL(url); };
        }"""
    )
    page.cards().first.locator(".ip-adapter-mask").click()
    dialog = page.page.locator(".ip-adapter-painter")
    chooser, hint = dialog.locator("input[type=file]"), dialog.locator("small")
    before = hint.inner_text()
    chooser.evaluate("field => field.onchange()")  # closed without a file
    page.page.wait_for_timeout(200)
    assert hint.inner_text() == before
    chooser.set_input_files({"name": "no.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.wait(lambda: "This file is no picture" in hint.inner_text())
    chooser.set_input_files({"name": "yes.png", "mimeType": "image/png", "buffer": png(half("left"))})
    page.wait(lambda: hint.inner_text() == before)
    page.wait(lambda: page.page.evaluate("window.open.size") == 0)
    accept(page)
    page.wait(lambda: page.cards().first.locator("[data-mask]").count() == 1)


def mask_of(page: Page) -> None:
    page.cards().first.locator(".ip-adapter-mask").click()
    page.page.locator(".ip-adapter-painter").wait_for()


def sides(page: Page) -> tuple[float, float]:
    """How much counts on the left and on the right of the open picture."""
    return round(counts(page, 0.1, 0.5)), round(counts(page, 0.9, 0.5))


def test_a_mask_is_painted_on_before_the_server_has_drawn_it(page: Page) -> None:
    """It begins as it was left, whatever the card still shows; also after an undo."""
    page.add(picture(0))
    page.page.evaluate("""() => {
        const tab = ipAdapter.page.tabs.txt2img, {writeBox} = tab;
        tab.writeBox = (name, text) => { if (name !== "stamp") writeBox.call(tab, name, text); };
    }""")
    mask_of(page)
    assert sides(page) == (0, 0)
    paint(page, (-0.2, 0.0))
    accept(page)
    mask_of(page)
    assert sides(page) == (1, 0)
    paint(page, (0.8, 1.0))
    accept(page)
    mask_of(page)
    assert sides(page) == (1, 1)
    page.page.keyboard.press("Escape")
    page.page.locator("#txt2img_ip_adapter .ip-adapter-undo > button").click()
    mask_of(page)
    assert sides(page) == (1, 0)
    page.page.keyboard.press("Escape")
    page.page.locator("#txt2img_ip_adapter .ip-adapter-undo > button").click()
    mask_of(page)
    assert sides(page) == (0, 0)
    assert page.cards().first.locator("[data-mask]").count() == 0


@pytest.mark.parametrize("what", ["Mask", "Region"])
def test_what_is_painted_for_a_reference_that_has_gone_is_told(page: Page, what: str) -> None:
    page.add(picture(0))
    if what == "Mask":
        mask_of(page)
    else:
        page.cards().first.locator(".ip-adapter-more").click()
        menu = page.cards().first.locator(".ip-adapter-card-menu")
        menu.get_by_text("Region", exact=True).click()
        menu.get_by_text("Draw …", exact=True).click()
    paint(page, (-0.2, 0.0))
    page.page.evaluate("""() => {
        const tab = ipAdapter.page.tabs.txt2img;
        ipAdapter.references.remove(tab, tab.shownUnit.images[0].key);
    }""")
    accept(page)
    page.wait(lambda: "not there any more: add it again, then paint" in page.told())
    assert page.pictures() == [0, 0, 0]
