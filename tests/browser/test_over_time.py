"""References over time, by the menu of a card and the field that each gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from demo.start import Host
from tests.helpers.files import base64_of, picture
from tests.helpers.host import SAME, difference, make
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")


def expected(host: Host, *seeds: int) -> list[np.ndarray]:
    settings = {"model": "demo-sd15", "weight": 0.7, "images": [base64_of(picture(seed)) for seed in seeds]}
    return make(host, settings, negative_prompt="", seed=1, sampler_name="Euler")


def places(page: Page) -> list[float | None]:
    return [one.get("at") for one in json.loads(page.state())["units"][0]["images"]]


def press(page: Page, number: int, name: str) -> None:
    card = page.cards().nth(number - 1)
    card.locator(".ip-adapter-more").click()
    card.locator(".ip-adapter-card-menu").get_by_text(name, exact=True).click()


def fields(page: Page) -> Any:
    return page.cards().locator(".ip-adapter-at input")


def test_references_are_spread_and_taken_together_again(host: Host, pages: Callable[..., Page]) -> None:
    page = pages()
    page.open()
    page.small()
    page.choose("model", "demo-sd15")
    for seed in (2, 4, 6):
        page.add(picture(seed))
    page.wait(lambda: page.drawn(3))
    assert fields(page).count() == 0
    together = page.generate()
    press(page, 2, "Over time")
    assert places(page) == [0, 0.5, 1]
    page.wait(lambda: fields(page).count() == 3)
    assert [fields(page).nth(i).input_value() for i in range(3)] == ["0", "0.5", "1"]
    assert page.tabs().first.locator("[data-sign='◷']").get_attribute("aria-label") == "Its references stand over time."
    # One picture is the first of all.
    assert difference([page.generate()], expected(host, 2)) < SAME
    fields(page).first.fill("0.9")
    fields(page).nth(1).fill("0")
    assert places(page) == [0.9, 0, 1]
    assert difference([page.generate()], expected(host, 4)) < SAME
    # One that comes later is at the end.
    page.add(picture(8))
    page.wait(lambda: fields(page).count() == 4)
    assert fields(page).nth(3).input_value() == "1" and places(page) == [0.9, 0, 1, None]
    assert difference([page.generate()], expected(host, 4)) < SAME
    page.cards().nth(3).locator(".ip-adapter-remove").click()
    press(page, 1, "Not over time")
    page.wait(lambda: fields(page).count() == 0)
    assert difference([page.generate()], [together]) == 0
    undo = page.page.locator("#txt2img_ip_adapter .ip-adapter-undo > button")
    assert undo.inner_text() == "Undo: took the references together again"
    undo.click()
    assert places(page) == [0.9, 0, 1]
    page.wait(lambda: fields(page).count() == 3)


def test_one_reference_has_no_time(pages: Callable[..., Page]) -> None:
    page = pages()
    page.open()
    page.choose("model", "demo-sd15")
    page.add(picture(2))
    page.wait(lambda: page.drawn(1))
    page.cards().first.locator(".ip-adapter-more").click()
    menu = page.cards().first.locator(".ip-adapter-card-menu")
    menu.wait_for()
    assert "Over time" not in menu.inner_text()
