"""How much each unit of a job did, in which blocks, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .. import bases
from ..attend.shares import THIRDS, Shares

# In which groups are told.
_ORDER = ("style", "composition", "rest", "input", "middle", "output", "double", "single")
_OF_FLUX = {"double", "single"}  # where its blocks stand


class UnitShare(NamedTuple):
    """What a unit added to the text's attention, as a share of it (attend/shares.py): in the ``whole`` job, of that
    what it added in groups of ``blocks``, and in each of the ``thirds`` of the steps. ``whole`` is None for a unit that
    has acted where nothing tells how much."""

    number: int
    whole: float | None
    blocks: Mapping[str, float] = {}
    thirds: tuple[float, ...] = ()

    def told(self) -> dict[str, Any]:
        """As JSON has it, in four digits."""
        if self.whole is None:
            return {"unit": self.number, "influence": None}
        return {
            "unit": self.number,
            "influence": _rounded(self.whole),
            "blocks": {name: _rounded(value) for name, value in self.blocks.items()},
            "thirds": [_rounded(value) for value in self.thirds],
        }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def groups_of(sections: Mapping[int, str]) -> dict[int, str]:
    """For each block what it carries, "style", "composition" or "rest", where that is known of a UNet with so many;
    else where it stands, as ``sections`` say."""
    base = None if _OF_FLUX & {*sections.values()} else bases.with_blocks(len(sections))
    return dict(sections) if base is None else {block: base.carries(block) for block in sections}


def unit_share(number: int, measured: Sequence[Shares], groups: Mapping[int, str]) -> UnitShare | None:
    """The sum of what a unit's prompts did, one for each of its places. None for a unit that did nothing. ``groups``:
    that of each block."""
    if any(one.unknown for one in measured):
        return UnitShare(number, None)
    blocks, thirds, whole = dict.fromkeys(_told(measured, groups), 0.0), [0.0] * THIRDS, 0.0
    for one in measured:
        for third, (of_third, count) in enumerate(zip(one.by_block(), one.steps, strict=True)):
            thirds[third] += sum(of_third.values())
            for block, value in of_third.items():
                part = value * count / sum(one.steps)
                blocks[groups[block]] += part
                whole += part
    return UnitShare(number, whole, blocks, tuple(thirds)) if whole > 0 else None


def _told(measured: Sequence[Shares], groups: Mapping[int, str]) -> list[str]:
    """The groups of the blocks in which these prompts may act, in their order."""
    return sorted({groups[block] for one in measured for block in one.blocks if block in groups}, key=_ORDER.index)
