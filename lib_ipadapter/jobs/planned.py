"""A unit's references as a job uses them: decoded pictures, or stored embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..checkpoint.names import shown
from ..encode.crops import tile_count
from ..encode.folders import FolderMark, FolderPictures
from ..encode.picture import Mask, Picture
from ..encode.references import EncoderInput
from ..encode.stored import Stored
from ..errors import IPAdapterError, PictureError, UnitError
from ..reference import MAX_PICTURES, MAX_REFERENCES, START
from ..unit import Reference, Unit
from .fit import encoder_kind, image_source, kind_of, recogniser

if TYPE_CHECKING:
    from ..checkpoint.entries import AdapterEntry, EncoderEntry
    from ..checkpoint.specs import AdapterSpec
    from ..encode.clip_image import OneSource
    from ..encode.faces.face import Face
    from ..encode.stored import Parts

BLACK, WHITE = (0, 0), (255, 255)  # extrema of masks that are so all over
HIDDEN_STATES = ("penultimate", "last")  # sources of which each view of a picture brings its own tokens
MAX_TURNS = 512  # references with those that a batch's start pictures add: each is encoded, and few meet in a layer
ROUNDING = 0.02  # by how much the forms of a mask and its picture may differ: rounding to whole pixels


@dataclass(frozen=True)
class PlannedReference:
    """A decoded reference: its content hash, its weight, and its mask's content hash, None without one.

    ``region_hash`` is the content hash of the mask of where it acts, None where it acts as far as the unit does.
    ``image`` and ``mask`` are None once they have been used. ``stored`` is what a file of embeddings holds, perhaps of
    several references, and ``parts`` are the embeddings of one of these. ``uncond`` is what a look has on the
    unconditional side, and ``look`` the look's name, "" for what is none.
    ``face`` is there once it was found, where the adapter wants one, and ``how`` says what had to be done for it.
    ``name`` is what sentences call the reference. ``start_picture``, ``picture``, ``repeats``, ``at`` and
    ``alone`` are as in Reference. ``folder`` is the one that the picture lies in, if it came with that. ``item`` is the
    place among the unit's items that it came with.
    """

    content_hash: str
    weight: float = 1.0
    mask_hash: str | None = None
    image: Picture | None = None
    mask: Mask | None = None
    stored: Stored | None = None
    parts: Parts | None = None
    uncond: Parts | None = None
    look: str = ""
    region_hash: str | None = None
    face: Face | None = None
    how: str = ""
    name: str = ""
    start_picture: bool = False
    picture: int | None = None
    repeats: bool = False
    folder: FolderMark | None = None
    item: int = 0
    at: float | None = None
    alone: bool = False

    @property
    def key(self) -> tuple[str, str | None, float, int | None]:
        """What it contributes to image tokens is remembered by this."""
        return (self.content_hash, self.mask_hash, self.weight, self.picture)

    def encoder_input(self, source: OneSource) -> EncoderInput:
        known = None if self.parts is None else self.parts[source]
        uncond = None if self.uncond is None else self.uncond[source]
        return EncoderInput(
            self.content_hash, self.mask_hash, False, self.image, self.mask, self.face, embedding=known, uncond=uncond
        )

    def views(self, size: int, crop: str) -> set[int]:
        """Into how many views its references are taken, by an encoder of ``size`` pixels."""
        if self.stored is not None:
            several = ((parts, name) for parts in self.stored.references for name in HIDDEN_STATES if name in parts)
            return {len(parts[name]) for parts, name in several}
        return {1 if crop != "tile" or self.image is None else tile_count(self.image.size, size)}

    def singles(self) -> list[PlannedReference]:
        """Itself, or the references that it holds the embeddings of."""
        if self.stored is None:
            return [self]
        return [
            PlannedReference(
                f"{self.content_hash}.{i}", self.weight * weight, parts=parts, uncond=self.stored.uncond,
                look=self.look, region_hash=self.region_hash, name=self.name, folder=self.folder, item=self.item,
                at=self.at, alone=self.alone,
            )
            for i, (parts, weight) in enumerate(zip(self.stored.references, self.stored.weights, strict=True))
        ]  # fmt: skip

    def without_pictures(self) -> PlannedReference:
        """As parameters know it; they have a word for the start picture."""
        name = START if self.start_picture else self.content_hash
        return replace(self, content_hash=name, image=None, mask=None, stored=None, parts=None, uncond=None, face=None)


def decoded_references(
    references: Sequence[Reference], name: str, single: str | None = None
) -> tuple[tuple[PlannedReference, ...], list[str]]:
    """The decoded references, and notes. ``single`` is what a lone one is called instead of ``name[0]``."""
    planned: list[PlannedReference] = []
    notes: list[str] = []
    for i, reference in enumerate(references):
        where = single if single is not None and len(references) == 1 else f"{name}[{i}]: "
        found, more = (_decoded if reference.folder is None else _in_folder)(reference, where)
        notes += more
        marks = {name: getattr(reference, name) for name in ("start_picture", "picture", "repeats", "at", "alone")}
        planned += [replace(one, item=i, **marks) for one in found]
    return tuple(planned), notes


def _decoded(reference: Reference, where: str) -> tuple[list[PlannedReference], list[str]]:
    """One picture, or what a file of embeddings holds, and notes on it."""
    try:
        picture = Picture.of(reference.image)
        mask = None if reference.mask is None else Mask.of(reference.mask)
        stored = Stored.of(picture)
    except IPAdapterError as error:
        raise type(error)(where + error.detail) from None
    if stored is not None:
        if mask is not None:
            raise UnitError(f"{where}a mask changes nothing of embeddings, which are made already: leave it out.")
        return [
            PlannedReference(picture.content_hash, reference.weight, stored=stored, look=stored.look, name=where)
        ], []
    if mask is not None and mask.extrema == BLACK:
        raise PictureError(
            f"{where}the mask is black all over, so nothing of the picture counts: paint white what counts, or "
            "leave the mask out."
        )
    if mask is None or mask.extrema == WHITE:
        return [PlannedReference(picture.content_hash, reference.weight, None, picture, name=where)], []
    notes = []
    if differ_in_form(mask.size, picture.size):
        notes.append(
            f"{where}the mask ({mask.size[0]} x {mask.size[1]}) is stretched over a picture of another form "
            f"({picture.size[0]} x {picture.size[1]})."
        )
    return [
        PlannedReference(picture.content_hash, reference.weight, mask.content_hash, picture, mask, name=where)
    ], notes


def _in_folder(reference: Reference, where: str) -> tuple[list[PlannedReference], list[str]]:
    """The pictures of a folder, and notes on it."""
    found = reference.image
    if not isinstance(found, FolderPictures):
        raise UnitError(f"{where}a folder of references can only be read while a picture is made: give its pictures.")
    planned = []
    for picture, file in zip(found.pictures, found.names, strict=True):
        try:
            stored, name = Stored.of(picture), f"{where}{file}: "
        except IPAdapterError as error:
            raise type(error)(f"{where}{file}: {error.detail}") from None
        planned.append(
            PlannedReference(
                picture.content_hash, reference.weight, None, None if stored else picture, stored=stored,
                look=stored.look if stored else "", name=name, folder=found.mark,
            )
        )  # fmt: skip
    return planned, [f"{where}{note}" for note in found.notes]


def check_side_by_side(unit: Unit, what: str, remedy: str) -> None:
    """Raises UnitError where one reference is made of all, or each picture gets one: ``what`` needs them side by side,
    and leaving ``remedy`` out helps."""
    for name, kept, why in (
        ("combine", "concat", "makes one of all references"),
        ("batch", "same", "gives each picture one of them"),
    ):
        if (chosen := getattr(unit, name)) != kept:
            raise UnitError(
                f"{what}, and {unit.called(name)} is “{chosen}”, which {why}: set {unit.called(name)} to “{kept}”, or "
                f"leave {remedy} out."
            )


def check_count(unit: Unit, references: Sequence[PlannedReference], negatives: Sequence[PlannedReference]) -> None:
    """Raises UnitError for more references than there may be, those in files and folders counted. Repeats are none that
    anybody gave."""
    turns, negative = (_count(side) for side in (references, negatives))
    given = _count([one for one in references if not one.repeats])
    if negative > MAX_REFERENCES:
        raise UnitError(
            f"negative_images holds {negative} references, stored ones among them: give at most {MAX_REFERENCES}."
        )
    if given > MAX_PICTURES and unit.batch != "same":
        raise UnitError(
            f"the pictures of this job see {given:,} references in turn, and {MAX_PICTURES:,} is the most: make fewer "
            "pictures in one job."
        )
    if given > MAX_REFERENCES and unit.batch == "same" and not unit.joins:
        raise UnitError(
            f"images holds {given} references, those in files and folders counted, and side by side act at most "
            f"{MAX_REFERENCES}: set {unit.called('combine')} to “average”, or {unit.called('batch')} to “per image”."
        )
    if turns > MAX_TURNS and any(one.start_picture for one in references):
        raise UnitError(
            f"images becomes {turns} references, because the start picture among them is another one in each picture "
            f"of the batch, and at most {MAX_TURNS} are possible: give fewer, or make the batch smaller."
        )


def _count(references: Sequence[PlannedReference]) -> int:
    return sum(len(one.singles()) for one in references)


def differ_in_form(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) are of different form."""
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) > ROUNDING


def check_stored(
    unit: Unit,
    adapter: AdapterEntry,
    encoder: EncoderEntry | None,
    references: Sequence[PlannedReference],
    negatives: Sequence[PlannedReference],
) -> None:
    """Raises UnitError for stored embeddings of another kind than the adapter takes (``encoder`` is what feeds it, None
    for the published one), and for noise that is to be made of pictures where there are none."""
    wanted: dict[str, str | None] = {}
    if adapter.spec.source.startswith("face"):
        wanted["face"] = recogniser(adapter.spec)
    found = image_source(adapter.spec)
    if found is not None:
        wanted[found[0]] = encoder_kind(adapter.spec) if encoder is None else kind_of(encoder)
    widths = dict(_widths(adapter.spec))
    for stored in (reference.stored for reference in (*references, *negatives)):
        if stored is None:
            continue
        if any(part not in stored.made_by or name not in (None, stored.made_by[part]) for part, name in wanted.items()):
            what = f"the look {shown(stored.look)} holds" if stored.look else "the embeddings hold"
            again = "keep the look again" if stored.look else "make them again"
            taken = "takes it" if stored.look else "takes them"
            raise UnitError(
                f"{what} {_kinds(stored.made_by)}, and adapter {adapter.name} takes {_kinds(wanted)}: {again} with "
                f"this adapter, or choose one that {taken}."
            )
        for part, width in widths.items():
            if (found_width := stored.references[0][part].shape[-1]) != width:
                raise UnitError(
                    f"the {part} embeddings have {found_width} numbers, where the adapter takes {width}: make them "
                    "again with this adapter."
                )
    if unit.noise and found is not None and any(reference.stored is not None for reference in references):
        raise UnitError(
            f"{unit.called('noise')} is made of the references' pixels, which embeddings no longer have: leave it at "
            "0, or give the pictures."
        )


def _widths(spec: AdapterSpec) -> list[tuple[str, int]]:
    """The width of each part of what an adapter takes."""
    found = image_source(spec)
    faces = [("face", spec.embedding_width)] if spec.source.startswith("face") else []
    return faces if found is None else [*faces, found]


def _kinds(made_by: Mapping[str, str | None]) -> str:
    """ "face embeddings of buffalo_l and penultimate embeddings of ViT-H-14"."""
    return " and ".join(
        f"{part} embeddings of {shown(name) if name else 'an unknown encoder'}" for part, name in made_by.items()
    )
