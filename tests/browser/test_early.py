"""A slow network: the panel's scripts come long after its page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from demo.start import Host
from tests.browser.test_shelf import is_kept
from tests.helpers.files import base64_of, picture, png
from tests.helpers.page import Page, advanced

pytestmark = pytest.mark.host("page")

# A picture is dropped on the panel's head: whether the browser would open it in the place of the page.
DROP = """(head, text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)), data = new DataTransfer();
    data.items.add(new File([bytes], "early.png", {type: "image/png"}));
    const event = (name) => new DragEvent(name, {bubbles: true, cancelable: true, dataTransfer: data});
    return ["dragover", "drop"].map((name) => head.dispatchEvent(event(name)));
}"""

# A browser that keeps something of a panel, and has no time to bring it back before `goOn()`.
BUSY = """() => {
    localStorage.setItem("ip-adapter-panel", "kept");
    window.requestIdleCallback = (run) => { window.goOn = run; };
}"""
# A page in a tab that is not on view, until `show()`.
HIDE = """() => {
    Object.defineProperty(document, "hidden", {configurable: true, get: () => true});
    window.show = () => {
        delete document.hidden;
        document.dispatchEvent(new Event("visibilitychange"));
    };
}"""
PASTE = """(target, text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)), clipboardData = new DataTransfer();
    clipboardData.items.add(new File([bytes], "pasted.png", {type: "image/png"}));
    target.dispatchEvent(new ClipboardEvent("paste", {bubbles: true, cancelable: true, clipboardData}));
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

    def let_come(only: str = "") -> None:
        for route in [route for route in held if only in route.request.url]:
            held.remove(route)
            route.continue_()

    def come(*, only: str = "") -> None:
        let_come(only)
        if not only:
            page.wait(lambda: let_come() or page.page.evaluate("ipAdapter.isReady()"))

    yield page, come
    context.close()
    assert errors == []


def opened(page: Page, tab: str = "txt2img") -> None:
    page.page.locator(f"#{tab}_ip_adapter > .label-wrap").click()
    page.wait(page.find("model", tab).is_visible)


def press(page: Page, purpose: str) -> None:
    page.page.locator(f"#txt2img_ip_adapter [data-purpose={purpose}]").click()


def choose_file(page: Page, name: str, data: bytes) -> None:
    field = page.find("drop_area").locator("input[type=file]")
    field.set_input_files([{"name": name, "mimeType": "image/png", "buffer": data}])


def settings(page: Page) -> tuple[Any, ...]:
    """The weight type of the first unit, and the numbers in sight."""
    weight_type = json.loads(page.state())["units"][0].get("weight_type")
    return (weight_type, *(page.number(name) for name in ("weight", "start", "end")))


@pytest.mark.parametrize("there", [[], ["units", "drawings", "cards", "references", "pictures", "dropping"]])
def test_what_is_done_before_the_scripts_are_here_is_done_then(slow, there: list[str]) -> None:
    """``there``: those that have come by then, and do not know that others are still to come."""
    page, come = slow
    for name in there:
        come(only=f"/panel/{name}.js")
        page.wait(lambda name=name: page.page.evaluate(f"Boolean(ipAdapter.{name})"))
    head = page.page.locator("#txt2img_ip_adapter > .label-wrap")
    opened(page)
    assert not page.is_ticked()  # to look at a panel changes nothing
    press(page, "style")
    assert head.evaluate(DROP, base64_of(picture(0))) == [False, False]
    choose_file(page, "chosen.png", b"no picture")
    come()
    page.wait(lambda: page.pictures() == [1, 0, 0] and page.is_ticked())
    page.wait(lambda: page.number("weight") == 1 and '"style transfer"' in page.state())
    page.wait(lambda: "chosen.png" in page.told())


def test_presets_are_imported_before_the_scripts_are_here(slow, tmp_path) -> None:
    """A browser opens its dialog at the press alone."""
    from lib_ipadapter.webui import process

    page, come = slow
    store = process.store()
    store.save("early", [{"model": "demo-sd15", "images": [picture(61)]}])
    (tmp_path / "presets.zip").write_bytes(store.export(["early"]))
    store.delete("early")
    opened(page)
    with page.page.expect_file_chooser() as chooser:
        page.preset("import")
    chooser.value.set_files(tmp_path / "presets.zip")
    come()
    page.wait(lambda: page.note() == "Imported “early”.")
    assert store.names().count("early") == 1
    store.delete("early")


def test_a_press_counts_on_a_button_that_is_drawn_anew_before_its_turn(slow) -> None:
    """The server's first drawing of an open panel may be there before what was kept."""
    page, come = slow
    page.page.evaluate(BUSY)
    opened(page)
    button = page.page.locator("#txt2img_ip_adapter [data-purpose=style]").element_handle()
    press(page, "style")
    assert page.find("purposes").evaluate(DROP, base64_of(picture(0))) == [False, False]
    purposes = page.find("purposes").locator(".ip-adapter-purposes > button").last
    assert purposes.evaluate(DROP, base64_of(picture(1))) == [False, False]
    come()
    page.wait(lambda: not button.evaluate("one => one.isConnected"))
    page.page.evaluate("goOn()")
    page.wait(lambda: page.pictures() == [2, 0, 0] and settings(page) == ("style transfer", 1, 0, 1))


def test_a_button_that_is_drawn_anew_while_it_is_pressed_has_its_turn(slow) -> None:
    page, come = slow
    page.page.evaluate(BUSY)
    opened(page)
    come()
    page.wait(lambda: page.find("details").inner_text().strip() != "")
    press(page, "composition")
    button = page.page.locator("#txt2img_ip_adapter [data-purpose=style]")
    button.hover()
    page.page.mouse.down()
    button.evaluate("one => one.replaceWith(one.cloneNode(true))")
    page.page.mouse.up()
    page.page.evaluate("goOn()")
    page.wait(lambda: settings(page) == ("style transfer", 1, 0, 1))
    page.page.wait_for_timeout(500)
    assert settings(page) == ("style transfer", 1, 0, 1)


def test_what_is_done_early_is_done_in_its_order(slow) -> None:
    page, come = slow
    opened(page)
    advanced(page)
    press(page, "style")
    press(page, "composition")
    page.number("weight", 0.55)
    choose_file(page, "one.png", png(picture(0)))
    choose_file(page, "other.png", png(picture(1)))
    page.find("weight_type").locator("select").select_option("composition precise")
    page.find("wide").click()
    page.find("region").locator("[data-region=left]").click()
    page.find("drop_area").hover()
    page.page.locator("body").evaluate(PASTE, base64_of(picture(2)))
    come()
    page.wait(lambda: page.pictures() == [3, 0, 0] and settings(page) == ("composition precise", 0.55, 0, 0.8))
    page.wait(lambda: '"region"' in page.state() and '"wide": true' in page.state().replace('":', '": '))
    page.wait(lambda: page.drawn(3))
    assert page.told() == "" and page.is_ticked()


def test_what_img2img_begins_with_and_the_choice_of_files_do_not_wait(slow) -> None:
    page, come = slow
    opened(page)
    area = page.find("drop_area").locator("[role=button]")
    for choose in (area.click, lambda: area.press("Enter")):
        with page.page.expect_file_chooser():
            choose()
    page.page.locator("#tabs > .tab-nav button", has_text="img2img").click()
    opened(page, "img2img")
    page.find("drop_area", "img2img").locator(".ip-adapter-start").click()
    come()
    page.wait(lambda: page.pictures("img2img") == [1, 0, 0] and page.is_ticked("img2img"))
    with page.page.expect_file_chooser():
        page.find("drop_area", "img2img").locator("[role=button]").click()


@pytest.fixture
def preset(host: Host) -> Iterator[str]:
    from lib_ipadapter.webui import process

    store, name = process.store(), "before the scripts"
    store.save(name, [{"model": "demo-sd15", "weight": 0.35, "images": [picture(3)]}])
    yield name
    store.delete(name)


def test_a_preset_that_is_loaded_early_comes_before_what_is_done_then(slow, preset: str) -> None:
    page, come = slow
    opened(page)
    field = page.find("preset_chosen").locator("input")

    def is_listed() -> bool:
        """A list that is opened before its names are there has none."""
        field.blur()
        field.click()
        page.page.wait_for_timeout(200)
        return page.find("preset_chosen").locator("ul.options li", has_text=preset).count() > 0

    page.wait(is_listed)
    page.choose("preset_chosen", preset)
    page.preset("load")
    choose_file(page, "more.png", png(picture(0)))
    page.number("end", 0.5)
    come()
    page.wait(lambda: page.pictures() == [2, 0, 0] and settings(page)[1:] == (0.35, 0, 0.5))


def reload(page: Page) -> None:
    page.wait(lambda: is_kept(page))
    page.page.reload()
    page.wait(lambda: page.page.locator("#txt2img_ip_adapter .input-accordion-checkbox").count() == 1)


def test_an_early_tick_leaves_what_was_kept(slow) -> None:
    page, come = slow
    come()
    choose_file(page, "kept.png", png(picture(0)))
    page.wait(lambda: page.pictures() == [1, 0, 0] and page.is_ticked())
    page.tick()
    page.page.evaluate("Object.values(ipAdapter.page.tabs).forEach(ipAdapter.shelf.noteChange)")
    reload(page)
    page.tick()
    come()
    page.wait(lambda: page.pictures() == [1, 0, 0])
    page.wait(lambda: is_kept(page))
    assert page.is_ticked()


def test_what_is_done_before_what_was_kept_is_back_comes_after_it(slow) -> None:
    page, come = slow
    opened(page)
    come()
    choose_file(page, "kept.png", png(picture(0)))
    page.wait(lambda: page.drawn(1) and page.number("weight") == 0.7)
    page.number("start", 0.1)
    page.number("end", 0.9)
    reload(page)
    page.page.evaluate(BUSY)
    opened(page)
    page.find("enabled").locator("input").uncheck()
    come()
    press(page, "style")
    page.find("weight").locator("input[type=number]").click()
    page.page.keyboard.press("Control+a")
    page.page.keyboard.type("0.45")
    page.page.evaluate("goOn()")
    page.wait(lambda: page.drawn(1) and page.is_ticked())
    page.wait(lambda: settings(page) == ("style transfer", 0.45, 0, 1))
    assert not page.find("enabled").locator("input").is_checked()


@pytest.mark.parametrize("is_late", [False, True])
def test_nothing_has_its_turn_while_the_page_is_not_on_view(slow, is_late: bool) -> None:
    """gradio 4 writes its answers with frames, which such a page does not have: what was kept would come after what was
    done since. ``is_late``: the page is left when what was kept is on its way already."""
    page, come = slow
    opened(page)
    come()
    choose_file(page, "kept.png", png(picture(0)))
    page.wait(lambda: page.drawn(1))
    reload(page)
    opened(page)
    press(page, "style")
    page.page.evaluate(BUSY if is_late else HIDE)
    come()
    if is_late:
        page.page.wait_for_function("Boolean(window.goOn)")
        page.page.evaluate(HIDE)
        page.page.evaluate("goOn()")
        page.wait(lambda: page.pictures() == [1, 0, 0])
    page.page.wait_for_timeout(1000)
    assert page.pictures() == [int(is_late), 0, 0] and "style" not in page.state()
    page.page.evaluate("show()")
    page.wait(lambda: page.drawn(1) and settings(page) == ("style transfer", 1, 0, 1))


def test_what_is_waited_for_may_come_late_while_the_page_is_not_on_view(slow) -> None:
    page, come = slow
    come()
    page.page.evaluate(HIDE)
    page.page.evaluate("() => void ipAdapter.waitUntil(() => false, 50).then(() => { window.isOver = true; })")
    page.page.wait_for_timeout(300)
    assert not page.page.evaluate("window.isOver")
    page.page.evaluate("show()")
    page.page.wait_for_function("window.isOver")


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


def test_a_script_that_fails_withholds_no_clicks(slow) -> None:
    page, come = slow
    page.page.evaluate("""() => {
        ipAdapter.page.tabs.txt2img.hiddenBox = () => { throw new Error("no box"); };
        window.addEventListener("unhandledrejection", (event) => event.preventDefault());
        document.addEventListener("click", () => { window.isHeard = true; });
    }""")
    opened(page)
    come(only="/panel/")
    page.page.locator("#txt2img_ip_adapter .ip-adapter-problem", has_text="reload the page").wait_for()
    page.page.evaluate("window.isHeard = false")
    press(page, "style")
    assert page.page.evaluate("window.isHeard")


def test_a_database_that_does_not_answer_withholds_no_clicks_for_long(slow) -> None:
    page, come = slow
    page.page.evaluate("""() => {
        localStorage.setItem("ip-adapter-panel", "kept");
        indexedDB.open = () => ({});
    }""")
    opened(page)
    press(page, "style")
    come()
    page.wait(lambda: settings(page)[0] == "style transfer")


def test_a_page_without_a_panel_withholds_no_clicks(browser: Any, host: Host) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.add_init_script("""
        const byId = Document.prototype.getElementById;
        Document.prototype.getElementById = function (id) {
            return /_ip_adapter$/.test(id) && !id.includes("send") ? null : byId.call(this, id);
        };
        document.addEventListener("click", ({target}) => { window.heard = target.id; });
    """)
    page = Page.__new__(Page)
    page.context, page.page = context, context.new_page()
    page.page.goto(f"{host.address}/?__theme=light")
    button = page.page.locator("#extras_send_to_ip_adapter")
    button.wait_for(state="attached")

    def is_heard() -> bool:
        button.evaluate("one => one.dispatchEvent(new MouseEvent('click', {bubbles: true}))")
        return page.page.evaluate("window.heard") == "extras_send_to_ip_adapter"

    page.wait(is_heard)
    context.close()


def test_neither_a_click_on_nothing_nor_a_card_that_is_dragged_is_taken(slow) -> None:
    page, come = slow
    for name in ("units", "drawings", "cards", "references", "pictures", "dropping", "moves"):
        come(only=f"/panel/{name}.js")
    page.wait(lambda: page.page.evaluate("Boolean(ipAdapter.moves)"))
    page.page.evaluate("window.dispatchEvent(new MouseEvent('click'))")  # an error of it is one of the page's
    head = page.page.locator("#txt2img_ip_adapter > .label-wrap")
    card = DROP.replace("const event", "data.setData(ipAdapter.moves.TYPE, 'key');\n    const event")
    assert head.evaluate(card, base64_of(picture(0))) == [True, True]
    assert head.evaluate(DROP, base64_of(picture(0))) == [False, False]
    come()
    page.wait(lambda: page.pictures() == [1, 0, 0])


def test_keys_have_their_turn(slow) -> None:
    page, come = slow
    page.page.evaluate(BUSY)
    opened(page)
    page.number("weight", 0.55)
    choose_file(page, "one.png", png(picture(0)))
    come()
    press(page, "style")
    page.tabs().first.press("Control+z")
    page.tabs().first.press("ArrowRight")
    page.page.evaluate("goOn()")
    page.wait(lambda: page.pictures() == [1, 0, 0] and page.shown() == 2)
    first = json.loads(page.state())["units"][0]
    assert (first["weight"], first.get("weight_type")) == (0.55, None)


def test_nothing_is_lost_of_what_is_typed_while_it_has_its_turn(slow) -> None:
    page, come = slow
    opened(page)
    advanced(page)
    field = page.page.locator("#txt2img_ip_adapter [data-field=layer_weights]").locator("input, textarea").first
    field.fill("0:0.4")
    press(page, "composition")
    field.focus()
    page.page.keyboard.press("End")
    page.page.keyboard.type("5")
    field.evaluate("""(field) => {
        window.shown = [];
        document.addEventListener("input", () => queueMicrotask(() => window.shown.push(field.value)));
    }""")
    come()
    page.wait(lambda: '"0:0.45"' in page.state())
    assert set(page.page.evaluate("window.shown")) == {"0:0.45"}
