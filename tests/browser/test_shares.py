"""How much each unit did in the last picture, and what is done from there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.browser.test_regions import EDGES
from tests.helpers.files import picture
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")

# Of each element: how its words stand out from what is behind them.
CONTRASTS = """(elements) => elements.map((element) => {
    const rgba = (text) => text.match(/[0-9.]+/g).map(Number);
    const light = (colour) => colour.slice(0, 3)
        .map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    let ground = element;
    while (ground.parentElement && (rgba(getComputedStyle(ground).backgroundColor)[3] ?? 1) === 0) {
        ground = ground.parentElement;
    }
    const [ink, paper] = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
    const lights = [ink, paper].map((one) => light(rgba(one)));
    return [(Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05), element.textContent, ink, paper];
})"""


def layer_weights(page: Page, number: int = 1) -> list[float]:
    text = json.loads(page.state())["units"][number - 1].get("layer_weights") or ""
    return [float(word) for word in text.split()]


def test_it_is_told_after_a_picture_and_leads_to_more_style(page: Page) -> None:
    page.small()
    line, undo = page.find("shares"), page.page.locator("#txt2img_ip_adapter .ip-adapter-undo > button")
    page.add(picture(0))
    page.unit(2)
    page.add(picture(1))
    page.number("weight", 0)
    page.unit(1)
    assert line.count() == 0
    before = page.generate()
    assert isinstance(before, np.ndarray)
    page.wait(line.is_visible)
    text = line.inner_text()
    assert text.startswith("Unit 1 did ") and " % of what the prompt did · Style " in text
    assert "Unit 2" not in text  # its weight is 0
    more = line.locator("button", has_text="More style, less subject")
    page.wait(more.is_visible)
    more.click()
    page.wait(lambda: layer_weights(page))
    assert layer_weights(page) == [1.25] * 4 + [0.8] * 5 + [1.25] * 7
    assert undo.inner_text() == "Undo: leaned towards style"
    more.click()  # from what it is now
    page.wait(lambda: layer_weights(page)[0] == 1.56)
    line.locator("button", has_text="More subject, less style").click()
    page.wait(lambda: layer_weights(page)[0] == 1.25)
    changed = page.generate()
    assert np.abs(changed - before).mean() > 0.5
    for _ in range(3):
        undo.click()
    page.wait(lambda: not layer_weights(page))
    assert np.array_equal(page.generate(), before)

    # Of another unit, which did nothing, there is nothing to press; a plain picture tells nothing.
    page.unit(2)
    page.wait(lambda: not more.is_visible())
    assert line.is_visible()
    page.unit(1)
    page.wait(more.is_visible)
    page.tick()
    page.generate()
    page.wait(lambda: not line.is_visible())


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_can_be_read(theme: str, pages: Callable[..., Page]) -> None:
    """Words stand out from the ground at least 4.5 to 1, the presses' edges 3 to 1, on a narrow page, too."""
    page = pages(theme=theme, width=760)
    page.open()
    page.small()
    page.add(picture(0))
    page.unit(2)
    page.add(picture(1))
    page.number("weight", 0.3)
    page.generate()
    line = page.find("shares")
    page.wait(line.locator("button").first.is_visible)
    page.wait(lambda: line.locator("[data-unit]").count() == 2)
    words = line.locator("[data-unit], button").evaluate_all(CONTRASTS)
    assert [one for one in words if one[0] < 4.5] == []
    edges = line.locator("button").evaluate_all(EDGES)
    assert [one for one in edges if one[1] < 3] == []
    panel, own = (one.bounding_box() for one in (page.page.locator("#txt2img_ip_adapter"), line))
    assert panel["x"] <= own["x"] and own["x"] + own["width"] <= panel["x"] + panel["width"]
    if folder := os.environ.get("IP_ADAPTER_SHOTS"):
        page.page.locator("#txt2img_ip_adapter").screenshot(path=str(Path(folder) / f"shares-{theme}.png"))


def test_other_languages_have_it(pages: Callable[..., Page]) -> None:
    from tests.helpers import localizations

    page = pages(words=localizations.read("de_DE"))
    page.open()
    page.small()
    page.add(picture(0))
    page.generate()
    page.wait(page.find("shares").is_visible)
    text = page.find("shares").inner_text()
    assert "Einheit 1" in text
    assert not [word for word in ("did", "Style", "strongest", "even over", "More") if word in text]


def test_what_is_told_of_few_steps_and_of_none(page: Page) -> None:
    """Of one or two steps no words for when; of a unit that was not measured, why."""
    page.small()
    page.add(picture(0))
    page.generate()
    page.wait(page.find("shares").is_visible)
    blocks = {"input": 0.5, "middle": 0, "output": 0}
    told = [
        {"unit": 1, "influence": 0.5, "blocks": blocks, "thirds": [None, 0.5, None]},
        {"unit": 2, "influence": None, "why": "device"},
        {"unit": 3, "influence": None, "why": "tokens"},
        {"unit": 4, "influence": 0.5, "blocks": blocks, "thirds": [0.5, 0.5, 0.5]},
    ]
    page.page.evaluate(
        "(told) => ipAdapter.shares.show(ipAdapter.tabOf(document.querySelector('#txt2img_ip_adapter')), told)", told
    )
    lines = page.find("shares").locator("[data-unit]")
    one, full, redux, even = lines.all_inner_texts()
    assert one == "Unit 1 did 50 % of what the prompt did · Input 50 %, middle 0 %, output 0 %"
    assert full == "Unit 2 acted; how much cannot be told" and redux.startswith("Unit 3 acted")
    assert even.endswith("even over the steps")
    titles = [line.get_attribute("title") for line in lines.all()]
    assert "no room" in titles[1] and "Redux" in titles[2]


def test_a_press_changes_the_unit_that_it_was_meant_for_or_none(page: Page) -> None:
    """While the bars are awaited, another unit may be shown."""
    page.small()
    page.add(picture(0))
    page.unit(2)
    page.add(picture(1))
    page.unit(1)
    page.generate()
    more = page.find("shares").locator("button", has_text="More style, less subject")
    page.wait(more.is_visible)
    page.page.evaluate(
        """() => {
            const drawings = ipAdapter.drawings, {awaitBars} = drawings;
            drawings.awaitBars = async (tab) => {
                await new Promise((resolve) => { window.goOn = resolve; });
                drawings.awaitBars = awaitBars;
                const found = await awaitBars(tab);
                window.leaned = true;
                return found;
            };
        }"""
    )
    more.click()
    page.unit(2)
    page.page.evaluate("() => { window.goOn(); }")
    page.wait(lambda: page.page.evaluate("() => window.leaned === true"))
    page.page.wait_for_timeout(500)
    assert layer_weights(page, 1) == layer_weights(page, 2) == []
