"""The panel as a person uses it: a real Chromium on the page of the miniature WebUI.

Chromium is looked for in PATH. Where there is none these tests fail, unless IP_ADAPTER_NO_BROWSER=1 leaves them out.
"""

from __future__ import annotations

import io
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

from .files import base64_of, picture

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
    shutil.rmtree(data / "ip-adapter", ignore_errors=True)
    shutil.rmtree(data / "browser", ignore_errors=True)
    port = free_port()
    options = {"sd_model_checkpoint": "demo-sd15", "live_previews_enable": False, "samples_save": True,
               "outdir_txt2img_samples": str(data / "browser")}  # fmt: skip
    with torch.enable_grad():
        started = host_start([ROOT], options, data_dir=data, port=port)
    started.address = f"http://127.0.0.1:{port}"
    yield started
    started.blocks.server.force_exit = True  # not when the page's last connection has timed out
    started.blocks.close(verbose=False)
    started.close()


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
        self.context.set_default_timeout(20_000)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), lambda route: route.abort())
        self.page.goto(f"{host.address}/?__theme={theme}")
        self.page.wait_for_selector("#txt2img_ip_adapter")
        self.wait(lambda: self.page.locator("#txt2img_ip_adapter .input-accordion-checkbox").count() == 1)

    def wait(self, condition: Callable[[], Any], seconds: float = 20) -> Any:
        end = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < end, "it did not happen"
            self.page.wait_for_timeout(50)
        return result

    def find(self, name: str, tab: str = "txt2img") -> Any:
        return self.page.locator(f"[id='{tab}_ip_adapter_{name}']").first

    def open(self, tab: str = "txt2img") -> None:
        self.page.locator(f"#{tab}_ip_adapter > .label-wrap").click()
        self.wait(self.find("1_model", tab).is_visible)

    def cards(self, unit: int = 1, tab: str = "txt2img") -> Any:
        return self.find(f"{unit}_references", tab).locator(".ip-adapter-card")

    def add(self, image: Image.Image, unit: int = 1) -> None:
        before = self.cards(unit).count()
        data = {"name": "reference.png", "mimeType": "image/png", "buffer": png(image)}
        self.find(f"{unit}_slot").locator("input[type=file]").set_input_files(data)
        self.wait(lambda: self.cards(unit).count() == before + 1)

    def unit(self, number: int) -> None:
        self.page.locator("#txt2img_ip_adapter_units > .tab-nav > button").nth(number - 1).click()

    def choose(self, name: str, value: str) -> None:
        self.find(name).locator("input").click()
        self.find(name).locator("ul.options li").filter(has_text=value).first.dispatch_event("mousedown")
        self.wait(lambda: self.find(name).locator("input").input_value() == value)

    def model(self, unit: int = 1) -> str:
        return self.find(f"{unit}_model").locator("input").input_value()

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
    page.find("1_slot").hover()
    page.find("1_slot").locator("[data-testid=image]").evaluate(
        """(target, [pictures, kind]) => {
            const data = new DataTransfer();
            for (const text of pictures) {
                const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
                data.items.add(new File([bytes], "picture.png", {type: "image/png"}));
            }
            const common = {bubbles: true, cancelable: true};
            const field = target.querySelector("input[type=file]").parentElement;
            if (kind === "drop") field.dispatchEvent(new DragEvent("drop", {...common, dataTransfer: data}));
            else document.body.dispatchEvent(new ClipboardEvent("paste", {...common, clipboardData: data}));
        }""",
        [[base64_of(image) for image in images], event],
    )
    page.wait(lambda: page.cards().count() == len(images))


def test_a_picture_a_model_a_different_result(page: Page, monkeypatch) -> None:
    from lib_ipadapter.encode.clip import ImageEncoder

    page.small()
    page.page.locator("#txt2img_ip_adapter .input-accordion-checkbox").first.click()
    plain = page.generate()
    page.open()
    drop(page, [picture(0)])
    assert page.cards().locator("img").count() == 1  # no model yet: nothing sees anything
    page.choose("1_model", "demo-sd15")
    page.wait(lambda: page.cards().locator("img").count() == 2)
    details = page.find("1_details").inner_text()
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

    page.find("1_enabled").locator("input").click()
    assert np.abs(page.generate() - plain).mean() == 0


def test_what_cannot_be_done_is_told(page: Page) -> None:
    page.small()
    assert "no unit has a reference picture" in page.generate()
    page.add(picture(0))
    assert "IP-Adapter unit 1: model is missing" in page.generate()
    page.choose("1_model", "demo-sdxl")
    page.wait(lambda: "Adapter demo-sdxl is for SDXL, the checkpoint is SD1.5" in page.find("1_details").inner_text())
    assert "IP-Adapter unit 1: adapter demo-sdxl is for SDXL" in page.generate()
    page.page.locator("#setting_sd_model_checkpoint_quick input").click()
    lists = page.page.locator("#setting_sd_model_checkpoint_quick ul.options li")
    lists.filter(has_text="demo-sdxl").first.dispatch_event("mousedown")
    page.wait(lambda: "the checkpoint is" not in page.find("1_details").inner_text())
    page.page.locator("#setting_sd_model_checkpoint_quick input").click()
    lists.filter(has_text="demo-sd15.").first.dispatch_event("mousedown")
    page.wait(lambda: "the checkpoint is SD1.5" in page.find("1_details").inner_text())


def test_several_pictures_and_their_weights(page: Page) -> None:
    drop(page, [picture(i) for i in range(3)], "drop")
    page.choose("1_model", "demo-sd15")
    page.wait(lambda: page.cards().locator("img").count() == 6)
    page.small()
    before = page.generate()
    page.cards().nth(1).locator("input").fill("0.25")
    page.preset("load")  # what was typed must not be lost, whatever is done next
    weighed = page.generate()
    assert np.abs(weighed - before).mean() > 0.05
    info = page.page.locator("[id=html_info_txt2img]").first.inner_text()
    assert re.search(r"references: [0-9a-f]{12} [0-9a-f]{12}\*0.25 [0-9a-f]{12}", info)
    page.cards().nth(1).locator("button").click()
    page.wait(lambda: page.cards().count() == 2)
    assert page.cards().nth(1).locator("input").input_value() == "1"
    page.find("1_clear").click()
    page.wait(lambda: page.cards().count() == 0)


def test_pasting_a_picture_from_the_clipboard(page: Page) -> None:
    drop(page, [picture(0), picture(1)], "paste")


def test_presets_round_trip(page: Page, pages: Callable[..., Page]) -> None:
    page.add(picture(0))
    page.add(picture(1))
    page.choose("1_model", "demo-sd15")
    page.cards().nth(1).locator("input").fill("0.5")
    page.number("1_weight", 0.7)
    page.unit(2)
    page.add(picture(2), 2)
    page.number("2_end", 0.6)

    page.preset("save")
    page.find("preset_name").locator("input, textarea").fill("Straße / 1")
    page.preset("yes")
    page.wait(lambda: "/" in page.note())  # why not
    page.find("preset_name").locator("input, textarea").fill("Straße 1")
    page.find("preset_name").locator("input, textarea").press("Enter")
    page.wait(lambda: page.note() == "Saved “Straße 1”.")
    page.preset("save")
    page.preset("yes")
    page.wait(lambda: "“Straße 1” exists. Overwrite it?" in page.find("preset_asked").inner_text())
    page.preset("no")
    page.wait(lambda: not page.find("preset_asked").is_visible())

    other = pages()
    other.open()
    other.unit(3)
    other.add(picture(5), 3)  # must go: the preset has two units
    other.choose("preset_chosen", "Straße 1")
    other.preset("load")
    other.wait(lambda: other.note() == "Loaded “Straße 1”.")
    other.unit(1)
    other.wait(lambda: other.cards(1).count() == 2)
    assert [other.cards(n).count() for n in (1, 2, 3)] == [2, 1, 0]
    assert other.cards(1).nth(1).locator("input").input_value() == "0.5"
    assert (other.model(), other.number("1_weight"), other.number("2_end")) == ("demo-sd15", 0.7, 0.6)

    # Two tabs of one browser: what one has saved is in the other's list, and nothing is lost.
    other.preset("save")
    other.find("preset_name").locator("input, textarea").fill("From the other tab")
    other.preset("yes")
    other.wait(lambda: other.note() == "Saved “From the other tab”.")
    page.choose("preset_chosen", "From the other tab")
    page.preset("rename")
    page.find("preset_name").locator("input, textarea").fill("Straße 2")
    page.preset("yes")
    page.wait(lambda: page.note() == "Renamed to “Straße 2”.")

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
    bring()
    other.wait(lambda: "Overwrite them?" in other.find("preset_asked").inner_text())
    other.preset("yes")
    other.wait(lambda: other.note() == "Imported “Straße 1”." and not other.find("preset_asked").is_visible())


def test_parameters_bring_the_units_back(page: Page, pages: Callable[..., Page]) -> None:
    from modules import paths

    page.small()
    page.unit(2)
    page.add(picture(20), 2)
    page.choose("2_model", "demo-sd15")
    page.number("2_weight", 0.55)
    page.cards(2).nth(0).locator("input").fill("0.5")
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
    fresh.unit(2)
    fresh.wait(lambda: fresh.cards(2).count() == 1)
    assert (fresh.model(2), fresh.number("2_weight"), fresh.cards(1).count()) == ("demo-sd15", 0.55, 0)
    assert fresh.cards(2).nth(0).locator("input").input_value() == "0.5"
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
    fresh.wait(lambda: fresh.cards(2).count() == 0)
    fresh.wait(lambda: fresh.page.locator("#txt2img_prompt textarea").input_value() == "a dog")
    paste(f"a bird\n{parameters}")
    fresh.wait(lambda: not fresh.find("1_model").is_visible())  # made without us: the accordion is closed
    fresh.wait(lambda: fresh.page.locator("#txt2img_prompt textarea").input_value() == "a bird")


def test_sending_pictures_to_the_panel(page: Page) -> None:
    page.page.locator("#txt2img_send_to_ip_adapter").click()
    page.wait(lambda: "There is no picture to send" in page.page.locator(".toast-body").first.inner_text())
    page.small()
    page.page.locator("#txt2img_ip_adapter .input-accordion-checkbox").first.click()
    page.generate()
    page.page.locator("#txt2img_send_to_ip_adapter").click()
    page.wait(lambda: page.cards(1).count() == 1)
    page.page.locator("#txt2img_send_to_ip_adapter").click()
    page.wait(lambda: page.cards(2).count() == 1)
    page.wait(page.find("2_model").is_visible)

    page.page.locator("#tabs > .tab-nav > button", has_text="Extras").click()
    data = {"name": "a.png", "mimeType": "image/png", "buffer": png(picture(3))}
    page.page.locator("#extras_image input[type=file]").set_input_files(data)
    page.wait(lambda: page.page.locator("#extras_image img").count() > 0)
    page.page.locator("#extras_generate").click()
    page.wait(lambda: page.page.locator("#extras_gallery img").count() > 0)
    page.page.locator("#extras_send_to_ip_adapter").click()
    page.wait(lambda: page.cards(3).count() == 1)
    page.wait(page.find("3_model").is_visible)

    page.page.locator("#tabs > .tab-nav > button", has_text="PNG Info").click()
    page.page.locator("#pnginfo_image input[type=file]").set_input_files(data)
    page.wait(lambda: page.page.locator("#pnginfo_image img").count() > 0)
    page.page.locator("#pnginfo_send_to_ip_adapter").click()
    page.wait(lambda: page.cards(1).count() == 2)  # no unit is free

    # The host's own button takes the units along to img2img.
    page.page.locator("#txt2img_send_to_img2img").click()
    page.wait(lambda: [page.cards(n, "img2img").count() for n in (1, 2, 3)] == [2, 1, 1])
    page.wait(page.find("1_slot", "img2img").is_visible)


@pytest.mark.parametrize("width", [400, 1280, 3840])
def test_one_unit_needs_no_scrolling(width: int, pages: Callable[..., Page]) -> None:
    page = pages(width=width)
    page.open()
    page.add(picture(0))
    box = page.page.locator("#txt2img_ip_adapter").bounding_box()
    assert box["height"] < 720
    assert page.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
    for name in ("slot", "model", "weight", "start", "end", "enabled", "advanced"):
        inner = page.find(f"1_{name}").bounding_box()
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
    wanted |= {f"1_{name}" for name in ("slot", "references", "model", "weight", "wide", "start", "end", "enabled")}
    assert wanted - reached == set()
