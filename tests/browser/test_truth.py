"""The panel tells what really takes part, and what does not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.files import picture
from tests.helpers.page import Page, advanced

pytestmark = pytest.mark.host("page")


def badge(page: Page) -> str:
    """What the panel's head says, "*" in front where it is lit."""
    sign = page.page.locator("#txt2img_ip_adapter > .label-wrap > .ip-adapter-badge")
    lit = sign.evaluate("sign => sign.matches('.ip-adapter-lit')")
    return ("*" if lit else "") + (sign.text_content() or "")


# A mask as an older preset may have one: the painter takes none in which nothing is painted.
EMPTY_REGION = """async () => {
    const canvas = Object.assign(document.createElement("canvas"), {width: 8, height: 8});
    canvas.getContext("2d").fillRect(0, 0, 8, 8);
    const file = await new Promise((resolve) => canvas.toBlob(resolve));
    const tab = ipAdapter.page.tabs.txt2img, key = ipAdapter.newKey();
    tab.changeShownUnit((unit) => { unit.region = key; });
    ipAdapter.pictures.addMask(tab, file, key);
}"""


def test_the_head_counts_the_units_that_take_part(page: Page) -> None:
    assert badge(page) == ""
    page.add(picture(0))
    page.wait(lambda: badge(page) == "*1 unit" and page.used() == [1])
    page.number("weight", 0)
    page.wait(lambda: badge(page) == "no unit" and "weight is 0" in page.tabs().first.get_attribute("title"))
    advanced(page)
    page.find("curve").locator("input").fill("0:1 1:0.2")  # it counts in the weight's place
    page.wait(lambda: badge(page) == "*1 unit")
    assert page.find("weight").locator("input[type=range]").is_disabled()
    assert page.find("weight").locator(".ip-adapter-instead").is_visible()
    reason = page.find("curve").locator(".ip-adapter-reason")
    page.find("curve").locator("input").fill("0:1 2")
    page.wait(lambda: "“Weight over the steps” is “0:1 2”" in reason.inner_text())
    page.find("curve").locator("input").fill("0:1 1:0.2")
    page.wait(lambda: reason.inner_text() == "")
    page.find("layer_weights").locator("input").fill("99:1")
    page.wait(lambda: "“Layer weights” names block 99" in page.find("layer_weights").inner_text())
    page.find("layer_weights").locator("input").fill("")
    page.page.evaluate(EMPTY_REGION)
    page.wait(lambda: "the unit would act nowhere" in page.find("region").inner_text())
    page.wait(lambda: badge(page) == "no unit")
    signs = page.tabs().first.locator("i").evaluate_all("all => all.map((one) => one.title)")
    assert signs == ["It acts in a region.", "Its weight changes over the steps."]
    assert page.tabs().first.text_content() == "Unit 1"
    page.find("region").locator(".ip-adapter-region-clear").click()
    page.wait(lambda: badge(page) == "*1 unit")
    page.find("curve").locator("input").fill("")
    page.wait(lambda: not page.find("weight").locator("input[type=range]").is_disabled())


def test_a_lone_negative_reference_is_told(page: Page) -> None:
    page.small()
    page.choose("model", "demo-sd15")
    page.add(picture(0))
    page.cards().first.locator(".ip-adapter-negate").click()
    page.wait(lambda: badge(page) == "no unit")
    line = page.find("units").locator(".ip-adapter-lone[data-part=negative]")
    page.wait(line.is_visible)
    assert page.tabs().first.locator("i").get_attribute("title") == "It has negative references."
    page.unit(2)
    page.wait(lambda: not line.is_visible() and page.drawn(0))
    page.choose("model", "demo-sd15")
    page.add(picture(1))
    page.wait(lambda: badge(page) == "*1 unit")
    assert "IP-Adapter unit 1: it has only negative references" in page.generate()


def test_references_that_are_left_out_are_asked_about_until_it_was_answered(page: Page) -> None:
    page.small()
    page.choose("model", "demo-sd15")
    page.add(picture(0))
    steered = page.generate()
    page.tick()
    page.wait(lambda: badge(page) == "left out")
    page.fold()
    assert page.find("unused").is_visible()  # of a folded panel, too
    toasts = page.page.locator(".toast-body", has_text="IP-Adapter is not ticked")
    for _ in range(2):  # at each press
        page.page.locator("#txt2img_generate").evaluate("button => button.click()")
        page.wait(lambda: toasts.count() == 1)
        page.page.locator(".toast-close").first.click()
        page.wait(lambda: toasts.count() == 0)
    page.page.locator("#txt2img_ip_adapter .ip-adapter-use").click()
    page.wait(lambda: page.is_ticked() and badge(page) == "*1 unit" and not page.find("unused").is_visible())
    page.wait(lambda: np.abs(page.generate() - steered).mean() == 0)
    page.tick()
    page.page.locator("#txt2img_ip_adapter .ip-adapter-leave").click()
    page.wait(lambda: not page.find("unused").is_visible())
    assert np.abs(page.generate() - steered).mean() > 0.1
    assert toasts.count() == 0 and badge(page) == "left out"
