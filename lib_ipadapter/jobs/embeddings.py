"""A unit's references as a file of embeddings, which any unit with an adapter of that kind takes in their place; and as
a look, which has in it what the unit makes of them, too."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..encode import stored
from ..encode.crops import views
from ..encode.faces.align import aligned
from ..encode.faces.photo import photo
from ..encode.look_files import as_look
from ..encode.references import References, mean
from ..errors import UnitError, errors_name_unit
from ..unit import Unit
from .faces import face_embedding, with_faces
from .fit import UNNORMALISED, kind_of, recogniser
from .plans import Plan, plan_embeddings, plan_look
from .prepare import encoded, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image
    from torch import Tensor

    from ..encode.device import Device
    from .resources import Progress, Resources

SHOWN = 224  # pixels of what thumbnails are made of

Parts = dict[str, "Tensor"]


def embeddings_of(unit: Unit, resources: Resources, device: Device, progress: Progress = lambda text: None) -> bytes:
    """The file with the embeddings of the unit's references, and their weights; what the unit makes of several of them
    (``combine``), and its negative references, are the unit's own.

    Raises IPAdapterError (unit named) as a generation with the unit would.
    """
    with errors_name_unit(unit.number or 1):
        planned = plan_embeddings(_timeless(unit), resources.catalog)
        (plan,) = with_faces([planned.expanded()], resources, progress)
        if (count := len(plan.references)) > stored.MAX_STORED:
            raise UnitError(
                f"a file of embeddings holds at most {stored.MAX_STORED} references, and these are {count}: give "
                "fewer, or keep them as a look with combine “average”."
            )
        plan = replace(plan, negatives=(), unit=replace(unit, noise=0.0, combine="concat", batch="same"))
        return _file(planned, plan, resources, device, progress)


def look_of(
    unit: Unit,
    name: str,
    thumbnail: Callable[[Sequence[Image]], bytes],
    resources: Resources,
    device: Device,
    progress: Progress = lambda text: None,
) -> bytes:
    """The look of that ``name``: what all of the unit's references, negative ones and noise among them, become before
    the adapter projects it, without the words that the unit takes out. ``thumbnail`` makes a small JPEG file, b"" for
    none, of what was seen of the references that are pictures and count.

    Raises IPAdapterError (unit named) as a generation with the unit would.
    """
    with errors_name_unit(unit.number or 1):
        planned = plan_look(_timeless(unit), resources.catalog)
        (plan,) = with_faces([planned.expanded()], resources, progress)
        if (count := len(plan.references)) > stored.MAX_STORED and not unit.joins:
            raise UnitError(
                f"a look holds at most {stored.MAX_STORED} references, and these are {count}: give fewer, or set "
                f"{unit.called('batch')} to “same” and {unit.called('combine')} to “average”."
            )
        if unit.batch != "same":  # who uses the look sees all of it
            plan = replace(plan, unit=replace(unit, combine="concat", batch="same"))
        file = _file(planned, plan, resources, device, progress)
        return as_look(file, name, plan.spec.variant, thumbnail(_seen(plan)))


def _timeless(unit: Unit) -> Unit:
    """The unit with references that are no keyframes: what is kept of them has no time."""
    return replace(unit, references=tuple(replace(one, at=None) for one in unit.references))


def _seen(plan: Plan) -> list[Image]:
    """Of each reference that is a picture and counts, what has become embeddings: no more of it is in a look."""
    seen = []
    for one in plan.references:
        if one.image is None or not one.weight:
            continue
        image, mask, crop = one.image.image, None if one.mask is None else one.mask.image, plan.unit.crop
        if one.face is not None:
            seen.append(aligned(photo(image, mask, crop), one.face.landmarks, SHOWN))
        else:  # all tiles together are the whole picture
            seen += views(image, SHOWN, "pad" if crop == "tile" else crop, mask)
    return seen


def _file(planned: Plan, plan: Plan, resources: Resources, device: Device, progress: Progress) -> bytes:
    """What ``plan``'s references are encoded to, as a file. ``planned``: the plan before files of embeddings among its
    references were opened."""
    inputs = plan.inputs()
    references = References([] if inputs is None else [inputs], resources, device, progress)
    embeddings, weights, of_uncond = encoded(plan, references, resources, progress)
    names = [*(["face"] if plan.takes_faces else []), *([] if inputs is None else [inputs.source])]
    parts, weights = _combined(plan, embeddings, weights, names)
    has_own = plan.negatives or plan.unit.noise or any(one.uncond is not None for one in plan.references)
    uncond = {str(part): one for part, one in zip(names, of_uncond, strict=True)} if has_own else None
    return stored.write(parts, weights, _made_by(planned), uncond)


def _combined(
    plan: Plan, embeddings: list[tuple[Tensor, ...]], weights: list[float], names: Sequence[str]
) -> tuple[list[Parts], list[float]]:
    """The references that the unit makes of its own, by their parts' names, and their weights. Faces are as long as
    recognition makes them: not all adapters take them at length 1."""
    unit = plan.unit
    faces = [face_embedding(one) for one in plan.references] if plan.takes_faces else []
    if len(plan.references) > 1 and unit.joins:
        if plan.spec.source == "pooled":
            embeddings = [(mean(pooled),) for (pooled,) in embeddings]
        if len(embeddings) > 1:
            embeddings, weights = joined(plan, embeddings, weights)
        faces = [_as_long_as(faces, face, plan) for face, *_ in embeddings] if faces else []
    parts: list[Parts] = [{str(part): one for part, one in zip(names, of, strict=True)} for of in embeddings]
    for one, face in zip(parts, faces, strict=bool(faces)):
        one["face"] = face
    return parts, weights


def _as_long_as(faces: Sequence[Tensor], joined_face: Tensor, plan: Plan) -> Tensor:
    """What was made of ``faces``, of their mean length; as it is where the adapter minds the length."""
    if plan.spec.variant in UNNORMALISED:
        return joined_face
    length = sum(float(face.norm()) for face in faces) / len(faces)
    lengthened: Tensor = joined_face / joined_face.norm().clamp(min=1e-12) * length
    return lengthened


def _made_by(planned: Plan) -> dict[str, str]:
    """By whom the parts are made, by their names."""
    made_by = {"face": recogniser(planned.spec)} if planned.takes_faces else {}
    source = planned.image_source
    if source is None:
        return made_by
    if planned.encoder is not None:
        return {**made_by, source: kind_of(planned.encoder)}
    return made_by | dict(next(one.stored.made_by for one in planned.references if one.stored is not None))
