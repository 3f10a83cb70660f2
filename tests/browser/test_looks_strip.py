"""Looks in the panel: kept, added, exported, brought back as a file, deleted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.start import Host
from lib_ipadapter.encode.look_files import head_of
from tests.browser.test_early import slow  # noqa: F401 (a fixture)
from tests.browser.test_shelf import again, is_kept
from tests.helpers.files import picture
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")

HARMLESS = "<img src=x onerror='window.harm = 1'> & “x”"


@pytest.fixture(autouse=True)
def looks(host: Host) -> Iterator[Any]:
    from lib_ipadapter.webui import process

    kept = process.looks()
    for one in kept.all():
        kept.delete(one.name)
    yield kept
    for one in kept.all():
        kept.delete(one.name)


def strip(page: Page) -> Any:
    return page.find("looks")


def entries(page: Page) -> Any:
    return strip(page).locator(".ip-adapter-look-entry")


def opener(page: Page) -> Any:
    return page.find("drop_area").locator(".ip-adapter-looks-opener")


def keep(page: Page, name: str) -> None:
    strip(page).locator(".ip-adapter-look-keep").click()
    page.wait(page.find("preset_name").is_visible)
    page.find("preset_name").fill(name)
    page.find("preset_yes").click()


def shot(page: Page, name: str) -> None:
    """A picture of the panel, where somebody wants to look at it."""
    if folder := os.environ.get("IP_ADAPTER_SHOTS"):
        page.page.locator("#txt2img_ip_adapter").screenshot(path=str(Path(folder) / f"{name}.png"))


def test_a_unit_s_references_become_a_look_that_any_unit_takes(page: Page, looks: Any) -> None:
    page.small()
    page.choose("model", "demo-sd15")
    page.add(picture(61))
    page.add(picture(62))
    page.number("weight", 0.9)
    want = page.generate()
    assert strip(page).count() == 0  # nothing before it is opened
    opener(page).press("Enter")
    page.wait(lambda: strip(page).locator("em").count())
    assert "Nothing here yet" in strip(page).inner_text()
    keep(page, HARMLESS)
    page.wait(lambda: entries(page).count() == 1)
    assert page.note() == f"Kept the look “{HARMLESS}”."
    (look,) = looks.all()
    assert look.name == HARMLESS and look.head.count == 2 and look.head.thumbnail
    shot(page, "looks")

    # The same name once more is asked about.
    keep(page, HARMLESS)
    page.wait(lambda: "exists. Overwrite it?" in page.note())
    page.find("preset_no").click()
    page.wait(lambda: page.note() == "")

    # In another unit, in the place of the pictures.
    page.unit(2)
    page.wait(lambda: page.drawn(0))
    entries(page).locator(".ip-adapter-look-add").press("Enter")
    page.wait(lambda: page.drawn(1))
    card = page.cards().nth(0)
    assert HARMLESS in card.inner_text() and card.locator(".ip-adapter-look img").count() == 1
    assert page.page.evaluate("window.harm") is None
    page.choose("model", "demo-sd15")
    page.number("weight", 0.9)
    shot(page, "look-in-a-unit")
    page.unit(1)
    page.wait(lambda: page.drawn(2))
    page.find("enabled").locator("input").click()
    got = page.generate()
    assert not isinstance(got, str), got
    assert np.array_equal(got, want)

    # As a file, and back: its own name is what it would be kept as.
    with page.page.expect_download() as download:
        entries(page).locator("[title='Export this look to a file']").click()
    assert download.value.suggested_filename.endswith(".safetensors")
    file = Path(download.value.path()).read_bytes()
    assert head_of(file).name == HARMLESS
    entries(page).locator("[title='Delete this look']").click()
    page.wait(lambda: "Delete the look" in page.note())
    page.find("preset_yes").click()
    page.wait(lambda: entries(page).count() == 0 and strip(page).locator("em").count() == 1)
    assert looks.all() == []
    page.unit(3)
    page.wait(lambda: page.drawn(0))
    page.find("drop_area").locator("input[type=file]").set_input_files(
        {"name": "look.safetensors", "mimeType": "application/octet-stream", "buffer": file}
    )
    page.wait(lambda: page.drawn(1))
    strip(page).locator(".ip-adapter-look-keep").click()
    page.wait(page.find("preset_name").is_visible)
    assert page.find("preset_name").input_value() == HARMLESS
    page.find("preset_name").fill("again")
    page.find("preset_yes").click()
    page.wait(lambda: entries(page).count() == 1)
    assert looks.all()[0].head.thumbnail == look.head.thumbnail

    # A look that has gone is told, and nothing stays of it in the unit.
    looks.delete("again")
    entries(page).locator(".ip-adapter-look-add").click()
    page.wait(lambda: "There is no look “again”" in page.told())
    assert page.pictures()[2] == 1
    strip(page).locator(".ip-adapter-look-keep").press("Escape")
    page.wait(lambda: strip(page).count() == 0)
    assert page.page.evaluate("document.activeElement.className") == "ip-adapter-looks-opener"


def test_the_focus_stays_in_the_strip_where_looks_are_deleted(page: Page, looks: Any) -> None:
    import torch

    from lib_ipadapter.encode import stored

    file = stored.write([{"pooled": torch.ones(1, 32)}], [1.0], {"pooled": "x"})
    for name in ("a", "b"):
        looks.save(name, file)
    opener(page).click()
    page.wait(lambda: entries(page).count() == 2)
    for left, focused in (
        (1, "Delete this look"),
        (0, "Keep what the shown unit takes of its references, under a name"),
    ):
        entries(page).nth(0).locator("[title='Delete this look']").press("Enter")
        page.wait(lambda: "Delete the look" in page.note())
        page.find("preset_yes").click()
        page.wait(lambda left=left: entries(page).count() == left)
        assert page.page.evaluate("document.activeElement.title") == focused


def test_what_cannot_be_kept_is_said(page: Page, looks: Any) -> None:
    opener(page).click()
    page.wait(lambda: strip(page).locator("em").count())
    keep(page, "empty")
    page.wait(lambda: "it has no reference picture" in page.note())
    assert page.find("preset_name").input_value() == "empty"  # to be asked again
    page.find("preset_no").click()
    page.wait(lambda: page.note() == "")
    page.add(picture(63))
    keep(page, "a/b")
    page.wait(lambda: "The name of a look has 1 to 100 characters" in page.note())
    assert looks.all() == []


def test_in_the_dark(pages: Any, looks: Any) -> None:
    import torch

    from lib_ipadapter.encode import stored
    from lib_ipadapter.encode.look_files import as_look
    from lib_ipadapter.presets.thumbnails import board

    file = stored.write([{"pooled": torch.ones(1, 32)}], [1.0], {"pooled": "x"})
    for i in range(7):
        small = board([picture(i + n) for n in range(i % 5)])
        looks.save(f"Look {i}, with a name that is rather long", as_look(file, "x", "base", small))
    page = pages(theme="dark", width=760)
    page.open()
    opener(page).click()
    page.wait(lambda: entries(page).count() == 7)
    entries(page).nth(2).locator(".ip-adapter-look-add").click()
    page.wait(lambda: page.drawn(1))
    ground, ink = strip(page).evaluate("""(one) => {
        const {backgroundColor, color} = getComputedStyle(one);
        return [backgroundColor, color].map((text) => text.match(/[0-9.]+/g).slice(0, 3).map(Number));
    }""")
    assert sum(ink) - sum(ground) > 300  # it can be read
    shot(page, "looks-dark")


def test_a_look_in_the_panel_outlives_a_reload_and_its_own_file(page: Page, looks: Any) -> None:
    page.choose("model", "demo-sd15")
    page.add(picture(64))
    opener(page).click()
    keep(page, "for a while")
    page.wait(lambda: entries(page).count() == 1)
    page.unit(2)
    page.wait(lambda: page.drawn(0))
    entries(page).locator(".ip-adapter-look-add").click()
    page.wait(lambda: page.drawn(1))
    page.wait(lambda: is_kept(page))
    looks.delete("for a while")
    again(page)
    page.wait(lambda: page.pictures() == [1, 1, 0])
    page.open()
    page.wait(lambda: page.drawn(1))
    assert page.shown() == 2 and "for a while" in page.cards().nth(0).inner_text()


def test_a_press_before_the_scripts_are_here_counts(slow: Any) -> None:  # noqa: F811
    page, come = slow
    page.page.locator("#txt2img_ip_adapter > .label-wrap").click()
    page.wait(page.find("model").is_visible)
    opener(page).click()
    come()
    page.wait(lambda: strip(page).count() == 1)
