"""What is known of the base models SD1.5, SD2.x, SDXL and FLUX: widths, counts, and what each block carries.

This is the one place that knows such numbers; everything else asks it. Blocks are a UNet's transformers
(SpatialTransformer) in forward order, input -> middle -> output, counted from 0 by the index t; FLUX's are its double
blocks, of which nobody knows what they carry. Which of them carry
style and composition follows ComfyUI_IPAdapter_plus; the InstantStyle blocks are its authors' own (arXiv 2404.02733
for SDXL, their later figures for SD1.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Base:
    """One kind of UNet.

    ``context_width`` is the width of its text context, ``layers`` the number of its cross-attention layers, ``blocks``
    that of its transformers, ``middle`` the index of the one in the middle block.
    """

    name: str
    context_width: int
    layers: int
    blocks: int
    middle: int
    style_blocks: frozenset[int]
    composition_blocks: Mapping[int, float]  # with their shares of the weight
    precise_rest: Mapping[int, float]  # the same for what "composition precise" leaves of the other blocks
    instant_style_blocks: frozenset[int]  # InstantStyle's own definitions
    instant_composition_blocks: frozenset[int]

    @property
    def all_blocks(self) -> range:
        return range(self.blocks)

    @property
    def input_blocks(self) -> range:
        return range(self.middle)

    @property
    def middle_blocks(self) -> range:
        return range(self.middle, self.middle + 1)

    @property
    def output_blocks(self) -> range:
        return range(self.middle + 1, self.blocks)

    def section(self, block: int) -> str:
        """Where the block stands: "input", "middle" or "output"."""
        return "input" if block < self.middle else "middle" if block == self.middle else "output"

    def carries(self, block: int) -> str:
        """What the block carries: "style", "composition" or "rest"."""
        return "style" if block in self.style_blocks else "composition" if block in self.composition_blocks else "rest"


@dataclass(frozen=True)
class Flux:
    """FLUX, which is no UNet: ``double_blocks`` in which text and picture are apart, ``width`` channels each, and then
    ``single_blocks`` in which they are one row of tokens. ``head_width`` is that of its attention's heads."""

    name: str = "FLUX"  # as FLUX below
    context_width: int = 4096
    width: int = 3072
    head_width: int = 128
    double_blocks: int = 19
    single_blocks: int = 38

    @property
    def blocks(self) -> int:
        """How many blocks have a weight of their own."""
        return self.double_blocks


SD15 = Base(
    name="SD1.5",
    context_width=768,
    layers=16,
    blocks=16,
    middle=6,
    style_blocks=frozenset({*range(4), *range(9, 16)}),
    composition_blocks={4: 0.25, 5: 1.0},
    precise_rest={**dict.fromkeys((*range(4), *range(9, 16)), 1.0), **dict.fromkeys(range(6, 9), 0.1)},
    instant_style_blocks=frozenset(range(7, 10)),
    instant_composition_blocks=frozenset({4, 5, 6}),
)
SD2 = replace(SD15, name="SD2.x", context_width=1024)
SDXL = Base(
    name="SDXL",
    context_width=2048,
    layers=70,
    blocks=11,
    middle=4,
    style_blocks=frozenset({6}),
    composition_blocks={3: 1.0},
    precise_rest={6: 1.0, **dict.fromkeys((*range(3), 4, 5, *range(7, 11)), 0.1)},
    instant_style_blocks=frozenset({6}),
    instant_composition_blocks=frozenset({3}),
)
BASES = (SD15, SD2, SDXL)

FLUX, KOLORS = "FLUX", "Kolors"  # no UNets: the one has hooks of its own, the other is refused
FLUX_SIZES = Flux()  # of FLUX.1; nothing else is called so, but small ones in tests
REFINERS = {1280: "SDXL refiner"}  # by context width; no adapter is made for one


def by_name(name: str | None) -> Base | None:
    """The base of this name ("SD1.5", "SD2.x", "SDXL"), None for any other."""
    return next((base for base in BASES if base.name == name), None)


def of(context_width: int, layers: int) -> Base | Flux | None:
    """The base with so wide a text context and so many cross-attention layers, which together tell it; FLUX by its
    double blocks, which are the layers in its place."""
    if (context_width, layers) == (FLUX_SIZES.context_width, FLUX_SIZES.double_blocks):
        return FLUX_SIZES
    return next((base for base in BASES if (base.context_width, base.layers) == (context_width, layers)), None)


def with_context(context_width: int) -> Base | None:
    """The base whose text context is so wide, whatever the number of its layers."""
    return next((base for base in BASES if base.context_width == context_width), None)


def with_blocks(blocks: int) -> Base | None:
    """A base with so many transformers. Those of SD1.5 and SD2.x carry the same."""
    return next((base for base in BASES if base.blocks == blocks), None)


def blocks_of_each() -> str:
    """For sentences: how many transformers the bases have that adapters were published for."""
    return ", ".join(f"{base.blocks} in {base.name}" for base in (SD15, SDXL, FLUX_SIZES))


def context_of_each() -> str:
    """For sentences: how wide the bases' text contexts are."""
    (first, width), *others = [(base.name, base.context_width) for base in BASES]
    *between, last = [f"{name} {width}" for name, width in others]
    return f"{', '.join([f'{first} has {width}', *between])} and {last}"
