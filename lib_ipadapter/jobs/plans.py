"""Units -> plans: everything about a unit that can be checked without loading weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from ..attend.layers import Topology
from ..attend.regions import Region
from ..checkpoint.catalog import AUTO
from ..checkpoint.names import few
from ..encode.references import UnitInputs
from ..errors import CheckpointError, UnitError, errors_name_unit
from ..fields import settings_of
from ..reference import MAX_REFERENCES
from ..unit import Reference, Unit
from ..weighting import Spread, peak, spread
from . import flux, keyframes
from .fit import FLUX, check_fit, empty_side, encoder_for, encoder_kind, image_source, seen_size, with_variant
from .places import with_regions
from .planned import HIDDEN_STATES, PlannedReference, check_count, check_stored, decoded_references

if TYPE_CHECKING:
    from ..checkpoint.catalog import Catalog
    from ..checkpoint.entries import AdapterEntry, EncoderEntry, KeypointsEntry
    from ..checkpoint.specs import AdapterSpec
    from ..encode.clip_image import OneSource

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """A unit that was found to be possible: the files and decoded pictures that it will use.

    ``encoder`` is None where no picture has to be shown to one. ``text_encoder`` is the file with the text tower, where
    text is subtracted; ``size`` is the side of what the image encoder is shown, in pixels. ``keypoints`` is InstantID's
    second network, and ``pose`` the picture that the keypoints are taken from, where that is not the reference.
    ``region`` is where the unit acts, None for everywhere, and ``places`` are the regions that references have of their
    own, by their masks' content hashes.
    ``notes`` are sentences on what the user may want to know, though nothing is wrong with it.
    """

    unit: Unit
    adapter: AdapterEntry
    encoder: EncoderEntry | None
    references: tuple[PlannedReference, ...]
    negatives: tuple[PlannedReference, ...] = ()
    spread: Spread | None = None
    region: Region | None = None
    region_hash: str | None = None
    places: Mapping[str, Region] = field(default_factory=dict, hash=False)
    text_encoder: EncoderEntry | None = None
    size: int = 0
    notes: tuple[str, ...] = ()
    pose: PlannedReference | None = None
    keypoints: KeypointsEntry | None = None

    @property
    def number(self) -> int:
        return self.unit.number

    @property
    def spec(self) -> AdapterSpec:
        return self.adapter.spec

    @property
    def pose_hash(self) -> str | None:
        """The content hash of the picture that the keypoints are taken from, None where it is the reference."""
        return None if self.pose is None else self.pose.content_hash

    @property
    def takes_faces(self) -> bool:
        """Whether the adapter is fed with face embeddings."""
        return self.spec.source.startswith("face")

    @property
    def image_source(self) -> OneSource | None:
        """Which output of the image encoder feeds the adapter; None for one that sees faces alone."""
        found = image_source(self.spec)
        return None if found is None else found[0]

    @property
    def streams(self) -> bool:
        """Whether the references are made one as they come: those of folders, and more than can act side by side."""
        several = len(self.references) > 1 and self.unit.joins and len(self.seen()) == 1
        return several and (
            len(self.references) > MAX_REFERENCES or any(one.folder is not None for one in self.references)
        )

    @property
    def is_long_walk(self) -> bool:
        """Whether each picture sees a reference of its own, of more than what all can be made of at once."""
        return self.unit.batch == "per image" and len(self.references) > MAX_REFERENCES

    @property
    def acts(self) -> bool:
        """Whether it adds anything anywhere."""
        nowhere = self.region is not None and self.region.nowhere
        return peak(self.unit.weight) != 0 and not nowhere and not (self.spread is not None and self.spread.silent)

    @property
    def fades(self) -> bool:
        """Whether its references are keyframes, which ``keyframes.checked`` leaves all of them, or none."""
        return self.references[0].at is not None

    def inputs(self) -> UnitInputs | None:
        """What its image encoder is shown; None for an adapter that sees faces alone."""
        source = self.image_source
        if source is None:
            return None
        return UnitInputs(
            self.encoder,
            source,
            self.size,
            self.unit.crop,
            tuple(reference.encoder_input(source) for reference in self.references),
            tuple(negative.encoder_input(source) for negative in self.negatives),
            tuple(negative.weight for negative in self.negatives),
            self.unit.noise,
            empty_side(self.spec),
            tuple(reference.weight for reference in self.references),
            tuple(map(tuple, self.sides())),
        )

    def expanded(self) -> Plan:
        """The plan with the references that files of embeddings hold in the place of these."""
        references, negatives = (
            tuple(single for one in side for single in one.singles()) for side in (self.references, self.negatives)
        )
        return replace(self, references=references, negatives=negatives)

    def seen(self) -> list[list[int]]:
        """The places of the references that each picture sees where they are the ``same`` for all, which start pictures
        are not: one list, or as many as the job has start pictures. Each keyframe is seen by itself, as by a picture
        that lies there."""
        if self.fades:
            return [[i] for i in range(len(self.references))]
        numbers = sorted({one.picture for one in self.references if one.picture is not None}) or [0]
        places = range(len(self.references))
        return [[i for i in places if self.references[i].picture in (None, number)] for number in numbers]

    def sides(self) -> list[list[int]]:
        """The places of the references that count for each picture's unconditional side. Of a list of which each
        picture sees one, they are all of these; of a folder, and of more than can act side by side, of which a job has
        no more than it meets, its own, as if it were made alone."""
        given = [one for one in self.references if not one.repeats]
        walked = self.unit.batch == "per image" and (
            len(given) > MAX_REFERENCES or any(one.folder is not None or one.alone for one in given)
        )
        return [[i] for i in range(len(self.references))] if walked else self.seen()

    def without_pictures(self) -> Plan:
        """The plan without its decoded pictures, which are large, as it was asked for."""
        return replace(
            self,
            references=tuple(reference.without_pictures() for reference in self.references if not reference.repeats),
            negatives=tuple(negative.without_pictures() for negative in self.negatives),
            pose=None if self.pose is None else self.pose.without_pictures(),
        )


def plan_unit(unit: Unit, topology: Topology, blocks: int, catalog: Catalog) -> Plan:
    """Check everything about a unit that can be checked without loading weights, for a UNet of ``topology`` with
    ``blocks`` transformer blocks.

    Raises IPAdapterError (unit named) for a model that is not there, does not fit, needs what is missing, for settings
    that do not go together, and for references that are no usable pictures.
    """
    with errors_name_unit(unit.number):
        planned = with_regions(keyframes.checked(plan_embeddings(unit, catalog, topology)))
        flux.check_fields(planned)
        if planned.spec.base == FLUX:  # InstantX' adapter has layers in the single blocks, too
            blocks = len(planned.spec.layer_widths) or blocks
        strengths = spread(
            unit.weight_type, blocks, unit.composition_weight, unit.boost, unit.layer_weights, unit.called
        )
        text_encoder = _text_encoder(unit, planned.adapter, planned.encoder, catalog)
        pose, of_pose = _pose(unit)
        keypoints = _keypoints(unit, planned, pose, catalog)
        planned = replace(
            planned, spread=strengths, text_encoder=text_encoder, pose=pose, keypoints=keypoints,
            notes=(*planned.notes, *of_pose, *_without_effect(unit, planned.adapter)),
        )  # fmt: skip
        _check_tiles(planned)
        return planned


def plan_embeddings(unit: Unit, catalog: Catalog, topology: Topology | None = None, *, refresh: bool = True) -> Plan:
    """As much of a unit's plan as its references' embeddings depend on. Raises IPAdapterError. Not to ``refresh``: the
    disk is not looked at again for what the catalogue has not."""
    adapter = with_variant(_looked_up(catalog, lambda: catalog.find(unit.model), refresh), unit)
    if topology is not None:
        check_fit(adapter, topology, catalog)
    references, notes = decoded_references(unit.references, "images", "the reference: ")
    negatives, more = decoded_references(unit.negative_references, "negative_images")
    check_count(unit, references, negatives)
    encoder, size = None, 0
    known = _all_known(adapter, (*references, *negatives), bool(unit.subtract_prompt))
    if not known or (unit.encoder != AUTO and adapter.spec.source != "face"):
        encoder = _looked_up(catalog, lambda: encoder_for(adapter, catalog, unit.encoder), refresh)
        size = 0 if encoder is None else seen_size(unit, adapter, encoder)
    fed_by = encoder or _encoder_of_others(adapter, (*references, *negatives), catalog)
    check_stored(unit, adapter, fed_by, references, negatives)
    return Plan(unit, adapter, encoder, references, negatives, size=size, notes=(*notes, *more))


def plan_look(unit: Unit, catalog: Catalog) -> Plan:
    """As much of a unit's plan as hangs on nothing but its references. Raises IPAdapterError."""
    planned = plan_embeddings(unit, catalog)
    if planned.spec.variant == "redux" and planned.negatives:
        raise UnitError(
            "negative references cannot go into a look for Redux, which puts them beside the negative "
            "prompt: leave them out, and give them to the unit that uses the look."
        )
    planned = replace(planned, text_encoder=_text_encoder(unit, planned.adapter, planned.encoder, catalog))
    _check_tiles(planned)
    return planned


def _encoder_of_others(
    adapter: AdapterEntry, references: Sequence[PlannedReference], catalog: Catalog
) -> EncoderEntry | None:
    """The image encoder that feeds ``adapter`` here, where stored embeddings are of another than the published one;
    None where nobody has to ask, or there is none."""
    source, published = image_source(adapter.spec), encoder_kind(adapter.spec)
    made_by = [one.stored.made_by for one in references if one.stored is not None]
    if source is None or all(kinds.get(source[0]) in (None, published) for kinds in made_by):
        return None
    with suppress(CheckpointError):
        return encoder_for(adapter, catalog)
    return None


def _all_known(adapter: AdapterEntry, references: Sequence[PlannedReference], has_text: bool) -> bool:
    """Whether nothing has to be shown to an image encoder: all references are stored embeddings, and the side without a
    reference is zeros."""
    return empty_side(adapter.spec) is None and not has_text and all(one.stored is not None for one in references)


def _without_effect(unit: Unit, adapter: AdapterEntry) -> list[str]:
    """Notes on fields that were set, and that adapters of this variant do not have."""
    own, variant = settings_of(Unit), adapter.spec.variant
    changed = [name for name in unit.changed() if own[name].variants and variant not in own[name].variants]
    changed += ["keypoints_image"] * (unit.keypoints_image is not None and variant != "instantid")
    return [
        f"{unit.called(name)} has no effect: adapter {adapter.name} is {variant}, and only {few(own[name].variants)} "
        f"{'have' if len(own[name].variants) > 1 else 'has'} it."
        for name in changed
    ]


def _keypoints(unit: Unit, planned: Plan, pose: PlannedReference | None, catalog: Catalog) -> KeypointsEntry | None:
    """InstantID's second network, where it is to act."""
    if planned.spec.variant != "instantid" or unit.keypoints_weight == 0:
        return None
    if pose is None and any(one.stored is not None for one in planned.references):
        raise UnitError(
            f"embeddings do not say where the face is: give a picture as {unit.called('keypoints_image')}, or set "
            f"{unit.called('keypoints_weight')} to 0."
        )
    return _looked_up(catalog, catalog.find_keypoints_network)


def _pose(unit: Unit) -> tuple[PlannedReference | None, list[str]]:
    if unit.keypoints_image is None:
        return None, []
    planned, notes = decoded_references([Reference(unit.keypoints_image)], "keypoints_image", "keypoints_image: ")
    if planned[0].stored is not None:
        raise UnitError(
            f"{unit.called('keypoints_image')} is a file of embeddings, which shows no pose: give a picture."
        )
    return planned[0], notes


def _looked_up(catalog: Catalog, look: Callable[[], T], refresh: bool = True) -> T:
    """What ``look`` finds in the catalogue; what it misses may have been put there since the disk was looked at."""
    try:
        return look()
    except CheckpointError:
        if not refresh:
            raise
        catalog.refresh()
        return look()


def _text_encoder(
    unit: Unit, adapter: AdapterEntry, encoder: EncoderEntry | None, catalog: Catalog
) -> EncoderEntry | None:
    """The file whose text tower embeds the text that the unit subtracts, None without text."""
    if not unit.subtract_prompt:
        return None
    if adapter.spec.source != "pooled" or encoder is None:
        raise UnitError(
            f"subtract_prompt works on pooled embeddings only, and adapter {adapter.name} ({adapter.spec.variant}) is "
            f"fed with {'faces' if adapter.spec.source.startswith('face') else 'hidden states'}: leave it out, or "
            "choose a base adapter."
        )
    return _looked_up(catalog, lambda: catalog.find_text_tower(encoder))


def _check_tiles(planned: Plan) -> None:
    """Tiles of hidden states become more tokens, whose number must be one and the same where references meet."""
    unit, references = planned.unit, planned.references
    if planned.fades:
        keyframes.check_tokens(planned)
        return
    if (
        planned.spec.source not in HIDDEN_STATES
        or len([one for reference in references for one in reference.singles()]) == 1
    ):
        return
    if len({tuple(tuple(references[i].views(planned.size, unit.crop)) for i in seen) for seen in planned.seen()}) > 1:
        raise UnitError(
            "the job's start pictures have different forms, so they become different numbers of tiles: choose another "
            "crop, or start pictures of one form."
        )
    counts = {count for one in references for count in one.views(planned.size, unit.crop)}
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
