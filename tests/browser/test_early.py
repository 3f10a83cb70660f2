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

    def come(*, only: str = "") -> None:
        for route in [route for route in held if only in route.request.url]:
            held.remove(route)
            route.continue_()
        if not only:
            page.wait(lambda: page.page.evaluate("ipAdapter.isReady()"))

    yield page, come
    context.close()
    assert errors == []


@pytest.mark.parametrize("there", [[], ["units", "drawings", "cards", "references", "pictures", "dropping"]])
def test_what_is_done_before_the_scripts_are_here_is_done_then(slow, there: list[str]) -> None:
    """``there``: those that have come by then, and do not know that others are still to come."""
    page, come = slow
    for name in there:
        come(only=f"/panel/{name}.js")
        page.wait(lambda name=name: page.page.evaluate(f"Boolean(ipAdapter.{name})"))
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


def test_a_panel_that_is_opened_before_the_scripts_are_here_tells_its_model_then(slow) -> None:
    page, come = slow
    page.page.locator("#txt2img_ip_adapter > .label-wrap").click()
    assert page.find("details").inner_text().strip() == ""
    come()
    page.wait(lambda: page.find("details").inner_text().strip() != "")


@pytest.mark.parametrize("fails", [1, 100])
def test_a_script_that_does_not_come_is_asked_for_again(browser: Any, host: Host, fails: int) -> None:
    """And where it never comes, the panel says so."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    asked: list[str] = []

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        if len(asked) <= fails:
            route.abort()
        else:
            route.continue_()

    context.route("**/panel/undo.js*", answer)
    page = Page.__new__(Page)
    page.context, page.page = context, context.new_page()
    page.page.goto(f"{host.address}/?__theme=light")
    page.page.locator("#txt2img_ip_adapter > .label-wrap").wait_for()
    if fails == 1:
        page.wait(lambda: page.page.evaluate("ipAdapter.isReady()"))
    else:
        page.page.locator("#txt2img_ip_adapter > .label-wrap").click()
        page.page.get_by_text("do not come from the server: reload the page").first.wait_for(timeout=30_000)
        assert not page.page.evaluate("ipAdapter.isReady()")
    assert len(asked) > 1
    context.close()
