"""A unit's references as a file of embeddings, which any unit with an adapter of that kind takes in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..encode import stored
from ..encode.references import References
from ..errors import errors_name_unit
from ..unit import Unit
from .faces import face_embedding, with_faces
from .fit import kind_of, recogniser
from .plans import plan_embeddings

if TYPE_CHECKING:
    from torch import Tensor

    from ..encode.device import Device
    from .resources import Progress, Resources


def embeddings_of(unit: Unit, resources: Resources, device: Device, progress: Progress = lambda text: None) -> bytes:
    """The file with the embeddings of the unit's references, and their weights; what the unit makes of several of them
    (``combine``), and its negative references, are the unit's own.

    Raises IPAdapterError (unit named) as a generation with the unit would.
    """
    with errors_name_unit(unit.number or 1):
        planned = plan_embeddings(unit, resources.catalog)
        (plan,) = with_faces([planned.expanded()], resources, progress)
        parts: list[dict[str, Tensor]] = [{} for _ in plan.references]
        made_by = {}
        if plan.takes_faces:
            made_by["face"] = recogniser(plan.spec)
            for one, reference in zip(parts, plan.references, strict=True):
                one["face"] = face_embedding(reference)
        inputs = plan.inputs()
        if inputs is not None:
            if plan.encoder is not None:
                made_by[inputs.source] = kind_of(plan.encoder)
            else:  # they are stored embeddings already
                made_by |= next(one.stored.made_by for one in planned.references if one.stored is not None)
            embeddings, _ = References([inputs], resources, device, progress).embeddings(inputs)
            for one, embedding in zip(parts, embeddings, strict=True):
                one[inputs.source] = embedding
        return stored.write(parts, [reference.weight for reference in plan.references], made_by)
