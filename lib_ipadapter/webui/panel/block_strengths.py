"""A unit's strength in each transformer block as a small bar picture."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from ...bases import FLUX, SD15, by_name, with_blocks
from ...checkpoint.specs import AdapterSpec
from ...errors import IPAdapterError
from ...fields import meaningless
from ...kinds import Wording
from ...unit import Unit
from ...weighting import LEANINGS, Spread, as_text, leaned, peak, spread
from . import html_controls
from .controls import CHECKED

WIDTH, HEIGHT, GAP = 12, 48, 3  # of one bar, in pixels
SECTIONS = ("input", "middle", "output")


def _section(block: int, middle: int) -> str:
    return SECTIONS[(block >= middle) + (block > middle)]


def svg(strengths_of: Spread, blocks: int, weight: float) -> str:
    """One bar for each block, upwards for strengths above 0; striped where the reference counts against the picture.

    Its height is the strength, in shares of the strongest bar or of 1, whichever is more.
    """
    strengths = [strengths_of.at(t, weight) for t in range(blocks)]
    most = max(1.0, *map(abs, strengths))
    low = min(0.0, *strengths) / most
    high = max(0.0, *strengths) / most
    scale = HEIGHT / max(high - low, 1e-6) if low < 0 else HEIGHT
    zero = high * scale if low < 0 else HEIGHT
    layout = with_blocks(blocks)
    bars = []
    for t, strength in enumerate(strengths):
        height = max(abs(strength) / most * scale, 1.0)
        top = zero - height if strength >= 0 else zero
        kind = "ip-adapter-bar-inverted" if t in strengths_of.inverted and strength else "ip-adapter-bar"
        where = f"{_section(t, layout.middle)} block" if layout else "block"
        title = f"{where} {t}: {strength:.3g}" + (", against" if t in strengths_of.inverted and strength else "")
        bars.append(
            f"<rect class='{kind}' x='{t * (WIDTH + GAP)}' y='{top:.1f}' width='{WIDTH}' height='{height:.1f}'>"
            f"<title>{html.escape(title)}</title></rect>"
        )
    total = blocks * (WIDTH + GAP) - GAP
    return (
        f"<svg class='ip-adapter-bars' viewBox='0 0 {total} {HEIGHT}' width='{total}' height='{HEIGHT}' role='img' "
        f"aria-label='Weight of each block'>{''.join(bars)}</svg>"
    )


def blocks_of(spec: AdapterSpec | None) -> int:
    """In how many blocks an adapter acts with a weight of its own; SD1.5's where nothing is chosen, 0 where all are
    alike."""
    if spec is None:
        return SD15.blocks
    if "layer_weights" in meaningless(Unit, spec.variant):
        return 0
    return len(spec.layer_widths) if spec.base == FLUX else (by_name(spec.base) or SD15).blocks


def drawn(blocks: int, unit: Unit) -> str:
    """The bars of a unit's settings in so many blocks, nothing for none; the reason as text where there are none."""
    try:
        return _bars(blocks, unit)
    except IPAdapterError as error:
        return _problem(error)


def _bars(blocks: int, unit: Unit) -> str:
    """Raises UnitError for what makes no bars."""
    if not blocks:
        return ""
    strengths = spread(unit.weight_type, blocks, unit.composition_weight, unit.boost, unit.layer_weights, unit.called)
    return svg(strengths, blocks, peak(unit.weight)) + _leanings(blocks, strengths, peak(unit.weight))


def _leanings(blocks: int, strengths: Spread, weight: float) -> str:
    """The layer weights with more style, and those with more subject, for the page's script (opened/shares.js); nothing
    for models of which nobody knows what their blocks carry, as FLUX is."""
    known = with_blocks(blocks)
    if known is None:
        return ""
    texts = {towards: as_text(leaned(strengths, weight, known, towards)) for towards in LEANINGS}
    return f"<span hidden{html_controls.attributes(data_leaned=json.dumps(texts))}></span>"


def checked(blocks: int, settings: Mapping[str, Any]) -> str:
    """As ``drawn``, from what the panel's fields hold. Of a curve and of layer weights that cannot be used, the bars do
    without; the reason goes along for the page, which shows it beside the field. Where the other fields alone make no
    bars, theirs is the only reason."""
    given, reasons = {"enabled": False, **settings}, {}
    written = {field: given.pop(field) for field in CHECKED}
    try:
        shown = _bars(blocks, Unit.parse(given, wording=Wording.PANEL))
    except IPAdapterError as error:
        return _problem(error)
    for field, value in written.items():
        if value is None:
            continue
        try:
            shown = _bars(blocks, Unit.parse({**given, CHECKED[field]: value}, wording=Wording.PANEL))
            given[CHECKED[field]] = value
        except IPAdapterError as error:
            reasons[field] = error.detail
    notes = "".join(f"<span hidden data-wrong='{field}'>{html.escape(text)}</span>" for field, text in reasons.items())
    return shown + notes


def _problem(error: IPAdapterError) -> str:
    return f"<div class='ip-adapter-problem'>⚠ {html.escape(error.detail)}</div>"
