"""Scripts of the host that take a start picture apart: what tells where a part lies in the whole.

SD upscale and its kin cut an enlarged picture into tiles with ``modules.images.split_grid``, and make each in a pass of
the same job, with the tile as its start picture. Nothing of the job says which tile that is. So from a script's
beginning on, what ``split_grid`` cuts bears its place as an attribute. Copies that PIL makes of a picture, larger or
smaller ones among them, do not have it: a start picture with a place is the very one that was cut.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from PIL.Image import Image

from ...attend.regions import Box, Part, Size

PLACE, GIVEN = "ip_adapter_place", "ip_adapter_given"  # attributes of pictures
OURS = "ip_adapter_notes_places"  # attribute of the function that notes them
# Scripts whose start pictures, though not those of the page, are whole ones.
WHOLE = (
    "loopback", "x/y/z plot", "prompt matrix", "prompts from file or textbox", "img2img alternative test",
    "ultimate sd upscale",
)  # fmt: skip
# Scripts that take the latent apart, and not the start picture; their first argument says whether they are on.
INSIDE = ("Tiled Diffusion", "MultiDiffusion Integrated")
CUT = 1  # as ``resize_mode``: what is too wide or too high is cut off


class Place(NamedTuple):
    """Where a picture lies in a whole of size ``picture``."""

    picture: Size
    box: Box


def watch(p: Any) -> None:
    """A script is about to make ``p``'s job: from here on, pictures tell whether they are the given ones or parts."""
    from modules import images

    for picture in _start_pictures(p):
        setattr(picture, GIVEN, True)
    cut = images.split_grid
    if getattr(cut, OURS, False):
        return

    @functools.wraps(cut)
    def split_grid(image: Image, *args: Any, **kwargs: Any) -> Any:
        grid = cut(image, *args, **kwargs)
        for top, height, row in grid.tiles:
            for left, width, tile in row:
                setattr(tile, PLACE, Place((image.height, image.width), (left, top, width, height)))
        return grid

    setattr(split_grid, OURS, True)
    images.split_grid = split_grid


def unwatch() -> None:
    """Take back what ``watch`` has put into the host."""
    from modules import images

    if getattr(images.split_grid, OURS, False):
        images.split_grid = images.split_grid.__wrapped__


def part(p: Any) -> Part | None:
    """What ``p``'s start pictures are of a larger picture; None where they are none of its parts."""
    places = [_place(picture) for picture in _start_pictures(p)]
    known = [place for place in places if place is not None]
    if not known or len(known) < len(places) or len({place.picture for place in known}) > 1:
        return None
    return Part(known[0].picture, tuple(place.box for place in known))


def is_lost(p: Any, title: str, elsewhere: bool) -> bool:
    """Whether the script of this ``title`` makes ``p``'s job of pictures of which nothing tells where they lie.
    ``elsewhere`` are machines that get pictures without their places."""
    pictures = _start_pictures(p)
    if title.lower() in WHOLE or all(getattr(picture, GIVEN, False) for picture in pictures):
        return False
    return elsewhere or part(p) is None


def _start_pictures(p: Any) -> list[Image]:
    return [picture for picture in getattr(p, "init_images", None) or () if isinstance(picture, Image)]


def _place(picture: Image) -> Place | None:
    place: Place | None = getattr(picture, PLACE, None)
    return place if place is not None and picture.size == place.box[2:] else None


# What a job samples of its start pictures


class _MaskIsDone(Exception):
    """The host's job has made its mask ready, and comes to its start pictures."""


class _Asked(list[Image]):
    """Start pictures that end the job's ``init`` when it comes to them."""

    def __iter__(self) -> Iterator[Image]:
        raise _MaskIsDone


def sampled(p: Any) -> list[Image]:
    """Of each of ``p``'s start pictures the part that is sampled, before the job has said which part that is."""
    pictures, box = _start_pictures(p), _masked_box(p)
    if box is not None:
        left, top, width, height = box
        return [picture.crop((left, top, left + width, top + height)) for picture in pictures]
    if getattr(p, "resize_mode", 0) == CUT:
        return [_cut(picture, p.width / p.height) for picture in pictures]
    return pictures


def _masked_box(p: Any) -> Box | None:
    """The part (left, top, width, height) that inpainting "only masked" samples. Only the host knows how it grows the
    mask to that part, so a copy of the job is asked to make its mask ready."""
    if getattr(p, "image_mask", None) is None or not getattr(p, "inpaint_full_res", False):
        return None
    asked = copy.copy(p)
    asked.extra_generation_params, asked.paste_to, asked.init_images = {}, None, _Asked(p.init_images)
    asked.scripts = None  # hosts of Forge's kind call other extensions' scripts before they come to the pictures
    with contextlib.suppress(_MaskIsDone):
        type(p).init(asked, [], [], [])
    return None if asked.paste_to is None else tuple(asked.paste_to)


def _cut(picture: Image, form: float) -> Image:
    """The middle of a picture, as large as the ``form``, width by height, allows."""
    width, height = min(picture.width, round(picture.height * form)), min(picture.height, round(picture.width / form))
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture if (width, height) == picture.size else picture.crop((left, top, left + width, top + height))
