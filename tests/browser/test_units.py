"""Units, the keyboard, and room on the page."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lib_ipadapter.encode.picture import content_hash
from tests.helpers.files import picture
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")


@pytest.mark.parametrize("width", [400, 1280, 3840])
def test_one_unit_needs_no_scrolling(width: int, pages: Callable[..., Page]) -> None:
    page = pages(width=width)
    page.open()
    page.add(picture(0))
    box = page.page.locator("#txt2img_ip_adapter").bounding_box()
    assert box["height"] < (900 if width == 400 else 720)  # the window is that high
    assert page.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
    for name in ("drop_area", "model", "weight", "start", "end", "enabled", "advanced"):
        inner = page.find(name).bounding_box()
        assert inner["x"] >= box["x"] and inner["x"] + inner["width"] <= box["x"] + box["width"] + 1, name


@pytest.mark.parametrize("width", [1000, 1100, 1280])
def test_a_sliders_number_stays_in_its_own_place(width: int, pages: Callable[..., Page]) -> None:
    page = pages(width=width)
    page.open()
    for name in ("weight", "start", "end"):
        block, number = (one.bounding_box() for one in (page.find(name), page.find(name).locator("input").first))
        assert number["x"] + number["width"] <= block["x"] + block["width"] + 1, name
        assert number["width"] > 30, name  # digits are still seen


def test_the_keyboard_reaches_everything(page: Page) -> None:
    page.add(picture(0))
    page.find("preset_chosen").locator("input").focus()
    reached = set()
    for _ in range(60):
        page.page.keyboard.press("Tab")
        reached.add(page.page.evaluate(
            "document.activeElement.closest('[id*=_ip_adapter_]')?.id.replace('txt2img_ip_adapter_', '')"
        ))  # fmt: skip
    wanted = {f"preset_{name}" for name in ("load", "save", "rename", "delete", "export", "import")}
    wanted |= {*("units", "drop_area", "references", "model", "weight", "wide", "start", "end", "enabled", "purposes")}
    assert wanted - reached == set()


def test_a_press_of_generate_finds_each_unit_as_it_is(page: Page, monkeypatch) -> None:
    """Whatever the moment between two units: in one go with the switch, before the page has shown it, and after."""
    from modules.progress import tasks

    from lib_ipadapter.webui.panel import accordion as panel

    asked = []
    units = panel.units
    monkeypatch.setattr(panel, "units", lambda *args, **how: asked.append(units(*args, **how)) or asked[-1])
    page.small()
    for number, weight in ((1, 0.25), (2, 0.75), (3, 2)):
        page.unit(number)
        page.wait(lambda: page.drawn(0))
        if weight > 1:
            page.find("wide").click()
        page.add(picture(number))
        page.choose("model", "demo-sd15")
        page.number("weight", weight)
        page.weigh(1, weight / 2)
    moments = [
        "",
        "await null;",
        "await null; await null; await null;",
        "await new Promise(requestAnimationFrame);",
        "await new Promise((done) => setTimeout(done));",
        "await new Promise((done) => setTimeout(done, 30));",
    ]
    for i, moment in enumerate(moments):
        for number in (1 + i % 3, 1 + (i + 1) % 3):
            count, done = len(asked), list(tasks.done)
            page.page.evaluate(f"""async () => {{
                document.querySelectorAll(".ip-adapter-units button")[{number - 1}].click();
                {moment}
                document.querySelector("#txt2img_generate").click();
            }}""")
            page.wait(lambda: len(asked) > count and list(tasks.done) != done)  # noqa: B023
            for one, (n, weight) in zip(asked[-1], ((1, 0.25), (2, 0.75), (3, 2)), strict=True):
                assert (one["weight"], one["images"][0]["weight"]) == (weight, weight / 2), (moment, number)
                assert one["images"][0]["image"].content_hash == content_hash(picture(n)), (moment, number)
            page.wait(lambda: page.shown() == number)  # noqa: B023
            page.settle()  # a press does nothing until the answer has come
    assert page.used() == [1, 2, 3]


def test_the_keyboard_chooses_units(page: Page) -> None:
    page.tabs().nth(0).focus()
    for key, number in (("ArrowRight", 2), ("End", 3), ("ArrowRight", 1), ("ArrowLeft", 3), ("Home", 1)):
        page.page.keyboard.press(key)
        page.wait(lambda: page.shown() == number)  # noqa: B023
        focused = page.page.evaluate("document.activeElement.textContent")
        assert focused == f"Unit {number}"
    page.choose("model", "demo-sd15")
    page.add(picture(0))
    assert page.used() == [1]
    page.find("enabled").locator("input").click()
    page.wait(lambda: page.used() == [])
    page.unit(2)
    assert page.find("enabled").locator("input").is_checked()
    assert page.used() == []


def test_a_weight_beyond_the_slider(page: Page) -> None:
    """↔ is each unit's own, and what it showed comes back with it."""

    def limits() -> list[str]:
        slider = page.find("weight").locator("input[type=range]")
        return [slider.get_attribute("min"), slider.get_attribute("max"), slider.input_value()]

    page.find("wide").click()
    page.number("weight", -0.5)
    assert limits() == ["-1", "3", "-0.5"]
    page.unit(2)
    page.wait(lambda: limits() == ["0", "1", "1"])
    page.unit(1)
    page.wait(lambda: limits() == ["-1", "3", "-0.5"])
    page.find("wide").click()
    page.wait(lambda: limits() == ["0", "1", "0"])
    assert page.number("weight") == 0


def test_every_control_has_its_sentence(page: Page) -> None:
    """What stands over a control is what the table says, in one sentence."""
    from lib_ipadapter.webui.panel.controls import CONTROLS

    for control in CONTROLS:
        assert control.at.tooltip.endswith(".") and ". " not in control.at.tooltip
        if control.place != "strip":  # what the page's script draws when it is opened; its button has a sentence
            assert page.find(control.field).get_attribute("title") == control.at.tooltip
    assert page.find("drop_area").locator(".ip-adapter-folder-opener").get_attribute("title")
    for name in ("refresh", "wide", "preset_load", "preset_save", "preset_rename", "preset_delete"):
        assert page.find(name).get_attribute("title")
    assert page.find("drop_area").locator("[role=button]").get_attribute("title")
