"""The panel's arguments: the units that the page asks for."""

from __future__ import annotations

import json

import pytest

from demo.start import Host
from lib_ipadapter.encode.picture import content_hash
from lib_ipadapter.errors import IPAdapterError
from tests.helpers.files import base64_of, picture, unit
from tests.helpers.host import difference, make
from tests.helpers.panel import from_panel, panel_args


def test_the_panels_units(host: Host) -> None:
    from modules import shared

    from lib_ipadapter.unit import parse_units
    from lib_ipadapter.webui.panel import accordion as panel

    assert shared.sd_model is not None  # asked for, so it is loaded
    one, two = picture(1), picture(2)
    units = ({}, {"pictures": [one, two], "model": "base", "weight": 0.5}, {"pictures": [one], "model": "plus"})
    for shown in (1, 2, 3):
        found = parse_units(panel.units(tuple(panel_args(host, *units, shown=shown))))
        assert [(unit.number, unit.model, unit.weight, len(unit.references)) for unit in found] == [
            (2, "base", 0.5, 2),
            (3, "plus", 1.0, 1),
        ]
    assert panel.units(tuple(panel_args(host, *units, tick=False))) == []
    with pytest.raises(IPAdapterError, match="ticked, but no unit has a reference"):
        panel.units(tuple(panel_args(host, {}, {"model": "base"})))
    for none_by_hand in ({}, {"fitted": {"SD1.5": "base"}}):
        args = panel_args(host, {}, {"pictures": [one], **none_by_hand})
        if none_by_hand:
            with pytest.raises(IPAdapterError, match="unit 2: model is missing"):
                parse_units(panel.units(tuple(args)))
        else:
            assert parse_units(panel.units(tuple(args)))[0].model == "a, b: c"
    for role, says in (("negative", "only negative references"), ("pose", "only a picture for the pose")):
        lone = {"pictures": [one], "images": [], "model": "base"}
        args = panel_args(host, {"pictures": [two], "model": "base"}, lone)
        args[panel.API_PLACES + 2] = args[panel.API_PLACES + 2].replace('"key": "2-0"', f'"{role}": true, "key": "2-0"')
        with pytest.raises(IPAdapterError, match=f"unit 2: it has {says}"):
            panel.units(tuple(args))


def test_pictures_that_are_not_there(host: Host) -> None:
    """After a restart the page has its keys, and the server no pictures; or they are still on their way."""
    from lib_ipadapter.webui.panel import accordion as panel

    def units(item: dict, **kwargs) -> list:
        unit = {"pictures": [picture(1)], "model": "base", "images": [{"key": "k", "weight": 0.5, **item}]}
        return panel.units(tuple(panel_args(host, {}, {**unit, **kwargs.pop("unit", {})}, **kwargs)))

    with pytest.raises(IPAdapterError, match="^IP-Adapter unit 2: 1 of its 2 references is not on the server any more"):
        units({})
    with pytest.raises(IPAdapterError, match="reload the page, or remove the references and add them again"):
        units({})
    with pytest.raises(IPAdapterError, match="^IP-Adapter unit 2: a reference is still on its way"):
        units({"waiting": True})
    arriving = json.dumps({"key": "k", "data": base64_of(picture(2))})
    (_, unit) = units({"waiting": True}, inbox=arriving)
    assert [one["weight"] for one in unit["images"]] == [1, 0.5]
    assert unit["images"][1]["image"].content_hash == content_hash(picture(2))
    with pytest.raises(IPAdapterError, match="no unit has a reference"):
        units({}, unit={"enabled": False})
    args = panel_args(host, {}, {"enabled": False, "images": [{"key": "k"}]})
    with pytest.raises(IPAdapterError, match="unit 2"):  # nothing is left out of a preset
        panel.presets_units(tuple(args[panel.API_PLACES + 2 :]))
    for damaged in ("", "null", "[]", '{"shown": 3, "units": [{}]}', '{"shown": 1, "units": [{"images": 3}]}'):
        args = panel_args(host, {})
        args[panel.API_PLACES + 2] = damaged
        with pytest.raises(IPAdapterError, match="reload the page"):
            panel.units(tuple(args))


def test_a_clients_units_count_whatever_the_panel_says(host: Host) -> None:
    from lib_ipadapter.webui.panel import accordion as panel

    args = panel_args(host, {"pictures": [picture(1)], "model": "base"})
    args[:3] = [{"model": "plus"}, {"enabled": False}, None]
    assert panel.units(tuple(args)) == args[:3]


def test_the_panel_generates_what_the_api_generates(host: Host, plain) -> None:
    """The same units through the page's arguments: the same picture, and the same sentence when one is wrong."""
    tab = {"pictures": [picture(0)], "model": "base", "weight": 0.7}
    assert difference(from_panel(host, tab, {}, {}), make(host, unit(weight=0.7))) == 0
    with pytest.raises(IPAdapterError, match=r"^IP-Adapter unit 2: adapter wide is for SDXL"):
        from_panel(host, {}, {**tab, "model": "wide"}, {})


def test_the_page_has_the_panel_in_both_tabs(host: Host) -> None:
    ids = {block.elem_id for block in host.blocks.blocks.values() if getattr(block, "elem_id", None)}
    for tab in ("txt2img", "img2img"):
        assert f"{tab}_ip_adapter" in ids
        assert {f"{tab}_ip_adapter_{name}" for name in ("units", "state", "drop_area", "model", "weight")} <= ids


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_the_panel_costs_few_components(tab: str, host: Host) -> None:
    import gradio as gr

    from lib_ipadapter.webui import process
    from lib_ipadapter.webui.panel import accordion as panel
    from lib_ipadapter.webui.panel.controls import COMPONENTS

    with gr.Blocks() as blocks:
        components = panel.build(tab, process.resources, process.store).components
    assert len(components) == panel.API_PLACES + 2 + 3 + len(COMPONENTS)
    assert not any(isinstance(block, gr.Image) for block in blocks.blocks.values())  # the page takes 15 ms for each
    drawn = [block for block in blocks.blocks.values() if not isinstance(block, gr.State)]
    assert len(drawn) <= 46, len(drawn)


def test_references_of_an_unticked_panel_are_told_and_refuse_nothing(host: Host, plain, monkeypatch) -> None:
    from modules import processing

    said = []
    monkeypatch.setattr(processing.StableDiffusionProcessing, "comment", lambda p, text: said.append(text))
    tab = {"pictures": [picture(0)], "model": "base"}
    for units, is_told in (([tab], True), ([{}, tab], True), ([{}], False), ([{**tab, "enabled": False}], False)):
        said.clear()
        assert difference(from_panel(host, *units, tick=False), make(host)) == 0
        assert any("IP-Adapter is not ticked" in text for text in said) is is_told, units
    said.clear()
    from_panel(host, tab)
    make(host, unit())
    make(host)
    assert said == []


@pytest.mark.parametrize("args", [(), ("(no unit)",) * 11, (None,) * 80, (0,) * 80, (False, "", 0.0, None) * 20])
def test_arguments_that_are_not_ours_say_nothing(args: tuple, host: Host) -> None:
    from lib_ipadapter.kinds import Wording
    from lib_ipadapter.webui.panel import accordion as panel

    assert panel.units(args, is_api=True) == []
    assert panel.wording(args) is Wording.API
    assert not panel.left_out(args)


def test_a_unit_counts_however_few_arguments_there_are(host: Host) -> None:
    from lib_ipadapter.webui.panel import accordion as panel

    assert panel.units((unit(),)) == [unit()]
    assert panel.units((None, unit())) == [None, unit()]  # for the job to refuse
    assert not panel.left_out((unit(),))
