"""A field that is declared is in the panel and among the axes of plots, without a word about it in either."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from demo.start import Host, host_start
from lib_ipadapter.fields import PanelPlace, declared, settings_of
from lib_ipadapter.kinds import Choice, Number
from lib_ipadapter.unit import Unit

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "README.md").exists())


@dataclass(frozen=True)
class ToyUnit(Unit):
    glow: float = field(default=0.5, metadata=declared(Number(-2, 2), PanelPlace("Glow", "How it glows.")))
    mood: str = field(default="calm", metadata=declared(Choice(("calm", "wild")), PanelPlace("Mood", "Its mood.")))


@pytest.fixture(scope="module", autouse=True)
def host() -> Host:
    with torch.enable_grad():
        started = host_start([ROOT], {"sd_model_checkpoint": "demo-sd15", "live_previews_enable": False})
    yield started
    started.close()


def test_the_panel_has_a_control_for_it() -> None:
    from lib_ipadapter.webui.panel.controls import controls_of

    by_name = {control.field: control for control in controls_of(ToyUnit)}
    glow, mood = by_name["glow"].html("glow-id"), by_name["mood"].html("mood-id")
    assert "min='-2'" in glow and "max='2'" in glow and "title='How it glows.'" in glow
    assert "data-default='0.5'" in glow and "<span>Glow</span>" in glow
    assert "<option value='wild'>wild</option>" in mood and html.escape('"calm"') in mood
    assert by_name["glow"].read(1.5) == 1.5 and by_name["mood"].show("wild") == "wild"


def test_plots_have_axes_for_it() -> None:
    from lib_ipadapter.webui.neighbours import xyz

    axes = {axis.label: axis for axis in xyz.axes(2, lambda: None, ToyUnit)}
    assert axes["[IP-Adapter] Glow 2"].type is float and axes["[IP-Adapter] Glow 2"].choices is None
    assert axes["[IP-Adapter] Mood 1"].choices() == ["calm", "wild"]


def test_every_number_choice_and_text_has_a_control_with_the_declared_limits() -> None:
    from lib_ipadapter.webui.panel.controls import BY_FIELD

    for name, setting in settings_of(Unit).items():
        assert (name in BY_FIELD) == (setting.kind.is_value or name == "model")
    composition = BY_FIELD["composition_weight"].html("an-id")
    assert "min='-5'" in composition and "max='5'" in composition


def test_sentences_about_the_panels_units_speak_of_the_panel() -> None:
    from lib_ipadapter.kinds import Wording
    from lib_ipadapter.webui.panel import accordion

    places = [accordion.NOT_SENT] * accordion.API_PLACES
    assert accordion.wording((*places, "", True)) is Wording.PANEL
    assert accordion.wording((*places, "", False)) is Wording.API
    assert accordion.wording((*[{}], *places[1:], "", True)) is Wording.API
