"""A job's hooks in the model: put in before a pass, told each step's rows, taken out after it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from modules import errors
from torch import nn

from ..attend.injection import ModelInjection, injections
from ..attend.outcome import Outcome
from ..errors import MismatchError
from . import detailing, host
from .host import record
from .job import end
from .neighbours import adetailer
from .refusal import NOT_USED, fail, tell_inactions
from .runs import run_of

if TYPE_CHECKING:
    from .host.record import Job

log = logging.getLogger("ip-adapter")


def before(p: Any) -> None:
    """The hooks go into the checkpoint that is loaded now."""
    job = record.own(p)
    if job is None or job.generation is None:
        return
    try:
        _attach(job, host.current().usable_unet())
    except Exception as error:
        errors.report("IP-Adapter: could not be attached", exc_info=True)
        fail(job, f"{error}")


def step(params: Any) -> None:
    """Tell the hooks a denoising step's rows, or keep them out of a step that is another job's."""
    current = host.current()
    p, unet = current.denoised_job(params), current.sampled_unet()
    if unet is None:
        return
    job = None if p is None else _job(p)
    generation = None if job is None else job.generation
    attached = None if generation is None else generation.injection
    try:
        if job is not None and generation is not None and (attached is None or attached.model is not unet):
            # The refiner's checkpoint has taken over, or a script samples by itself.
            attached = _follow(job, unet)
        for injection in injections(unet):
            if injection is not attached:
                injection.pause()
        if generation is not None and generation.unfit is unet:
            announced = current.denoising_step(params)
            generation.pass_over(announced.step, announced.steps)
        if attached is not None:
            # A job inside this one may have cleaned the UNet.
            attached.attach().begin(*current.denoising_step(params))
    except Exception as error:
        errors.report("IP-Adapter: unexpected error", exc_info=True)
        if attached is not None:
            attached.pause()
        if job is not None:
            fail(job, f"{type(error).__name__}: {error}")


def after(p: Any) -> None:
    """The hooks go out, before anybody else uses the UNet."""
    adetailer.announce(p)
    job = record.own(p)
    if job is None or job.generation is None:
        return
    if job.outer is not None:
        detailing.finish(job)
        return
    outcome = job.generation.detach()
    if outcome is Outcome.MISSED and host.current().starts_with_second_pass(p):
        outcome = Outcome.ACTED
    inactions, lost = job.generation.inactions(), job.generation.lost
    job.generation.lost = 0  # of the next batch
    if host.current().cut_short():
        return  # what was cut short owes nothing
    if outcome in NOT_USED:
        fail(job, NOT_USED[outcome])
    elif job.failure is None:
        tell_inactions(job, inactions, lost)


def _attach(job: Job, unet: nn.Module, same_pass: bool = False) -> ModelInjection | None:
    assert job.generation is not None
    current, outer = host.current(), job.outer
    coming = current.sampling_pass(job.owner) if outer is None else current.pass_inside(job.owner, outer.owner)
    return job.generation.attach(
        unet, hires_pass=coming.hires, first_picture=coming.first_picture, same_pass=same_pass, part=coming.part,
        run=run_of(outer or job, coming.first_picture),
    )  # fmt: skip


def _follow(job: Job, unet: nn.Module) -> ModelInjection | None:
    """Into the UNet that is used now, if the adapters fit it; SDXL's own refiner is left alone."""
    generation, outer = job.generation, job.outer
    if generation is None or generation.unfit is unet:
        return None
    try:
        return _attach(job, unet, same_pass=True)
    except MismatchError as error:
        generation.unfit, generation.unfit_why = unet, error.detail
        what = "the refiner works" if outer is None else "ADetailer's pass worked"
        log.warning("IP-Adapter: %s without the references: %s", what, error)
        if outer is not None:
            outer.owner.comment(f"IP-Adapter: {what} without the references: {error}")
        return None


def _job(p: Any) -> Job | None:
    """The job of ``p`` itself (a copy made by another extension has none), or for a pass of ADetailer's one with those
    of the outer job's units that act there."""
    job = record.own(p)
    if (job is not None and job.generation is not None) or not adetailer.is_inner(p):
        return job
    inner = detailing.begin(p)
    if inner is not None:
        host.current().leave_the_end_alone(p)
        host.current().at_the_end(p, lambda: _end_inner(inner), lambda: None)
    return inner


def _end_inner(job: Job) -> None:
    detailing.finish(job)
    end(job.owner)
