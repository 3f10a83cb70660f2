"""A slow network: the panel's scripts come long after its page."""

from __future__ import annotations

from typing import Any

import pytest

from demo.start import Host
from tests.helpers.files import base64_of, picture
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")

# A picture is dropped on the panel's head: whether the browser would open it in the place of the page.
DROP = """(head, text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)), data = new DataTransfer();
    data.items.add(new File([bytes], "early.png", {type: "image/png"}));
    const event = (name) => new DragEvent(name, {bubbles: true, cancelable: true, dataTransfer: data});
    return ["dragover", "drop"].map((name) => head.dispatchEvent(event(name)));
}"""


@pytest.fixture
def slow(browser: Any, host: Host):
    """A page whose panel's scripts are held back, and the function that lets them come."""
    held: list[Any] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.route("**/panel/*.js*", lambda route: held.append(route))
    page = Page.__new__(Page)
    page.context, page.page = context, context.new_page()
    errors: list[str] = []
    page.page.on("pageerror", lambda error: errors.append(str(error)))
    page.page.goto(f"{host.address}/?__theme=light")
    page.wait(lambda: len(held) >= 13)

    def come() -> None:
        for route in held:
            route.continue_()
        page.wait(lambda: page.page.evaluate("ipAdapter.isReady()"))

    yield page, come
    context.close()
    assert errors == []


def test_what_is_done_before_the_scripts_are_here_is_done_then(slow) -> None:
    page, come = slow
    head = page.page.locator("#txt2img_ip_adapter > .label-wrap")
    head.click()
    page.wait(page.find("model").is_visible)
    assert not page.is_ticked()  # to look at a panel changes nothing
    page.page.locator("#txt2img_ip_adapter [data-purpose=style]").click()
    assert head.evaluate(DROP, base64_of(picture(0))) == [False, False]
    files = [{"name": "chosen.png", "mimeType": "image/png", "buffer": b"no picture"}]
    page.find("drop_area").locator("input[type=file]").set_input_files(files)
    come()
    page.wait(lambda: page.pictures() == [1, 0, 0] and page.is_ticked())
    page.wait(lambda: page.number("weight") == 1 and '"style transfer"' in page.state())
    page.wait(lambda: "chosen.png" in page.told())
