"""What a unit is for, chosen with one press; and what stands folded away, told outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.helpers.files import picture, png
from tests.helpers.page import Page, accept, advanced, paint

pytestmark = pytest.mark.host("page")


@pytest.fixture(autouse=True)
def published(page: Page) -> Iterator[None]:
    """No default of a purpose is left to other tests."""
    yield
    from lib_ipadapter.webui import process

    process.purposes().file.unlink(missing_ok=True)


def pressed(page: Page) -> list[str]:
    return page.find("purposes").locator("[aria-pressed=true]").all_inner_texts()


def press(page: Page, purpose: str) -> None:
    page.find("purposes").locator(f"[data-purpose={purpose}]").click()
    page.wait(lambda: page.find("purposes").locator(f"[data-purpose={purpose}][aria-pressed=true]").count())


def numbers(page: Page) -> tuple[float, ...]:
    return tuple(page.number(name) for name in ("weight", "start", "end"))


def weight_type(page: Page) -> str:
    return page.find("weight_type").locator("select").input_value()


def chips(page: Page) -> list[str]:
    found = page.find("chips").locator(".ip-adapter-chip")
    return [" ".join(text.replace("✕", "").split()) for text in found.all_inner_texts()]


def test_one_press_sets_what_a_unit_is_for(page: Page) -> None:
    page.small()
    assert pressed(page) == ["Everything"]
    page.choose("model", "demo-sd15")
    page.add(picture(0))
    page.wait(lambda: numbers(page) == (0.7, 0, 1))  # the first reference begins with what the row says
    everything = page.generate()
    press(page, "style")
    page.wait(lambda: (weight_type(page), *numbers(page)) == ("style transfer", 1, 0, 1))
    assert pressed(page) == ["Style"] and page.model() == "demo-sd15"
    assert np.abs(page.generate() - everything).mean() > 0.1
    press(page, "composition")
    page.wait(lambda: (weight_type(page), *numbers(page)) == ("composition", 0.8, 0, 0.8))
    page.find("purposes").get_by_text("More", exact=True).click()
    page.wait(lambda: page.focused() == "" and page.page.evaluate("document.activeElement.matches('select')"))
    page.find("weight_type").locator("select").select_option("ease in")
    page.wait(lambda: pressed(page) == ["More"] and chips(page) == ["Weight type ease in"])
    press(page, "everything")
    page.wait(lambda: (weight_type(page), *numbers(page)) == ("linear", 0.7, 0, 1) and chips(page) == [])
    assert np.abs(page.generate() - everything).mean() == 0


def test_only_a_mouses_first_button_presses_what_is_drawn_anew(page: Page) -> None:
    def press_and_let_go(**of: Any) -> str:
        return page.page.evaluate(
            """async (of) => {
                const row = document.getElementById("txt2img_ip_adapter_purposes");
                const find = () => row.querySelector("[data-purpose=style]"), options = {bubbles: true, ...of};
                find().dispatchEvent(new PointerEvent("pointerdown", options));
                find().replaceWith(find().cloneNode(true));
                find().dispatchEvent(new PointerEvent("pointerup", options));
                await ipAdapter.pause(300);
                return ipAdapter.page.tabs.txt2img.shownUnit.weight_type ?? "linear";
            }""",
            of,
        )

    mouse = {"pointerType": "mouse", "isPrimary": True, "button": 0}
    assert press_and_let_go(**mouse | {"button": 2}) == "linear"
    assert press_and_let_go(**mouse | {"pointerType": "touch"}) == "linear"
    assert press_and_let_go(**mouse | {"isPrimary": False}) == "linear"
    assert press_and_let_go(**mouse) == "style transfer"


def test_a_purpose_stays_whatever_the_server_answers_meanwhile(pages: Callable[..., Page]) -> None:
    """Pressed while its row is drawn anew, and while a picture is on its way."""
    page, held, holds = pages(), [], True

    def let_go() -> None:
        nonlocal holds
        holds = False
        for route in reversed([held.pop() for _ in range(len(held))]):
            route.continue_()

    page.page.route("**/run/predict*", lambda route: held.append(route) if holds else route.continue_())
    page.page.locator("#txt2img_ip_adapter > .label-wrap").click()
    button = page.find("purposes").locator("[data-purpose=style]")
    drawn = button.element_handle()
    page.wait(lambda: held)
    button.hover()
    page.page.mouse.down()
    let_go()
    page.wait(lambda: not drawn.evaluate("one => one.isConnected"))
    page.page.mouse.up()
    page.wait(lambda: weight_type(page) == "style transfer" and pressed(page) == ["Style"])
    press(page, "everything")
    page.wait(lambda: weight_type(page) == "linear")
    page.settle()

    holds = True
    data = {"name": "reference.png", "mimeType": "image/png", "buffer": png(picture(0))}
    page.find("drop_area").locator("input[type=file]").set_input_files(data)
    page.wait(lambda: len(held) >= 2)  # the picture, and the cards that are drawn until it is there
    press(page, "composition")
    page.wait(lambda: numbers(page) == (0.8, 0, 0.8))
    let_go()
    page.wait(lambda: page.drawn(1))
    page.settle()
    assert (weight_type(page), *numbers(page)) == ("composition", 0.8, 0, 0.8) and pressed(page) == ["Composition"]


def test_only_a_first_reference_of_an_untouched_unit_begins_with_a_purpose(page: Page) -> None:
    page.number("weight", 0.4)
    page.add(picture(0))
    page.unit(2)
    page.wait(lambda: page.number("weight") == 1)
    page.add(picture(1))
    page.wait(lambda: page.number("weight") == 0.7)
    page.number("weight", 1)
    page.find("references").locator(".ip-adapter-remove").click()
    page.wait(lambda: page.drawn(0))
    page.add(picture(2))
    page.unit(1)
    page.wait(lambda: page.number("weight") == 0.4)
    page.unit(2)
    page.wait(lambda: page.number("weight") == 1)


def test_what_a_purpose_overwrites_can_be_taken_back(page: Page) -> None:
    undo = page.page.locator("#txt2img_ip_adapter .ip-adapter-undo > button")
    page.add(picture(0))
    page.wait(lambda: page.number("weight") == 0.7)
    press(page, "style")
    page.wait(lambda: numbers(page) == (1, 0, 1))
    press(page, "everything")  # what a purpose has set is a press away
    page.wait(lambda: numbers(page) == (0.7, 0, 1))
    assert undo.count() == 0
    page.number("weight", 0.35)
    press(page, "composition")
    page.wait(lambda: numbers(page) == (0.8, 0, 0.8))
    page.wait(undo.is_visible)
    assert undo.inner_text() == "Undo: chose a purpose"
    undo.click()
    page.wait(lambda: (weight_type(page), *numbers(page)) == ("linear", 0.35, 0, 1))


def test_a_weight_type_set_by_hand_can_be_taken_back_too(page: Page) -> None:
    """At a weight that purposes of other kinds of adapters have."""
    undo = page.page.locator("#txt2img_ip_adapter .ip-adapter-undo > button")
    page.add(picture(0))
    page.wait(lambda: page.number("weight") == 0.7)
    page.number("weight", 1)
    advanced(page)
    page.find("weight_type").locator("select").select_option("style transfer precise")
    press(page, "everything")
    page.wait(lambda: numbers(page) == (0.7, 0, 1))
    page.wait(undo.is_visible)
    undo.click()
    page.wait(lambda: (weight_type(page), *numbers(page)) == ("style transfer precise", 1, 0, 1))


def test_a_purpose_keeps_the_default_that_a_person_gives_it(page: Page, pages: Callable[..., Page]) -> None:
    press(page, "style")
    page.wait(lambda: page.number("weight") == 1)
    page.number("weight", 0.55)
    menu = page.find("purposes").locator(".ip-adapter-purpose-menu")
    menu.click()
    line = page.find("purposes").locator(".ip-adapter-purpose-defaults")
    line.wait_for()
    assert line.locator("select").input_value() == "style"
    assert line.get_by_text("Published default").is_disabled()
    line.get_by_text("Keep", exact=True).click()
    page.wait(lambda: "default from now on" in page.note())
    assert line.count() == 0 and menu.evaluate("one => one === document.activeElement")
    other = pages()
    other.open()
    other.wait(
        lambda: '"weight": 0.55' in other.find("purposes").locator("[data-defaults]").get_attribute("data-defaults")
    )
    press(other, "style")
    other.wait(lambda: other.number("weight") == 0.55)
    other.find("purposes").locator(".ip-adapter-purpose-menu").click()
    other.find("purposes").get_by_text("Published default").click()
    other.wait(lambda: "published default again" in other.note())
    press(other, "everything")
    press(other, "style")
    other.wait(lambda: other.number("weight") == 1)


def test_chips_tell_of_folded_settings_and_set_them_back(page: Page) -> None:
    page.add(picture(0))
    page.wait(lambda: page.number("weight") == 0.7)
    assert chips(page) == []
    advanced(page)
    shown = {
        name: page.find(name).is_visible() for name in ("composition_weight", "boost", "combine", "region_feather")
    }
    assert not any(shown.values())
    page.find("weight_type").locator("select").select_option("composition precise")
    page.wait(page.find("boost").is_visible)
    press(page, "both")
    page.wait(lambda: page.find("composition_weight").is_visible() and not page.find("boost").is_visible())
    page.wait(lambda: page.number("composition_weight") == 0.8)
    page.find("crop").locator("select").select_option("tile")
    page.find("curve").locator("input").fill("0:1 0.6:0.2")
    page.find("influence_map").locator("input").check()
    page.find("region").locator(".ip-adapter-region-draw").click()
    paint(page)
    accept(page)
    page.wait(page.find("region_feather").is_visible)
    page.wait(lambda: {*chips(page)} == {"Region", "Crop tile", "Weight over the steps 0:1 0.6:0.2", "Influence map"})
    page.find("advanced").locator(".label-wrap").click()
    page.wait(lambda: not page.find("crop").is_visible())
    crosses = page.find("chips").locator("button")
    assert crosses.first.get_attribute("title") == "Set back to the default"
    while count := crosses.count():
        crosses.first.focus()
        page.page.keyboard.press("Enter")
        page.wait(lambda count=count: crosses.count() < count)
        assert page.page.evaluate("document.activeElement !== document.body")
    advanced(page)
    assert page.find("crop").locator("select").input_value() == "center"
    assert page.find("curve").locator("input").input_value() == ""
    page.wait(lambda: not page.find("influence_map").locator("input").is_checked())
    page.wait(lambda: not page.find("region_feather").is_visible() and '"region"' not in page.state())
    page.add(picture(1))
    page.wait(page.find("combine").is_visible)


def test_adetailers_tab_is_in_sight_wherever_settings_may_let_a_unit_in(page: Page) -> None:
    page.add(picture(0))
    advanced(page)
    where = page.find("acts_in").locator("select")
    assert where.input_value() == "as set"
    page.wait(page.find("detailer_tab").is_visible)
    where.select_option("picture")
    page.wait(lambda: not page.find("detailer_tab").is_visible())
    where.select_option("both")
    page.wait(page.find("detailer_tab").is_visible)
