"""Presets and parameters: what brings the units back."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from demo.start import Host
from tests.helpers.files import picture
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")


def test_presets_round_trip(page: Page, pages: Callable[..., Page]) -> None:
    page.add(picture(0))
    page.add(picture(1))
    page.choose("model", "demo-sd15")
    page.cards().nth(1).locator("input").fill("0.5")
    page.number("weight", 0.7)
    page.unit(2)
    page.wait(lambda: page.drawn(0))
    page.add(picture(2))
    page.number("end", 0.6)

    page.preset("save")
    page.find("preset_name").fill("Straße / 1")
    page.preset("yes")
    page.wait(lambda: "/" in page.note())  # why not
    page.wait(lambda: page.focused() == "preset_name")
    page.find("preset_name").fill("Straße 1")
    page.find("preset_name").press("Enter")
    page.wait(lambda: page.note() == "Saved “Straße 1”.")
    page.preset("save")
    page.preset("yes")
    page.wait(lambda: "“Straße 1” exists. Overwrite it?" in page.find("preset_asked").inner_text())
    page.preset("no")
    page.wait(lambda: page.find("preset_asked").count() == 0)
    page.wait(lambda: page.focused() == "preset_save")  # where it began

    other = pages()
    other.open()
    other.unit(3)
    other.add(picture(5))  # must go: the preset has two units
    other.choose("preset_chosen", "Straße 1")
    other.preset("load")
    other.wait(lambda: other.note() == "Loaded “Straße 1”.")
    other.wait(lambda: other.drawn(2))
    assert (other.shown(), other.pictures(), other.used()) == (1, [2, 1, 0], [1, 2])
    assert other.cards().nth(1).locator("input").input_value() == "0.5"
    assert (other.model(), other.number("weight"), other.number("end")) == ("demo-sd15", 0.7, 1)
    other.unit(2)
    assert (other.model(), other.number("weight"), other.number("end")) == ("demo-sd15", 0.7, 0.6)

    # Two tabs of one browser: what one has saved is in the other's list, and nothing is lost.
    other.preset("save")
    other.find("preset_name").fill("From the other tab")
    other.preset("yes")
    other.wait(lambda: other.note() == "Saved “From the other tab”.")
    page.choose("preset_chosen", "From the other tab")
    page.preset("rename")
    page.wait(lambda: "Rename “From the other tab” to" in page.find("preset_asked").inner_text())
    page.find("preset_name").fill("Straße '<i>2'")
    page.preset("yes")
    page.wait(lambda: page.note() == "Renamed to “Straße '<i>2'”.")
    page.preset("rename")
    page.wait(page.find("preset_name").count)
    assert page.find("preset_name").input_value() == "Straße '<i>2'"
    page.find("preset_name").fill("straße 1")
    page.preset("yes")
    page.wait(lambda: "“straße 1” exists. Overwrite it?" in page.find("preset_asked").inner_text())
    page.preset("no")
    page.wait(lambda: page.find("preset_asked").count() == 0)

    with other.page.expect_download() as download:
        other.choose("preset_chosen", "Straße 1")
        other.preset("export")
    exported = Path(download.value.path()).read_bytes()
    assert zipfile.is_zipfile(io.BytesIO(exported))
    other.preset("delete")
    other.preset("yes")
    other.wait(lambda: other.note() == "Deleted “Straße 1”.")

    def bring() -> None:
        with other.page.expect_file_chooser() as chooser:
            other.preset("import")
        chooser.value.set_files({"name": "presets.zip", "mimeType": "application/zip", "buffer": exported})

    bring()
    other.wait(lambda: other.note() == "Imported “Straße 1”.")
    for _ in range(2):  # a question that is not answered does not stand in the way of the next file
        bring()
        other.wait(lambda: "Overwrite them?" in other.find("preset_asked").inner_text())
    other.preset("yes")
    other.wait(lambda: other.note() == "Imported “Straße 1”." and other.find("preset_asked").count() == 0)


def test_parameters_bring_the_units_back(page: Page, pages: Callable[..., Page]) -> None:
    from modules import paths

    page.small()
    page.unit(2)
    page.add(picture(20))
    page.choose("model", "demo-sd15")
    page.number("weight", 0.55)
    page.weigh(1, 0.5)
    made = page.generate()
    file = max((Path(paths.data_path) / "browser").glob("*.png"), key=lambda path: path.stat().st_mtime)
    page.find("preset_chosen").locator("input").click()
    recent = page.find("preset_chosen").locator("ul.options li").filter(has_text=f"Recent / {file.stem}")
    page.wait(lambda: recent.count() == 1)

    fresh = pages()
    fresh.page.locator("#tabs > .tab-nav > button", has_text="PNG Info").click()
    fresh.page.locator("#pnginfo_image input[type=file]").set_input_files(file)
    fresh.wait(lambda: "IP-Adapter 2" in fresh.page.locator("#tab_pnginfo .infotext").first.inner_text())
    fresh.page.locator("#tab_pnginfo #txt2img_tab").click()
    fresh.wait(lambda: fresh.note() == "Restored from the parameters.")
    fresh.wait(lambda: fresh.drawn(1))
    assert (fresh.shown(), fresh.model(), fresh.number("weight"), fresh.pictures()) == (2, "demo-sd15", 0.55, [0, 1, 0])
    assert fresh.cards().nth(0).locator("input").input_value() == "0.5"
    assert np.abs(fresh.generate() - made).mean() == 0

    # The arrow button: parameters as text, here of an old version, of others, and without us.
    def paste(text: str) -> None:
        fresh.page.locator("#txt2img_prompt textarea").fill(text)
        fresh.page.locator("#tab_txt2img #paste").first.click()

    parameters = "Steps: 3, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64"
    ours = f"model: demo-sd15, swirl: 3, references: {'0' * 12} {'1' * 12}"
    paste(f'a dog\n{parameters}, IP-Adapter 1: "{ours}", IP-Adapter 2: nonsense')
    fresh.wait(lambda: "2 of its 2 references cannot be restored" in fresh.note())
    assert "Unit 1: swirl is not known to this version" in fresh.note()
    fresh.wait(lambda: fresh.pictures() == [0, 0, 0])
    fresh.wait(lambda: fresh.page.locator("#txt2img_prompt textarea").input_value() == "a dog")
    paste(f"a bird\n{parameters}")
    fresh.wait(lambda: not fresh.find("model").is_visible())  # made without us: the accordion is closed
    fresh.wait(lambda: fresh.page.locator("#txt2img_prompt textarea").input_value() == "a bird")


def test_parameters_from_elsewhere_leave_the_panel_whole(page: Page) -> None:
    """Those with names of the panel's own components, plain and with quotes."""
    page.add(picture(0))
    before = page.state()
    harm = '{\\"shown\\": 1, \\"units\\": [{}]}'
    for name in ("IP-Adapter panel state", "IP-Adapter panel [state]"):
        for value in ("x", f'"{harm}"'):
            page.page.locator("#txt2img_prompt textarea").fill(
                f"a dog\nSteps: 3, Sampler: Euler, CFG scale: 7, Seed: 1, {name}: {value}"
            )
            page.page.locator("#tab_txt2img #paste").first.click()
            page.wait(lambda: page.page.locator("#txt2img_prompt textarea").input_value() == "a dog")
            page.settle()
            assert json.loads(page.state()) == json.loads(before), (name, value)


def save(page: Page, name: str) -> None:
    page.preset("save")
    page.wait(page.find("preset_name").is_visible)
    page.find("preset_name").fill(name)
    page.preset("yes")
    page.wait(lambda: f"Saved “{name}”" in page.note())


def test_an_open_list_of_presets_stays_open(page: Page, host: Host) -> None:
    page.add(picture(0))
    for name in ("Straße", "Second"):
        save(page, name)
    page.page.locator("#txt2img_prompt textarea").click()
    field = page.find("preset_chosen").locator("input")
    field.click()
    page.wait(lambda: page.find("preset_chosen").locator("ul.options li").count() >= 2)
    page.page.wait_for_timeout(500)
    field.evaluate("field => { window.blurs = 0; field.addEventListener('blur', () => window.blurs++); }")
    page.page.wait_for_timeout(700)
    assert page.page.evaluate("window.blurs") == 0
    for name in ("Straße", "Second"):
        host.client.delete(f"/ip-adapter/presets/{name}")


def test_a_list_whose_names_are_never_the_servers_is_opened_again_once(page: Page, host: Host) -> None:
    """As where something translates what stands in it."""
    page.add(picture(0))
    for name in ("Translated", "Chosen"):
        save(page, name)
    page.page.evaluate("""() => {
        const list = document.getElementById("txt2img_ip_adapter_preset_chosen");
        const rename = () => list.querySelectorAll("li[data-value=Translated]").forEach((one) => {
            one.dataset.value = "Übersetzt";
        });
        new MutationObserver(rename).observe(list, {childList: true, subtree: true});
        window.blurs = 0;
        list.addEventListener("focusout", () => window.blurs++);
    }""")
    page.page.locator("#txt2img_prompt textarea").click()
    try:
        page.find("preset_chosen").locator("input").click()
        page.wait(lambda: page.page.evaluate("window.blurs"))
        page.page.wait_for_timeout(1500)
        assert page.page.evaluate("window.blurs") == 1
        assert page.find("preset_chosen").locator("ul.options li").count() >= 2
    finally:
        for name in ("Translated", "Chosen"):
            host.client.delete(f"/ip-adapter/presets/{name}")
