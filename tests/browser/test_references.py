"""References: pictures that come into the panel, and what they do."""

from __future__ import annotations

import json
import re
import time

import numpy as np
import pytest

from demo.start import Host
from tests.helpers.files import picture, png
from tests.helpers.page import Page, drop

pytestmark = pytest.mark.host("page")


def test_a_picture_a_model_a_different_result(page: Page, monkeypatch) -> None:
    from lib_ipadapter.encode.clip_image import ImageEncoder
    from lib_ipadapter.webui import ahead, process

    page.small()
    plain = page.generate()
    drop(page, [picture(77)])  # of no other test: it has to be encoded
    assert page.model() == "demo-sd15"  # by itself
    page.wait(lambda: page.cards().locator("img").count() == 2)
    page.choose("model", "None")
    page.wait(lambda: page.cards().locator("img").count() == 1)  # nothing sees anything
    page.choose("model", "demo-sd15")
    page.wait(lambda: page.cards().locator("img").count() == 2)
    details = page.find("details").inner_text()
    assert re.match(r"Base, SD1.5, 4 tokens, .* · ViT-H-14 in demo-vit.safetensors, ", details)

    assert ahead.worker().wait(60)
    process.resources().unload()  # what was encoded as soon as it was dropped
    encode = ImageEncoder.encode

    def slow(self, *args, **kwargs):
        time.sleep(1)  # long enough to be seen
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(ImageEncoder, "encode", slow)
    page.page.evaluate("""() => { window.said = []; new MutationObserver(() =>
        said.push(document.querySelector("#txt2img_progress .progress-text").textContent)).observe(
        document.querySelector("#txt2img_progress"), {subtree: true, childList: true, characterData: true}) }""")
    steered = page.generate()
    assert np.abs(steered - plain).mean() > 1
    assert any("IP-Adapter: encoding reference 1 of 1" in text for text in page.page.evaluate("said"))
    assert np.abs(page.generate() - steered).mean() == 0

    page.find("enabled").locator("input").click()
    assert np.abs(page.generate() - plain).mean() == 0


def test_what_cannot_be_done_is_told(page: Page) -> None:
    page.small()
    page.tick()
    assert "no unit has a reference picture" in page.generate()
    page.add(picture(0))
    page.choose("model", "None")
    assert "IP-Adapter unit 1: model is missing" in page.generate()
    page.take_other("demo-sdxl")
    page.wait(lambda: "Adapter demo-sdxl is for SDXL, the checkpoint is SD1.5" in page.find("details").inner_text())
    assert "IP-Adapter unit 1: adapter demo-sdxl is for SDXL" in page.generate()
    page.checkpoint("demo-sdxl")
    page.wait(lambda: "Base, SDXL" in (text := page.find("details").inner_text()) and "⚠" not in text)
    page.checkpoint("demo-sd15")
    page.wait(lambda: page.note() == "The checkpoint is SD1.5 now: unit 1 takes demo-sd15 instead of demo-sdxl.")


def test_several_pictures_and_their_weights(page: Page) -> None:
    assert page.find("inbox").locator("textarea").count() == 1  # an input field would cut large pictures off
    drop(page, [picture(i) for i in range(3)], "drop")
    page.choose("model", "demo-sd15")
    page.wait(lambda: page.cards().locator("img").count() == 6)
    page.small()
    before = page.generate()
    page.cards().nth(1).locator("input").fill("0.25")
    page.preset("load")  # what was typed must not be lost, whatever is done next
    weighed = page.generate()
    assert np.abs(weighed - before).mean() > 0.05
    info = page.page.locator("[id=html_info_txt2img]").first.inner_text()
    assert re.search(r"references: [0-9a-f]{12} [0-9a-f]{12}\*0.25 [0-9a-f]{12}", info)
    page.cards().nth(1).locator(".ip-adapter-remove").click()
    page.wait(lambda: page.drawn(2))
    assert page.cards().nth(1).locator("input").input_value() == "1"
    page.find("drop_area").locator(".ip-adapter-clear").click()
    page.wait(lambda: page.drawn(0))
    assert page.used() == []


def test_pasting_a_picture_from_the_clipboard(page: Page) -> None:
    drop(page, [picture(0), picture(1)], "paste")


def test_sending_pictures_to_the_panel(page: Page) -> None:
    page.page.locator("#txt2img_send_to_ip_adapter").click()
    page.wait(lambda: "There is no picture to send" in page.page.locator(".toast-body").first.inner_text())
    page.small()
    page.fold()
    page.generate()
    page.page.locator("#txt2img_send_to_ip_adapter").click()
    page.wait(lambda: page.pictures() == [1, 0, 0] and page.drawn(1))
    page.page.locator("#txt2img_send_to_ip_adapter").click()
    page.wait(lambda: page.pictures() == [1, 1, 0] and page.shown() == 2 and page.drawn(1))
    page.wait(page.find("model").is_visible)
    page.unit(3)

    page.page.locator("#tabs > .tab-nav > button", has_text="Extras").click()
    data = {"name": "a.png", "mimeType": "image/png", "buffer": png(picture(3))}
    page.page.locator("#extras_image input[type=file]").set_input_files(data)
    page.wait(lambda: page.page.locator("#extras_image img").count() > 0)
    page.page.locator("#extras_generate").click()
    page.wait(lambda: page.page.locator("#extras_gallery img").count() > 0)
    page.page.locator("#extras_send_to_ip_adapter").click()
    page.wait(lambda: page.pictures() == [1, 1, 1] and page.shown() == 3 and page.drawn(1))
    page.wait(page.find("model").is_visible)

    page.page.locator("#tabs > .tab-nav > button", has_text="PNG Info").click()
    page.page.locator("#pnginfo_image input[type=file]").set_input_files(data)
    page.wait(lambda: page.page.locator("#pnginfo_image img").count() > 0)
    page.page.locator("#pnginfo_send_to_ip_adapter").click()
    page.wait(lambda: page.pictures() == [1, 1, 2] and page.drawn(2))  # no unit is free

    # The host's own button takes the units along to img2img.
    page.page.locator("#txt2img_send_to_img2img").click()
    page.wait(lambda: page.pictures("img2img") == [1, 1, 2] and page.shown("img2img") == 3)
    page.wait(lambda: page.drawn(2, "img2img") and page.cards("img2img").locator("img").count() == 4)
    page.wait(page.find("drop_area", "img2img").is_visible)
    assert page.is_ticked("img2img")


def test_a_picture_that_is_not_there_any_more_cannot_be_sent_and_that_is_told(page: Page) -> None:
    page.small()
    page.generate()
    page.fold()
    source = page.page.locator("#txt2img_gallery img").first.get_attribute("src")
    page.page.route(source, lambda route: route.fulfill(status=404, json={"detail": "Not Found"}))
    for _ in range(2):
        page.page.locator("#txt2img_send_to_ip_adapter").click()
        page.wait(lambda: "cannot be read any more" in page.told())
        page.settle()
        assert page.told().count("cannot be read any more") == 1 and page.find("model").is_visible()
    assert source.rpartition("/")[2].partition("?")[0] in page.told() and page.pictures() == [0, 0, 0]


def test_a_picture_counts_from_the_moment_it_is_dropped(page: Page, monkeypatch) -> None:
    """Generated while it is on its way: it is used, or the sentence says that it is not there yet. What is done
    meanwhile stays done, and it goes to the unit into which it was dropped."""
    from lib_ipadapter.webui.panel import panel_state

    take = panel_state.take

    def slow(*args):
        time.sleep(2)
        return take(*args)

    monkeypatch.setattr(panel_state, "take", slow)
    page.small()
    page.choose("model", "demo-sd15")
    data = [{"name": f"{i}.png", "mimeType": "image/png", "buffer": png(picture(i))} for i in range(2)]
    page.find("drop_area").locator("input[type=file]").set_input_files(data)
    page.wait(lambda: page.cards().count() == 2)
    assert "a reference is still on its way" in page.generate()
    page.cards().nth(0).locator("input").fill("0.5")
    page.unit(2)
    page.wait(lambda: page.drawn(0))
    page.unit(1)
    page.wait(lambda: page.drawn(2))
    assert page.pictures() == [2, 0, 0]
    assert page.cards().nth(0).locator("input").input_value() == "0.5"
    assert page.cards().locator("img").count() == 4
    page.generate()
    assert page.page.locator("#html_log_txt2img .error").count() == 0
    page.find("drop_area").locator("input[type=file]").set_input_files(
        {"name": "no.png", "mimeType": "image/png", "buffer": b"not a picture at all"}
    )
    page.wait(lambda: "no.png: The picture is text, not a picture" in page.told())
    page.wait(lambda: page.drawn(2))


def test_an_old_page_is_told_that_its_pictures_are_gone(page: Page, host: Host) -> None:
    page.small()
    page.add(picture(0))
    page.choose("model", "demo-sd15")
    page.wait(lambda: page.cards().locator("img").count() == 2)
    host.app.state_holder.clear()  # as after a restart: the page is still open
    assert "unit 1: 1 of its 1 references is not on the server any more" in page.generate()
    page.preset("save")
    page.find("preset_name").fill("Nothing")
    page.preset("yes")
    page.wait(lambda: "not on the server any more" in page.note())
    page.unit(2)
    page.unit(1)
    page.wait(lambda: "not there any more" in page.cards().first.inner_text())
    page.cards().nth(0).locator(".ip-adapter-remove").click()
    page.wait(lambda: page.drawn(0))
    page.add(picture(0))
    assert isinstance(page.generate(), np.ndarray)


def test_the_start_picture_is_a_reference_of_img2img(page: Page) -> None:
    """One press, one card, once; a word in the state; the other tab has no such button."""
    assert page.find("drop_area").locator(".ip-adapter-start").count() == 0
    page.page.locator("#tabs > .tab-nav > button", has_text="img2img").click()
    page.open("img2img")
    button = page.find("drop_area", "img2img").locator(".ip-adapter-start")
    button.click()
    page.wait(lambda: page.drawn(1, "img2img") and "Start picture" in page.cards("img2img").inner_text())
    assert page.is_ticked("img2img")
    page.wait(lambda: not button.is_visible())
    card = page.cards("img2img")
    assert all(card.locator(f".ip-adapter-{name}").is_disabled() for name in ("negate", "mask"))
    (item,) = json.loads(page.state("img2img"))["units"][0]["images"]
    assert item["start_picture"] is True and "waiting" not in item
    card.locator(".ip-adapter-remove").click()
    page.wait(lambda: page.drawn(0, "img2img") and button.is_visible())


@pytest.mark.parametrize("count", [1, 2])
def test_a_long_address_in_a_cards_sentence_stays_in_the_card(count: int, page: Page) -> None:
    for number in range(count):
        page.add(picture(number))
    page.wait(lambda: page.cards().count() == count)
    widths = page.page.evaluate("""() => [...document.querySelectorAll(".ip-adapter-card")].map((card) => {
        const sentence = Object.assign(document.createElement("em"), {className: "ip-adapter-problem"});
        sentence.textContent = `download https://example.com/${"x".repeat(80)} and put it into /${"y".repeat(80)}`;
        card.querySelector("span").append(sentence);
        return [sentence.scrollWidth - sentence.clientWidth, sentence.clientWidth];
    })""")
    assert len(widths) == count and all(over <= 0 and width > 60 for over, width in widths)
