"""The panel in another language than English."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.helpers.files import picture
from tests.helpers.localizations import key_of, read
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")


def test_the_panel_speaks_the_pages_language(pages: Callable[..., Page]) -> None:
    table = read("de_DE")

    def german(english: str) -> str:
        return table[key_of(english)]

    page = pages(words=table)
    page.open()
    page.wait(lambda: page.find("units").locator("button").first.inner_text() == german("Unit {}").replace("{}", "1"))
    title = page.find("units").locator("button").first.get_attribute("title")
    assert title in table.values() and title not in table
    for english, shown in (
        ("⚠ Choose a preset first.", "⚠ " + german("Choose a preset first.")),
        ("Saved “Unit 2”.", german("Saved “{}”.").replace("{}", german("Unit {}").replace("{}", "2"))),
        ("Nobody has translated this.", "Nobody has translated this."),
    ):
        assert page.page.evaluate("(english) => ipAdapter.text(english)", english) == shown
    assert page.find("drop_area").inner_text().split("\n")[0] == german("Add references")
    page.add(picture(0))
    card = page.cards().first
    mask = german("Mask of reference {}").replace("{}", "1")
    page.wait(lambda: card.locator(".ip-adapter-mask").get_attribute("aria-label") == mask)
    types = page.find("weight_type").locator("option")
    shown = {one.get_attribute("value"): one.text_content() for one in types.all()}
    assert shown["style transfer precise"] == german("style transfer precise") != "style transfer precise"
    page.small()
    page.choose("model", "demo-sd15")
    page.wait(lambda: page.used() == [1])
    assert not isinstance(page.generate(), str)
