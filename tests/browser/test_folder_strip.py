"""A folder of references in the panel: written, averaged or walked, looked into, refused, and taken out again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from demo.start import Host
from lib_ipadapter.encode.folders import order_of
from tests.browser.test_early import slow  # noqa: F401 (a fixture)
from tests.browser.test_looks_strip import shot
from tests.browser.test_over_time import press
from tests.browser.test_shelf import again, is_kept
from tests.helpers.files import picture
from tests.helpers.folders import fill
from tests.helpers.page import Page, advanced

pytestmark = pytest.mark.host("page")

HARMLESS = "<img src=x onerror=harm()>.png"


@pytest.fixture
def folder(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Four pictures in an allowed folder beside two others."""
    from modules import shared

    made = fill(tmp_path / "styles" / "oil", 71, 72, 73, name="{}.jpg")
    picture(74).save(made / HARMLESS)
    (made / "notes.txt").write_text("none")
    fill(tmp_path / "styles" / "many", *[1] * 66)
    (tmp_path / "styles" / "empty").mkdir()
    fill(tmp_path / "secret", 1)
    monkeypatch.setitem(shared.opts.data, "ip_adapter_reference_folders", str(tmp_path / "styles"))
    yield made


def strip(page: Page) -> Any:
    return page.find("folder_strip")


def opener(page: Page) -> Any:
    return page.find("drop_area").locator(".ip-adapter-folder-opener")


def part(page: Page, name: str) -> Any:
    return strip(page).locator(f"[data-part={name}]")


def problem(page: Page) -> str:
    return strip(page).locator(".ip-adapter-problem").inner_text() if strip(page).count() else ""


def captions(page: Page) -> list[str]:
    return [one.replace("\n", " ") for one in strip(page).locator("figcaption").all_inner_texts()]


def write(page: Page, path: str) -> None:
    if not strip(page).count():
        opener(page).click()
    part(page, "path").fill(path)


def unit(page: Page) -> dict[str, Any]:
    state = json.loads(page.state())
    return state["units"][state["shown"] - 1]


def test_a_folder_is_averaged_or_gives_each_picture_one(page: Page, folder: Path) -> None:
    page.small()
    page.choose("model", "demo-sd15")
    assert strip(page).count() == 0
    opener(page).press("Enter")
    page.wait(lambda: page.page.evaluate("document.activeElement.dataset.part") == "path")
    offered = (
        "[...document.querySelectorAll('#txt2img_ip_adapter_folder_strip_offered option')].map((one) => one.value)"
    )
    page.wait(lambda: page.page.evaluate(offered))
    assert page.page.evaluate(offered) == ["styles", "styles/empty", "styles/many", "styles/oil"]
    page.page.keyboard.type("styles/oil")
    page.wait(lambda: len(captions(page)) == 4)
    assert captions(page) == ["0.jpg", "1.jpg", "2.jpg", HARMLESS] and page.page.evaluate("window.harm") is None
    about = strip(page).locator(".ip-adapter-folder-about").inner_text()
    assert about.startswith("4 pictures") and "passed over 1 of its files" in about
    assert part(page, "how").input_value() == "average" and unit(page)["combine"] == "average"
    assert page.is_ticked() and page.used() == [1] and not problem(page)
    assert not part(page, "seed").is_visible() and not part(page, "start").is_visible()
    shot(page, "folder")

    page.number("weight", 0.9)
    averaged = page.generate()
    assert not isinstance(averaged, str), averaged

    # One for each picture, mixed, from the third on.
    part(page, "how").select_option("each")
    part(page, "order").select_option("shuffle")
    part(page, "seed").fill("7")
    part(page, "start").fill("2")
    page.wait(lambda: unit(page)["folder"] == "styles/oil shuffle:7 start:2")
    page.wait(lambda: captions(page) and captions(page)[0].startswith("Picture 1 "))
    names = ["0.jpg", "1.jpg", "2.jpg", HARMLESS]
    order = order_of(4, "shuffle", 7)
    page.wait(lambda: captions(page) == [f"Picture {i + 1} {names[order[(2 + i) % 4]]}" for i in range(4)])
    shot(page, "folder-walked")
    walked = page.generate()
    assert not isinstance(walked, str), walked

    # It is gone, and can be taken back.
    strip(page).locator(".ip-adapter-folder-remove").click()
    page.wait(lambda: strip(page).count() == 0 and page.used() == [])
    page.page.keyboard.press("Control+z")
    page.wait(lambda: unit(page)["folder"] == "styles/oil shuffle:7 start:2" and strip(page).count() == 1)
    page.wait(lambda: part(page, "path").input_value() == "styles/oil" and part(page, "start").input_value() == "2")

    # The same as the pictures themselves.
    strip(page).locator(".ip-adapter-folder-remove").click()
    page.wait(lambda: page.used() == [])
    page.unit(2)
    page.choose("model", "demo-sd15")
    page.add(Image.open(folder / names[order[2]]))
    page.number("weight", 0.9)
    single = page.generate()
    assert not isinstance(single, str) and np.abs(single - walked).max() <= 1
    for place in (1, 2, 3):
        page.add(Image.open(folder / names[order[(2 + place) % 4]]))
    advanced(page)
    page.find("combine").locator("select").select_option("average")
    together = page.generate()
    assert not isinstance(together, str) and np.abs(together - averaged).max() <= 1
    assert np.abs(together - single).max() > 5


def test_what_is_wrong_is_said_at_the_folder(page: Page, folder: Path) -> None:
    write(page, str(folder.parents[1] / "secret"))
    page.wait(lambda: "is not there, or not below one that the setting “Folders for references”" in problem(page))
    assert part(page, "path").get_attribute("aria-invalid") == "true"
    write(page, "styles/empty")
    page.wait(lambda: "the folder 'styles/empty' has no picture in it" in problem(page))
    write(page, "styles/many")
    page.wait(lambda: len(captions(page)) == 6 and problem(page) == "")
    assert strip(page).locator(".ip-adapter-folder-more").inner_text() == "+60"
    part(page, "how").select_option("beside")
    page.wait(lambda: "Side by side are 64 at most: average them" in problem(page))
    part(page, "how").select_option("each")
    page.wait(lambda: problem(page) == "")
    page.add(picture(75))
    page.wait(lambda: "A folder of one for each picture stands alone" in problem(page))
    (folder.parent / "many" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    part(page, "how").select_option("average")
    write(page, "styles/many ")
    write(page, "styles/many")
    page.wait(lambda: "0.png: The picture" in strip(page).locator(".ip-adapter-folder-about").inner_text())


def test_beside_keyframes_it_says_that_it_cannot_stand_there(page: Page, folder: Path) -> None:
    page.small()
    page.choose("model", "demo-sd15")
    for seed in (2, 4):
        page.add(picture(seed))
    page.wait(lambda: page.drawn(2))
    write(page, "styles/oil weight:0.5 shuffle:3")
    page.wait(lambda: len(captions(page)) == 4 and problem(page) == "")
    assert unit(page)["folder"] == "styles/oil shuffle:3 weight:0.5"
    press(page, 1, "Over time")
    page.wait(lambda: "A folder cannot stand beside references over time: put it into another unit" in problem(page))
    write(page, "a" * 4000 + " " * 400 + "b")
    page.wait(lambda: "give the path of a folder with pictures" in problem(page))


def test_each_unit_has_its_own_and_a_reload_keeps_it(page: Page, folder: Path) -> None:
    write(page, "styles/oil")
    page.wait(lambda: len(captions(page)) == 4)
    page.unit(2)
    page.wait(lambda: strip(page).count() == 0 or part(page, "path").input_value() == "")
    write(page, "styles/many")
    page.wait(lambda: len(captions(page)) == 6)
    page.unit(1)
    page.wait(lambda: part(page, "path").input_value() == "styles/oil" and len(captions(page)) == 4)
    page.wait(lambda: is_kept(page))
    again(page)
    page.open()
    page.wait(lambda: strip(page).count() and part(page, "path").input_value() == "styles/oil")
    page.wait(lambda: len(captions(page)) == 4)


def test_in_the_dark(pages: Any, folder: Path) -> None:
    page = pages(theme="dark", width=760)
    page.open()
    write(page, "styles/many shuffle:3")
    part(page, "path").blur()
    part(page, "how").select_option("each")
    page.wait(lambda: len(captions(page)) == 6 and captions(page)[0].startswith("Picture 1"))
    assert unit(page)["folder"] == "styles/many shuffle:3" and part(page, "path").input_value() == "styles/many"
    colours = """(one) => {
        const {backgroundColor, color} = getComputedStyle(one);
        return [backgroundColor, color].map((text) => text.match(/[0-9.]+/g).slice(0, 3).map(Number));
    }"""
    ground, ink = strip(page).evaluate(colours)
    assert sum(ink) - sum(ground) > 300  # it can be read
    for field in strip(page).locator("input, select").all():
        ground, ink = field.evaluate(colours)
        assert sum(ink) - sum(ground) > 300
    shot(page, "folder-dark")


def test_a_press_before_the_scripts_are_here_counts(slow: Any) -> None:  # noqa: F811
    page, come = slow
    page.page.locator("#txt2img_ip_adapter > .label-wrap").click()
    page.wait(page.find("model").is_visible)
    opener(page).click()
    come()
    page.wait(lambda: strip(page).count() == 1)
