"""The panel in another language than English."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from demo.start import Host
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
        ("Saved “Unit 2”.", german("Saved “{}”.").replace("{}", "Unit 2")),  # a name stays as it is
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


def test_what_is_put_together_speaks_the_pages_language(pages: Callable[..., Page], tmp_path: Path) -> None:
    """The line that undoes, with whatever was done, how many units take part, and notes about files, whose names
    stay."""
    table = read("de_DE")

    def german(english: str, *values: object) -> str:
        return "".join(map("{}{}".format, table[key_of(english)].split("{}"), [*values, ""]))

    page = pages(words=table)
    page.open()
    page.choose("model", "demo-sd15")
    page.add(picture(0))
    page.add(picture(1))
    badge = page.page.locator("#txt2img_ip_adapter .ip-adapter-badge")
    page.wait(lambda: badge.inner_text() == german("1 unit"))
    undo = page.page.locator("#txt2img_ip_adapter .ip-adapter-undo > button")
    page.cards().nth(0).locator(".ip-adapter-more").press("Alt+ArrowRight")
    page.wait(undo.is_visible)
    assert undo.inner_text() == german("Undo: {}", german("moved reference {} to place {}", 1, 2))
    page.cards().nth(1).locator(".ip-adapter-remove").click()
    page.wait(lambda: page.cards().count() == 1)
    assert (
        undo.inner_text() == german("Undo: {}", german("removed reference {}", 2)) == "Rückgängig: Referenz 2 entfernt"
    )
    file = tmp_path / "Unit 2.txt"
    file.write_text("no picture")
    page.find("drop_area").locator("input[type=file]").set_input_files(file)
    notes = page.page.locator("#txt2img_ip_adapter .ip-adapter-notes li")
    page.wait(notes.count)
    page.wait(lambda: "Unit 2.txt: " in notes.inner_text() and notes.locator("span").last.inner_text() == "Unit 2.txt")
    many = "A unit has at most 64 references. Left out:"
    names = [f"Unit {i}.png" for i in range(7)]
    page.page.evaluate(
        "([names, many]) => ipAdapter.notes.tellOfMany(ipAdapter.page.tabs.txt2img, names, many)", [names, many]
    )
    left_out = german("A unit has at most {} references. Left out:", 64)
    shown = f"⚠ {left_out} {', '.join(names[:5])}, {german('and {} more', 2)}."
    page.wait(lambda: shown in notes.last.inner_text())


def test_a_presets_name_stays_as_it_is(pages: Callable[..., Page], host: Host) -> None:
    """Though it is a word of the panel's, or looks like one; wherever it stands alone."""
    from lib_ipadapter.webui import process

    table, names = read("de_DE"), ["Everything", "Style", "Unit 1"]
    assert all(key_of(name) in table for name in names[:2])
    for name in names:
        process.store().save(name, [{"model": "demo-sd15", "images": [picture(0)]}])
    try:
        page = pages(words=table)
        page.open()
        assert page.page.evaluate("['Style', 'Unit 1'].map(ipAdapter.text)") == ["Stil", "Einheit 1"]
        page.find("preset_chosen").locator("input").click()
        items = page.find("preset_chosen").locator("ul.options li")
        page.wait(lambda: items.count() >= len(names))
        page.settle()
        assert set(names) <= {text.replace("✓", "").strip() for text in items.all_inner_texts()}
        page.find("preset_shelf").press("Enter")
        shelf = page.find("shelf_shown")
        shelf.locator("[data-group-name=presets]").press("Enter")
        page.wait(lambda: shelf.locator(".ip-adapter-shelved").count() >= len(names))
        page.settle()
        assert set(names) <= set(shelf.locator(".ip-adapter-shelved-name").all_inner_texts())
    finally:
        for name in names:
            process.store().delete(name)
