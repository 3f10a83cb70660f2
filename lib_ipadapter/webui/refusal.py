"""How a job is refused, and how one fails that has already begun."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from modules import errors

from .. import infotext
from ..attend.outcome import Outcome
from ..errors import IPAdapterError
from ..jobs.generation import Generation, Inaction
from . import host
from .host import record
from .host.record import Job
from .neighbours import xyz_cells

log = logging.getLogger("ip-adapter")

NOT_USED = {
    Outcome.LOST: (
        "another extension or optimisation replaces the sampling or the model's attention layers; switch it off, or "
        "the units."
    ),
    Outcome.MISPLACED: (
        "another extension or setting takes the picture apart, so that nothing tells where a region mask or a face's "
        "keypoints lie; switch it off, or leave out the mask and the keypoints."
    ),
    Outcome.IDLE: "none of this sampler's steps lies between a unit's start and end; move them apart.",
}
NOT_USED[Outcome.MISSED] = NOT_USED[Outcome.LOST]
IDLE = (
    "it has added nothing to the pictures, because none of its steps or passes has come: see its start, end and hires."
)
REFINED = {
    True: "the refiner worked without the reference",
    False: "it has added nothing to the pictures, because all of its steps were the refiner's",
}
# Entries in a picture's parameters: the numbers of units that have not acted, and in what the others have not.
UNUSED, PARTLY = "IP-Adapter units not used", "IP-Adapter not used in"
LOST_CALLS = (
    "IP-Adapter: the references were left out of some of the model's calls, because another extension hides which "
    "picture they belong to: switch it off, or the units."
)


class InternalError(IPAdapterError):
    """Not the user's fault."""

    http_status = 500


@contextmanager
def refusing(p: Any) -> Iterator[None]:
    """What goes wrong in here refuses ``p``'s job: it is kept in the job's record and raised, as an IPAdapterError. The
    cell of a plot goes on, and shows it."""
    try:
        yield
    except host.Interrupted:
        log.info("IP-Adapter: interrupted before sampling")
    except IPAdapterError as error:
        if not _keep(p, error):
            raise
    except Exception as error:
        errors.report("IP-Adapter: unexpected error", exc_info=True)
        refusal = InternalError(
            f"IP-Adapter: unexpected {type(error).__name__}: {error}. Disable its units to go on; "
            "the console's log has the details for a report."
        )
        if not _keep(p, refusal):
            raise refusal from error


def _keep(p: Any, error: IPAdapterError) -> bool:
    """Whether the job goes on in spite of the error."""
    if xyz_cells.refuse(p, error):
        return True
    record.opened(p).refusal = error.to_keep()
    return False


def take_refusal(p: Any) -> IPAdapterError | None:
    """The error with which ``p``'s job was refused, once."""
    job = record.own(p)
    if job is None:
        return None
    refusal, job.refusal = job.refusal, None
    return refusal


def tell_inactions(job: Job, inactions: Sequence[Inaction], lost: int) -> None:
    """Units that have not acted in the pictures that were made last leave the pictures' parameters, which say so, as
    they say that units have acted in a part of their steps only; comments say why."""
    p, generation = job.owner, job.generation
    if generation is None:
        return
    _forget_batch(job, generation)
    said = [LOST_CALLS] if lost else []
    for unit in inactions:
        why = f"{REFINED[unit.acted]}: {generation.unfit_why}" if unit.unserved else IDLE
        said.append(f"IP-Adapter unit {unit.number}: {why}")
        if not unit.acted:
            p.extra_generation_params.pop(infotext.entry_name(unit.number), None)
    idle = [f"{unit.number}" for unit in inactions if not unit.acted]
    if idle:
        p.extra_generation_params[UNUSED] = " ".join(idle)
    partly = ["some calls"] if lost else []
    partly += ["refiner"] if any(unit.acted for unit in inactions) else []
    if partly:
        p.extra_generation_params[PARTLY] = " ".join(partly)
    for sentence in said:
        log.warning("%s", sentence)
        p.comment(sentence)


def _forget_batch(job: Job, generation: Generation) -> None:
    """Take out of the parameters what they say of the batch before this one. Units that act in ADetailer's passes only
    have their entries once a picture is finished."""
    parameters, here = job.owner.extra_generation_params, {one.number for one in generation.prompts}
    for entry in (UNUSED, PARTLY):
        parameters.pop(entry, None)
    for name, text in infotext.parameters([plan for plan in job.plans if plan.number in here]).items():
        parameters.setdefault(name, text)


def fail(job: Job, reason: str) -> None:
    """The references have not done what was asked for, and it is too late to stop the job. The first reason counts."""
    job = job.outer or job
    if job.failure is not None or not job.plans:
        return
    error = IPAdapterError(f"IP-Adapter: the references were not used in this picture: {reason}")
    log.error("%s", error)
    for name in infotext.parameters(job.plans):
        job.owner.extra_generation_params.pop(name, None)
    job.owner.extra_generation_params[UNUSED] = " ".join(f"{plan.number}" for plan in job.plans)
    job.owner.comment(error.detail)
    if host.current().has_an_end(job.owner):
        job.failure = error
    original = job.original
    if original is not None and original.failure is None and not xyz_cells.is_cell(job.owner):
        original.failure = error  # nobody closes the copy
