"""Units -> plans: everything about a unit that can be checked without loading weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from ..attend.layers import Topology
from ..attend.regions import Region, feathered
from ..encode.crops import tile_count
from ..encode.picture import Mask, Picture
from ..encode.references import EncoderInput, UnitInputs
from ..errors import CheckpointError, IPAdapterError, PictureError, UnitError, errors_name_unit
from ..unit import Reference, Unit
from ..weighting import Spread, peak, spread
from .fit import check_fit, encoder_for, seen_size

if TYPE_CHECKING:
    from ..checkpoint.catalog import Catalog
    from ..checkpoint.entries import AdapterEntry, EncoderEntry
    from ..checkpoint.specs import AdapterSpec
    from ..encode.clip_image import OneSource

T = TypeVar("T")
BLACK, WHITE = (0, 0), (255, 255)  # extrema of masks that are so all over
ROUNDING = 0.02  # by how much the forms of a mask and its picture may differ: rounding to whole pixels


@dataclass(frozen=True)
class PlannedReference:
    """A decoded reference: its content hash, its weight, and its mask's content hash, None without one.

    ``image`` and ``mask`` are None once they have been used.
    """

    content_hash: str
    weight: float = 1.0
    mask_hash: str | None = None
    image: Picture | None = None
    mask: Mask | None = None

    @property
    def key(self) -> tuple[str, str | None, float]:
        """What it contributes to image tokens is remembered by this."""
        return (self.content_hash, self.mask_hash, self.weight)

    def encoder_input(self) -> EncoderInput:
        return EncoderInput(self.content_hash, self.mask_hash, False, self.image, self.mask)

    def without_pictures(self) -> PlannedReference:
        return replace(self, image=None, mask=None)


@dataclass(frozen=True)
class Plan:
    """A unit that was found to be possible: the files and decoded pictures that it will use.

    ``text_encoder`` is the file with the text tower, where text is subtracted; ``size`` is the side of what the
    image encoder is shown, in pixels. ``notes`` are sentences on what the user may want to know, though nothing is
    wrong with it.
    """

    unit: Unit
    adapter: AdapterEntry
    encoder: EncoderEntry
    references: tuple[PlannedReference, ...]
    negatives: tuple[PlannedReference, ...] = ()
    spread: Spread | None = None
    region: Region | None = None
    region_hash: str | None = None
    text_encoder: EncoderEntry | None = None
    size: int = 0
    notes: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        return self.unit.number

    @property
    def spec(self) -> AdapterSpec:
        return self.adapter.spec

    @property
    def source(self) -> OneSource:
        """Which output of the encoder feeds the adapter; there is no plan for an adapter that is fed with faces."""
        return "pooled" if self.spec.source == "pooled" else "penultimate"

    @property
    def acts(self) -> bool:
        """Whether it adds anything anywhere."""
        nowhere = self.region is not None and self.region.nowhere
        return peak(self.unit.weight) != 0 and not nowhere and not (self.spread is not None and self.spread.silent)

    def inputs(self) -> UnitInputs:
        """What its image encoder is shown."""
        return UnitInputs(
            self.encoder,
            self.source,
            self.size,
            self.unit.crop,
            tuple(reference.encoder_input() for reference in self.references),
            tuple(negative.encoder_input() for negative in self.negatives),
            tuple(negative.weight for negative in self.negatives),
            self.unit.noise,
        )

    def without_pictures(self) -> Plan:
        """The plan without its decoded pictures, which are large."""
        return replace(
            self,
            references=tuple(reference.without_pictures() for reference in self.references),
            negatives=tuple(negative.without_pictures() for negative in self.negatives),
        )


def plan_unit(unit: Unit, topology: Topology, blocks: int, catalog: Catalog) -> Plan:
    """Check everything about a unit that can be checked without loading weights, for a UNet of ``topology`` with
    ``blocks`` transformer blocks.

    Raises IPAdapterError (unit named) for a model that is not there, does not fit, needs what is missing, for settings
    that do not go together, and for references that are no usable pictures.
    """
    with errors_name_unit(unit.number):
        adapter = _looked_up(catalog, lambda: catalog.find(unit.model))
        check_fit(adapter, topology, catalog)
        encoder = _looked_up(catalog, lambda: encoder_for(adapter, catalog, unit.encoder))
        size = seen_size(unit, adapter, encoder)
        strengths = spread(unit.weight_type, blocks, unit.composition_weight, unit.boost, unit.layer_weights)
        text_encoder = _text_encoder(unit, adapter, encoder, catalog)
        references, notes = _decoded(unit.references, "images", "the reference: ")
        negatives, more = _decoded(unit.negative_references, "negative_images")
        region, region_hash = _region(unit)
        planned = Plan(
            unit, adapter, encoder, references, negatives, strengths, region, region_hash, text_encoder,
            size, (*notes, *more),
        )  # fmt: skip
        _check_tiles(planned)
        return planned


def _looked_up(catalog: Catalog, look: Callable[[], T]) -> T:
    """What ``look`` finds in the catalogue; what it misses may have been put there since the disk was looked at."""
    try:
        return look()
    except CheckpointError:
        catalog.refresh()
        return look()


def _text_encoder(unit: Unit, adapter: AdapterEntry, encoder: EncoderEntry, catalog: Catalog) -> EncoderEntry | None:
    """The file whose text tower embeds the text that the unit subtracts, None without text."""
    if not unit.subtract_prompt:
        return None
    if adapter.spec.source != "pooled":
        raise UnitError(
            f"subtract_prompt works on pooled embeddings only, and adapter {adapter.name} ({adapter.spec.variant}) is "
            "fed with hidden states: leave it out, or choose a base adapter."
        )
    return _looked_up(catalog, lambda: catalog.find_text_tower(encoder))


def _decoded(
    references: Sequence[Reference], name: str, single: str | None = None
) -> tuple[tuple[PlannedReference, ...], list[str]]:
    """The decoded references, and notes. ``single`` is what a lone one is called instead of ``name[0]``."""
    planned, notes = [], []
    for i, reference in enumerate(references):
        where = single if single is not None and len(references) == 1 else f"{name}[{i}]: "
        try:
            picture = Picture.of(reference.image)
            mask = None if reference.mask is None else Mask.of(reference.mask)
        except IPAdapterError as error:
            raise type(error)(where + error.detail) from None
        if mask is not None and mask.extrema == BLACK:
            raise PictureError(
                f"{where}the mask is black all over, so nothing of the picture counts: paint white what counts, or "
                "leave the mask out."
            )
        if mask is None or mask.extrema == WHITE:
            planned.append(PlannedReference(picture.content_hash, reference.weight, None, picture))
            continue
        if differ_in_form(mask.size, picture.size):
            notes.append(
                f"{where}the mask ({mask.size[0]} x {mask.size[1]}) is stretched over a picture of another form "
                f"({picture.size[0]} x {picture.size[1]})."
            )
        planned.append(PlannedReference(picture.content_hash, reference.weight, mask.content_hash, picture, mask))
    return tuple(planned), notes


def differ_in_form(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) are of different form."""
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) > ROUNDING


def _region(unit: Unit) -> tuple[Region | None, str | None]:
    """Where the unit acts (None: everywhere), and the mask's content hash."""
    if unit.region_mask is None:
        return None, None
    try:
        mask = Mask.of(unit.region_mask)
    except IPAdapterError as error:
        raise type(error)(f"region_mask: {error.detail}") from None
    if mask.extrema == BLACK:
        raise PictureError(
            "region_mask: the mask is black all over, so the unit acts nowhere: paint white where it acts, or leave "
            "the mask out."
        )
    values = torch.from_numpy(np.array(mask.image, dtype=np.float32)) / 255
    region = Region(feathered(values, unit.region_feather))
    return None if region.everywhere else region, mask.content_hash


def _check_tiles(planned: Plan) -> None:
    """Tiles of hidden states become more tokens, whose number must be one and the same where references meet."""
    unit, references = planned.unit, planned.references
    if unit.crop != "tile" or planned.source == "pooled" or len(references) == 1:
        return
    counts = {tile_count(reference.image.size, planned.size) for reference in references if reference.image is not None}
    if counts == {1}:
        return
    if unit.batch == "per image":
        if len(counts) > 1:
            raise UnitError(
                "its references have different forms, so they become different numbers of tiles, and batch is “per "
                "image”: choose another crop, or cut the references to one form."
            )
    elif unit.combine != "concat":
        raise UnitError(
            f"crop “tile” gives adapter {planned.adapter.name} more tokens for each reference, and combine is "
            f"“{unit.combine}”: choose combine “concat”, or another crop."
        )
