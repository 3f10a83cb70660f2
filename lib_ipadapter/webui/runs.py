"""What keyframes are spread over: a job's pictures, a film's frames, or what img2img makes of a batch of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..attend.keyframes import Run
from . import host

if TYPE_CHECKING:
    from .host.record import Job


def run_of(job: Job, picture: int) -> Run:
    """The run that the job's picture ``picture`` belongs to, from that picture on. Each batch of frames is a film by
    itself."""
    p = job.owner
    frames = host.current().frames(p)
    if frames is not None:
        return Run(picture % p.batch_size, frames)
    count, (file, files) = p.n_iter * p.batch_size, job.file
    return Run(file * count + picture, files * count)
