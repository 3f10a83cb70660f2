"""ControlNet beside us: its units read, their pictures as references, and units changed for one run.

Which ControlNet it is (sd-webui-controlnet, or the one that Forge and its kin have built in) and how its units are
made is for the host to answer, and asked when a job begins: it may be absent, switched off, or loaded again at any
time. Its units are only read. Where one has to be another for a run, a copy takes its place in the job's own arguments,
which keep their length: the runner's table of who reads which arguments is shared by all jobs.
"""

from __future__ import annotations

from .changes import disabled, replace, restore, restored_on_error
from .references import with_pictures
from .units import ControlNetPicture, ControlNetUnitView, has_begun_batch, script, unit_of, units_of

__all__ = [
    "ControlNetPicture",
    "ControlNetUnitView",
    "disabled",
    "has_begun_batch",
    "replace",
    "restore",
    "restored_on_error",
    "script",
    "unit_of",
    "units_of",
    "with_pictures",
]
