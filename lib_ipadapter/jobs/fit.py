"""Which adapter fits a model, and which image encoder feeds an adapter."""

from __future__ import annotations

from ..attend.layers import Topology
from ..checkpoint.catalog import AUTO, Catalog
from ..checkpoint.entries import AdapterEntry, EncoderEntry
from ..errors import CheckpointError, MismatchError, UnitError
from ..unit import RESOLUTIONS, Unit

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


def seen_size(unit: Unit, adapter: AdapterEntry, encoder: EncoderEntry) -> int:
    """The side, in pixels, of what ``encoder`` is shown for ``unit``: as the unit says, or as ``adapter``'s file does,
    or else its own. Raises UnitError for one that is out of bounds or does not divide into the encoder's patches."""
    patch, name = encoder.spec.patch, unit.called("resolution")
    size = adapter.spec.resolution if unit.resolution is None else unit.resolution
    if size is None or size == encoder.spec.image_size:
        return encoder.spec.image_size
    low, high = (-(-RESOLUTIONS[0] // patch) * patch, RESOLUTIONS[1] // patch * patch)
    if size % patch or not low <= size <= high:
        what, remedy = f"{name} is {size}", "give"
        if unit.resolution is None:
            what, remedy = f"the file of {adapter.name} says resolution {size}", f"set {name} to"
        nearest = min(high, max(low, round(size / patch) * patch))
        raise UnitError(
            f"{what}, and its image encoder {encoder.name} sees multiples of {patch} from {low} to {high}: {remedy} "
            f"{nearest}, for example."
        )
    return size
