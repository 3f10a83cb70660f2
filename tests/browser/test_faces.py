"""Faces on the references' cards, and embeddings in the place of pictures."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.start import Host
from lib_ipadapter.encode import stored
from tests.helpers.faces import Finder, face
from tests.helpers.files import picture, write_adapter
from tests.helpers.page import Page, advanced, drop

pytestmark = pytest.mark.host("page")
LEFT, RIGHT = face(1, 2, 20), face(2, 30, 24)


@pytest.fixture
def faces(host: Host, unet, monkeypatch: pytest.MonkeyPatch) -> Iterator[Finder]:
    from lib_ipadapter.webui import process

    file = Path(os.environ["DEMO_HOST_DATA"]) / "models" / "ipadapter" / "ip-adapter-faceid_sd15.safetensors"
    write_adapter(file, unet, "faceid-lora")
    found = Finder(lambda image: [LEFT, RIGHT])
    resources = process.resources()
    monkeypatch.setattr(resources, "faces", found)
    resources.catalog.refresh()
    resources.unload()
    yield found
    file.unlink()
    resources.catalog.refresh()


def chosen(page: Page) -> list[str]:
    buttons = page.cards().locator(".ip-adapter-face")
    return [one.get_attribute("aria-pressed") for one in buttons.all()]


def choose(page: Page) -> None:
    """The adapter for faces, which was put there since the page was built."""
    page.look_again("ip-adapter-faceid_sd15")
    page.choose("model", "ip-adapter-faceid_sd15")


def test_a_click_on_a_face_chooses_it(faces: Finder, pages: Callable[..., Page]) -> None:
    page = pages()
    page.open()
    page.small()
    drop(page, [picture(3, (240, 192))])
    choose(page)
    page.wait(lambda: chosen(page) == ["false", "true"])
    assert "faces by buffalo_l" in page.find("details").inner_text()
    large = page.generate()
    first = page.cards().locator(".ip-adapter-face").first
    assert first.get_attribute("title") == "Face 1 of 2: click to use it"
    first.click(force=True)
    page.wait(lambda: chosen(page) == ["true", "false"])
    assert '"face_index": "1"' in page.state() or '"face_index":"1"' in page.state()
    small = page.generate()
    assert abs(small - large).mean() > 0
    advanced(page)
    shown = {name: page.find(name).is_visible() for name in ("face_index", "lora_strength", "faceid_v2_weight")}
    assert shown == {"face_index": True, "lora_strength": True, "faceid_v2_weight": False}
    assert page.find("face_index").locator("input").input_value() == "1"
    assert page.cards().locator(".ip-adapter-pose:visible").count() == 0


def test_no_face_is_said_on_the_card(faces: Finder, pages: Callable[..., Page]) -> None:
    faces.faces = lambda image: []
    page = pages()
    page.open()
    drop(page, [picture(4, (240, 192))])
    choose(page)
    page.wait(lambda: "no face was found" in page.cards().inner_text())


def test_a_file_of_embeddings_is_dropped_like_a_picture(faces: Finder, pages: Callable[..., Page], tmp_path) -> None:
    page = pages()
    page.open()
    page.small()
    plain = page.generate()
    file = stored.write([{"face": LEFT.embedding[None]}], [1.0], {"face": "buffalo_l"})
    data = base64.b64encode(file).decode()
    page.page.evaluate(
        """async (data) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "person.safetensors", {type: ""}));
            const area = document.querySelector("#txt2img_ip_adapter_drop_area .ip-adapter-drop-area");
            area.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
        }""",
        data,
    )
    choose(page)
    page.wait(lambda: "Embeddings of 1 reference (face by buffalo_l)" in page.cards().inner_text())
    assert abs(page.generate() - plain).mean() > 0
    assert faces.asked == []


def test_face_takes_the_adapter_for_faces(
    faces: Finder, pages: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib_ipadapter.webui.panel import purpose_row

    monkeypatch.setattr(purpose_row, "_cannot_see", lambda adapter: False)
    page = pages()
    page.small()
    page.generate()  # the checkpoint is known then
    page.open()

    def press(purpose: str) -> None:
        page.find("purposes").locator(f"[data-purpose={purpose}]:not([aria-disabled])").click()

    page.choose("model", "demo-sd15")
    page.add(picture(3, (240, 192)))
    press("face")
    page.wait(lambda: (page.model(), page.number("weight")) == ("ip-adapter-faceid_sd15", 0.8))
    page.wait(lambda: page.find("purposes").locator("[aria-pressed=true]").all_inner_texts() == ["Face"])
    press("style")
    page.wait(lambda: (page.model(), page.number("weight")) == ("demo-sd15", 1))
    page.wait(lambda: page.find("purposes").locator("[aria-pressed=true]").all_inner_texts() == ["Style"])
