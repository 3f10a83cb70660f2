"""What is known of one job: the only attribute that this extension leaves on the host's processing object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from .replaced import Private

if TYPE_CHECKING:
    from ...attend.regions import Box
    from ...errors import IPAdapterError
    from ...jobs.generation import Generation
    from ...jobs.plans import Plan
    from ...unit import Unit
    from ..detailing import Detailing

ATTRIBUTE = "ip_adapter_job"


@dataclass(frozen=True)
class FinishedPicture:
    """A finished picture: its index in the job, and the box (left, top, width, height) that was sampled of it."""

    index: int
    image: Image
    box: Box


@dataclass(eq=False)
class Job(Private):
    """The record of one job. Its ``owner`` is the processing object that it was begun for.

    Other extensions copy that object; a shallow copy bears its original's record, and is recognised by ``owner``.
    ``axis_values`` are what an X/Y/Z plot sets, ``refused_cell`` why its cell was refused; both outlive a run, as
    ``failure`` does until the owner is closed. A script from the list of scripts may make its jobs with copies, which
    nobody closes: the record of the object that it was given is the ``original`` of theirs, and of itself.
    """

    owner: Any
    axis_values: dict[str, Any] = field(default_factory=dict)
    original: Job | None = None
    has_kept: bool = False  # whether the units of a script's jobs are among the kept generations
    arguments: tuple[Any, ...] | None = None  # the script's, once the job has begun with units
    units: list[Unit] = field(default_factory=list)  # as they were asked for, before overlaps were settled
    file: tuple[int, int] = (0, 1)  # of img2img's batch of files: which one it is, and how many there are
    places: int = 0  # how many were given, those that are not enabled among them
    plans: list[Plan] = field(default_factory=list)  # of all units that act in any pass
    generation: Generation | None = None  # what those have become that act in the job's own passes
    detailing: Detailing | None = None  # what those have become that act in ADetailer's
    check: Callable[[], None] | None = None  # raises where a neighbour has not taken up what it was given
    replaced: list[tuple[Any, Any]] = field(default_factory=list)  # ours and theirs in the host's list of arguments
    tab_pass: Any = None  # what stands on ADetailer's script meanwhile
    outer: Job | None = None  # the job that this one is a part of
    finished: list[FinishedPicture] = field(default_factory=list)
    refusal: IPAdapterError | None = None  # why it was not begun
    refused_cell: IPAdapterError | None = None
    failure: IPAdapterError | None = None  # what has gone wrong since it began

    @property
    def running(self) -> bool:
        return self.arguments is not None or self.generation is not None or self.check is not None

    def forget_run(self) -> None:
        """The run is over, or begins anew."""
        self.arguments, self.units, self.places, self.generation, self.check = None, [], 0, None, None
        self.outer, self.detailing, self.refusal = None, None, None
        self.plans, self.finished = [], []
        if self.failure is None and not self.axis_values and self.original is not self:
            vars(self.owner).pop(ATTRIBUTE, None)


def attached(p: Any) -> Job | None:
    """The record that ``p`` bears: its own, or that of the object which it is a copy of."""
    found = vars(p).get(ATTRIBUTE)
    return found if isinstance(found, Job) else None


def own(p: Any) -> Job | None:
    """The record of ``p`` itself, None where there is none yet."""
    job = attached(p)
    return job if job is not None and job.owner is p else None


def opened(p: Any) -> Job:
    """The record of ``p`` itself, begun if need be: a copy keeps the values of a plot, and whose copy it is."""
    job = own(p)
    if job is None:
        of_original = attached(p)
        job = Job(p) if of_original is None else Job(p, dict(of_original.axis_values), of_original.original)
        setattr(p, ATTRIBUTE, job)
    return job


def axis_values(p: Any) -> Mapping[str, Any]:
    """What a plot sets for the cell that ``p`` is, or is a copy of: {"number field": value}."""
    job = attached(p)
    return {} if job is None else job.axis_values


def is_copy(p: Any) -> bool:
    """Whether ``p`` is a copy that another extension has made of a running job's object."""
    return (job := attached(p)) is not None and job.owner is not p and job.running
