"""How much each unit of a job did, in which blocks, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .. import bases
from ..attend.shares import THIRDS, Shares, Unknown

# In which groups are told.
_ORDER = ("style", "composition", "rest", "input", "middle", "output", "double", "single")
_OF_FLUX = {"double", "single"}  # where its blocks stand


class UnitShare(NamedTuple):
    """What a unit added to the text's attention, as a share of it (attend/shares.py): in the ``whole`` job, of that
    what it added in groups of ``blocks``, and in each of the ``thirds`` of the steps, None for one without steps.
    ``whole`` is None for a unit that has acted where nothing tells how much, and ``why`` says why."""

    number: int
    whole: float | None
    blocks: Mapping[str, float] = {}
    thirds: tuple[float | None, ...] = ()
    why: Unknown | None = None

    def told(self) -> dict[str, Any]:
        """As JSON has it, in four digits."""
        if self.whole is None:
            return {"unit": self.number, "influence": None, "why": self.why}
        return {
            "unit": self.number,
            "influence": _rounded(self.whole),
            "blocks": {name: _rounded(value) for name, value in self.blocks.items()},
            "thirds": [None if value is None else _rounded(value) for value in self.thirds],
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
    why = next((one.unknown for one in measured if one.unknown is not None), None)
    if why is not None:
        return UnitShare(number, None, why=why)
    blocks, thirds, whole = dict.fromkeys(_told(measured, groups), 0.0), [0.0] * THIRDS, 0.0
    counts = [0] * THIRDS
    for one in measured:
        for third, (of_third, count) in enumerate(zip(one.by_block(), one.steps, strict=True)):
            counts[third] += count
            thirds[third] += sum(of_third.values())
            for block, value in of_third.items():
                part = value * count / sum(one.steps)
                blocks[groups[block]] += part
                whole += part
    if whole <= 0:
        return None
    of_thirds = (value if count else None for value, count in zip(thirds, counts, strict=True))
    return UnitShare(number, whole, blocks, tuple(of_thirds))


def _told(measured: Sequence[Shares], groups: Mapping[int, str]) -> list[str]:
    """The groups of the blocks in which these prompts may act, in their order."""
    return sorted({groups[block] for one in measured for block in one.blocks if block in groups}, key=_ORDER.index)
