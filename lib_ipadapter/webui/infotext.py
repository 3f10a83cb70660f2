"""Units <-> the generation parameters that the WebUI writes into pictures."""

from __future__ import annotations

import json
from typing import Any

from ..generation import Plan

HASH_LENGTH = 12  # hexadecimal digits of a reference's content hash that are written


def _quoted(value: Any) -> str:
    """A value as it stands in "name: value, name: value"; JSON where it would break that form."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ',:"\n') else text


def _reference(plan: Plan, index: int) -> str:
    weight = plan.unit.references[index].weight
    return plan.fingerprints[index][:HASH_LENGTH] + (f"*{weight:g}" if weight != 1 else "")


def parameters(plans: list[Plan]) -> dict[str, str]:
    """The entries ``IP-Adapter n`` for ``p.extra_generation_params``: model, fields that differ from their defaults,
    and the references' content hashes (with their own weight after a star)."""
    entries = {}
    for plan in plans:
        values = {"model": plan.adapter.name, **plan.unit.changed()}
        values["references"] = " ".join(_reference(plan, i) for i in range(len(plan.fingerprints)))
        entries[f"IP-Adapter {plan.number}"] = ", ".join(f"{k}: {_quoted(v)}" for k, v in values.items())
    return entries
