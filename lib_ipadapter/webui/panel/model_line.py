"""The lines under a unit's list of models: what the adapter is, what feeds it, and whether it fits the checkpoint."""

from __future__ import annotations

import html

from ...checkpoint.catalog import AUTO, Catalog
from ...checkpoint.names import few, size
from ...errors import IPAdapterError
from ...jobs.fit import check_fit, encoder_for, encoder_kind, other_encoders, recogniser
from .. import host
from . import html_controls


def _line(css: str, text: str, sign: str = "", **attributes: str) -> str:
    shown = html.escape(text[:1].upper() + text[1:])
    return f"<div class='{css}'{html_controls.attributes(**attributes)}>{sign}{shown}</div>"


def problem(sentence: str) -> str:
    return _line("ip-adapter-problem", sentence, "⚠ ")


def about(model: str | None, catalog: Catalog, encoder_name: str = AUTO) -> str:
    """HTML for an adapter's name, and the name of an encoder for it; empty for none. Reads no weights. The page shows
    the variant's controls by it."""
    if not model:
        return ""
    try:
        adapter = catalog.find(model)
    except IPAdapterError as error:
        return problem(error.detail)
    spec = adapter.spec
    parts = [f"{spec.variant}, {spec.base}, {spec.tokens} tokens, {size(adapter.size)}"]
    problems = []
    try:
        encoder = encoder_for(adapter, catalog, encoder_name)
        if spec.source.startswith("face"):
            parts.append(f"faces by {recogniser(spec)}")
        if encoder is not None:
            kind = (encoder_kind(spec) if encoder_name == AUTO else None) or encoder.spec.kind
            parts.append(f"{kind} in {encoder.file_name}, {size(encoder.size)}")
            if others := other_encoders(adapter, encoder, catalog):
                parts.append(f"other image encoders that fit: {few([entry.name for entry in others])}")
    except IPAdapterError as error:
        problems.append(error.detail)
    topology = host.current().present_topology()
    if topology is not None:
        try:
            check_fit(adapter, topology, catalog, "the checkpoint")
        except IPAdapterError as error:
            problems.insert(0, error.detail)
    return _line("ip-adapter-about", " · ".join(parts), data_variant=spec.variant) + "".join(map(problem, problems))
