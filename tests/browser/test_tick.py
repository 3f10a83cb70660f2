"""The panel's tick: whether its units take part. Looking at the panel does not change it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.helpers.files import picture
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")


def test_opening_and_folding_change_nothing(pages: Callable[..., Page]) -> None:
    page = pages()
    for is_ticked in (False, True):
        page.open()
        page.page.wait_for_timeout(300)
        assert page.is_ticked() is is_ticked
        page.fold()
        page.page.wait_for_timeout(300)
        assert page.is_ticked() is is_ticked
        if not is_ticked:
            page.tick()
            page.page.wait_for_timeout(300)
            assert not page.find("model").is_visible()  # nor does the tick open it


def test_references_that_are_left_out_are_told_before_the_picture(page: Page) -> None:
    page.small()
    plain = page.generate()
    page.choose("model", "demo-sd15")
    assert not page.is_ticked() and not page.find("unused").is_visible()
    page.add(picture(0))
    assert page.is_ticked() and page.used() == [1]  # who adds one wants it
    steered = page.generate()
    assert np.abs(steered - plain).mean() > 1
    page.fold()
    assert np.abs(page.generate() - steered).mean() == 0
    page.open()

    toasts = page.page.locator(".toast-body", has_text="IP-Adapter is not ticked")
    page.tick()
    page.wait(page.find("unused").is_visible)
    assert "the next picture is made without its references" in page.find("unused").inner_text()
    assert page.used() == [] and "not ticked" in page.tabs().first.get_attribute("title")
    page.page.locator("#txt2img_generate").evaluate("button => button.click()")
    page.wait(lambda: toasts.count() == 1)
    page.page.locator(".toast-close").first.click()
    page.wait(lambda: toasts.count() == 0)
    page.page.locator("#txt2img_ip_adapter .ip-adapter-leave").click()
    assert np.abs(page.generate() - plain).mean() == 0
    assert "references were left out" in page.page.locator("#html_log_txt2img").first.inner_text()
    page.page.wait_for_timeout(300)
    assert toasts.count() == 0  # it was answered
    page.tick()
    page.tick()
    page.wait(page.find("unused").is_visible)

    page.unit(2)
    assert page.find("unused").is_visible()  # of whichever unit
    page.unit(1)
    page.find("enabled").locator("input").click()
    page.wait(lambda: not page.find("unused").is_visible())
    page.find("enabled").locator("input").click()
    page.wait(page.find("unused").is_visible)
    page.tick()
    page.wait(lambda: not page.find("unused").is_visible() and page.used() == [1])
    assert np.abs(page.generate() - steered).mean() == 0
    assert "left out" not in page.page.locator("#html_log_txt2img").first.inner_text()
