"""What is told after a job of how much each unit did: in the answer's ``info``, which the page reads, too.

The host writes what is in ``p.extra_generation_params`` into each picture's parameters, and the job's result has the
same dict for its ``info``. When the pictures are there, their parameters are written: what the result alone is given
then, as a dict of its own, is told with ``info`` and grows no picture's parameters.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .host.record import Job

log = logging.getLogger("ip-adapter")
ENTRY = "IP-Adapter influence"  # of ``extra_generation_params``; the page's script knows it, too


def tell(job: Job, processed: Any) -> None:
    """The job is done: say how much its units did, those that did something. An accident costs no more than that."""
    try:
        found = [] if job.generation is None else job.generation.shares()
    except Exception:
        log.warning("IP-Adapter: how much each unit did cannot be told.", exc_info=True)
        return
    if found:
        told = [one.told() for one in found]
        processed.extra_generation_params = {**(processed.extra_generation_params or {}), ENTRY: told}
