"""The card in the place of a model that is not here: what it offers, a press, how far it is, and what comes of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.hub import Hub, listed, serving, small
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")
STARTER = "starter.safetensors"


@pytest.fixture
def hub(host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """No adapter is here for the loaded checkpoint, and the hub has one."""
    from modules import shared

    from lib_ipadapter.webui import downloads, process

    folder, away = Path(os.environ["DEMO_HOST_DATA"]) / "models" / "ipadapter", tmp_path / "away"
    data = (folder / "demo-sd15.safetensors").read_bytes()
    assert shared.sd_model is not None
    shutil.move(folder, away)
    process.resources().catalog.refresh()
    file = small(STARTER, data, starter=True)
    listed(monkeypatch, file)
    downloads.forget()
    with serving() as (made, address):
        made.files = {file.path: data}
        made.stop_after, made.hold = len(data) // 2, True
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield made
    downloads.desk().cancel()
    downloads.desk().wait(10)
    downloads.forget()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.move(away, folder)
    process.resources().catalog.refresh()


def test_a_press_brings_what_is_missing(hub: Hub, page: Page, pages: Callable[..., Page]) -> None:
    card = page.find("details").locator(".ip-adapter-download")
    button = {name: card.locator(f"[data-do={name}]") for name in ("start", "again", "cancel")}
    problem, progress = card.locator(".ip-adapter-problem"), card.locator(".ip-adapter-download-progress")
    page.wait(button["start"].is_visible)
    assert "No adapter for SD1.5 is here yet." in card.inner_text() and STARTER in card.inner_text()
    assert "refresh the list of models" not in page.find("details").inner_text()  # the card stands for all of it
    page.wait(lambda: " MB" in card.locator(".ip-adapter-download-buttons small").inner_text())
    box = card.locator("input[data-file]")
    box.uncheck()
    page.wait(button["start"].is_disabled)
    box.check()

    hub.status = 503
    button["start"].press("Enter")
    page.wait(lambda: problem.is_visible() and "127.0.0.1 cannot give the file now" in problem.inner_text())
    assert not button["start"].is_visible()
    page.wait(
        lambda: page.page.evaluate("document.activeElement.dataset.do") in ("again", "cancel")
    )  # the pressed one has gone
    hub.status = None
    button["again"].click()
    page.wait(lambda: progress.is_visible() and " / " in progress.inner_text())
    assert not problem.is_visible() and box.is_disabled()
    button["cancel"].click()
    page.wait(button["start"].is_visible)
    hub.hold = True
    button["start"].click()
    page.wait(lambda: progress.is_visible() and hub.sent)

    other = pages()  # as after a reload of the page
    other.open()
    there = other.find("details").locator(".ip-adapter-download")
    other.wait(lambda: " / " in there.locator(".ip-adapter-download-progress").inner_text())

    hub.go.set()
    other.wait(lambda: other.find("details").locator(".ip-adapter-download[data-active]").count() == 0)
    page.wait(lambda: page.find("details").locator(".ip-adapter-download[data-active]").count() == 0)
    page.look_again("starter")
