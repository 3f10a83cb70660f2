"""Which adapter fits a model, and which image encoder feeds an adapter."""

from __future__ import annotations

from ..attend.layers import Topology
from ..checkpoint.catalog import AUTO, Catalog
from ..checkpoint.entries import AdapterEntry, EncoderEntry
from ..errors import CheckpointError, MismatchError

SOURCES = ("pooled", "penultimate")  # what projections can be fed with here; faces are not among it yet


def fits(adapter: AdapterEntry, topology: Topology) -> bool:
    """Whether ``adapter`` was made for a UNet of ``topology``."""
    spec = adapter.spec
    return (spec.context_width, spec.layer_widths) == (topology.context_width, topology.layer_widths)


def check_fit(
    adapter: AdapterEntry, topology: Topology, catalog: Catalog, model: str = "the model", remedy: str | None = None
) -> None:
    """Raises MismatchError where ``adapter`` was not made for ``topology``; without another ``remedy`` it names the
    adapters that would fit."""
    if fits(adapter, topology):
        return
    spec = adapter.spec
    fitting = [
        entry.name for entry in catalog.adapters if fits(entry, topology) and entry.spec.source in SOURCES
    ]  # fmt: skip
    made_for, is_for = spec.base, topology.base
    if made_for == is_for:
        made_for = str(Topology(spec.context_width, spec.layer_widths))
        is_for = str(topology)
    remedy = remedy or (
        f"choose one of {', '.join(fitting[:8])}"
        if fitting
        else f"load a checkpoint for {made_for}, or get an adapter for {is_for}"
    )
    raise MismatchError(f"adapter {adapter.name} is for {made_for}, {model} is {is_for}: {remedy}.")


def encoder_for(adapter: AdapterEntry, catalog: Catalog, name: str = AUTO) -> EncoderEntry:
    """The image encoder that feeds ``adapter``, the one of that ``name`` if one is given. Raises CheckpointError where
    it needs a face, or has none here."""
    spec = adapter.spec
    if spec.source not in SOURCES:
        raise CheckpointError(
            f"adapter {adapter.name} ({spec.variant}) is fed with a face recognition embedding, which this version "
            "cannot make: choose an adapter that is fed by an image encoder."
        )
    return catalog.find_encoder(spec.embedding_width, spec.source, trained_with=spec.image_encoder, name=name)


def other_encoders(adapter: AdapterEntry, encoder: EncoderEntry, catalog: Catalog) -> list[EncoderEntry]:
    """The image encoders besides ``encoder`` that a unit may choose for ``adapter``."""
    fitting = catalog.fitting_encoders(adapter.spec.embedding_width, adapter.spec.source)
    return [entry for entry in fitting if entry != encoder]
