"""Where units act: regions in one click, the painter, and that what is plain can be seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from demo.start import Host
from lib_ipadapter.attend.regions import feathered
from lib_ipadapter.encode.picture import decode
from tests.helpers.files import base64_of, half, picture, png, unit
from tests.helpers.host import make
from tests.helpers.page import Page, advanced

pytestmark = pytest.mark.host("page")


def press(page: Page, name: str) -> None:
    page.find("region").locator(f"[data-region={name}]").click()


def region(page: Page, number: int = 1) -> np.ndarray | None:
    """The mask of a unit's region as the server has it, from 0 to 1; None where there is none, or not yet."""
    key = json.loads(page.state())["units"][number - 1].get("region")
    masks = json.loads(page.find("region").locator(".ip-adapter-region").get_attribute("data-masks"))
    return np.asarray(decode(masks[key].split(",")[1]).convert("L")) / 255 if key in masks else None


def is_part(mask: np.ndarray | None, rows: slice, columns: slice) -> bool:
    """Whether it is white there, and black elsewhere."""
    if mask is None:
        return False
    expected = np.zeros_like(mask)
    height, width = mask.shape
    expected[
        int(height * rows.start) : int(height * rows.stop), int(width * columns.start) : int(width * columns.stop)
    ] = 1
    return bool((mask == expected).all())


LEFT, RIGHT, ALL = slice(0, 0.5), slice(0.5, 1), slice(0, 1)


def dialog(page: Page) -> Any:
    return page.page.locator(".ip-adapter-painter")


def paints(page: Page) -> Any:
    """Open the painter for the shown unit's region."""
    press(page, "draw")
    dialog(page).wait_for()
    return dialog(page)


def counts(page: Page, left: float, top: float) -> float:
    """How much counts at a place of the open picture, which is as dark as it does not; without other units' regions."""
    page.page.evaluate("new Promise(requestAnimationFrame)")
    dark = dialog(page).locator("canvas").evaluate(
        """(view, [left, top]) => {
            const pen = view.getContext("2d");
            return pen.getImageData(Math.floor(left * view.width), Math.floor(top * view.height), 1, 1).data[3];
        }""",
        [left, top],
    )  # fmt: skip
    return 1 - dark / (0.7 * 255)


def test_two_regions_take_five_clicks(host: Host, pages: Callable[..., Page]) -> None:
    """From a folded panel. The picture is the one that the API makes of two halves."""
    page = pages()
    page.open()
    page.small()
    for number in (1, 2):
        page.unit(number)
        page.choose("model", "demo-sd15")
        page.add(picture(2 * number))
    whole = page.generate()
    page.unit(1)
    page.fold()
    page.page.evaluate("clicks = 0; addEventListener('pointerdown', () => clicks++, true)")
    page.open()
    advanced(page)
    press(page, "left")
    page.wait(lambda: is_part(region(page, 1), ALL, LEFT))
    page.unit(2)
    press(page, "rest")
    page.wait(lambda: is_part(region(page, 2), ALL, RIGHT))
    assert page.page.evaluate("clicks") == 5
    both = page.generate()
    units = [
        unit("demo-sd15", seeds=(2 * number,), region_mask=base64_of(half(side)), weight=0.7)
        for number, side in enumerate(("left", "right"), 1)
    ]
    (expected,) = make(host, *units, negative_prompt="", seed=1, sampler_name="Euler")
    assert np.abs(both - expected).max() == 0
    assert np.abs(both - whole).mean() > 0.1


def test_the_painter(page: Page) -> None:
    """What it shows is what the server gets and makes of it; every step goes back; nothing needs a mouse."""
    advanced(page)
    press(page, "top")
    page.wait(lambda: is_part(region(page), LEFT, ALL))
    painter = paints(page)
    assert [counts(page, 0.5, y) for y in (0.2, 0.8)] == pytest.approx([1, 0], abs=0.02)
    painter.get_by_text("Invert", exact=True).click()
    assert [counts(page, 0.5, y) for y in (0.2, 0.8)] == pytest.approx([0, 1], abs=0.02)
    painter.get_by_text("Nothing", exact=True).click()
    painter.get_by_label("Rectangle").check()
    box = painter.locator("canvas").bounding_box()
    page.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.1 * box["height"], steps=3)
    page.page.mouse.up()
    places = [(0.2, 0.2), (0.12, 0.45), (0.6, 0.6), (0.05, 0.2)]
    assert [counts(page, *place) for place in places] == pytest.approx([1, 1, 0, 0], abs=0.02)
    page.page.keyboard.press("Control+z")
    assert counts(page, 0.2, 0.2) == pytest.approx(0, abs=0.02)
    page.page.keyboard.press("Control+Shift+Z")
    assert counts(page, 0.2, 0.2) == pytest.approx(1, abs=0.02)
    painter.locator("canvas").focus()
    painter.get_by_label("Ellipse").check()
    painter.locator("canvas").focus()
    for key in (" ", *["Shift+ArrowRight"] * 4, *["Shift+ArrowDown"] * 4, " "):
        page.page.keyboard.press(key)
    assert [counts(page, *place) for place in ((0.7, 0.7), (0.52, 0.52))] == pytest.approx([1, 0], abs=0.02)
    painter.get_by_label("Region feather").fill("0.3")
    places = [(x, 0.3) for x in np.linspace(0.01, 0.99, 25)] + [(x, 0.7) for x in np.linspace(0.01, 0.99, 25)]
    shown = [counts(page, *place) for place in places]
    painter.get_by_label("Region feather").press("Enter")
    painter.wait_for(state="detached")
    page.wait(lambda: (mask := region(page)) is not None and not is_part(mask, LEFT, ALL))
    soft = feathered(torch.tensor(region(page), dtype=torch.float32), 0.3).numpy()
    height, width = soft.shape
    assert shown == pytest.approx([soft[int(y * height), int(x * width)] for x, y in places], abs=0.03)
    page.wait(lambda: page.number("region_feather") == 0.3)
    page.wait(lambda: page.page.evaluate("document.activeElement.dataset.region") == "draw")


def test_an_empty_mask_is_questioned(page: Page) -> None:
    advanced(page)
    press(page, "left")
    page.wait(lambda: is_part(region(page), ALL, LEFT))
    painter = paints(page)
    painter.get_by_text("Nothing", exact=True).click()
    painter.get_by_text("Use this mask").click()
    page.wait(painter.get_by_text("the unit would act nowhere").is_visible)
    painter.get_by_text("Paint on").click()
    page.page.keyboard.press("Escape")
    painter.wait_for(state="detached")
    assert is_part(region(page), ALL, LEFT)
    paints(page).get_by_text("Nothing", exact=True).click()
    painter.get_by_text("Use this mask").click()
    painter.get_by_text("Go without a mask").click()
    page.wait(lambda: "the whole picture" in page.find("region").inner_text())
    assert "region" not in json.loads(page.state())["units"][0]


@pytest.mark.parametrize(("width", "height"), [(400, 700), (3840, 2160)])
def test_the_painter_is_as_large_as_the_screen(width: int, height: int, page: Page) -> None:
    advanced(page)
    press(page, "left")
    page.wait(lambda: region(page) is not None)
    page.unit(2)
    page.page.set_viewport_size({"width": width, "height": height})
    painter = paints(page)
    inner, outer = painter.evaluate("e => [[e.scrollWidth, e.scrollHeight], [e.offsetWidth, e.offsetHeight]]")
    assert inner == outer == [width, height]
    parts = painter.evaluate(
        "e => [...e.children].map((c) => [c.scrollHeight - c.clientHeight, c.scrollWidth - c.clientWidth])"
    )
    assert parts == [[0, 0]] * 3
    box = painter.locator("canvas").bounding_box()
    assert max(box["width"] / width, box["height"] / height) > (0.95 if height == 2160 else 0.7)
    assert box["width"] == pytest.approx(box["height"], abs=2)


def below(page: Page, tab: str = "txt2img") -> str | None:
    """The address of the picture below the mask, None where there is none."""
    page.find("region", tab).locator("[data-region=draw]").click()
    dialog(page).wait_for()
    pictures = dialog(page).locator(".ip-adapter-painter-paper img")
    address = pictures.get_attribute("src") if pictures.count() else None
    page.page.keyboard.press("Escape")
    dialog(page).wait_for(state="detached")
    return address


# The tab "Inpaint" of the WebUI's img2img, with a picture of which only the masked part is made.
INPAINT = """(address) => document.body.insertAdjacentHTML("beforeend", `<div id="mode_img2img">
    <div class="tabitem" style="display: none"><img src="data:,"></div><div class="tabitem" style="display: none"></div>
    <div class="tabitem" style="display: block"><img src="${address}"></div>
    </div><div id="img2img_inpaint_full_res"><input type="radio"><input type="radio" checked></div>`)"""

# A place of Forge's in which there is no picture, which is to be made larger by a factor.
EMPTY = """() => document.body.insertAdjacentHTML("beforeend", `<div id="mode_img2img">
    <div class="tabitem" style="display: block">
        <img class="forge-image" style="display: none"><canvas width="300" height="150"></canvas></div>
    <div id="img2img_tab_resize_by"></div></div>`)"""


def test_it_lies_over_the_picture_that_is_meant(page: Page) -> None:
    """Of a gallery the chosen picture, and the picture itself where its map is chosen; in img2img the start picture."""
    page.small()
    page.choose("model", "demo-sd15")
    page.add(picture(0))
    advanced(page)
    assert below(page) is None
    page.find("influence_map").locator("input").check()
    page.generate()
    thumbnails = page.page.locator("#txt2img_gallery .thumbnails .thumbnail-item")
    page.wait(lambda: thumbnails.count() == 2)
    made = thumbnails.nth(0).locator("img").get_attribute("src")
    for i in (0, 1):
        thumbnails.nth(i).click()
        page.wait(lambda i=i: "selected" in thumbnails.nth(i).get_attribute("class"))
        assert below(page).endswith(made.removeprefix("/"))
    page.page.locator("#tabs > .tab-nav > button", has_text="img2img").click()
    file = {"name": "start.png", "mimeType": "image/png", "buffer": png(picture(1))}
    page.page.locator("#img2img_image input[type=file]").set_input_files(file)
    start = page.page.locator("#img2img_image img")
    start.wait_for()
    page.open("img2img")
    page.find("advanced", "img2img").locator(".label-wrap").click()
    assert below(page, "img2img") == start.get_attribute("src")
    page.page.evaluate(EMPTY)
    assert below(page, "img2img") is None
    page.page.evaluate("document.getElementById('mode_img2img').remove()")
    page.page.evaluate(INPAINT, f"data:image/png;base64,{base64_of(picture(2, (96, 32)))}")
    page.wait(lambda: page.page.locator("#mode_img2img img").last.evaluate("one => one.naturalWidth"))
    assert below(page, "img2img") == page.page.locator("#mode_img2img img").last.get_attribute("src")
    page.find("region", "img2img").locator("[data-region=right]").click()
    line = page.find("region", "img2img").locator("img")
    line.wait_for()
    assert line.evaluate("picture => picture.decode().then(() => picture.naturalWidth / picture.naturalHeight)") == 3


# What the server is to draw is asked for when `release` is called, and whatever waits for long has waited by then.
LATE = """() => {
    const {setTimeout} = window, tab = ipAdapter.page.tabs.txt2img, {writeBox} = tab, held = [];
    window.setTimeout = (act, milliseconds = 0, ...rest) =>
        setTimeout(act, milliseconds < 1000 ? milliseconds : 0, ...rest);
    tab.writeBox = (name, text) => name === "stamp" ? held.push(text) : writeBox.call(tab, name, text);
    window.release = () => {
        Object.assign(window, {setTimeout});
        delete tab.writeBox;
        tab.writeBox("stamp", held.at(-1));
    };
}"""


def test_the_focus_stays_however_late_the_line_is_drawn(page: Page) -> None:
    """On the button that was pressed, or to which somebody has gone meanwhile; on another one where it goes."""
    advanced(page)
    for name, key, expected in (("right", None, "right"), ("left", "Tab", "right"), ("clear", None, "draw")):
        page.page.evaluate(LATE)
        before = json.loads(page.state())["units"][0].get("region")
        press(page, name)
        page.wait(lambda before=before: json.loads(page.state())["units"][0].get("region") != before)
        page.page.wait_for_timeout(200)
        if key:
            page.page.keyboard.press(key)
        page.page.evaluate("release()")
        page.wait(lambda name=name: (region(page) is None) == (name == "clear"))
        page.settle()
        assert page.page.evaluate("document.activeElement.dataset.region") == expected
    # A press on the page takes it away for good.
    page.page.evaluate(LATE)
    press(page, "top")
    page.wait(lambda: '"region"' in page.state())
    page.page.locator("#txt2img_ip_adapter .ip-adapter-region > span").first.click()
    page.page.evaluate("release()")
    page.wait(lambda: is_part(region(page), LEFT, ALL))
    page.settle()
    assert page.page.evaluate("document.activeElement === document.body")


EDGES = """(all) => all.map((element) => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
        const linear = (x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = numbers(colour).map((x) => linear(x / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const opaque = (one) => (numbers(getComputedStyle(one).backgroundColor)[3] ?? 1) > 0.99;
    let ground = element.parentElement;
    while (ground && !opaque(ground)) ground = ground.parentElement;
    const style = getComputedStyle(element);
    const lights = [light(style.borderTopColor), light(getComputedStyle(ground).backgroundColor)];
    const contrast = (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
    return [element.type, contrast, parseFloat(style.borderTopWidth), element.getBoundingClientRect().width];
})"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_plain_controls_can_be_seen(theme: str, pages: Callable[..., Page]) -> None:
    """Their edges stand out from the ground at least 3 to 1, and so does what has the focus."""
    page = pages(theme=theme)
    page.open()
    advanced(page)
    plain = page.find("advanced").locator(
        ".ip-adapter-control :is(select, input:not([type=range])):visible, .ip-adapter-region button"
    )
    seen = plain.evaluate_all(EDGES)
    assert {kind for kind, *_ in seen} >= {"checkbox", "number", "text", "select-one", "button"}
    assert [kind for kind, contrast, edge, width in seen if contrast < 3 or edge < 1 or width < 12] == []
    tick = page.find("influence_map").locator("input")
    look = "e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).backgroundImage]"
    empty = tick.evaluate(look)
    tick.press("Space")
    colour, image = tick.evaluate(look)
    assert colour != empty[0]
    assert "svg" in image
    assert empty[1] == "none"
    page.page.keyboard.press("Tab")
    page.page.keyboard.press("Shift+Tab")
    assert tick.evaluate("e => [getComputedStyle(e).outlineStyle, e === document.activeElement]") == ["solid", True]


def choose_region(page: Page, number: int, name: str) -> None:
    """By the menu of a card that has no region yet, or by the button of one that has."""
    card = page.cards().nth(number - 1)
    place = card.locator(".ip-adapter-place")
    if place.count():
        place.click()
    else:
        card.locator(".ip-adapter-more").click()
        card.locator(".ip-adapter-card-menu").get_by_text("Region", exact=True).click()
    card.locator(".ip-adapter-card-menu").get_by_text(name, exact=True).click()


def test_references_of_one_unit_stand_in_two_halves(host: Host, pages: Callable[..., Page]) -> None:
    page = pages()
    page.open()
    page.small()
    page.choose("model", "demo-sd15")
    for seed in (2, 4):
        page.add(picture(seed))
    page.wait(lambda: page.drawn(2))
    choose_region(page, 1, "Left")
    page.wait(lambda: page.cards().first.locator(".ip-adapter-place img").count() == 1)
    choose_region(page, 2, "What the others leave")
    page.wait(lambda: page.cards().nth(1).locator(".ip-adapter-place img").count() == 1)
    both = page.generate()
    sides = ((2, "left"), (4, "right"))
    items = [{"image": base64_of(picture(seed)), "region": base64_of(half(side))} for seed, side in sides]
    settings = {"model": "demo-sd15", "weight": 0.7, "images": items}
    (expected,) = make(host, settings, negative_prompt="", seed=1, sampler_name="Euler")
    assert np.abs(both - expected).max() == 0

    choose_region(page, 2, "Draw …")
    dialog(page).wait_for()
    assert dialog(page).get_attribute("aria-label") == "Where the reference acts"
    assert dialog(page).locator(".ip-adapter-painter-units").inner_text().split("\n") == ["Reference 1", "Reference 2"]
    page.page.keyboard.press("Escape")
    choose_region(page, 2, "Remove")
    page.wait(lambda: page.cards().nth(1).locator(".ip-adapter-place").count() == 0)
    undo = page.page.locator("#txt2img_ip_adapter .ip-adapter-undo > button")
    assert undo.inner_text() == "Undo: removed the region of reference 2"
    undo.click()
    page.wait(lambda: page.cards().nth(1).locator(".ip-adapter-place img").count() == 1)
