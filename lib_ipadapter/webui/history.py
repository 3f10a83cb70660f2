"""A job's units among the presets, named after its first picture."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..encode.picture import Picture
from ..errors import IPAdapterError
from . import host, options, process

if TYPE_CHECKING:
    from ..unit import Unit
    from .host.record import Job

log = logging.getLogger("ip-adapter")

MAX_PIXELS = 100_000_000  # of a job's references and masks: each is written as a PNG before the job's answer


def keep(job: Job, processed: Any) -> None:
    """Keep the units of a job that has gone well, of the many that a script from the list makes those of the first."""
    if not job.units or job.failure is not None or not processed.images or not options.save_generations():
        return
    if host.current().script_chosen(job.owner):
        if job.original is None or job.original.has_kept:
            return
        job.original.has_kept = True
    if sum(picture.size[0] * picture.size[1] for picture in _pictures(job.units)) > MAX_PIXELS:
        log.warning(
            "IP-Adapter: this generation's units are not kept, because its references have more than %d megapixels "
            "together: save them as a preset to keep them.", MAX_PIXELS // 1_000_000,
        )  # fmt: skip
        return
    first = processed.images[min(processed.index_of_first_image, len(processed.images) - 1)]
    saved = getattr(first, "already_saved_as", None)
    name = Path(saved).stem if saved else time.strftime(f"%Y-%m-%d %H.%M.%S, seed {processed.seed}")
    units: list[object] = [{"enabled": False}] * job.places
    for unit in job.units:
        units[unit.number - 1] = unit
    store = process.store()
    try:
        store.history = options.history()
        store.keep(name, units, first if isinstance(first, Image.Image) else None)
    except IPAdapterError as error:  # the pictures are made all the same
        log.warning("IP-Adapter: this generation's units are not kept. %s", error.detail)


def _pictures(units: Sequence[Unit]) -> set[Picture]:
    """The decoded pictures and masks of units, each once; of the start picture the word alone is kept."""
    found = {picture for unit in units for picture in (unit.region_mask, unit.keypoints_image)}
    for unit in units:
        for reference in (*unit.references, *unit.negative_references):
            found |= {None if reference.start_picture else reference.image, reference.mask, reference.region}
    return {picture for picture in found if isinstance(picture, Picture)}
