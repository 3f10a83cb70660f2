"""Cells of an X/Y/Z plot that cannot be made: each is a picture of the reason, in its place in the grid."""

from __future__ import annotations

import logging
import textwrap
from typing import Any

from PIL import Image, ImageDraw

from ...errors import IPAdapterError
from .. import host
from ..drawing import INK, PAPER, font, in_characters_of
from ..host import record

log = logging.getLogger("ip-adapter")

NOTE = "IP-Adapter refused"  # the entry in a picture's parameters


def is_cell(p: Any) -> bool:
    """Whether ``p`` is a plot's copy of its own object, with which it makes one cell."""
    job = record.attached(p)
    if job is None or job.axis_values:
        return job is not None
    of_copy = job.original is not None and job.original.owner is not p
    return of_copy and hasattr(host.current().chosen_script(p), "current_axis_options")


def refuse(p: Any, error: IPAdapterError) -> bool:
    """Let a cell's job end in a picture of the reason instead of an exception, of which the plot would leave a blank.

    Nothing is sampled. False if ``p`` is no cell.
    """
    if not is_cell(p):
        return False
    log.error("%s", error)
    record.opened(p).refused_cell = error.to_keep()
    p.do_not_save_samples = True
    p.extra_generation_params[NOTE] = error.detail
    host.current().sample_nothing(p)
    return True


def finish(p: Any, shown: Any) -> None:
    """``postprocess_image_after_composite``: a cell that was refused, or has failed, is a picture of the reason.

    The plot never closes its cells' jobs, which is how other jobs tell a failure.
    """
    job = record.attached(p)
    error = None if job is None or not is_cell(p) else job.failure or job.refused_cell
    if error is not None:
        shown.image = _written(error.detail, shown.image.size)


def _written(sentence: str, size: tuple[int, int]) -> Image.Image:
    """The sentence on paper of ``size``, as large as it fits."""
    picture = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(picture)
    margin = max(4, size[0] // 24)
    for height in range(max(8, min(28, size[0] // 16)), 5, -1):
        letters, line = font(height), 1.3 * height
        columns = max(4, int((size[0] - 2 * margin) / letters.getlength("n")))
        lines = textwrap.wrap(in_characters_of(letters, sentence), columns)
        if len(lines) * line <= size[1] - 2 * margin and all(
            letters.getlength(text) <= size[0] - 2 * margin for text in lines
        ):
            break
    for i, text in enumerate(lines):
        draw.text((margin, margin + round(i * line)), text, INK, letters)
    return picture
