"""What is known of the base models, against figures written down by hand."""

from __future__ import annotations

import pytest

from lib_ipadapter import bases
from lib_ipadapter.bases import BASES, SD2, SD15, SDXL

GOLDEN = {
    "SD1.5": (768, 16, 16, 6, 9, [*range(4), *range(9, 16)], {4: 0.25, 5: 1.0}, [7, 8, 9], [4, 5, 6]),
    "SD2.x": (1024, 16, 16, 6, 9, [*range(4), *range(9, 16)], {4: 0.25, 5: 1.0}, [7, 8, 9], [4, 5, 6]),
    "SDXL": (2048, 70, 11, 4, 6, [6], {3: 1.0}, [6], [3]),
}  # context, layers, blocks, input blocks, output blocks, style, composition, InstantStyle's style and composition


def test_every_base_has_its_published_numbers() -> None:
    found = {
        base.name: (
            base.context_width, base.layers, base.blocks, len(base.input_blocks), len(base.output_blocks),
            sorted(base.style_blocks), dict(base.composition_blocks),
            sorted(base.instant_style_blocks), sorted(base.instant_composition_blocks),
        )
        for base in BASES
    }  # fmt: skip
    assert found == GOLDEN


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)
def test_its_sections_are_all_blocks_in_forward_order(base: bases.Base) -> None:
    assert [*base.input_blocks, *base.middle_blocks, *base.output_blocks] == [*base.all_blocks] == [*range(base.blocks)]
    assert [base.section(t) for t in base.all_blocks] == (
        ["input"] * len(base.input_blocks) + ["middle"] + ["output"] * len(base.output_blocks)
    )
    named = {*base.style_blocks, *base.composition_blocks, *base.precise_rest, *base.instant_style_blocks}
    assert named | base.instant_composition_blocks <= set(base.all_blocks)
    assert set(base.precise_rest) == set(base.all_blocks) - set(base.composition_blocks)


def test_they_are_found_by_name_by_shape_and_by_blocks() -> None:
    assert [bases.by_name(name) for name in ("SD1.5", "SD2.x", "SDXL", "FLUX", None)] == [SD15, SD2, SDXL, None, None]
    assert [bases.of(768, 16), bases.of(1024, 16), bases.of(2048, 70)] == [SD15, SD2, SDXL]
    assert bases.of(768, 70) is bases.of(2048, 16) is bases.of(4096, 16) is None
    assert bases.with_context(2048) is SDXL and bases.with_context(1280) is None
    assert bases.with_blocks(16) is SD15 and bases.with_blocks(11) is SDXL and bases.with_blocks(12) is None
    assert bases.blocks_of_each() == "16 in SD1.5, 11 in SDXL, 19 in FLUX"
    assert bases.of(4096, 19) is bases.FLUX_SIZES and bases.FLUX_SIZES.blocks == 19
