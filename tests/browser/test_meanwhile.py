"""What comes into the units from elsewhere, and what is done meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.start import Host
from tests.helpers.files import picture, png
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")


@pytest.fixture
def kept(host: Host) -> Iterator[str]:
    """A preset with a reference."""
    from lib_ipadapter.webui import process

    store, name = process.store(), "meanwhile"
    store.save(name, [{"model": "demo-sd15", "weight": 0.35, "images": [picture(3)]}])
    yield name
    store.delete(name)


def delay(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, seconds: float) -> None:
    """Let a function of the server begin so much later."""
    function = getattr(owner, name)

    def delayed(*args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, delayed)


@pytest.fixture
def give(page: Page, tmp_path: Path) -> Callable[..., None]:
    """Pictures are chosen, as a person does it: from files."""

    def give(*seeds: int) -> None:
        files = [tmp_path / f"{seed}.png" for seed in seeds]
        for file, seed in zip(files, seeds, strict=True):
            file.write_bytes(png(picture(seed)))
        page.find("drop_area").locator("input[type=file]").set_input_files(files)

    return give


def keys(page: Page, tab: str = "txt2img") -> list[list[str]]:
    return [[one["key"] for one in unit.get("images", ())] for unit in json.loads(page.state(tab))["units"]]


def undo(page: Page) -> None:
    button = page.page.locator("#txt2img_ip_adapter .ip-adapter-undo > button")
    page.wait(button.is_visible)
    button.click()


@pytest.mark.parametrize(("taking", "loading"), [(2.0, 0.0), (0.7, 3.0)])
def test_no_picture_is_lost_that_is_on_its_way_beside_a_presets(
    page: Page, kept: str, give: Callable[..., None], monkeypatch: pytest.MonkeyPatch, taking: float, loading: float
) -> None:
    """Whichever comes last, the session has both, for the units and for an undo."""
    from lib_ipadapter.presets.store import Store
    from lib_ipadapter.webui.panel import panel_state

    page.choose("preset_chosen", kept)
    delay(monkeypatch, panel_state, "take", taking)
    delay(monkeypatch, Store, "load", loading)
    give(0, 1)
    page.wait(lambda: page.cards().count() == 2)
    page.preset("load")
    page.wait(lambda: page.note() == f"Loaded “{kept}”.")
    page.wait(lambda: not page.page.evaluate("ipAdapter.page.tabs.txt2img.delivery.isRunning"))

    def shows(count: int) -> None:
        page.wait(lambda: page.drawn(count))
        page.settle()
        assert "not there any more" not in page.find("references").inner_text()
        assert page.cards().locator("img").count() >= count

    shows(1)
    undo(page)
    shows(2)


def test_what_is_done_while_a_preset_comes_is_done_after_it(
    page: Page, kept: str, give: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib_ipadapter.presets.store import Store

    page.add(picture(0))
    page.number("weight", 0.9)
    before = keys(page)
    page.choose("preset_chosen", kept)
    delay(monkeypatch, Store, "load", 2)
    page.preset("load")
    page.number("end", 0.5)
    give(1)
    page.tick()
    assert keys(page) == before
    page.wait(lambda: page.note() == f"Loaded “{kept}”.")
    page.wait(lambda: page.pictures() == [2, 0, 0] and page.drawn(2))
    page.wait(lambda: (page.number("weight"), page.number("end")) == (0.35, 0.5))
    page.settle()
    assert not page.is_ticked()
    undo(page)
    page.wait(lambda: keys(page) == before and page.drawn(1) and page.is_ticked())
    assert (page.number("weight"), page.number("end")) == (0.9, 1)

    # While the order waits for another one, nothing is on its way.
    page.page.evaluate("ipAdapter.page.tabs.txt2img.presets.order = {}")
    page.preset("load")
    page.number("weight", 0.8)
    page.page.evaluate("ipAdapter.page.tabs.txt2img.presets.order = null")
    page.wait(lambda: page.number("weight") == 0.35)
    undo(page)
    page.wait(lambda: page.number("weight") == 0.8 and keys(page) == before)


def test_what_is_done_while_parameters_come_is_done_after_them(
    page: Page, give: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib_ipadapter.webui.panel import accordion

    delay(monkeypatch, accordion, "_from_parameters", 2)
    prompt = page.page.locator("#txt2img_prompt textarea")
    ours = f"model: demo-sd15, weight: 0.45, references: {'0' * 12}"
    prompt.fill(f'a dog\nSteps: 3, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64, IP-Adapter 1: "{ours}"')
    page.page.locator("#tab_txt2img #paste").first.click()
    page.wait(lambda: prompt.input_value() == "a dog")
    give(1)
    page.number("end", 0.5)
    page.wait(lambda: "cannot be restored from the parameters" in page.note())
    page.wait(lambda: page.pictures() == [1, 0, 0] and page.drawn(1))
    page.wait(lambda: (page.number("weight"), page.number("end")) == (0.45, 0.5))


def test_units_that_the_host_sends_along_can_be_given_back(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """By *Send to img2img*. Of a panel that is not in use nothing goes; what is still on its way is left behind."""
    from lib_ipadapter.webui.panel import panel_state

    def give(tab: str, seed: int) -> None:
        data = {"name": "a.png", "mimeType": "image/png", "buffer": png(picture(seed))}
        page.find("drop_area", tab).locator("input[type=file]").set_input_files(data)

    def turn_to(tab: str) -> None:
        page.page.locator("#tabs > .tab-nav > button", has_text=tab).click()

    def send() -> None:
        turn_to("txt2img")
        page.page.locator("#txt2img_send_to_img2img").click()
        page.settle()

    undo = page.page.locator("#img2img_ip_adapter .ip-adapter-undo > button")
    page.small()
    page.generate()
    turn_to("img2img")
    give("img2img", 40)
    page.wait(lambda: page.drawn(1, "img2img") and page.is_ticked("img2img"))
    own = keys(page, "img2img")
    send()
    assert keys(page, "img2img") == own and page.is_ticked("img2img")
    turn_to("txt2img")
    page.tick()  # ticked, and without a reference
    send()
    assert keys(page, "img2img") == own and not undo.is_visible()

    turn_to("txt2img")
    page.add(picture(0))
    page.number("weight", 0.45)
    weight = page.find("weight", "img2img").locator("input[type=number]")
    for _ in range(2):  # the same once more, after it was taken back
        send()
        page.wait(lambda: keys(page, "img2img") == keys(page) and page.drawn(1, "img2img"))
        page.wait(lambda: weight.input_value() == "0.45")
        page.wait(undo.is_visible)
        assert undo.inner_text() == "Undo: took over txt2img's units"
        undo.click()
        page.wait(lambda: keys(page, "img2img") == own and page.drawn(1, "img2img"))
        assert "not there any more" not in page.find("references", "img2img").inner_text()
        page.wait(lambda: weight.input_value() != "0.45")

    delay(monkeypatch, panel_state, "take", 3)
    turn_to("txt2img")
    (here,) = keys(page)[0]
    give("txt2img", 1)
    page.wait(lambda: '"waiting"' in page.state())
    page.page.locator("#txt2img_send_to_img2img").click()
    page.wait(lambda: "have been left behind" in page.find("note", "img2img").inner_text())
    page.wait(lambda: keys(page, "img2img")[0] == [here] and page.drawn(1, "img2img"))
    page.wait(lambda: '"waiting"' not in page.state())
