"""How much each unit did in the last picture, and what is done from there."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from tests.helpers.files import picture
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")


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
