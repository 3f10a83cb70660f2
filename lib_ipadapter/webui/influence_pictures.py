"""Influence maps as pictures: a colour map over the finished picture, with its scale, after the job's own pictures."""

from __future__ import annotations

import logging
from typing import Any

from modules import images, shared
from PIL import Image
from torch import Tensor

from . import host, options
from .drawing import paint
from .host.record import FinishedPicture, Job

log = logging.getLogger("ip-adapter")
SAVE = "ip_adapter_save_influence_maps"


def register() -> None:
    """Add the setting (called by the host while it builds its settings)."""
    shared.opts.add_option(
        SAVE,
        shared.OptionInfo(False, "Save influence maps with the pictures", section=options.SECTION).info(
            "otherwise they are only shown and returned"
        ),
    )


def remember(job: Job, image: Image.Image) -> None:
    """A picture of the job is finished."""
    if job.generation is not None and job.generation.maps.units:
        current = host.current()
        box = current.sampled_box(job.owner) or (0, 0, *image.size)
        job.finished.append(FinishedPicture(current.finished_picture(job.owner), image, box))


def append(job: Job, processed: Any) -> None:
    """Put the maps behind the job's result, with a text for each, and save them if the setting says so.

    The host pairs pictures and texts by their place, so pictures that others have added without a text get one.
    """
    p, generation = job.owner, job.generation
    if generation is None or not generation.maps.units:
        return
    texts = [*processed.infotexts]
    own = texts[processed.index_of_first_image :]
    texts += texts[:1] * (len(processed.images) - len(texts))
    unknown = set()
    for picture, text in zip(job.finished, own, strict=False):
        for number, influence in generation.influence(picture.index).items():
            if influence is None:
                unknown.add(number)
                continue
            map_text = f"{text}, Influence of IP-Adapter {number}: {_numbers(influence)}"
            painted = paint(picture, influence, number)
            if shared.opts.enable_pnginfo:
                painted.info["parameters"] = map_text
            processed.images.append(painted)
            texts.append(map_text)
            if getattr(shared.opts, SAVE, False) and p.save_samples():
                _save(p, picture.index, painted, map_text, number)
    processed.infotexts = texts
    for number in sorted(unknown):
        sentence = (
            f"IP-Adapter unit {number}: there is no influence map, because another extension takes the picture apart: "
            "switch it off to see one."
        )
        log.warning("%s", sentence)
        processed.comments = "\n".join(filter(None, [processed.comments, sentence]))


def _numbers(influence: Tensor) -> str:
    least, mean, most = (float(value) for value in (influence.min(), influence.mean(), influence.max()))
    return f"{mean:.4g} ({least:.4g} to {most:.4g})"


def _save(p: Any, index: int, picture: Image.Image, text: str, number: int) -> None:
    images.save_image(
        picture, p.outpath_samples, "", p.all_seeds[index], p.all_prompts[index],
        getattr(shared.opts, "samples_format", "png"), info=text, p=p, suffix=f"-influence-{number}",
    )  # fmt: skip
