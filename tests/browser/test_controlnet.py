"""Beside ControlNet's panel."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from demo.start import Host
from tests.helpers.files import picture, png
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")


@pytest.fixture
def theirs(page: Page) -> Callable[[int, str], Any]:
    """A component of ControlNet's unit, by the end of its id. Its panel is open."""
    page.small()
    page.page.locator("#txt2img_controlnet > .label-wrap").click()
    page.page.locator("#txt2img_ip_adapter_controlnet > .label-wrap").click()
    page.wait(page.find("controlnet_use").is_visible)
    return lambda number, name: page.page.locator(f"[id='txt2img_controlnet_ControlNet-{number - 1}_{name}']").first


def its_list(page: Page, component: Any, value: str) -> None:
    component.locator("input").click()
    component.locator("ul.options li").filter(has_text=value).first.dispatch_event("mousedown")
    page.wait(lambda: value in component.locator("input").input_value())


def its_picture(page: Page, component: Any, image: Image.Image) -> None:
    data = {"name": "its.png", "mimeType": "image/png", "buffer": png(image)}
    component.locator("input[type=file]").set_input_files(data)
    page.wait(lambda: component.locator("img, canvas").count() > 0)
    page.settle()  # its unit has it


def test_controlnets_picture_is_a_reference(page: Page, pages: Callable[..., Page], theirs) -> None:
    page.choose("model", "demo-sd15")
    page.add(picture(4, (64, 64)))
    page.weigh(1, 0.5)
    expected = page.generate()
    page.cards().nth(0).locator(".ip-adapter-remove").click()
    page.wait(lambda: page.drawn(0))

    page.choose("controlnet_unit", "Unit 1")
    page.find("controlnet_use").click()
    page.wait(lambda: page.drawn(1))
    assert "ControlNet Unit 1" in page.cards().first.inner_text()
    assert page.used() == [1]
    assert "ControlNet Unit 1”) has no picture" in page.generate()
    its_picture(page, theirs(2, "input_image"), picture(4, (64, 64)))
    page.weigh(1, 0.5)
    assert np.abs(page.generate() - expected).mean() == 0

    page.preset("save")
    page.find("preset_name").fill("Its picture")
    page.preset("yes")
    page.wait(lambda: page.note() == "Saved “Its picture”.")
    other = pages()
    other.open()
    other.choose("preset_chosen", "Its picture")
    other.preset("load")
    other.wait(lambda: other.drawn(1) and "ControlNet Unit 1" in other.cards().first.inner_text())
    assert other.cards().nth(0).locator("input").input_value() == "0.5"


def test_a_unit_from_controlnet(page: Page, theirs, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_ipadapter.webui.neighbours.controlnet import imports

    imported = imports.imported
    monkeypatch.setattr(imports, "imported", lambda *args: (time.sleep(1), imported(*args))[1])
    page.unit(2)
    page.wait(lambda: page.drawn(0))
    page.choose("controlnet_unit", "Unit 0")
    page.find("controlnet_from").click()
    page.wait(lambda: "is no IP-Adapter unit but “none”" in page.note())
    module, model = theirs(1, "controlnet_preprocessor_dropdown"), theirs(1, "controlnet_model_dropdown")
    its_list(page, module, "ip-adapter_clip_h")
    page.find("controlnet_from").click()
    page.wait(lambda: "uses the model “None”" in page.note())
    its_list(page, model, "demo-sd15 [")
    theirs(1, "controlnet_control_weight_slider").locator("input[type=number]").fill("0.6")
    theirs(1, "controlnet_start_control_step_slider").locator("input[type=number]").fill("0.2")
    its_picture(page, theirs(1, "input_image"), picture(4))
    theirs(1, "controlnet_enable_checkbox").locator("input").click()
    page.find("controlnet_from").click()
    page.number("end", 0.9)  # what is done meanwhile is done after it
    page.wait(lambda: "Taken from ControlNet Unit 0, which is switched off there." in page.note())
    page.wait(lambda: page.drawn(1) and page.number("end") == 0.9)
    assert page.shown() == 2 and page.pictures() == [0, 1, 0]
    assert (page.model(), page.number("weight"), page.number("start")) == ("demo-sd15", 0.6, 0.2)
    assert "start and end come one step later there" in page.note()
    page.wait(lambda: page.used() == [2])
    assert not theirs(1, "controlnet_enable_checkbox").locator("input").is_checked()

    page.number("weight", 0.3)
    for answer, weight in (("no", 0.3), ("yes", 0.6)):  # nothing is overwritten without a word
        page.find("controlnet_from").click()
        page.wait(lambda: "Unit 2 has references or settings" in page.find("preset_asked").inner_text())
        assert page.focused() == "preset_no"
        page.preset(answer)
        page.wait(lambda: page.find("preset_asked").count() == 0)
        page.wait(lambda: page.number("weight") == weight)  # noqa: B023


def test_a_unit_to_controlnet(page: Page, theirs, host: Host) -> None:
    from modules import scripts

    page.choose("controlnet_unit", "Unit 1")
    page.choose("model", "None")
    page.find("controlnet_to").click()
    page.wait(lambda: "IP-Adapter unit 1: model is missing" in page.note())
    page.choose("model", "demo-sd15")
    page.add(picture(5, (64, 64)))
    page.add(picture(6, (64, 64)))
    page.number("weight", 0.55)
    page.number("end", 0.75)
    page.find("controlnet_to").click()
    page.wait(lambda: "Put into ControlNet Unit 1" in page.note())
    assert "The first of its 2 references is there" in page.note()
    page.wait(lambda: theirs(2, "controlnet_enable_checkbox").locator("input").is_checked())
    label = theirs(2, "controlnet_model_dropdown").locator("input").input_value()
    assert label.startswith("demo-sd15 [")
    assert theirs(2, "controlnet_control_weight_slider").locator("input[type=number]").input_value() == "0.55"
    assert not theirs(1, "controlnet_enable_checkbox").locator("input").is_checked()
    page.settle()  # its unit has all of it
    page.tick()
    page.generate()
    script = next(one for one in scripts.scripts_txt2img.alwayson_scripts if one.title() == "ControlNet")
    (unit,) = script.seen[-1]
    assert (unit.module, unit.model, unit.weight, unit.guidance_end) == ("ip-adapter_clip_h", label, 0.55, 0.75)
    assert np.array_equal(unit.get_input_images_rgba()[0][:, :, :3], np.asarray(picture(5, (64, 64))))
