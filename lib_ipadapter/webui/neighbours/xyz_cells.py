"""Cells of an X/Y/Z plot that cannot be made: each is a picture of the reason, in its place in the grid."""

from __future__ import annotations

import logging
import textwrap
from typing import Any

import torch
from modules import devices, shared
from PIL import Image, ImageDraw

from ...errors import IPAdapterError
from ..influence_pictures import INK, PAPER, font, plain

log = logging.getLogger("ip-adapter")
VALUES = "ip_adapter_xyz"  # attribute of the host's processing object: {"number field": value}, plain JSON
REFUSED = "ip_adapter_refused_cell"  # and the sentence with which its cell was refused


def refuse(p: Any, error: IPAdapterError) -> bool:
    """Let a cell's job end in a picture of the reason instead of an exception, of which the plot would leave a blank.

    Nothing is sampled. False if ``p`` is no cell of an axis of ours.
    """
    if not getattr(p, VALUES, None):
        return False
    log.error("%s", error)
    setattr(p, REFUSED, error.detail)
    p.do_not_save_samples = True
    p.extra_generation_params["IP-Adapter refused"] = error.detail

    def sample(*_args: Any, **_kwargs: Any) -> torch.Tensor:
        width, height = _size(p)
        channels = getattr(shared.sd_model, "latent_channels", 4)
        return torch.zeros(len(p.prompts), channels, height // 8, width // 8, device=devices.device)

    p.sample = sample
    return True


def _size(p: Any) -> tuple[int, int]:
    """Width and height of the pictures that the job would have made."""
    if not getattr(p, "enable_hr", False):
        return p.width, p.height
    return p.hr_upscale_to_x - 8 * p.truncate_x, p.hr_upscale_to_y - 8 * p.truncate_y


def finish(p: Any, shown: Any, failure: IPAdapterError | None) -> None:
    """``postprocess_image_after_composite``: a cell that was refused, or has failed, is a picture of the reason.

    The plot never closes its cells' jobs, which is how other jobs tell a failure.
    """
    if getattr(p, VALUES, None):
        sentence = failure.detail if failure is not None else getattr(p, REFUSED, None)
        if sentence is not None:
            shown.image = _written(sentence, shown.image.size)


def _written(sentence: str, size: tuple[int, int]) -> Image.Image:
    """The sentence on paper of ``size``, as large as it fits."""
    picture = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(picture)
    margin = max(4, size[0] // 24)
    for height in range(max(8, min(28, size[0] // 16)), 5, -1):
        letters, line = font(height), 1.3 * height
        columns = max(4, int((size[0] - 2 * margin) / letters.getlength("n")))
        lines = textwrap.wrap(plain(sentence, letters), columns)
        if len(lines) * line <= size[1] - 2 * margin and all(
            letters.getlength(text) <= size[0] - 2 * margin for text in lines
        ):
            break
    for i, text in enumerate(lines):
        draw.text((margin, margin + round(i * line)), text, INK, letters)
    return picture
