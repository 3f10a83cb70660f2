"""What the host's own style would take from the panel's."""

from __future__ import annotations

import pytest

from tests.helpers.files import picture
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")

# Of the WebUI's own style.css.
HOST = """
.gradio-container .prose a, .gradio-container .prose a:visited { color: unset; text-decoration: none; }
.block.gradio-checkbox { margin: 0.75em 1.5em 0 0; }
"""
LINK = "<div class='prose'><div class='ip-adapter-download'><a href='#'>a</a></div></div>"


def test_rows_have_gaps_and_buttons_look_like_buttons(page: Page) -> None:
    page.page.add_style_tag(content=HOST)
    page.add(picture(0))
    page.tick()
    use = page.page.locator("#txt2img_ip_adapter .ip-adapter-use")
    page.wait(use.is_visible)
    ground = use.evaluate("one => { const {backgroundImage, backgroundColor} = getComputedStyle(one); "
                          "return [backgroundImage, backgroundColor]; }")  # fmt: skip
    assert ground != ["none", "rgba(0, 0, 0, 0)"]

    def box(selector: str) -> dict[str, float]:
        return page.page.locator(f"#txt2img_ip_adapter {selector}").first.bounding_box()

    card, purposes = box(".ip-adapter-card"), box(".ip-adapter-purposes > button")
    assert purposes["y"] - (card["y"] + card["height"]) >= 4
    tick, models = box(".ip-adapter-enabled input"), box("[id$=_ip_adapter_model] .wrap-inner")
    assert abs(tick["y"] + tick["height"] / 2 - models["y"] - models["height"] / 2) <= 3
    link = page.page.locator(".gradio-container").evaluate(
        """(page, html) => {
            page.insertAdjacentHTML("beforeend", html);
            return getComputedStyle(page.lastElementChild.querySelector("a")).textDecorationLine;
        }""",
        LINK,
    )
    assert link == "underline"
