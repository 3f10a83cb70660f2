"""What a job would have to wait for, in pieces that are done before it, so that whoever does them can let others in
between: files are read, references encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..encode.cache import remembered_bytes
from ..encode.references import References, UnitInputs
from ..unit import Unit
from .faces import with_faces
from .fit import encoder_for
from .plans import plan_embeddings

if TYPE_CHECKING:
    from pathlib import Path

    from ..checkpoint.entries import AdapterEntry
    from ..encode.device import Device
    from .planned import PlannedReference
    from .plans import Plan
    from .resources import Resources

Piece = Callable[[], object]  # something to be done in one go
PIECE = 2**23  # bytes of a file


def _silent(_text: str) -> None:
    """Nobody watches."""


def encodings(unit: Unit, resources: Resources, device: Callable[[], Device]) -> Iterator[Piece]:
    """Of the unit's references what is not encoded yet: one picture's faces, or one encoding, each, to be done before
    the next is asked for. It ends early where what is left would take more than half of the cache: that would push
    out what it is kept beside, and itself. The device is asked for each. Raises IPAdapterError as a job would."""
    there, negatives = (
        tuple(one for one in side if one.image is not None and one.folder is None)  # others come with the job
        for side in (unit.references, unit.negative_references)
    )
    if not there:
        return
    known = replace(unit, references=there, negative_references=negatives)
    plan = plan_embeddings(known, resources.catalog, refresh=False).expanded()
    if plan.takes_faces:
        references: list[PlannedReference] = []
        for one in (*plan.references, *plan.negatives):
            yield partial(_find_face, plan, one, references, resources)
        count = len(plan.references)
        plan = replace(plan, references=tuple(references[:count]), negatives=tuple(references[count:]))
    inputs = plan.inputs()
    singles = [] if inputs is None else _singles(inputs)
    missing = [one for one in singles if not References([one], resources, device(), _silent).is_known(one)]
    nbytes = 0  # of the largest so far
    for i, shown in enumerate(missing):
        if nbytes * (len(missing) - i) > resources.cache.limit // 2:
            return
        encoder = References([shown], resources, device(), _silent)
        yield partial(_encoded, encoder, shown)
        nbytes = max([nbytes, *(remembered_bytes([one]) for one in encoder.encoded.values())])


def _find_face(plan: Plan, one: PlannedReference, found: list[PlannedReference], resources: Resources) -> None:
    """Put the reference with its face behind what was ``found``."""
    (alone,) = with_faces([replace(plan, references=(one,), negatives=())], resources, _silent)
    found += alone.references


def _encoded(references: References, one: UnitInputs) -> None:
    with torch.no_grad():
        references.encode(one)


def _singles(inputs: UnitInputs) -> list[UnitInputs]:
    """Each picture that the encoder is shown as if it were the only one."""
    alone: dict[str, Any] = {"negatives": (), "negative_weights": (), "noise": 0.0, "empty": None}
    return [
        replace(inputs, references=(one,), weights=(), seen=(), **alone) for one in dict.fromkeys(inputs.to_encode())
    ]


def loadings(
    adapter: AdapterEntry, resources: Resources, dtype: Callable[[], torch.dtype], *, keeps_encoder: bool
) -> list[tuple[Path, Piece]]:
    """An adapter's file, and its image encoder's, each with what reads it into main memory, the encoder in the
    ``dtype`` of then. Raises IPAdapterError where the encoder is not here."""
    encoder = encoder_for(adapter, resources.catalog)
    pieces: list[tuple[Path, Piece]] = [(adapter.path, lambda: resources.adapter(adapter, adapter.spec))]
    if encoder is not None and keeps_encoder:
        pieces.append((encoder.path, lambda: resources.encoder(encoder, dtype())))
    return pieces


def read_through(path: Path, is_over: Callable[[], bool] = lambda: False) -> None:
    """Let the system have a file in its own memory, from where it is read fast; nobody waits for that."""
    with path.open("rb") as file:
        while not is_over() and file.read(PIECE):
            pass
