"""The shelf, and what is in the panel after the page or the server has been started anew."""

from __future__ import annotations

import json
from typing import Any

import pytest

from demo.start import Host
from tests.helpers.files import picture
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")

HARMLESS = "<img src=x onerror='window.harm = 1'> & “x”"


def shelf(page: Page) -> Any:
    return page.find("shelf_shown")


def tiles(page: Page) -> Any:
    return shelf(page).locator(".ip-adapter-shelved")


def named(page: Page) -> list[str]:
    """What the tiles are called, whether they have a picture or not."""
    return shelf(page).locator(".ip-adapter-shelved-name").all_inner_texts()


def opened(page: Page) -> Page:
    page.find("preset_shelf").press("Enter")
    page.wait(shelf(page).is_visible)
    return page


def all_drawn(page: Page) -> bool:
    """Whether every picture on the shelf is there."""
    images = shelf(page).locator("img")
    return images.count() > 0 and images.evaluate_all("all => all.every((one) => one.naturalWidth > 0)")


def is_kept(page: Page) -> bool:
    """Whether the browser has kept the panel as it is."""
    return page.page.evaluate("""async () => {
        const {txt2img: tab} = ipAdapter.page.tabs, {databases} = indexedDB;
        if (tab.keep.timer || !(await indexedDB.databases()).length) return false;
        const opened = await new Promise((resolve) => {
            const request = indexedDB.open(`ip-adapter ${location.pathname}`);
            request.onsuccess = () => resolve(request.result);
        });
        const panel = await new Promise((resolve) => {
            const request = opened.transaction("panels").objectStore("panels").get("txt2img");
            request.onsuccess = () => resolve(request.result);
        });
        opened.close();
        const images = (state) => JSON.stringify(state.units.map(({images = []}) => images));
        return Boolean(panel) && images(panel.state) === images(tab.state) && !images(tab.state).includes("waiting");
    }""")


def again(page: Page) -> None:
    page.page.reload()
    page.page.wait_for_selector("#txt2img_ip_adapter")
    page.wait(lambda: page.page.locator("#txt2img_ip_adapter .input-accordion-checkbox").count() == 1)
    page.wait(lambda: page.find("model").get_attribute("title"))
    page.wait(lambda: page.page.evaluate("ipAdapter.isReady()"))


@pytest.fixture
def shelved(host: Host) -> Any:
    from lib_ipadapter.webui import process

    store = process.store()
    names = [*store.names(), *store.recent()]
    yield store
    for name in {*store.names(), *store.recent()} - set(names):
        store.delete(name)


def test_the_shelf_loads_what_is_clicked(page: Page, shelved: Any) -> None:
    # In a browser that keeps nothing, which nobody is told.
    page.page.evaluate("Object.defineProperty(window, 'indexedDB', {value: undefined})")
    asked = "ipAdapter.page.tabs.txt2img.hiddenBox('shelf').value"
    assert page.page.evaluate(asked) == "" and shelf(page).count() == 0  # nothing before it is opened
    page.small()
    page.choose("model", "demo-sd15")
    page.add(picture(41))
    page.number("weight", 0.35)
    page.generate()
    for number in range(26):
        shelved.save(f"shelf {number:02}", [{"model": "demo-sd15", "images": [picture(42)]}])
    shelved.save(HARMLESS, [{"model": "demo-sd15", "weight": 0.25, "images": [picture(43), picture(44)]}])

    opened(page)
    page.wait(lambda: tiles(page).count() > 0 and all_drawn(page))
    newest = tiles(page).first
    assert newest.locator("img").count() == 2  # what was made, and its reference
    assert newest.inner_text().strip() == shelved.recent()[0]

    # Presets, in pages, whatever their names.
    shelf(page).locator("button", has_text="Presets").press("Enter")
    page.wait(lambda: named(page) == shelved.names()[:24])
    shelf(page).locator(".ip-adapter-shelf-more").press("Enter")
    page.wait(lambda: tiles(page).count() == len(shelved.names()) and all_drawn(page))
    assert page.page.evaluate("document.activeElement.matches('.ip-adapter-shelved')")  # the first of the new ones
    harmless = tiles(page).filter(has_text="onerror")
    assert harmless.inner_text().strip() == HARMLESS
    harmless.press("Enter")
    page.wait(lambda: page.note() == f"Loaded “{HARMLESS}”." and page.drawn(2))
    assert (page.number("weight"), page.pictures()) == (0.25, [2, 0, 0])
    assert page.page.evaluate("[window.harm, document.activeElement.className]") == [None, "ip-adapter-shelved"]
    assert page.find("preset_chosen").locator("input").input_value() == HARMLESS

    # A reference used lately goes to the shown unit.
    page.unit(2)
    page.wait(lambda: page.drawn(0))
    lately = shelf(page).locator(".ip-adapter-lately button")
    lately.nth(0).press("Enter")
    page.wait(lambda: page.drawn(1))
    assert page.pictures() == [2, 1, 0] and page.cards().count() == 1
    lately.nth(0).press("Escape")
    page.wait(lambda: shelf(page).count() == 0 and page.focused() == "preset_shelf")
    assert page.page.evaluate("localStorage.getItem('ip-adapter-panel /')") is None


def test_what_was_asked_of_one_group_does_not_come_into_another(page: Page, shelved: Any) -> None:
    """*More* pressed while another group, or another opening of the shelf, is on its way."""
    for number in range(30):
        shelved.save(f"shelf {number:02}", [{"model": "demo-sd15", "images": [picture(42)]}])
    shelved.save("a preset without a picture", [{"model": "demo-sd15"}])
    for number in range(26):
        shelved.keep(f"made {number:02}", [{"model": "demo-sd15", "images": [picture(42)]}])
    opened(page)
    page.wait(lambda: tiles(page).count() == 24 and all_drawn(page))
    more = shelf(page).locator(".ip-adapter-shelf-more")
    press = "{const [group, more] = ['[data-group-name=presets]', '.ip-adapter-shelf-more'].map((one) => "
    press += "document.querySelector(`#txt2img_ip_adapter_shelf_shown ${one}`)); %s}"
    for order in ("group.click(); more.click()", "more.click(); group.click()"):
        page.page.evaluate(press % order)
        page.settle()
        assert named(page)[:24] == shelved.names()[:24], order
        assert tiles(page).count() in (24, len(shelved.names())), order
        assert more.is_visible() == (tiles(page).count() == 24), order
        shelf(page).locator("button", has_text="Recent").press("Enter")
        page.settle()
        assert named(page) == shelved.recent()[:24]

    opener = "document.getElementById('txt2img_ip_adapter_preset_shelf')"
    page.page.evaluate(f"document.querySelector('.ip-adapter-shelf-more').click(); {opener}.click(); {opener}.click()")
    page.settle()
    assert named(page) == shelved.recent()[:24]


def test_the_panel_survives_a_reload_and_a_restart(page: Page, host: Host, shelved: Any) -> None:
    shelved.save("for the panel", [{"model": "demo-sd15", "images": [picture(51)]}])
    opened(page)
    shelf(page).locator("button", has_text="Presets").click()
    tiles(page).filter(has_text="for the panel").click()  # one that the page has never seen whole
    page.wait(lambda: page.drawn(1))
    page.add(picture(52))  # one that only the page has
    page.cards().nth(1).locator("input").fill("0.5")
    page.unit(2)
    page.number("weight", 0.45)
    page.add(picture(53))
    page.wait(lambda: is_kept(page))
    state = json.loads(page.state())
    host.app.state_holder.clear()  # as after a restart

    again(page)
    page.wait(lambda: page.pictures() == [2, 1, 0])
    page.open()
    page.wait(lambda: page.drawn(1))
    assert page.is_ticked() and page.shown() == 2 and page.number("weight") == 0.45
    assert page.find("shelf_shown").count() == 0
    page.unit(1)
    page.wait(lambda: page.drawn(2))
    assert page.cards().nth(1).locator("input").input_value() == "0.5" and page.model() == "demo-sd15"
    assert page.cards().locator("img").count() == 4  # as they are seen, too: they are on the server
    assert [one["key"] for one in json.loads(page.state())["units"][0]["images"]] == [
        one["key"] for one in state["units"][0]["images"]
    ]

    line = page.page.locator("#txt2img_ip_adapter .ip-adapter-restored")
    assert "Restored what was in the panel." in line.inner_text()
    line.locator("button").press("Enter")
    page.wait(lambda: page.pictures() == [0, 0, 0] and page.drawn(0))
    assert not page.is_ticked() and page.focused() == "preset_shelf"
    page.wait(lambda: page.page.evaluate("localStorage.getItem('ip-adapter-panel /')") is None)
    again(page)
    page.page.wait_for_function("!ipAdapter.keep")  # not even loaded: there is nothing
    assert page.pictures() == [0, 0, 0]


def test_the_start_picture_comes_back_with_the_panel_as_a_word(page: Page) -> None:
    """No file belongs to it, so none is waited for."""
    item = {"key": "0123456789ab", "weight": 0.5, "start_picture": True}
    page.page.evaluate(
        "(item) => ipAdapter.page.tabs.txt2img.changeShownUnit((unit) => { unit.images = [item]; })", item
    )
    page.wait(lambda: is_kept(page))
    again(page)
    page.wait(lambda: "start_picture" in page.state())
    assert json.loads(page.state())["units"][0]["images"] == [item]


def test_webuis_behind_one_address_keep_their_panels_by_themselves(page: Page) -> None:
    """Earlier versions shared one flag, which the panel of any of them took away when it was emptied."""
    old, own = "'ip-adapter-panel'", "'ip-adapter-panel /'"

    def flags() -> list[str | None]:
        return page.page.evaluate(f"[{old}, {own}].map((name) => localStorage.getItem(name))")

    page.add(picture(45))
    page.wait(lambda: is_kept(page) and flags() == [None, "kept"])
    page.page.evaluate(f"localStorage.setItem({old}, 'kept'); localStorage.removeItem({own})")
    again(page)
    page.wait(lambda: page.pictures() == [1, 0, 0] and page.drawn(1))
    page.wait(lambda: is_kept(page) and flags() == ["kept", "kept"])
    page.page.evaluate(f"localStorage.removeItem({old})")  # by another WebUI's page
    again(page)
    page.wait(lambda: page.pictures() == [1, 0, 0] and page.drawn(1))
    page.wait(lambda: is_kept(page))
    page.page.evaluate(f"localStorage.setItem({old}, 'kept')")
    page.open()
    page.page.locator("#txt2img_ip_adapter .ip-adapter-restored button").press("Enter")
    page.wait(lambda: flags() == ["kept", ""])  # others still go by theirs
    again(page)
    page.page.wait_for_function("!ipAdapter.keep")
