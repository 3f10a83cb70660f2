"""Influence maps as pictures: a colour map over the finished picture, with its scale, after the job's own pictures."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from modules import images, shared
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..generation import Generation
from . import options
from .host import a1111 as host

log = logging.getLogger("ip-adapter")
SAVE = "ip_adapter_save_influence_maps"
FINISHED = "ip_adapter_finished"  # attribute of the host's processing object: what ``remember`` has seen
# From none to most, each lighter than the one before: readable without colour, too.
COLOURS = ((8, 8, 40), (70, 20, 120), (170, 40, 110), (235, 100, 50), (250, 190, 60), (255, 255, 210))
SHARE = 0.65  # of the colours; the picture below, without its own colours, has the rest
PAPER, INK = (24, 24, 27), (244, 244, 245)


@dataclass(frozen=True)
class Finished:
    """A finished picture: its index in the job, and the box (left, top, width, height) that was sampled of it."""

    index: int
    image: Image.Image
    box: tuple[int, int, int, int]


def register() -> None:
    """Add the setting (called by the host while it builds its settings)."""
    shared.opts.add_option(
        SAVE,
        shared.OptionInfo(False, "Save influence maps with the pictures", section=options.SECTION).info(
            "otherwise they are only shown and returned"
        ),
    )


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The host's font, or Pillow's own, which has one size and plain letters only."""
    return images.get_font(size) if hasattr(images, "get_font") else ImageFont.load_default()


def plain(text: str, letters: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """``text`` in the characters that a font has."""
    if isinstance(letters, ImageFont.FreeTypeFont):
        return text
    return text.replace("…", "...").encode("latin-1", "replace").decode("latin-1")


def _coloured(values: NDArray[Any]) -> NDArray[Any]:
    """Values from 0 to 1, of any shape, as RGB in a further last axis."""
    stops = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(values, stops, channel) for channel in np.array(COLOURS, float).T], axis=-1)


def _strip(width: int, caption: str) -> Image.Image:
    """The scale, 0 at the left, and the caption below it."""
    size, edge = max(12, min(28, width // 32)), max(2, round(0.02 * width))
    caption = plain(caption, font(size))
    while size > 7 and font(size).getlength(caption) > width - 2 * edge:
        size -= 1
    strip = Image.new("RGB", (width, 3 * size), PAPER)
    bar = _coloured(np.linspace(0, 1, width - 2 * edge))[None].repeat(max(4, size - 3), axis=0)
    strip.paste(Image.fromarray(bar.round().astype(np.uint8)), (edge, size // 2))
    ImageDraw.Draw(strip).text((edge, round(1.6 * size)), caption, INK, font(size))
    return strip


def caption(number: int, influence: Tensor) -> str:
    return f"IP-Adapter {number}: influence 0 … {float(influence.max()):.2f}"


def paint(finished: Finished, influence: Tensor, number: int) -> Image.Image:
    """The map of unit ``number`` ([height, width]) over a picture, as wide as that and a little higher.

    The colours go from 0 to the map's greatest value, which the caption tells.
    """
    picture, (left, top, width, height) = finished.image.convert("RGB"), finished.box
    values = np.ascontiguousarray(influence.float().numpy())
    values = np.asarray(Image.fromarray(values).resize((width, height), Image.BILINEAR))
    peak = float(influence.max())
    heat = _coloured(np.clip(values / peak if peak > 0 else values, 0, 1))
    sampled = picture.crop((left, top, left + width, top + height)).convert("L")
    mixed = SHARE * heat + (1 - SHARE) * np.asarray(sampled, float)[..., None]
    below = _strip(picture.width, caption(number, influence))
    canvas = Image.new("RGB", (picture.width, picture.height + below.height))
    canvas.paste(picture)
    canvas.paste(Image.fromarray(mixed.round().astype(np.uint8)), (left, top))
    canvas.paste(below, (0, picture.height))
    return canvas


def remember(p: Any, generation: Generation, image: Image.Image) -> None:
    """A picture of the job is finished."""
    if generation.asked:
        box = host.sampled_box(p) or (0, 0, *image.size)
        found = vars(p).setdefault(FINISHED, [])
        found.append(Finished(p.iteration * p.batch_size + p.batch_index, image, box))


def append(p: Any, generation: Generation, processed: Any) -> None:
    """Put the maps behind the job's result, with a text for each, and save them if the setting says so.

    The host pairs pictures and texts by their place, so pictures that others have added without a text get one.
    """
    finished: list[Finished] = vars(p).pop(FINISHED, [])
    if not generation.asked:
        return
    texts = [*processed.infotexts]
    own = texts[processed.index_of_first_image :]
    texts += texts[:1] * (len(processed.images) - len(texts))
    unknown = set()
    for picture, text in zip(finished, own, strict=False):
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
    return f"{float(influence.mean()):.4g} (up to {float(influence.max()):.4g})"


def _save(p: Any, index: int, picture: Image.Image, text: str, number: int) -> None:
    images.save_image(
        picture, p.outpath_samples, "", p.all_seeds[index], p.all_prompts[index],
        getattr(shared.opts, "samples_format", "png"), info=text, p=p, suffix=f"-influence-{number}",
    )  # fmt: skip
