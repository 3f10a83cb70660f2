"""The whole panel takes pictures: files, folders, pictures of other pages; and what is done with them there."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.files import picture, png
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")

DROPPED = """async (target, [files, texts]) => {
    const data = new DataTransfer(), common = {bubbles: true, cancelable: true, dataTransfer: data};
    for (const [name, type, text] of files) {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        data.items.add(new File([bytes], name, {type}));
    }
    for (const [type, text] of Object.entries(texts)) data.setData(type, text);
    target.dispatchEvent(new DragEvent("dragover", common));
    const panel = document.querySelector("#txt2img_ip_adapter");
    const isLit = panel.classList.contains("ip-adapter-dropping");
    target.dispatchEvent(new DragEvent("drop", common));
    return [isLit, panel.classList.contains("ip-adapter-dropping")];
}"""
SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width='200' height='100'><rect width='100' height='99'/></svg>"


def drop_on(target: Any, *files: tuple[str, str, bytes], **texts: str) -> None:
    sent = [(name, kind, base64.b64encode(data).decode()) for name, kind, data in files]
    named = {name.replace("_", "/"): text for name, text in texts.items()}
    assert target.evaluate(DROPPED, [sent, named]) == [True, False]


def keys(page: Page, number: int = 1) -> list[str]:
    return [one["key"] for one in json.loads(page.state())["units"][number - 1].get("images", ())]


def test_files_on_a_folded_panel_and_on_a_units_tab(pages: Callable[..., Page]) -> None:
    page = pages()
    one, other = ((f"{i}.png", "image/png", png(picture(i))) for i in range(2))
    drop_on(page.page.locator("#txt2img_ip_adapter > .label-wrap"), one, other)
    page.wait(lambda: page.find("model").is_visible() and page.drawn(2))  # it has opened, and has both
    assert page.is_ticked()
    drop_on(page.tabs().nth(2), one)
    page.wait(lambda: page.pictures() == [2, 0, 1])
    assert page.shown() == 1
    page.unit(3)
    page.wait(lambda: page.drawn(1))
    prompt = page.page.locator("#txt2img_prompt textarea")  # outside, the host and others take what is dropped
    assert prompt.evaluate(DROPPED, [[("a.png", "image/png", "")], {}]) == [False, False]
    assert page.pictures() == [2, 0, 1]


def test_what_is_refused_and_what_is_redrawn_is_told_beside_the_slot(page: Page) -> None:
    large = io.BytesIO()
    Image.new("RGB", (6000, 4500), (200, 30, 30)).save(large, "PNG")
    drop_on(
        page.find("weight"), ("photo.txt", "text/plain", b"no picture at all"), ("drawing.svg", "image/svg+xml", SVG),
        ("large.png", "image/png", large.getvalue()), ("broken.png", "image/png", png(picture(0))[:200]),
        ("small.png", "image/png", png(picture(0))),
    )  # fmt: skip
    page.wait(lambda: page.drawn(3))
    for said in (
        "photo.txt: The picture is text, not a picture", "drawing.svg was redrawn at 1024×512.",
        "large.png was redrawn at 4000×3000.", "broken.png: The picture file is damaged",
    ):  # fmt: skip
        assert said in page.told()
    assert "small.png" not in page.told()
    notes = page.page.locator("#txt2img_ip_adapter .ip-adapter-notes li")
    notes.first.locator("button").click()
    assert notes.count() == 3
    assert page.page.evaluate("document.activeElement.closest('.ip-adapter-notes') !== null")
    page.cards().first.locator(".ip-adapter-remove").click()
    page.wait(lambda: notes.count() == 0 and page.drawn(2))


def test_pictures_of_other_pages_come_through_the_browser(page: Page) -> None:
    body = png(picture(4))
    for name, allowed in (("open", "*"), ("closed", "https://closed.example")):
        headers = {"Access-Control-Allow-Origin": allowed}
        page.page.route(
            f"https://{name}.example/**",
            lambda route, _request, headers=headers: route.fulfill(
                body=body, content_type="image/png", headers=headers
            ),
        )
    area = page.find("drop_area").locator("[role=button]")
    linked = "<a href='https://open.example/page'><img src='https://open.example/a%20cat.png'></a>"
    drop_on(area, text_html=linked, **{"text_uri-list": "https://open.example/page"})
    page.wait(lambda: page.drawn(1))
    assert page.told() == ""
    drop_on(area, **{"text_uri-list": "https://closed.example/dog.png\r\n"})
    page.wait(lambda: "dog.png: The page that it is on does not let it be read from here" in page.told())
    assert page.pictures() == [1, 0, 0]


def test_references_move_and_are_enlarged_by_keyboard(page: Page) -> None:
    for i in range(3):
        page.add(picture(i))
    a, b, c = keys(page)
    nodes = page.cards().locator("img").evaluate_all("all => { window.kept = all; return all.length }")
    field = page.cards().nth(0).locator("input")
    field.focus()
    page.page.keyboard.press("Alt+ArrowRight")
    page.wait(lambda: keys(page) == [b, a, c] and page.drawn(3))
    assert page.page.evaluate("kept.every((one) => one.isConnected)") and nodes == 6  # none was drawn anew
    assert page.page.evaluate("document.activeElement.closest('li').dataset.key") == a
    assert page.cards().nth(1).locator("input").get_attribute("aria-label") == "Weight of reference 2"

    def menu(number: int, item: str) -> None:
        page.cards().nth(number - 1).locator(".ip-adapter-more").focus()
        page.page.keyboard.press("Enter")
        page.page.locator(".ip-adapter-card-menu button", has_text=item).press("Enter")

    menu(3, "Earlier")
    page.wait(lambda: keys(page) == [b, c, a] and page.drawn(3))
    menu(1, "Unit 2")
    page.wait(lambda: keys(page) == [c, a] and keys(page, 2) == [b] and page.drawn(2))
    assert page.page.evaluate("document.activeElement.closest('li').dataset.key") == c
    undo = page.page.locator("#txt2img_ip_adapter .ip-adapter-undo > button")
    assert undo.inner_text() == "Undo: moved reference 1 to unit 2"
    page.cards().nth(0).locator(".ip-adapter-remove").press("Control+z")
    page.wait(lambda: keys(page) == [b, c, a] and keys(page, 2) == [] and page.drawn(3))

    menu(1, "Enlarge")
    dialog = page.page.locator(".ip-adapter-enlarged.ip-adapter-complete")
    dialog.wait_for()
    page.wait(lambda: dialog.locator("img").evaluate("one => one.naturalWidth") == picture(1).width)
    page.page.keyboard.press("Escape")
    page.page.locator(".ip-adapter-enlarged").wait_for(state="detached")
    page.wait(lambda: page.page.evaluate("document.activeElement.className") == "ip-adapter-more")
    page.page.evaluate("document.activeElement.blur()")
    page.cards().nth(1).locator(".ip-adapter-whole").click()  # by mouse, nothing has the focus
    dialog.wait_for()
    page.page.keyboard.press("Escape")
    page.page.locator(".ip-adapter-enlarged").wait_for(state="detached")
    page.wait(lambda: page.page.evaluate("document.activeElement.closest('li')?.dataset.key") == c)

    # By mouse, onto another card.
    page.cards().nth(2).locator(".ip-adapter-whole").drag_to(page.cards().nth(0), target_position={"x": 5, "y": 20})
    page.wait(lambda: keys(page) == [a, b, c] and page.drawn(3))
    page.cards().nth(0).locator(".ip-adapter-whole").drag_to(page.tabs().nth(1))
    page.wait(lambda: keys(page) == [b, c] and keys(page, 2) == [a] and page.drawn(2))


def test_a_picture_is_seen_while_it_travels_and_one_weight_is_in_view(page: Page) -> None:
    """The card is there at once with the browser's own picture, and stays the same one when the server has it."""
    page.page.evaluate("""() => { window.seen = new Set(); new MutationObserver(() => {
        const image = document.querySelector("#txt2img_ip_adapter_references li img");
        if (image) seen.add(image.src.slice(0, 5));
    }).observe(document.querySelector("#txt2img_ip_adapter_references"), {subtree: true, childList: true,
        attributes: true}) }""")
    page.add(picture(0))
    assert page.page.evaluate("[...seen]") == ["blob:", "data:"]
    weight = page.cards().locator("input")
    assert not weight.is_visible()
    page.cards().locator(".ip-adapter-more").click()
    page.page.locator(".ip-adapter-card-menu button", has_text="Weight").click()
    assert page.page.evaluate("document.activeElement.type") == "number"
    page.page.keyboard.press("Control+a")
    page.page.keyboard.type("0.5")
    page.wait(lambda: json.loads(page.state())["units"][0]["images"][0]["weight"] == 0.5)
    page.choose("model", "demo-sd15")
    page.wait(lambda: page.cards().locator("img").count() == 2)
    assert weight.is_visible()
    page.add(picture(1))
    assert page.cards().nth(1).locator("input").is_visible()


def test_a_folder_is_looked_through(page: Page, tmp_path: Path) -> None:
    """Folders in it, too; what is no picture there is named."""
    (tmp_path / "set" / "more").mkdir(parents=True)
    for name in ("2.png", "10.png", "more/1.png"):
        (tmp_path / "set" / name).write_bytes(png(picture(len(name))))
    (tmp_path / "set" / "notes.txt").write_text("no picture")
    (tmp_path / "set" / ".hidden.png").write_bytes(b"left by a system")
    page.find("weight").scroll_into_view_if_needed()
    box = page.find("weight").bounding_box()
    session = page.context.new_cdp_session(page.page)
    data = {"items": [], "files": [str(tmp_path / "set")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 20, "y": box["y"] + 5, "data": data})
    page.wait(lambda: page.drawn(3))
    assert "Left out, as no pictures or more than the 64 that a unit can have: notes.txt." in page.told()
