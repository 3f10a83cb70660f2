"""The model that a unit takes by itself, in the page: nobody has to choose one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from demo.start import Host
from tests.helpers.checkpoint_files import LORA, write
from tests.helpers.files import picture, png
from tests.helpers.page import Page, drop

pytestmark = pytest.mark.host("page")


@pytest.fixture
def own_checkpoint(page: Page) -> Iterator[None]:
    """Afterwards the checkpoint is what it was."""
    yield
    page.checkpoint("demo-sd15")


@pytest.fixture
def strange() -> Iterator[Path]:
    """A file that is no adapter, in the adapters' folder."""
    from lib_ipadapter.webui import process

    file = Path(os.environ["DEMO_HOST_DATA"]) / "models" / "ipadapter" / "strange <i>.safetensors"
    yield file
    file.unlink(missing_ok=True)
    process.resources().catalog.refresh()


def listed(page: Page) -> list[str]:
    """What the list of models holds."""
    field = page.find("model").locator("input")
    field.click()
    page.wait(page.find("model").locator("ul.options li").count)
    found = page.find("model").locator("ul.options li").all_inner_texts()
    field.blur()
    return [text.replace("✓", "").strip() for text in found]


def test_open_drop_generate(page: Page) -> None:
    page.small()
    plain = page.generate()
    drop(page, [picture(3)])
    assert page.is_ticked() and page.model() == "demo-sd15"
    steered = page.generate()
    assert np.abs(steered - plain).mean() > 1
    info = page.page.locator("[id=html_info_txt2img]").first.inner_text()
    assert "model: demo-sd15" in info
    page.unit(2)
    page.wait(lambda: page.drawn(0))
    assert page.model() == "demo-sd15"
    page.choose("model", "None")  # by hand: it stays
    page.unit(1)
    page.wait(lambda: page.drawn(1))
    page.unit(2)
    page.wait(lambda: page.drawn(0) and page.model() == "None")
    page.add(picture(4))
    assert page.model() == "None"
    assert "IP-Adapter unit 2: model is missing" in page.generate()


def test_a_press_comes_before_the_cards(page: Page, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the checkpoint was not known to the page, and the server is slow, a unit has no model when the press comes:
    the job chooses the same one."""
    page.small()
    page.page.evaluate("""() => {
        const tab = ipAdapter.page.tabs.txt2img;
        ipAdapter.drawings.drawCards = () => undefined;
        tab.changeState((state) => state.units.forEach((unit) => ["model", "own", "fitted"].forEach((name) => {
            delete unit[name];
        })));
    }""")
    page.find("model").locator("input").click()
    page.find("model").locator("ul.options li").filter(has_text="None").first.dispatch_event("mousedown")
    page.wait(lambda: page.model() == "None")
    page.find("drop_area").locator("input[type=file]").set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": png(picture(3))}
    )
    page.wait(lambda: page.pictures()[0] == 1 and '"waiting"' not in page.state())
    page.page.evaluate("""() => ipAdapter.page.tabs.txt2img.changeShownUnit((unit) => { delete unit.fitted; })""")
    assert isinstance(page.generate(), np.ndarray)
    assert "model: demo-sd15" in page.page.locator("[id=html_info_txt2img]").first.inner_text()


def test_a_change_of_the_checkpoint_changes_the_models_with_a_word(
    page: Page, pages: Callable[..., Page], own_checkpoint: None
) -> None:
    page.add(picture(0))
    assert "demo-sd15" in (before := listed(page)) and "demo-sdxl" not in before
    page.checkpoint("demo-sdxl")
    page.wait(lambda: page.note() == "The checkpoint is SDXL now: unit 1 takes demo-sdxl instead of demo-sd15.")
    page.wait(lambda: page.model() == "demo-sdxl")
    page.wait(lambda: "Base, SDXL" in page.find("details").inner_text())
    assert "demo-sdxl" in (after := listed(page)) and "demo-sd15" not in after
    assert {unit["model"] for unit in json.loads(page.state())["units"]} == {"demo-sdxl"}
    stamps = page.stamps()
    page.page.wait_for_timeout(500)
    assert page.stamps() == stamps  # nothing goes round and round

    other = pages()
    other.open()
    other.wait(lambda: other.model() == "demo-sdxl")
    page.checkpoint("demo-sd15")
    page.wait(lambda: page.model() == "demo-sd15")
    page.wait(lambda: page.note().endswith("unit 1 takes demo-sd15 instead of demo-sdxl."))


def test_what_is_chosen_meanwhile_stays(page: Page, own_checkpoint: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_ipadapter.webui.panel.model_choice import ModelChoice

    settle = ModelChoice.settle
    asked = []

    def slow(self, state):
        asked.append(1)
        time.sleep(2)
        return settle(self, state)

    page.add(picture(0))
    monkeypatch.setattr(ModelChoice, "settle", slow)
    page.checkpoint("demo-sdxl")
    page.wait(lambda: asked)
    page.choose("model", "None")
    page.unit(2)
    page.wait(lambda: page.drawn(0) and page.model() == "demo-sdxl")
    page.unit(1)
    page.wait(lambda: page.drawn(1) and page.model() == "None")


def test_other_files_are_folded_with_their_reasons_and_the_refresh_button_tells(page: Page, strange: Path) -> None:
    write(strange, LORA)
    page.find("refresh").click()
    page.wait(lambda: "Found 1 new file: strange <i>.safetensors (of no use" in page.note())
    assert "1 adapter fits SD1.5, 2 do not." in page.note()
    rest = page.find("details").locator(".ip-adapter-rest")
    page.wait(lambda: "strange <i>" in rest.locator("ul").text_content())
    assert not rest.locator("ul").is_visible()
    rest.locator("summary").press("Enter")
    page.wait(rest.locator("ul").is_visible)
    assert "This file is a LoRA: put it into models/Lora" in rest.inner_text()
    assert "It is for SDXL, the checkpoint is SD1.5." in rest.inner_text()
    page.take_other("demo-sdxl")
    page.wait(lambda: "Adapter demo-sdxl is for SDXL" in page.find("details").inner_text())
    assert rest.locator("ul").is_visible()  # as it was left
    assert page.page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert "demo-sdxl" in listed(page)
    page.add(picture(0))
    assert page.model() == "demo-sdxl"  # chosen: it stays, though it does not fit
