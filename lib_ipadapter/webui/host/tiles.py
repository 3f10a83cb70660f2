"""Scripts of the host that take a start picture apart: what tells where a part lies in the whole.

SD upscale and its kin cut an enlarged picture into tiles with ``modules.images.split_grid``, and make each in a pass of
the same job, with the tile as its start picture. Nothing of the job says which tile that is. So from a script's
beginning on, what ``split_grid`` cuts bears its place as an attribute. Copies that PIL makes of a picture, larger or
smaller ones among them, do not have it: a start picture with a place is the very one that was cut.
"""

from __future__ import annotations

import functools
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
