"""The bar picture of a unit's blocks: as many bars as blocks, as high as the strengths."""

from __future__ import annotations

import re

import pytest

from lib_ipadapter.bases import SD15, SDXL
from lib_ipadapter.unit import Unit


def bars(text: str) -> list[tuple[str, float, float, str]]:
    """Class, top, height and title of each bar."""
    found = re.findall(r"<rect class='([\w-]+)' .*?y='([-\d.]+)' .*?height='([\d.]+)'><title>(.*?)</title>", text)
    return [(kind, float(top), float(height), title) for kind, top, height, title in found]


def drawn(blocks=SD15.blocks, **settings):
    from lib_ipadapter.webui.panel.block_strengths import drawn

    return bars(drawn(blocks, unit(**settings)))


def unit(**settings) -> Unit:
    return Unit.parse({"enabled": False, **settings})


def test_as_many_bars_as_blocks_as_high_as_they_are_strong() -> None:
    assert (len(drawn()), len(drawn(SDXL.blocks))) == (16, 11)
    heights = [height for _, _, height, _ in drawn(weight_type="ease in")]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] == pytest.approx(48)
    assert heights[8] == pytest.approx(48 * 0.525, abs=0.1)
    titles = [title for *_, title in drawn(weight=0.5)]
    assert (titles[0], titles[6], titles[15]) == ("input block 0: 0.5", "middle block 6: 0.5", "output block 15: 0.5")


def test_what_is_turned_around_is_marked() -> None:
    kinds = [kind for kind, *_ in drawn(weight_type="style transfer precise")]
    assert [t for t, kind in enumerate(kinds) if "inverted" in kind] == [4, 5]


def test_negative_strengths_hang_below_the_line() -> None:
    found = drawn(layer_weights={3: 1.0, 5: -1.0})
    assert found[3][1] + found[3][2] == pytest.approx(found[5][1])
    assert found[3][2] == found[5][2] == pytest.approx(24)


def test_what_makes_no_bars_says_why() -> None:
    from lib_ipadapter.webui.panel import block_strengths as bars

    text = bars.drawn(SDXL.blocks, unit(layer_weights=[1.0] * 16))
    assert "holds 16 numbers, but this model has 11 transformer blocks" in text


def test_a_reason_stands_beside_its_own_field_alone() -> None:
    from lib_ipadapter.webui.panel.block_strengths import checked

    def wrong(**settings) -> tuple[list[str], int]:
        fine = {"weight": 1.0, "curve": None, "weight_type": "linear", "layer_weights": None}
        text = checked(SD15.blocks, {**fine, **settings})
        return re.findall("data-wrong='(.*?)'", text), len(bars(text))

    assert wrong(curve="0:1 1:0", layer_weights="1:0.5") == ([], 16)
    assert wrong(curve="0:1 1:", layer_weights="99:1") == (["curve", "layer_weights"], 16)
    assert wrong(curve="0:1 1:0", layer_weights="99:1") == (["layer_weights"], 16)
    assert wrong(curve="0:1 1:0", layer_weights="1:0.5", composition_weight=99) == ([], 0)


def test_flux_has_the_bars_of_its_own_blocks() -> None:
    from lib_ipadapter.checkpoint.identify import identify
    from lib_ipadapter.webui.panel.block_strengths import blocks_of, drawn
    from tests.helpers.checkpoint_shapes import linear, xlabs

    assert blocks_of(None) == 16
    beside = blocks_of(identify(xlabs(4, 19, 3072, 4096, 768)))
    titles = [title for *_, title in bars(drawn(beside, unit(layer_weights={18: 0.5})))]
    assert (len(titles), titles[18]) == (19, "block 18: 0.5")
    behind = blocks_of(identify(linear("redux_up", 12288, 1152) | linear("redux_down", 4096, 12288)))
    assert drawn(behind, unit()) == ""
