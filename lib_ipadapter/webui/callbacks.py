"""The host's callbacks, in the order of a job: names and order only. What comes before any job is in ``start.py``."""

from __future__ import annotations

import contextlib
from typing import Any

from modules import script_callbacks

from ..errors import IPAdapterError
from . import detailing, history, job, sampling, shares
from . import influence_pictures as influence
from .host import current, record
from .neighbours import adetailer, controlnet, distributed, xyz_cells, xyz_grids


def setup(p: Any) -> None:
    """``setup``: the job has its scripts and arguments, and nobody has read these yet."""
    distributed.json_arguments(p)
    current().watch_parts(p)
    if current().script_chosen(p):
        job.watch_script(p)


def before_process(p: Any, args: tuple[Any, ...]) -> None:
    """``before_process``: the job's checkpoint and options are not in force yet."""
    current().leave_the_end_alone(p, copied=True)
    if adetailer.is_inner(p):
        return
    job.expect(p, args)  # first: if anything below fails, the host goes on
    if not record.is_copy(p):
        job.end(p)
    job.clean()
    adetailer.clean(p)
    distributed.json_arguments(p)  # a plot's cell: its values have come since ``setup``


def process(p: Any, args: tuple[Any, ...]) -> None:
    """``process``: normally everything is done. If something else called the method in whose place we were and kept
    what it raised, or nothing called it, the job is refused a little later."""
    if current().passed_over_before_prompts(p):
        if record.is_copy(p):  # made to tell scripts that the job goes on, with its next batch
            return
        with contextlib.suppress(IPAdapterError):
            job.begin(p, args)
    job.check_before_latents(p)


def before_sampling(p: Any) -> None:
    """``process_before_every_sampling``."""
    sampling.before(p)


def on_cfg_denoiser(params: script_callbacks.CFGDenoiserParams) -> None:
    """Before each denoising step."""
    sampling.step(params)


def after_sampling(p: Any) -> None:
    """``post_sample``."""
    sampling.after(p)


def picture_finished(p: Any, shown: Any) -> None:
    """``postprocess_image_after_composite``: nobody but extensions after us changes the picture any more."""
    if (own := record.own(p)) is not None:
        influence.remember(own, shown.image)
        detailing.picture_finished(own)
    xyz_cells.finish(p, shown)
    xyz_grids.mark(p, shown.image)


def before_grid(params: script_callbacks.ImageGridLoopParams) -> None:
    """``image_grid``: several pictures are put together to one."""
    xyz_grids.draw(params)


def finished(p: Any, processed: Any) -> None:
    """``postprocess``: the job's pictures are there."""
    own = record.own(p)
    if own is None:  # or a copy, made to tell scripts that the job rests; it goes on
        return
    arguments = own.arguments
    try:
        history.keep(own, processed)
        influence.append(own, processed)
        detailing.tell(own, processed)
        shares.tell(own, processed)
    finally:
        job.end(p)
        if arguments is not None and controlnet.has_begun_batch(p):  # it goes on with p, behind ``before_process``
            job.expect(p, arguments)
