"""The documentation's tables of fields and weight types, printed by ``python -m lib_ipadapter.field_table``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import groupby, pairwise

from .bases import SD15, SDXL, Base
from .fields import Setting, settings_of
from .reference import References
from .unit import Unit
from .weighting import INVERTING, WEIGHT_TYPES, spread

HEAD = ("| field | default | values | meaning |", "|---|---|---|---|")
TYPES_HEAD = (
    f"| `weight_type` | SD1.5 and SD2.x, blocks 0 to {SD15.blocks - 1} | SDXL, blocks 0 to {SDXL.blocks - 1} |",
    "|---|---|---|",
)
FEW = 4  # different factors; a type with more is a slope


def _row(setting: Setting) -> str:
    kind = setting.kind
    names = list(reversed(kind.names)) if isinstance(kind, References) else [setting.name]
    shown = " or ".join(f"`{name}`" for name in names)
    default = list(setting.default or ()) if isinstance(kind, References) else setting.default
    written = "required" if setting.is_required else f"`{json.dumps(default)}`"
    return f"| {shown} | {written} | {kind.values} | {setting.about} |"


def table(unit_class: type[Unit] = Unit) -> str:
    """A Markdown table with a row for each declared field."""
    return "\n".join([*HEAD, *map(_row, settings_of(unit_class).values())])


def weight_types_table() -> str:
    """A Markdown table with a row for each weight type: which blocks get how much of the weight."""
    rows = (f"| `{name}` | {_blocks(name, SD15)} | {_blocks(name, SDXL)} |" for name in WEIGHT_TYPES)
    return "\n".join([*TYPES_HEAD, *rows])


def _blocks(weight_type: str, base: Base) -> str:
    of_type = spread(weight_type, base.blocks, composition_weight=1.0, boost=1.0)
    if len(set(of_type.factors.values())) > FEW:
        return _slope([of_type.factors[t] for t in base.all_blocks])
    parts = [_shares(of_type.factors, base)]
    if of_type.extra:
        second = "boost" if weight_type in INVERTING else "composition_weight"
        side = "negative side, " if of_type.inverted else ""
        parts.append(f"{side}by `{second}`: {_shares(of_type.extra, base)}")
    return "; ".join(parts)


def _shares(factors: Mapping[int, float], base: Base) -> str:
    """ "0–3, 4 (0.25), 9–15": the blocks that get something, with the factors that are not 1."""
    runs = []
    for factor, run in groupby(base.all_blocks, lambda t: factors.get(t, 0.0)):
        if factor:
            blocks = [*run]
            first, last = blocks[0], blocks[-1]
            named = "all" if len(blocks) == base.blocks else f"{first}–{last}" if first < last else f"{first}"
            runs.append(named if factor == 1 else f"{named} ({factor:g})")
    return ", ".join(runs)


def _slope(factors: list[float]) -> str:
    """ "0 (1) → 15 (0.11)": the ends and what lies farthest between them."""
    last = len(factors) - 1
    rises = [after - before for before, after in pairwise(factors)]
    turns = [t for t in range(1, last) if rises[t - 1] and rises[t - 1] * rises[t] <= 0]
    return " → ".join(f"{t} ({factors[t]:.2g})" for t in (0, *turns, last))


if __name__ == "__main__":
    print(table(), weight_types_table(), sep="\n\n")
