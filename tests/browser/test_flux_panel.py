"""The panel with a FLUX checkpoint, on the miniature host's Forge face."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from demo.forge import flux
from demo.start import FORGE, Host
from tests.helpers.files import picture
from tests.helpers.host import FAR, Hosts
from tests.helpers.page import Page

pytestmark = pytest.mark.host("flux page")
OF_BLOCKS = ("weight_type", "composition_weight", "boost", "embeds_scaling", "influence_map")
SD = "demo-sd15"


@pytest.fixture
def host(executable: str, hosts: Hosts) -> Host:
    return hosts.get("flux page", FORGE)


@pytest.fixture
def page(pages: Callable[..., Page]) -> Iterator[Page]:
    """A job was made with Stable Diffusion, and a unit has a reference. The checkpoint is that one afterwards."""
    from modules import shared

    before = shared.opts.data["sd_model_checkpoint"]
    made = pages()
    made.small()
    made.generate()
    made.open()
    made.add(picture(0))
    made.wait(lambda: made.number("weight") == 0.7)
    made.page.locator("#txt2img_cfg_scale input[type=number]").first.fill("1")
    yield made
    shared.opts.data["sd_model_checkpoint"] = before


def unfold(page: Page) -> None:
    page.find("advanced").locator(".label-wrap").click()
    page.wait(page.find("crop").is_visible)


def purposes(page: Page) -> dict[str, bool]:
    """Those in sight, and whether they are pressed."""
    found = page.find("purposes").locator("[data-purpose]:visible").all()
    return {one.inner_text(): one.get_attribute("aria-pressed") == "true" for one in found}


def seen(page: Page, *names: str) -> set[bool]:
    return {page.find(name).is_visible() for name in names}


def take(page: Page, model: str) -> None:
    page.choose("model", model)
    page.wait(lambda: page.find("details").locator(f"[data-variant={model}]").count())
    page.settle()


def unit(page: Page) -> dict[str, Any]:
    state = json.loads(page.state())
    return state["units"][state["shown"] - 1]


def chosen(page: Page, field: str) -> str:
    return page.find(field).locator("select").input_value()


def test_a_checkpoint_of_flux_takes_its_adapter_and_the_panel_shows_what_that_has(page: Page) -> None:
    assert page.model() == "base" and "Composition" in purposes(page)
    assert seen(page, "downsampling") == {False}
    unfold(page)
    assert seen(page, "weight_type", "layer_weights", "noise", "influence_map") == {True}
    page.checkpoint(flux.NAME)  # loaded with the next job
    page.wait(lambda: page.model() == "redux")
    page.settle()
    assert "The checkpoint is FLUX now: unit 1 takes redux instead of base." in page.note()
    assert page.find("details").locator(".ip-adapter-problem").count() == 0
    page.wait(lambda: purposes(page) == {"Whole picture": True, "Variation": False, "Style and mood": False})
    assert not page.find("purposes").get_by_text("More", exact=True).is_visible()
    assert seen(page, *OF_BLOCKS, "layer_weights", "subtract_prompt", "noise") == {False}
    assert seen(page, "downsampling", "crop", "batch", "resolution", "curve") == {True}
    page.wait(lambda: page.find("bars").locator("svg").count() == 0)
    page.checkpoint(SD)
    page.wait(lambda: page.model() == "base")
    page.wait(lambda: "Composition" in purposes(page))
    assert seen(page, "weight_type", "layer_weights", "noise", "influence_map") == {True}
    page.wait(lambda: page.find("bars").locator("rect").count() == 16)


def test_how_closely_is_in_sight_and_acts(page: Page) -> None:
    page.checkpoint(flux.NAME)
    page.wait(lambda: page.model() == "redux")
    page.settle()
    options = page.find("downsampling").locator("option")
    assert options.all_inner_texts() == ["27 × 27", "9 × 9", "5 × 5", "3 × 3"]
    page.number("weight", 1)
    closely = page.generate()
    page.find("downsampling").locator("select").select_option("3")
    page.wait(lambda: purposes(page)["Variation"])
    assert unit(page)["downsampling"] == "3" and page.find("chips").locator(".ip-adapter-chip").count() == 0
    assert abs(page.generate() - closely).mean() > FAR / 4
    page.find("purposes").locator("[data-purpose=mood]").click()
    page.wait(lambda: chosen(page, "downsampling") == "5")


def test_a_unit_begins_with_what_its_adapter_has(page: Page) -> None:
    page.checkpoint(flux.NAME)
    page.wait(lambda: page.model() == "redux")
    page.unit(2)
    page.wait(lambda: page.model() == "redux")
    page.settle()
    page.add(picture(1))
    page.wait(lambda: (chosen(page, "downsampling"), page.number("weight")) == ("3", 1))
    assert purposes(page)["Variation"]
    page.unit(3)
    take(page, "xlabs")
    page.add(picture(1))
    page.wait(lambda: page.number("weight") == 0.7)
    assert purposes(page) == {"Everything": True}
    assert seen(page, "downsampling") == {False}
    unfold(page)
    assert seen(page, *OF_BLOCKS) == {False}
    assert seen(page, "layer_weights", "subtract_prompt", "noise") == {True}
    page.wait(lambda: page.find("bars").locator("rect").count() == 19)


def test_what_is_not_in_sight_is_not_sent_and_comes_back(page: Page) -> None:
    page.find("purposes").locator("[data-purpose=style]").click()
    page.wait(lambda: page.number("weight") == 1)
    unfold(page)
    page.find("noise").locator("input[type=number]").fill("0.4")
    page.checkpoint(flux.NAME)
    page.wait(lambda: page.model() == "redux")
    page.settle()
    page.wait(lambda: page.find("chips").locator(".ip-adapter-chip").count() == 0)
    assert unit(page)["weight_type"] == "style transfer" and float(unit(page)["noise"]) == 0.4
    page.checkpoint(SD)
    page.wait(lambda: page.model() == "base")
    page.wait(lambda: purposes(page).get("Style"))
    assert chosen(page, "weight_type") == "style transfer"
    page.wait(lambda: page.find("chips").locator(".ip-adapter-chip").count() == 1)
    page.checkpoint(flux.NAME)
    page.wait(lambda: page.model() == "redux")
    page.settle()
    acting = page.generate()
    assert not isinstance(acting, str), acting


def test_redux_has_no_negative_weights(page: Page) -> None:
    def lowest() -> str | None:
        return page.find("weight").locator("input[type=range]").get_attribute("min")

    page.find("wide").click()
    page.wait(lambda: lowest() == "-1")
    page.checkpoint(flux.NAME)
    page.wait(lambda: page.model() == "redux")
    page.wait(lambda: lowest() == "0")
    page.settle()
    assert page.find("wide").get_attribute("title") == "Weights from 0 … 3 instead of 0 … 1."
    assert page.cards().locator("input[type=number]").get_attribute("min") == "0"
    take(page, "xlabs")
    page.wait(lambda: lowest() == "-1")
    assert page.find("wide").get_attribute("title") == "Weights from −1 … 3 instead of 0 … 1."
    assert page.cards().locator("input[type=number]").get_attribute("min") == "-1"


def test_an_adapter_of_the_other_kind_is_told_below_the_model(page: Page, pages: Callable[..., Page]) -> None:
    def problem(page: Page) -> str:
        return page.find("details").locator(".ip-adapter-problem").first.inner_text()

    page.take_other("redux")
    wrong = "⚠ Adapter redux is for FLUX, the checkpoint is SD1.5: load a FLUX checkpoint, or choose one of base."
    page.wait(lambda: problem(page) == wrong)
    page.checkpoint(flux.NAME)
    page.wait(lambda: page.find("details").locator("div.ip-adapter-problem").count() == 0)
    other = pages()
    other.checkpoint(flux.NAME)
    other.open()
    other.take_other("base")
    wrong = "⚠ Adapter base is for SD1.5, the checkpoint is FLUX: choose one of redux, xlabs."
    other.wait(lambda: problem(other) == wrong)


def test_forges_own_list_of_checkpoints_is_followed(page: Page) -> None:
    """It stands beside the tabs, and the page's options do not change with it."""
    from modules import shared
    from modules.sd_models import get_closet_checkpoint_match

    page.page.evaluate(  # as Forge's page has it
        "document.querySelector('#quicksettings').insertAdjacentHTML('beforeend', "
        "'<div class=\"block gradio-dropdown model_selection\"><input value=old aria-label=Checkpoint></div>')"
    )
    field = page.page.locator("#quicksettings .model_selection input")
    field.focus()
    shared.opts.data["sd_model_checkpoint"] = get_closet_checkpoint_match(flux.NAME).title
    field.fill(flux.NAME)
    field.blur()
    page.wait(lambda: page.model() == "redux")


def test_the_default_of_a_purpose_of_redux_is_kept(page: Page) -> None:
    from lib_ipadapter.webui import process

    page.checkpoint(flux.NAME)
    page.wait(lambda: page.model() == "redux")
    page.settle()
    page.find("purposes").locator("[data-purpose=mood]").click()
    page.wait(lambda: chosen(page, "downsampling") == "5")
    page.find("downsampling").locator("select").select_option("9")
    page.number("weight", 0.6)
    page.find("purposes").locator(".ip-adapter-purpose-menu").click()
    line = page.find("purposes").locator(".ip-adapter-purpose-defaults")
    line.wait_for()
    assert line.locator("option").all_inner_texts() == ["Whole picture", "Variation", "Style and mood"]
    line.locator("select").select_option("mood")
    line.get_by_text("Keep", exact=True).click()
    try:
        page.wait(lambda: "mood" in process.purposes().kept())
        assert process.purposes().kept()["mood"] == {"downsampling": 9, "weight": 0.6, "start": 0, "end": 1}
        page.wait(lambda: purposes(page)["Style and mood"])
    finally:
        process.purposes().file.unlink(missing_ok=True)


def test_how_much_it_did_is_told_without_a_press_to_more_style(page: Page) -> None:
    """Of XLabs' adapter; nobody knows which blocks of FLUX carry what, nor how much Redux' tokens did."""
    line = page.find("shares")
    page.generate()
    page.wait(line.is_visible)
    more = line.locator("button", has_text="More style, less subject")
    page.wait(more.is_visible)
    page.checkpoint(flux.NAME)
    page.wait(lambda: page.model() == "redux")
    page.settle()
    page.generate()
    page.wait(lambda: line.inner_text().startswith("Unit 1 acted; how much cannot be told"))
    page.wait(lambda: not more.is_visible())
    take(page, "xlabs")
    page.generate()
    page.wait(lambda: line.inner_text().startswith("Unit 1 added "))
    assert " % to what the model had there · " in line.inner_text()
    page.settle()
    assert not more.is_visible()
    assert "what it was added to is 100 %" in line.locator("[data-unit]").get_attribute("title")
