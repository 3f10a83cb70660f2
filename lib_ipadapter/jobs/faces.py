"""The faces in the references of units whose adapters are fed with faces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import torch.nn.functional as F

from ..attend.keyframes import FadedRegion
from ..attend.keypoints import Keypoints
from ..encode.faces.choice import chosen
from ..encode.faces.drawn import WHOLE, DrawnFace
from ..encode.faces.face import PACKS, Found
from ..encode.faces.photo import in_whole, photo
from ..errors import CheckpointError, IPAdapterError, PictureError, errors_name_unit
from ..reference import MAX_REFERENCES
from .fit import recogniser

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .planned import PlannedReference
    from .plans import Plan
    from .prepare import Prepared
    from .resources import Resources

ALIKE = 0.2  # the cosine of two embeddings below which their photos hardly show one person
FOUND_BYTES = 4096  # about what a picture's faces take in the cache
TRAINED_FACES = 5  # the most that portrait adapters were shown side by side


def with_faces(plans: Sequence[Plan], resources: Resources, progress: Callable[[str], None]) -> list[Plan]:
    """The expanded plans with the faces of their references, each found once, and notes on photos that disagree.

    Raises IPAdapterError (unit and reference named) where there is no face, none of the wanted number, or nothing to
    find it with.
    """
    return [_with_faces(plan, resources, progress) if plan.takes_faces else plan for plan in plans]


def _with_faces(plan: Plan, resources: Resources, progress: Callable[[str], None]) -> Plan:
    with errors_name_unit(plan.number):
        references = tuple(_with_face(one, plan, resources, progress) for one in plan.references)
        negatives = tuple(_with_face(one, plan, resources, progress) for one in plan.negatives)
        pose = None if plan.pose is None else _with_face(plan.pose, _as_pose(plan), resources, progress)
    return replace(
        plan, references=references, negatives=negatives, pose=pose, notes=(*plan.notes, *_notes(plan, references))
    )


def _as_pose(plan: Plan) -> Plan:
    """The plan as a picture for the pose is looked at: which face, and which part, is said of the references alone."""
    return replace(plan, unit=replace(plan.unit, face_index="largest", crop="center"))


def _with_face(
    reference: PlannedReference, plan: Plan, resources: Resources, progress: Callable[[str], None]
) -> PlannedReference:
    if reference.image is None:
        return reference
    try:
        found = faces_in(reference, plan.unit.crop, recogniser(plan.spec), resources, progress)
        return replace(
            reference, face=chosen(found, plan.unit.face_index, plan.unit.called("face_index")), how=found.how
        )
    except IPAdapterError as error:
        raise type(error)(f"{reference.name}{error.detail}") from None


def faces_in(
    reference: PlannedReference, crop: str, pack: str, resources: Resources, progress: Callable[[str], None]
) -> Found:
    """The faces of a picture under its mask, in what ``crop`` leaves of it; remembered. Raises IPAdapterError."""
    if pack not in PACKS:
        raise CheckpointError(
            f"the adapter was trained with the face recognition {pack}, which is not to be had here: give embeddings "
            "that it has made, in the place of pictures."
        )
    finder = resources.faces
    if finder is None:
        raise CheckpointError("faces cannot be found here: give embeddings in the place of pictures.")
    if reference.image is None:
        raise PictureError("there is no picture to find a face in: add it again.")
    key = ("faces", reference.content_hash, reference.mask_hash, crop, pack, resources.faces_identity(pack))
    found: Found | str | None = resources.cache.get(key)  # or the sentence that says that there is none
    if found is None:
        progress("looking for faces")
        mask = None if reference.mask is None else reference.mask.image
        try:
            found = finder.find(photo(reference.image.image, mask, crop), pack)
        except PictureError as error:
            found = error.detail
        resources.cache.put(key, found, FOUND_BYTES * (1 if isinstance(found, str) else len(found.faces)))
    if isinstance(found, str):
        raise PictureError(found)
    return found


def face_embedding(reference: PlannedReference) -> Tensor:
    """[1, 512]: of the reference's face, or as it is stored; of any length."""
    if reference.parts is not None:
        return reference.parts["face"]
    assert reference.face is not None, "faces are found before they are asked for"
    return reference.face.embedding[None]


def keypoints_of(
    plan: Plan, prepared: Prepared, resources: Resources, unet: nn.Module | None, progress: Callable[[str], None]
) -> Keypoints | None:
    """InstantID's network of keypoints as the unit wants it, with the face's tokens as its context; None for a unit
    without. Raises MismatchError where it does not fit ``unet``, if that is there already."""
    if plan.keypoints is None:
        return None
    progress(f"loading keypoints network {plan.keypoints.name}")
    network = resources.keypoints_network(plan.keypoints)
    if unet is not None:
        network.fit(unet)
    shown = plan.references if plan.pose is None else (plan.pose,)
    if plan.unit.batch == "same":
        shown = shown[:1] if plan.pose is not None else tuple(shown[seen[0]] for seen in plan.seen())
    unit = plan.unit
    place = plan if plan.pose is None else _as_pose(plan)
    of_each = plan.region.regions if isinstance(plan.region, FadedRegion) else (plan.region,) * len(shown)
    drawn = tuple(_drawn(one, replace(place, region=region)) for one, region in zip(shown, of_each, strict=False))
    return Keypoints(
        network, drawn, prepared.cond, prepared.uncond, unit.keypoints_weight,
        unit.keypoints_start, unit.keypoints_end,
    )  # fmt: skip


def _drawn(reference: PlannedReference, plan: Plan) -> DrawnFace:
    """A reference's face as it is drawn: where it is in the whole photo, in the unit's region; a picture for the pose
    says where the face is in the whole picture."""
    assert reference.face is not None and reference.image is not None, "faces are found before they are drawn"
    size = reference.image.size
    points = tuple(in_whole(point, size, plan.unit.crop) for point in reference.face.landmarks)
    return DrawnFace(points, size, WHOLE if plan.region is None or plan.pose is not None else plan.region.frame)


def _notes(plan: Plan, references: Sequence[PlannedReference]) -> list[str]:
    references = [one for one in references if not one.repeats]
    notes = [f"{one.name}the face was found {one.how}." for one in references if one.how]
    if plan.unit.batch == "same" and not plan.fades:
        units = [F.normalize(face_embedding(one)) for one in references[:MAX_REFERENCES]]
        apart = [
            (i, j, cosine)
            for i, j in combinations(range(len(units)), 2)
            if references[i].region_hash == references[j].region_hash  # others are two persons in two places
            and (cosine := float((units[i] * units[j]).sum())) < ALIKE
        ]
        if apart:
            i, j, cosine = min(apart, key=lambda one: one[2])
            notes.append(
                f"photos {i + 1} and {j + 1} hardly show one person (similarity {cosine:.2f}): the face becomes a "
                "mixture of theirs."
            )
        most = max(Counter(one.region_hash for one in references).values())
        if plan.spec.variant == "faceid-portrait" and plan.unit.combine == "concat" and most > TRAINED_FACES:
            notes.append(f"portrait adapters were trained with up to {TRAINED_FACES} faces side by side, not {most}.")
    return notes
