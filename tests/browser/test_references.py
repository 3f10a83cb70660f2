"""The panel as a person uses it: a real Chromium on the page of the miniature WebUI.

Chromium is looked for in PATH. Where there is none these tests fail, unless IP_ADAPTER_NO_BROWSER=1 leaves them out.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from demo import files
from demo.start import HOST, Host, host_start
from lib_ipadapter.encode.picture import fingerprint

from .conftest import sdxl_unet
from .files import base64_of, picture, write_adapter

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()

if os.environ.get("IP_ADAPTER_NO_BROWSER") == "1":
    pytest.skip("IP_ADAPTER_NO_BROWSER=1", allow_module_level=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Iterator[Host]:
    if str(HOST) in sys.path:  # another test file has started the host: one process keeps one data folder
        from modules import paths

        data = Path(paths.data_path)
    else:
        data = tmp_path_factory.mktemp("data")
    files.write_files(data / "models")
    write_adapter(data / "models" / "ipadapter" / "instant-id.safetensors", sdxl_unet(), "instantid")
    neighbour = data / "extensions" / "sd-webui-controlnet" / "scripts"
    neighbour.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "tests" / "controlnet_stand_in.py", neighbour / "controlnet.py")
    shutil.rmtree(data / "ip-adapter", ignore_errors=True)
    shutil.rmtree(data / "browser", ignore_errors=True)
    port = free_port()
    options = {"sd_model_checkpoint": "demo-sd15", "live_previews_enable": False, "samples_save": True,
               "outdir_txt2img_samples": str(data / "browser"), "control_net_unit_count": 2,
               "control_net_models_path": str(data / "models" / "ipadapter")}  # fmt: skip
    with torch.enable_grad():
        started = host_start([ROOT, neighbour.parent], options, data_dir=data, port=port)
    started.address = f"http://127.0.0.1:{port}"
    yield started
    started.blocks.server.force_exit = True  # not when the page's last connection has timed out
    started.blocks.close(verbose=False)
    started.close()
    sys.modules.pop("internal_controlnet.external_code", None)


@pytest.fixture(scope="module")
def browser(host: Host) -> Iterator[Any]:
    """Closed before the host: a server that is told to stop waits for connections that a browser keeps open."""
    from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.fail(
            f"The browser tests need Chromium, and none of {', '.join(BROWSERS)} is in PATH: install it (on Debian: "
            "apt-get install chromium), or leave these tests out with IP_ADAPTER_NO_BROWSER=1."
        )
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield started
        started.close()


class Page:
    """The panel of one browser tab."""

    def __init__(self, browser: Any, host: Host, width: int = 1280, theme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
        self.context.set_default_timeout(60_000)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), lambda route: route.abort())
        self.page.goto(f"{host.address}/?__theme={theme}")
        self.page.wait_for_selector("#txt2img_ip_adapter")
        self.wait(lambda: self.page.locator("#txt2img_ip_adapter .input-accordion-checkbox").count() == 1)

    def wait(self, condition: Callable[[], Any], seconds: float = 40) -> Any:
        end = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < end, "it did not happen"
            self.page.wait_for_timeout(50)
        return result

    def find(self, name: str, tab: str = "txt2img") -> Any:
        return self.page.locator(f"[id='{tab}_ip_adapter_{name}']").first

    def open(self, tab: str = "txt2img") -> None:
        self.page.locator(f"#{tab}_ip_adapter > .label-wrap").click()
        self.wait(self.find("model", tab).is_visible)

    def cards(self, tab: str = "txt2img") -> Any:
        return self.find("references", tab).locator(".ip-adapter-card")

    def drawn(self, count: int, tab: str = "txt2img") -> bool:
        """Whether the shown unit's cards are on view, and as many, all pictures on the server."""
        if '"waiting"' in self.sheet(tab):
            return False
        stale = self.page.locator(f"[id='{tab}_ip_adapter_references'].ip-adapter-stale").count()
        return not stale and self.cards(tab).count() == count

    def add(self, image: Image.Image) -> None:
        before = self.cards().count()
        data = {"name": "reference.png", "mimeType": "image/png", "buffer": png(image)}
        self.find("slot").locator("input[type=file]").set_input_files(data)
        self.wait(lambda: self.drawn(before + 1))

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
        return [len(unit.get("images", ())) for unit in json.loads(self.sheet(tab))["units"]]

    def sheet(self, tab: str = "txt2img") -> str:
        return self.find("sheet", tab).locator("textarea, input").input_value()

    def choose(self, name: str, value: str) -> None:
        stamp, new = self.stamps()[0], self.find(name).locator("input").input_value() != value
        self.find(name).locator("input").click()
        self.find(name).locator("ul.options li").filter(has_text=value).first.dispatch_event("mousedown")
        self.wait(lambda: self.find(name).locator("input").input_value() == value)
        if name == "model" and new:  # the cards are drawn anew: nothing may be typed into one that goes
            self.wait(lambda: (now := self.stamps())[0] == now[1] != stamp)

    def stamps(self) -> tuple[str, str | None]:
        """Of the cards that are asked for, and of those that are on view."""
        cards = self.find("references").locator(".ip-adapter-cards")
        shown = cards.get_attribute("data-stamp") if cards.count() else None
        return self.find("stamp").locator("input, textarea").input_value(), shown

    def model(self) -> str:
        return self.find("model").locator("input").input_value()

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
        self.page.locator("#txt2img_generate").click()
        self.wait(lambda: list(tasks.done) != done)
        self.page.wait_for_timeout(200)  # until what was answered is shown
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

    def focused(self) -> str:
        return self.page.evaluate("document.activeElement.id.replace('txt2img_ip_adapter_', '')")

    def preset(self, button: str) -> None:
        self.find(f"preset_{button}").click()


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def pages(browser: Any, host: Host) -> Iterator[Callable[..., Page]]:
    opened: list[Page] = []

    def new(**kwargs: Any) -> Page:
        opened.append(Page(browser, host, **kwargs))
        return opened[-1]

    yield new
    for page in opened:
        assert page.errors == []
        page.context.close()


@pytest.fixture
def page(pages: Callable[..., Page]) -> Page:
    made = pages()
    made.open()
    return made


def drop(page: Page, images: list[Image.Image], event: str = "drop") -> None:
    """Let the page's slot get pictures as a person's hand would: dropped on it, or pasted while it is pointed at."""
    page.find("slot").hover()
    page.find("slot").locator("[role=button]").evaluate(
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


def test_a_picture_a_model_a_different_result(page: Page, monkeypatch) -> None:
    from lib_ipadapter.encode.clip import ImageEncoder

    page.small()
    page.page.locator("#txt2img_ip_adapter .input-accordion-checkbox").first.click()
    plain = page.generate()
    page.open()
    drop(page, [picture(0)])
    assert page.cards().locator("img").count() == 1  # no model yet: nothing sees anything
    page.choose("model", "demo-sd15")
    page.wait(lambda: page.cards().locator("img").count() == 2)
    details = page.find("details").inner_text()
    assert re.match(r"Base, SD1.5, 4 tokens, .* · ViT-H-14 in demo-vit.safetensors, ", details)

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
    assert "no unit has a reference picture" in page.generate()
    page.add(picture(0))
    assert "IP-Adapter unit 1: model is missing" in page.generate()
    page.choose("model", "demo-sdxl")
    page.wait(lambda: "Adapter demo-sdxl is for SDXL, the checkpoint is SD1.5" in page.find("details").inner_text())
    assert "IP-Adapter unit 1: adapter demo-sdxl is for SDXL" in page.generate()
    page.page.locator("#setting_sd_model_checkpoint_quick input").click()
    lists = page.page.locator("#setting_sd_model_checkpoint_quick ul.options li")
    lists.filter(has_text="demo-sdxl").first.dispatch_event("mousedown")
    page.wait(lambda: "the checkpoint is" not in page.find("details").inner_text())
    page.page.locator("#setting_sd_model_checkpoint_quick input").click()
    lists.filter(has_text="demo-sd15.").first.dispatch_event("mousedown")
    page.wait(lambda: "the checkpoint is SD1.5" in page.find("details").inner_text())


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
    page.cards().nth(0).locator("xpath=..").locator(".ip-adapter-clear").click()
    page.wait(lambda: page.drawn(0))
    assert page.used() == []


def test_pasting_a_picture_from_the_clipboard(page: Page) -> None:
    drop(page, [picture(0), picture(1)], "paste")


def test_presets_round_trip(page: Page, pages: Callable[..., Page]) -> None:
    page.add(picture(0))
    page.add(picture(1))
    page.choose("model", "demo-sd15")
    page.cards().nth(1).locator("input").fill("0.5")
    page.number("weight", 0.7)
    page.unit(2)
    page.wait(lambda: page.drawn(0))
    page.add(picture(2))
    page.number("end", 0.6)

    page.preset("save")
    page.find("preset_name").fill("Straße / 1")
    page.preset("yes")
    page.wait(lambda: "/" in page.note())  # why not
    page.wait(lambda: page.focused() == "preset_name")
    page.find("preset_name").fill("Straße 1")
    page.find("preset_name").press("Enter")
    page.wait(lambda: page.note() == "Saved “Straße 1”.")
    page.preset("save")
    page.preset("yes")
    page.wait(lambda: "“Straße 1” exists. Overwrite it?" in page.find("preset_asked").inner_text())
    page.preset("no")
    page.wait(lambda: page.find("preset_asked").count() == 0)
    page.wait(lambda: page.focused() == "preset_save")  # where it began

    other = pages()
    other.open()
    other.unit(3)
    other.add(picture(5))  # must go: the preset has two units
    other.choose("preset_chosen", "Straße 1")
    other.preset("load")
    other.wait(lambda: other.note() == "Loaded “Straße 1”.")
    other.wait(lambda: other.drawn(2))
    assert (other.shown(), other.pictures(), other.used()) == (1, [2, 1, 0], [1, 2])
    assert other.cards().nth(1).locator("input").input_value() == "0.5"
    assert (other.model(), other.number("weight"), other.number("end")) == ("demo-sd15", 0.7, 1)
    other.unit(2)
    assert (other.model(), other.number("weight"), other.number("end")) == ("None", 1, 0.6)

    # Two tabs of one browser: what one has saved is in the other's list, and nothing is lost.
    other.preset("save")
    other.find("preset_name").fill("From the other tab")
    other.preset("yes")
    other.wait(lambda: other.note() == "Saved “From the other tab”.")
    page.choose("preset_chosen", "From the other tab")
    page.preset("rename")
    page.wait(lambda: "Rename “From the other tab” to" in page.find("preset_asked").inner_text())
    page.find("preset_name").fill("Straße '<i>2'")
    page.preset("yes")
    page.wait(lambda: page.note() == "Renamed to “Straße '<i>2'”.")
    page.preset("rename")
    page.wait(page.find("preset_name").count)
    assert page.find("preset_name").input_value() == "Straße '<i>2'"
    page.find("preset_name").fill("straße 1")
    page.preset("yes")
    page.wait(lambda: "“straße 1” exists. Overwrite it?" in page.find("preset_asked").inner_text())
    page.preset("no")
    page.wait(lambda: page.find("preset_asked").count() == 0)

    with other.page.expect_download() as download:
        other.choose("preset_chosen", "Straße 1")
        other.preset("export")
    exported = Path(download.value.path()).read_bytes()
    assert zipfile.is_zipfile(io.BytesIO(exported))
    other.preset("delete")
    other.preset("yes")
    other.wait(lambda: other.note() == "Deleted “Straße 1”.")

    def bring() -> None:
        with other.page.expect_file_chooser() as chooser:
            other.preset("import")
        chooser.value.set_files({"name": "presets.zip", "mimeType": "application/zip", "buffer": exported})

    bring()
    other.wait(lambda: other.note() == "Imported “Straße 1”.")
    for _ in range(2):  # a question that is not answered does not stand in the way of the next file
        bring()
        other.wait(lambda: "Overwrite them?" in other.find("preset_asked").inner_text())
    other.preset("yes")
    other.wait(lambda: other.note() == "Imported “Straße 1”." and other.find("preset_asked").count() == 0)


def test_parameters_bring_the_units_back(page: Page, pages: Callable[..., Page]) -> None:
    from modules import paths

    page.small()
    page.unit(2)
    page.add(picture(20))
    page.choose("model", "demo-sd15")
    page.number("weight", 0.55)
    page.cards().nth(0).locator("input").fill("0.5")
    made = page.generate()
    file = max((Path(paths.data_path) / "browser").glob("*.png"), key=lambda path: path.stat().st_mtime)
    page.find("preset_chosen").locator("input").click()
    recent = page.find("preset_chosen").locator("ul.options li").filter(has_text=f"Recent / {file.stem}")
    page.wait(lambda: recent.count() == 1)

    fresh = pages()
    fresh.page.locator("#tabs > .tab-nav > button", has_text="PNG Info").click()
    fresh.page.locator("#pnginfo_image input[type=file]").set_input_files(file)
    fresh.wait(lambda: "IP-Adapter 2" in fresh.page.locator("#tab_pnginfo .infotext").first.inner_text())
    fresh.page.locator("#tab_pnginfo #txt2img_tab").click()
    fresh.wait(lambda: fresh.note() == "Restored from the parameters.")
    fresh.wait(lambda: fresh.drawn(1))
    assert (fresh.shown(), fresh.model(), fresh.number("weight"), fresh.pictures()) == (2, "demo-sd15", 0.55, [0, 1, 0])
    assert fresh.cards().nth(0).locator("input").input_value() == "0.5"
    assert np.abs(fresh.generate() - made).mean() == 0

    # The arrow button: parameters as text, here of an old version, of others, and without us.
    def paste(text: str) -> None:
        fresh.page.locator("#txt2img_prompt textarea").fill(text)
        fresh.page.locator("#tab_txt2img #paste").first.click()

    parameters = "Steps: 3, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64"
    ours = f"model: demo-sd15, swirl: 3, references: {'0' * 12} {'1' * 12}"
    paste(f'a dog\n{parameters}, IP-Adapter 1: "{ours}", IP-Adapter 2: nonsense')
    fresh.wait(lambda: "2 of its 2 references cannot be restored" in fresh.note())
    assert "Unit 1: swirl is not known to this version" in fresh.note()
    fresh.wait(lambda: fresh.pictures() == [0, 0, 0])
    fresh.wait(lambda: fresh.page.locator("#txt2img_prompt textarea").input_value() == "a dog")
    paste(f"a bird\n{parameters}")
    fresh.wait(lambda: not fresh.find("model").is_visible())  # made without us: the accordion is closed
    fresh.wait(lambda: fresh.page.locator("#txt2img_prompt textarea").input_value() == "a bird")


def test_sending_pictures_to_the_panel(page: Page) -> None:
    page.page.locator("#txt2img_send_to_ip_adapter").click()
    page.wait(lambda: "There is no picture to send" in page.page.locator(".toast-body").first.inner_text())
    page.small()
    page.page.locator("#txt2img_ip_adapter .input-accordion-checkbox").first.click()
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
    page.wait(lambda: page.drawn(2, "img2img") and page.cards("img2img").locator("img").count() == 2)
    page.wait(page.find("slot", "img2img").is_visible)


@pytest.mark.parametrize("width", [400, 1280, 3840])
def test_one_unit_needs_no_scrolling(width: int, pages: Callable[..., Page]) -> None:
    page = pages(width=width)
    page.open()
    page.add(picture(0))
    box = page.page.locator("#txt2img_ip_adapter").bounding_box()
    assert box["height"] < 720
    assert page.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
    for name in ("slot", "model", "weight", "start", "end", "enabled", "advanced"):
        inner = page.find(name).bounding_box()
        assert inner["x"] >= box["x"] and inner["x"] + inner["width"] <= box["x"] + box["width"] + 1, name


def test_the_keyboard_reaches_everything(page: Page) -> None:
    page.add(picture(0))
    page.find("preset_chosen").locator("input").focus()
    reached = set()
    for _ in range(30):
        page.page.keyboard.press("Tab")
        reached.add(page.page.evaluate(
            "document.activeElement.closest('[id*=_ip_adapter_]')?.id.replace('txt2img_ip_adapter_', '')"
        ))  # fmt: skip
    wanted = {f"preset_{name}" for name in ("load", "save", "rename", "delete", "export", "import")}
    wanted |= {*("units", "slot", "references", "model", "weight", "wide", "start", "end", "enabled")}
    assert wanted - reached == set()


def test_a_press_of_generate_finds_each_unit_as_it_is(page: Page, monkeypatch) -> None:
    """Whatever the moment between two units: in one go with the switch, before the page has shown it, and after."""
    from modules.progress import tasks

    from lib_ipadapter.webui import callbacks, panel

    asked = []
    units = panel.units
    monkeypatch.setattr(callbacks.panel, "units", lambda *args, **how: asked.append(units(*args, **how)) or asked[-1])
    page.small()
    for number, weight in ((1, 0.25), (2, 0.75), (3, 2)):
        page.unit(number)
        page.wait(lambda: page.drawn(0))
        if weight > 1:
            page.find("wide").click()
        page.add(picture(number))
        page.choose("model", "demo-sd15")
        page.number("weight", weight)
        page.cards().nth(0).locator("input").fill(f"{weight / 2:g}")
    moments = [
        "",
        "await null;",
        "await null; await null; await null;",
        "await new Promise(requestAnimationFrame);",
        "await new Promise((done) => setTimeout(done));",
        "await new Promise((done) => setTimeout(done, 30));",
    ]
    for i, moment in enumerate(moments):
        for number in (1 + i % 3, 1 + (i + 1) % 3):
            count, done = len(asked), list(tasks.done)
            page.page.evaluate(f"""async () => {{
                document.querySelectorAll(".ip-adapter-units button")[{number - 1}].click();
                {moment}
                document.querySelector("#txt2img_generate").click();
            }}""")
            page.wait(lambda: len(asked) > count and list(tasks.done) != done)  # noqa: B023
            for one, (n, weight) in zip(asked[-1], ((1, 0.25), (2, 0.75), (3, 2)), strict=True):
                assert (one["weight"], one["images"][0]["weight"]) == (weight, weight / 2), (moment, number)
                assert fingerprint(one["images"][0]["image"]) == fingerprint(picture(n)), (moment, number)
            page.wait(lambda: page.shown() == number)  # noqa: B023
            page.page.wait_for_timeout(300)  # a press does nothing until the answer has come
    assert page.used() == [1, 2, 3]


def test_a_picture_counts_from_the_moment_it_is_dropped(page: Page, monkeypatch) -> None:
    """Generated while it is on its way: it is used, or the sentence says that it is not there yet. What is done
    meanwhile stays done, and it goes to the unit into which it was dropped."""
    from lib_ipadapter.webui import sheet

    take = sheet.take

    def slow(*args):
        time.sleep(2)
        return take(*args)

    monkeypatch.setattr(sheet, "take", slow)
    page.small()
    page.choose("model", "demo-sd15")
    data = [{"name": f"{i}.png", "mimeType": "image/png", "buffer": png(picture(i))} for i in range(2)]
    page.find("slot").locator("input[type=file]").set_input_files(data)
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
    page.find("slot").locator("input[type=file]").set_input_files(
        {"name": "no.png", "mimeType": "image/png", "buffer": b"not a picture at all"}
    )
    page.wait(lambda: "The picture is text, not a picture" in page.note())
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


def test_the_keyboard_chooses_units(page: Page) -> None:
    page.tabs().nth(0).focus()
    for key, number in (("ArrowRight", 2), ("End", 3), ("ArrowRight", 1), ("ArrowLeft", 3), ("Home", 1)):
        page.page.keyboard.press(key)
        page.wait(lambda: page.shown() == number)  # noqa: B023
        focused = page.page.evaluate("document.activeElement.textContent")
        assert focused == f"Unit {number}"
    page.add(picture(0))
    assert page.used() == [1]
    page.find("enabled").locator("input").click()
    page.wait(lambda: page.used() == [])
    page.unit(2)
    assert page.find("enabled").locator("input").is_checked()
    assert page.used() == []


def test_a_weight_beyond_the_slider(page: Page) -> None:
    """↔ is each unit's own, and what it showed comes back with it."""

    def limits() -> list[str]:
        slider = page.find("weight").locator("input[type=range]")
        return [slider.get_attribute("min"), slider.get_attribute("max"), slider.input_value()]

    page.find("wide").click()
    page.number("weight", -0.5)
    assert limits() == ["-1", "3", "-0.5"]
    page.unit(2)
    page.wait(lambda: limits() == ["0", "1", "1"])
    page.unit(1)
    page.wait(lambda: limits() == ["-1", "3", "-0.5"])
    page.find("wide").click()
    page.wait(lambda: limits() == ["0", "1", "0"])
    assert page.number("weight") == 0


def test_every_control_has_its_sentence(page: Page) -> None:
    """What stands over a control is what the table says, in one sentence."""
    from lib_ipadapter.webui.controls import CONTROLS

    for control in CONTROLS:
        assert page.find(control.field).get_attribute("title") == control.tip
        assert control.tip.endswith(".") and ". " not in control.tip
    for name in ("refresh", "wide", "preset_load", "preset_save", "preset_rename", "preset_delete"):
        assert page.find(name).get_attribute("title")
    assert page.find("slot").locator("[role=button]").get_attribute("title")


def advanced(page: Page) -> None:
    page.find("advanced").locator(".label-wrap").click()
    page.wait(page.find("weight_type").is_visible)


def paint(page: Page, across: tuple[float, float] = (0.0, 0.5)) -> None:
    """A stroke over the part of the open picture between two shares of its width, as broad as the picture is high."""
    dialog = page.page.locator(".ip-adapter-painter")
    dialog.wait_for()
    dialog.locator("input[type=range]").fill("50")
    box = dialog.locator("canvas").bounding_box()
    left, right = (box["x"] + share * box["width"] for share in across)
    page.page.mouse.move(left, box["y"] + box["height"] / 2)
    page.page.mouse.down()
    page.page.mouse.move(right, box["y"] + box["height"] / 2, steps=4)
    page.page.mouse.up()


def accept(page: Page) -> None:
    page.page.locator(".ip-adapter-painter button.primary").click()
    page.page.locator(".ip-adapter-painter").wait_for(state="detached")


def test_a_region_is_painted_over_the_last_picture(page: Page) -> None:
    page.small()
    page.add(picture(0))
    page.choose("model", "demo-sd15")
    whole = page.generate()
    advanced(page)
    page.find("region").locator(".ip-adapter-region-draw").click()
    paint(page, (-0.2, 0.2))
    accept(page)
    page.wait(lambda: page.find("region").locator("img").count() == 1)
    painted = page.generate()
    assert np.abs(painted - whole).mean() > 0.1
    page.find("region").locator(".ip-adapter-region-draw").click()
    page.page.locator(".ip-adapter-painter button", has_text="Everything").click()
    accept(page)
    page.wait(lambda: not page.find("references").evaluate("e => e.classList.contains('ip-adapter-stale')"))
    page.wait(lambda: np.abs(page.generate() - whole).mean() == 0)
    page.find("region").locator(".ip-adapter-region-draw").click()
    page.page.locator(".ip-adapter-painter").wait_for()
    page.page.keyboard.press("Escape")
    page.page.locator(".ip-adapter-painter").wait_for(state="detached")
    page.find("region").locator(".ip-adapter-region-clear").click()
    page.wait(lambda: page.find("region").locator("img").count() == 0)
    assert np.abs(page.generate() - whole).mean() == 0


def test_a_reference_gets_a_mask_and_turns_negative(page: Page) -> None:
    page.small()
    page.add(picture(0))
    page.choose("model", "demo-sd15")
    whole = page.generate()
    page.cards().first.locator(".ip-adapter-mask").click()
    paint(page)
    accept(page)
    page.wait(lambda: page.cards().first.locator("[aria-pressed=true]").count() == 1 and page.drawn(1))
    page.wait(lambda: page.cards().first.locator("[data-mask]").count() == 1)
    assert np.abs(page.generate() - whole).mean() > 0.1
    page.cards().first.locator(".ip-adapter-negate").click()
    page.wait(lambda: page.cards().first.locator("[aria-pressed=true]").count() == 2 and page.drawn(1))
    assert page.used() == []
    assert "no unit has a reference picture" in page.generate()


def test_advanced_settings_act_and_travel_with_presets(page: Page) -> None:
    page.small()
    page.add(picture(0))
    page.choose("model", "demo-sd15")
    plain = page.generate()
    advanced(page)
    before = page.find("bars").inner_html()
    page.find("weight_type").locator("select").select_option("style transfer")
    page.wait(lambda: page.find("bars").inner_html() != before)
    assert page.find("bars").locator("rect").count() == 16
    styled = page.generate()
    assert np.abs(styled - plain).mean() > 0.1
    page.find("layer_weights").locator("input").fill("5:0.4 6")
    assert "IP-Adapter unit 1: layer_weights is '5:0.4 6'" in page.generate()
    page.find("layer_weights").locator("input").fill("")
    page.find("influence_map").locator("input").check()
    assert page.number("composition_weight", 7) == page.number("composition_weight", 3) == 3
    page.find("composition_weight").locator("input[type=range]").fill("0.5")
    assert page.number("composition_weight") == 0.5
    page.unit(2)
    assert page.number("composition_weight") == 1 and not page.find("influence_map").locator("input").is_checked()
    page.wait(lambda: page.find("weight_type").locator("select").input_value() == "linear")
    page.unit(1)
    page.wait(lambda: page.find("weight_type").locator("select").input_value() == "style transfer")
    assert page.number("composition_weight") == 0.5 and page.find("influence_map").locator("input").is_checked()
    page.find("influence_map").locator("input").uncheck()
    assert np.abs(page.generate() - styled).mean() == 0


def test_an_open_list_of_presets_stays_open(page: Page, host: Host) -> None:
    page.choose("model", "demo-sd15")
    for name in ("Straße", "Second"):
        page.preset("save")
        page.wait(page.find("preset_name").is_visible)
        page.find("preset_name").fill(name)
        page.preset("yes")
        page.wait(lambda name=name: f"Saved “{name}”" in page.note())
    page.page.locator("#txt2img_prompt textarea").click()
    field = page.find("preset_chosen").locator("input")
    field.click()
    page.wait(lambda: page.find("preset_chosen").locator("ul.options li").count() >= 2)
    page.page.wait_for_timeout(500)
    field.evaluate("field => { window.blurs = 0; field.addEventListener('blur', () => window.blurs++); }")
    page.page.wait_for_timeout(700)
    assert page.page.evaluate("window.blurs") == 0
    for name in ("Straße", "Second"):
        host.client.delete(f"/ip-adapter/presets/{name}")


# ControlNet


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
    page.page.wait_for_timeout(1000)  # until its unit has it


def test_controlnets_picture_is_a_reference(page: Page, pages: Callable[..., Page], theirs) -> None:
    page.choose("model", "demo-sd15")
    page.add(picture(4, (64, 64)))
    page.cards().nth(0).locator("input").fill("0.5")
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
    page.cards().nth(0).locator("input").fill("0.5")
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


def test_a_unit_from_controlnet(page: Page, theirs) -> None:
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
    page.wait(lambda: "Taken from ControlNet Unit 0." in page.note())
    page.wait(lambda: page.drawn(1))
    assert page.shown() == 2 and page.pictures() == [0, 1, 0]
    assert (page.model(), page.number("weight"), page.number("start")) == ("demo-sd15", 0.6, 0.2)
    assert "start and end come one step later there" in page.note()
    assert page.used() == [2]


def test_a_unit_to_controlnet(page: Page, theirs, host: Host) -> None:
    from modules import scripts

    page.choose("controlnet_unit", "Unit 1")
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
    page.page.wait_for_timeout(1500)  # until its unit has all of it
    page.page.locator("#txt2img_ip_adapter .input-accordion-checkbox").first.click()
    page.generate()
    script = next(one for one in scripts.scripts_txt2img.alwayson_scripts if one.title() == "ControlNet")
    (unit,) = script.seen[-1]
    assert (unit.module, unit.model, unit.weight, unit.guidance_end) == ("ip-adapter_clip_h", label, 0.55, 0.75)
    assert np.array_equal(unit.get_input_images_rgba()[0][:, :, :3], np.asarray(picture(5, (64, 64))))


def test_the_strength_of_keypoints_is_instantids(page: Page) -> None:
    advanced(page)
    page.choose("model", "demo-sd15")
    page.wait(lambda: "Base" in page.find("details").inner_text())
    assert not page.find("keypoints_weight").is_visible()
    page.choose("model", "instant-id")
    page.wait(page.find("keypoints_weight").is_visible)
    page.number("keypoints_weight", 0.5)
    page.unit(2)
    page.wait(lambda: not page.find("keypoints_weight").is_visible())
    page.unit(1)
    page.wait(page.find("keypoints_weight").is_visible)
    assert page.number("keypoints_weight") == 0.5
