"""Which adapter fits a model, and which image encoder feeds an adapter."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .. import bases
from ..attend.layers import Topology
from ..checkpoint.catalog import AUTO, PUBLISHED, Catalog
from ..checkpoint.entries import AdapterEntry, EncoderEntry
from ..encode.references import BLACK, ZEROS, EncoderInput
from ..errors import MismatchError, UnitError
from ..unit import RESOLUTIONS, Unit

if TYPE_CHECKING:
    from ..checkpoint.specs import AdapterSpec
    from ..encode.clip_image import OneSource

FLUX = bases.FLUX
SOURCES = ("pooled", "penultimate", "last", "face", "face+penultimate")  # what projections can be fed with here
# Of the published face packs, the one whose embeddings each variant was trained with, and what takes them as they are.
PACK, OTHER_PACKS = "buffalo_l", {"instantid": "antelopev2"}
UNNORMALISED = ("instantid", "faceid-portrait-unnorm")


def recogniser(spec: AdapterSpec) -> str:
    """Who makes the face embeddings that an adapter takes: a pack, or what the file's metadata call it."""
    return spec.image_encoder or OTHER_PACKS.get(spec.variant, PACK)


def image_source(spec: AdapterSpec) -> tuple[OneSource, int] | None:
    """The image encoder's output that an adapter takes, and its width; None for one that sees faces alone."""
    if spec.source == "face":
        return None
    if spec.source == "pooled":
        return "pooled", spec.embedding_width
    if spec.source == "last":
        return "last", spec.embedding_width
    return "penultimate", spec.embedding_width if spec.clip_width is None else spec.clip_width


def empty_side(spec: AdapterSpec) -> EncoderInput | None:
    """What the image encoder is shown for the unconditional side; None where that is zeros instead of an embedding.
    XLabs' is a black picture, as in its own pipeline and in diffusers."""
    if spec.variant == "xlabs":
        return BLACK
    found = image_source(spec)
    return ZEROS if found is not None and found[0] == "penultimate" else None


def encoder_kind(spec: AdapterSpec) -> str | None:
    """The kind of image encoder that an adapter takes, as stored embeddings name it; None where nothing tells."""
    found = image_source(spec)
    if spec.image_encoder is not None and spec.source in ("pooled", "penultimate", "last"):
        return spec.image_encoder
    published = None if found is None else PUBLISHED.get(found)
    return published.kind if published else None


def kind_of(encoder: EncoderEntry) -> str:
    """What stored embeddings call an image encoder."""
    return encoder.spec.image_encoder or encoder.spec.kind


def with_variant(adapter: AdapterEntry, unit: Unit) -> AdapterEntry:
    """``adapter`` as the variant that the unit says it is. Raises UnitError for one that its file cannot be."""
    spec, possible = adapter.spec, (adapter.spec.variant, *adapter.spec.alternatives)
    if unit.variant in ("auto", spec.variant):
        return adapter
    if unit.variant not in possible:
        can = f"be {' or '.join(possible)}" if len(possible) > 1 else f"only be {possible[0]}"
        raise UnitError(
            f"{unit.called('variant')} is “{unit.variant}”, and the file of adapter {adapter.name} can {can}: leave it "
            "at “auto”, or choose another adapter."
        )
    others = tuple(one for one in possible if one != unit.variant)
    return replace(adapter, spec=replace(spec, variant=unit.variant, alternatives=others))


def fits(adapter: AdapterEntry, topology: Topology) -> bool:
    """Whether ``adapter`` was made for a UNet, or a FLUX, of ``topology``. Redux has no layers of its own, and those of
    InstantX' adapter go on in the single blocks, which a topology does not tell."""
    spec, widths = adapter.spec, topology.layer_widths
    if spec.context_width != topology.context_width or (spec.base == FLUX) != (topology.base == FLUX):
        return False
    if spec.variant == "redux":
        return True
    own = spec.layer_widths
    return own == widths or (spec.variant == "instantx" and len(own) > len(widths) and own[: len(widths)] == widths)


def made_for(spec: AdapterSpec) -> Topology:
    """The topology of the models that an adapter is for."""
    known, widths = bases.of(spec.context_width, len(spec.layer_widths)), spec.layer_widths
    if spec.base != FLUX:
        return Topology(spec.context_width, widths, known.blocks if known else len(widths))
    whole = spec.context_width == bases.FLUX_SIZES.context_width  # and no small one of a test
    if whole or not widths:
        widths = (bases.FLUX_SIZES.width,) * bases.FLUX_SIZES.double_blocks
    return Topology(spec.context_width, widths, len(widths), FLUX)


def check_fit(
    adapter: AdapterEntry, topology: Topology, catalog: Catalog, model: str = "the model", remedy: str | None = None
) -> None:
    """Raises MismatchError where ``adapter`` was not made for ``topology``; without another ``remedy`` it names the
    adapters that would fit, and of one for FLUX where FLUX runs."""
    if fits(adapter, topology):
        return
    spec = adapter.spec
    fitting = [entry.name for entry in catalog.adapters if fits(entry, topology)]
    theirs, is_for = spec.base, topology.base
    if theirs == is_for:
        theirs, is_for = str(made_for(spec)), str(topology)
    instead = f"choose one of {', '.join(fitting[:8])}" if fitting else f"get an adapter for {is_for}"
    wants_flux = spec.base == FLUX != topology.base
    if wants_flux and not catalog.runs_flux():
        raise MismatchError(
            f"adapter {adapter.name} is for {FLUX}, which this WebUI cannot load, and {model} is {is_for}. {FLUX} runs "
            f"on Forge and Forge Neo: use the adapter there, or {instead}."
        )
    if wants_flux:
        instead = f"load a {FLUX} checkpoint, or {instead}"
    elif not fitting:
        instead = f"load a checkpoint for {theirs}, or {instead}"
    raise MismatchError(f"adapter {adapter.name} is for {theirs}, {model} is {is_for}: {remedy or instead}.")


def encoder_for(adapter: AdapterEntry, catalog: Catalog, name: str = AUTO) -> EncoderEntry | None:
    """The image encoder that feeds ``adapter``, the one of that ``name`` if one is given; None for one that sees faces
    alone. Raises CheckpointError where it is not here."""
    found = image_source(adapter.spec)
    if found is None:
        return None
    source, width = found
    trained_with = None if adapter.spec.source.startswith("face") else adapter.spec.image_encoder
    return catalog.find_encoder(width, source, trained_with=trained_with, name=name, family=adapter.spec.family)


def other_encoders(adapter: AdapterEntry, encoder: EncoderEntry, catalog: Catalog) -> list[EncoderEntry]:
    """The image encoders besides ``encoder`` that a unit may choose for ``adapter``."""
    found = image_source(adapter.spec)
    fitting = [] if found is None else catalog.fitting_encoders(found[1], found[0], adapter.spec.family)
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
