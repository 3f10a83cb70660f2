"""The panel of a page in Chromium, as a person uses it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from demo.start import Host
from tests.helpers.files import base64_of, png


class Page:
    """The panel of one browser tab."""

    def __init__(
        self, browser: Any, host: Host, width: int = 1280, theme: str = "light", words: dict[str, str] | None = None
    ) -> None:
        """``words``: the translations of the page's language, as the WebUI gives them to the page."""
        self.context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
        if words:
            self.context.add_init_script(f"window.localization = {json.dumps(words)}")
        self.context.set_default_timeout(60_000)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self._asked: set[Any] = set()  # what the server has not answered yet
        self.page.on("websocket", self._await_answer)
        self.page.on("request", lambda one: one.resource_type in ("fetch", "xhr") and self._asked.add(one))
        for event in ("requestfinished", "requestfailed"):
            self.page.on(event, self._answered)
        self.page.goto(f"{host.address}/?__theme={theme}")
        self.page.wait_for_selector("#txt2img_ip_adapter")
        self.wait(lambda: self.page.locator("#txt2img_ip_adapter .input-accordion-checkbox").count() == 1)
        self.wait(lambda: self.find("model").get_attribute("title"))  # what the host does last
        self.wait(lambda: self.page.evaluate("ipAdapter.isReady()"))

    def wait(self, condition: Callable[[], Any], seconds: float = 40) -> Any:
        end = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < end, "it did not happen"
            self.page.wait_for_timeout(50)
        return result

    def _await_answer(self, call: Any) -> None:
        """Gradio asks for each event through a connection of its own, which ends with the answer."""
        self._asked.add(call)
        call.on("close", self._answered)

    def _answered(self, call: Any) -> None:
        self._asked.discard(call)

    def settle(self) -> None:
        """Wait until the server has answered everything, and what followed from an answer, and it is on view."""
        self.wait(lambda: not self._asked and (self._take_turn() or not self._asked))

    def _take_turn(self) -> None:
        """Give the page's scripts and drawing their turn."""
        self.page.evaluate("new Promise((done) => setTimeout(() => requestAnimationFrame(() => done()), 50))")

    def find(self, name: str, tab: str = "txt2img") -> Any:
        return self.page.locator(f"[id='{tab}_ip_adapter_{name}']").first

    def open(self, tab: str = "txt2img") -> None:
        """The panel, whose first opening shows what its model is, and whether another one fits better."""
        self.page.locator(f"#{tab}_ip_adapter > .label-wrap").click()
        self.wait(self.find("model", tab).is_visible)
        self.wait(lambda: (stamps := self.stamps(tab))[0] and stamps[0] == stamps[1])
        self.wait(self.page.locator(f"[id='{tab}_ip_adapter_details'] .ip-adapter-settled").count)

    def fold(self, tab: str = "txt2img") -> None:
        self.page.locator(f"#{tab}_ip_adapter > .label-wrap").click()
        self.wait(lambda: not self.find("model", tab).is_visible())

    def tick(self, tab: str = "txt2img") -> None:
        """Click the panel's tick."""
        box = self.page.locator(f"#{tab}_ip_adapter .input-accordion-checkbox").first
        before = box.is_checked()
        box.click()
        self.wait(lambda: box.is_checked() != before)

    def is_ticked(self, tab: str = "txt2img") -> bool:
        """What a job is told, and what is on view."""
        value = self.page.locator(f"#{tab}_ip_adapter-checkbox input").is_checked()
        assert value == self.page.locator(f"#{tab}_ip_adapter .input-accordion-checkbox").first.is_checked()
        return value

    def cards(self, tab: str = "txt2img") -> Any:
        return self.find("references", tab).locator(".ip-adapter-card")

    def drawn(self, count: int, tab: str = "txt2img") -> bool:
        """Whether the shown unit's cards are on view, and as many, all pictures on the server."""
        if '"waiting"' in self.state(tab):
            return False
        stale = self.page.locator(f"[id='{tab}_ip_adapter_references'].ip-adapter-stale").count()
        return not stale and self.cards(tab).count() == count

    def add(self, image: Image.Image) -> None:
        before = self.cards().count()
        data = {"name": "reference.png", "mimeType": "image/png", "buffer": png(image)}
        self.find("drop_area").locator("input[type=file]").set_input_files(data)
        self.wait(lambda: self.drawn(before + 1))

    def weigh(self, number: int, weight: float) -> None:
        """Give one of the shown references a weight of its own; where it is the only one, its menu has the field."""
        card = self.cards().nth(number - 1)
        field = card.locator("input")
        if not field.is_visible():
            card.locator(".ip-adapter-more").click()
            card.locator(".ip-adapter-card-menu button", has_text="Weight").click()
        field.fill(f"{weight:g}")

    def tabs(self, tab: str = "txt2img") -> Any:
        return self.find("units", tab).locator("button")

    def unit(self, number: int, tab: str = "txt2img") -> None:
        self.tabs(tab).nth(number - 1).click()
        self.wait(lambda: self.shown(tab) == number)

    def shown(self, tab: str = "txt2img") -> int:
        selected = self.tabs(tab).evaluate_all("all => all.map((one) => one.getAttribute('aria-selected'))")
        return selected.index("true") + 1

    def used(self, tab: str = "txt2img") -> list[int]:
        """The units that are marked as in use."""
        marks = self.tabs(tab).evaluate_all("all => all.map((one) => one.matches('.ip-adapter-used'))")
        return [number for number, mark in enumerate(marks, 1) if mark]

    def pictures(self, tab: str = "txt2img") -> list[int]:
        """How many references each unit has."""
        return [len(unit.get("images", ())) for unit in json.loads(self.state(tab))["units"]]

    def state(self, tab: str = "txt2img") -> str:
        return self.find("state", tab).locator("textarea, input").input_value()

    def choose(self, name: str, value: str) -> None:
        stamp, new = self.stamps()[0], self.find(name).locator("input").input_value() != value
        self.find(name).locator("input").click()
        self.find(name).locator("ul.options li").filter(has_text=value).first.dispatch_event("mousedown")
        self.wait(lambda: self.find(name).locator("input").input_value() == value)
        if name == "model" and new:  # the cards are drawn anew: nothing may be typed into one that goes
            self.wait(lambda: (now := self.stamps())[0] == now[1] != stamp)

    def checkpoint(self, name: str) -> None:
        """Choose it in the host's own list, and wait until it is loaded."""
        field = self.page.locator("#setting_sd_model_checkpoint_quick input")
        field.click()
        listed = self.page.locator("#setting_sd_model_checkpoint_quick ul.options li")
        listed.filter(has_text=f"{name}.").first.dispatch_event("mousedown")
        self.wait(lambda: self.page.evaluate("opts.sd_model_checkpoint").startswith(name))

    def take_other(self, model: str) -> None:
        """Choose a model that is not in the list, among the other files."""
        rest, stamp = self.find("details").locator(".ip-adapter-rest"), self.stamps()[0]
        if rest.get_attribute("open") is None:
            rest.locator("summary").click()
        rest.locator(f"button[data-model='{model}']").click()
        self.wait(lambda: self.model() == model)
        self.wait(lambda: (now := self.stamps())[0] == now[1] != stamp)

    def look_again(self, model: str) -> None:
        """Press the refresh button, until the list has a ``model`` whose file was put there since. A list that is
        opened before the answer is there keeps what it had."""
        field = self.find("model").locator("input")

        def is_listed() -> int:
            field.blur()
            field.click()
            self.page.wait_for_timeout(200)
            return self.find("model").locator("ul.options li").filter(has_text=model).count()

        self.find("refresh").click()
        self.wait(is_listed)
        field.blur()

    def stamps(self, tab: str = "txt2img") -> tuple[str, str | None]:
        """Of the cards that are asked for, and of those that are on view."""
        cards = self.find("references", tab).locator(".ip-adapter-cards")
        shown = cards.get_attribute("data-stamp") if cards.count() else None
        return self.find("stamp", tab).locator("input, textarea").input_value(), shown

    def model(self, tab: str = "txt2img") -> str:
        return self.find("model", tab).locator("input").input_value()

    def number(self, name: str, value: float | None = None) -> float:
        field = self.find(name).locator("input[type=number]")
        if value is not None:
            field.fill(f"{value:g}")
            field.blur()
        return float(field.input_value())

    def generate(self) -> np.ndarray | str:
        """The picture's pixels, or the error's sentence."""
        from modules.progress import tasks

        error = self.page.locator("#html_log_txt2img .error").first
        shown = self.page.locator("#txt2img_gallery img").first
        done = list(tasks.done)
        before = shown.get_attribute("src") if shown.count() else None
        others = set(self._asked)
        self.page.locator("#txt2img_generate").click()
        self.wait(lambda: list(tasks.done) != done)
        ours = self._asked - others
        self.wait(lambda: not ours & self._asked)  # what an earlier job has left on view is gone
        self._take_turn()
        self.wait(lambda: error.count() or (shown.count() and shown.get_attribute("src") != before))
        if error.count():
            return error.inner_text()
        answer = self.page.request.get(shown.get_attribute("src"))
        return np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB")).astype(int)

    def small(self) -> None:
        """A job that takes no time."""
        for name, value in (("width", "64"), ("height", "64"), ("steps", "3")):
            self.page.locator(f"#txt2img_{name} input[type=number]").first.fill(value)
        self.page.locator("#txt2img_seed input").first.fill("1")
        self.page.locator("#txt2img_prompt textarea").fill("a cat")

    def note(self) -> str:
        return self.find("note").inner_text()

    def told(self) -> str:
        """What is said beside the references."""
        return " ".join(self.page.locator("#txt2img_ip_adapter .ip-adapter-notes li").all_inner_texts())

    def focused(self) -> str:
        return self.page.evaluate("document.activeElement.id.replace('txt2img_ip_adapter_', '')")

    def preset(self, button: str) -> None:
        self.find(f"preset_{button}").click()


def drop(page: Page, images: list[Image.Image], event: str = "drop") -> None:
    """Let the page's drop area get pictures as a person's hand would: dropped on it, or pasted over it."""
    page.find("drop_area").hover()
    page.find("drop_area").locator("[role=button]").evaluate(
        """(target, [pictures, kind]) => {
            const data = new DataTransfer();
            for (const text of pictures) {
                const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
                data.items.add(new File([bytes], "picture.png", {type: "image/png"}));
            }
            const common = {bubbles: true, cancelable: true};
            const field = target;
            if (kind === "drop") field.dispatchEvent(new DragEvent("drop", {...common, dataTransfer: data}));
            else document.body.dispatchEvent(new ClipboardEvent("paste", {...common, clipboardData: data}));
        }""",
        [[base64_of(image) for image in images], event],
    )
    page.wait(lambda: page.drawn(len(images)) and page.pictures()[0] == len(images))


def advanced(page: Page) -> None:
    page.find("advanced").locator(".label-wrap").click()
    page.wait(page.find("weight_type").is_visible)


def paint(page: Page, across: tuple[float, float] = (0.0, 0.5)) -> None:
    """A stroke over the part of the open picture between two shares of its width, as broad as the picture is high."""
    dialog = page.page.locator(".ip-adapter-painter")
    dialog.wait_for()
    dialog.get_by_label("Size of the brush").fill("50")
    box = dialog.locator("canvas").bounding_box()
    left, right = (box["x"] + share * box["width"] for share in across)
    page.page.mouse.move(left, box["y"] + box["height"] / 2)
    page.page.mouse.down()
    page.page.mouse.move(right, box["y"] + box["height"] / 2, steps=4)
    page.page.mouse.up()


def accept(page: Page) -> None:
    page.page.locator(".ip-adapter-painter button.primary").click()
    page.page.locator(".ip-adapter-painter").wait_for(state="detached")
