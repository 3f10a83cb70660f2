"""A unit's references as the panel keeps them, and how they are shown: each beside what the image encoder sees.

An item is ``{"key": …, "weight": …}``, and its picture is the page's under that key (picture_pool.py); or it has
``"controlnet": n`` or ``"start_picture"`` instead of a picture. ``"mask"`` is the key of its mask, ``"region"`` that of
the mask of where in the picture it acts, ``"at"`` its place over time, ``"negative"`` makes it a negative reference,
``"pose"`` one of whose face only the place counts, ``"waiting"`` says that the page is about to send the picture.
"""

from __future__ import annotations

import functools
import html
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ...checkpoint.catalog import Catalog
from ...checkpoint.specs import CLIP
from ...encode.crops import views
from ...encode.look_files import small_picture_of
from ...encode.picture import Mask, Picture, decode, decode_mask
from ...encode.stored import Stored
from ...errors import IPAdapterError
from ...reference import AT, START, WEIGHT
from ...unit import Unit
from ..picture_text import data_url, jpeg_url
from . import face_cards, picture_pool
from .face_cards import FaceLook, seen_side

Item = dict[str, Any]
Pictures = Mapping[str, Picture]
CARD = 224  # height of a shown reference, in pixels
ENLARGED = 2048  # longest side of a picture that is looked at, or painted over, in pixels
SEEN = "What the encoder sees"
START_TIP = "What img2img begins with; in tiled upscaling each tile sees itself"
AT_KEY = "at"  # an item's place over time
AT_TIP = "Where it stands among the pictures of a batch or a film: 0 is the first, 1 the last"
EMPTY_REGION = "its region is empty, so it acts nowhere: paint where it acts."
EMPTY_MASK = "its mask is empty, so nothing of it counts: paint what counts."


def new_key() -> str:
    return secrets.token_hex(6)


def encoder_size(settings: Item, catalog: Catalog) -> int | None:
    """How many pixels square the encoder sees for a unit's ``settings``, its model, encoder and resolution; None where
    there is no such thing."""
    try:
        return _size(Unit.parse({**settings, "enabled": False}), catalog)
    except IPAdapterError:
        return None


def encoder_family(model: str, catalog: Catalog) -> str:
    """The family of the image encoder that the adapter of that name takes; CLIP where there is no such adapter."""
    try:
        return catalog.find(model).spec.family
    except IPAdapterError:
        return CLIP


def _size(unit: Unit, catalog: Catalog) -> int:
    return seen_side(unit, catalog.find(unit.model), catalog)


def seen(unit: Unit, catalog: Catalog) -> list[Image.Image]:
    """Exactly what the image encoder sees of each of the unit's references, faces aside (face_cards.py).

    Raises IPAdapterError for an adapter or encoder that is not there, and for what is no usable picture.
    """
    size = _size(unit, catalog)
    shown: list[Image.Image] = []
    for reference in unit.references:
        mask = None if reference.mask is None else decode_mask(reference.mask)
        shown += views(decode(reference.image), size, unit.crop, mask, encoder_family(unit.model, catalog))
    return shown


def controlnet_name(number: int) -> str:
    """Unit ``number``, counted from 1, as ControlNet's own tabs call it."""
    return f"ControlNet Unit {number - 1}"


# Cards


@dataclass(frozen=True)
class Look:
    """How references are seen: by an encoder of ``size`` pixels (None where none is known) and of that ``family``,
    under ``crop``, or, with ``faces``, only their faces."""

    size: int | None = None
    crop: str = "center"
    faces: FaceLook | None = None
    family: str = CLIP


def _shown(picture: Image.Image) -> str:
    return data_url(picture, "JPEG", quality=85)


def _small(image: Image.Image, width: int, height: int) -> Image.Image:
    """``image``, no larger than that."""
    share = min(1.0, width / image.width, height / image.height)
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _whole(picture: Picture, image: Callable[[], Image.Image]) -> str:
    """Address of a small picture. ``image`` gives that of ``picture``, and is asked for what is not remembered."""
    return picture_pool.pool().preview((picture.content_hash, CARD), lambda: _shown(_small(image(), CARD * 2, CARD)))


def enlarged(picture: Picture | None) -> str | None:
    """Address of a picture at up to ENLARGED pixels; None where there is none to look at."""
    if picture is None or picture.carries_embeddings:
        return None
    return data_url(_small(picture.image, ENLARGED, ENLARGED), "JPEG", quality=90)


def _views(picture: Picture, image: Callable[[], Image.Image], look: Look, mask: Picture | None) -> str:
    """HTML: what the encoder sees. ``image`` as in ``_whole``."""
    size = look.size
    if size is None:
        return ""

    def draw() -> str:
        counts = None if mask is None else decode_mask(mask)
        return "".join(_seen(_shown(view)) for view in views(image(), size, look.crop, counts, look.family))

    name = (picture.content_hash, size, look.crop, look.family, None if mask is None else mask.content_hash)
    return picture_pool.pool().preview(name, draw)


def _seen(address: str) -> str:
    return (
        f"<img src='{address}' alt='{SEEN}' title='{SEEN}' class='ip-adapter-seen' decoding='sync' draggable='false'>"
    )


def remember(picture: Picture, image: Image.Image, look: Look) -> None:
    """Draw what the card of a picture shows, while its ``image`` is at hand: one of a large picture is not kept."""
    _whole(picture, lambda: image)
    if look.faces is not None:
        return
    _views(picture, lambda: image, look, None)


def _face(number: int, item: Item, pictures: Pictures, look: Look) -> str:
    """The upper half of a card: its picture, or why there is none."""
    picture = pictures.get(item["key"])
    if "controlnet" in item:
        name = controlnet_name(item["controlnet"])
        text = f"<em title='The picture that {name} has when the generation starts'>{name}</em>"
    elif START in item:
        text = f"<em title='{START_TIP}'>Start picture</em>"
    elif picture is None and item.get("waiting"):
        text = "<em class='ip-adapter-waiting'>on its way …</em>"
    elif picture is None:
        text = "<em class='ip-adapter-problem'>⚠ not there any more: add it again</em>"
    else:
        image = functools.cache(lambda: picture.image)
        mask = pictures.get(item.get("mask", ""))
        if picture.carries_embeddings:
            text = _stored(picture)
        elif look.faces is not None:
            text = _photo(number, picture, image, look.faces, mask)
        else:
            text = _side_by_side(_img(number, picture, image), _views(picture, image, look, mask))
    if picture is not None and picture_pool.is_empty(pictures.get(item.get("mask", ""))):
        text += face_cards.problem(EMPTY_MASK)
    if picture_pool.is_empty(pictures.get(item.get("region", ""))):
        text += face_cards.problem(EMPTY_REGION)
    return f"<span class='ip-adapter-shown' draggable='true'>{text}</span>"


def _side_by_side(whole: str, seen: str) -> str:
    """HTML: a reference's picture and, where there is one, what is seen of it: then each has a caption."""
    if not seen:
        return f"<span class='ip-adapter-captioned'>{whole}</span>"
    return (
        f"<span class='ip-adapter-captioned'>{whole}<small>reference</small></span>"
        f"<span class='ip-adapter-captioned'><span>{seen}</span><small>seen by the encoder</small></span>"
    )


def _img(number: int, picture: Picture, image: Callable[[], Image.Image]) -> str:
    return (
        f"<img src='{_whole(picture, image)}' alt='Reference {number}' title='Reference {number}: click to enlarge' "
        "class='ip-adapter-whole' decoding='sync' draggable='false'>"
    )


def _photo(
    number: int, picture: Picture, image: Callable[[], Image.Image], look: FaceLook, mask: Picture | None
) -> str:
    """HTML: a photo with its faces, and what is looked at of the one that is meant."""
    counts = None if mask is None else Mask.of(mask.image)
    try:
        faces = look.at(picture, counts)
    except IPAdapterError as error:
        return _side_by_side(_img(number, picture, image), "") + face_cards.problem(error.detail)

    def draw() -> str:
        return _shown(_small(faces.marked(image()), CARD * 2, CARD))

    name = (picture.content_hash, None if counts is None else counts.content_hash, *look.name)
    marked = picture_pool.pool().preview((*name, "marked"), draw)
    how = f", found {faces.found.how}" if faces.found.how else ""
    shown = (
        f"<span class='ip-adapter-photo'><img src='{marked}' alt='Reference {number}' "
        f"title='Reference {number}{html.escape(how)}' class='ip-adapter-whole' decoding='sync' draggable='false'>"
        f"{faces.buttons()}</span>"
    )
    if faces.meant is None:
        return _side_by_side(shown, "") + face_cards.problem(faces.problem)
    cut = picture_pool.pool().preview(
        (*name, "cut"), lambda: _shown(faces.cut(image(), None if counts is None else counts.image, look.size))
    )
    return _side_by_side(shown, _seen(cut))


def _stored(picture: Picture) -> str:
    """HTML: a file of embeddings, which is nothing to look at."""
    try:
        stored = Stored.of(picture)
    except IPAdapterError as error:
        return face_cards.problem(error.detail)
    assert stored is not None
    if stored.look:
        return _look_card(picture, stored)
    count = len(stored.references)
    what = "1 reference" if count == 1 else f"{count} references"
    made_by = html.escape(" and ".join(f"{part} by {name}" for part, name in stored.made_by.items()))
    return f"<em class='ip-adapter-stored'>Embeddings of {what} ({made_by})</em>"


def _look_card(picture: Picture, stored: Stored) -> str:
    """HTML: a look, with its small picture."""
    small, name = small_picture_of(picture), html.escape(stored.look)
    image = f"<img src='{jpeg_url(small)}' alt='' decoding='sync' draggable='false'>" if small else ""
    made_by = html.escape(" and ".join(f"{part} by {by}" for part, by in stored.made_by.items()))
    return (
        f"<span class='ip-adapter-captioned ip-adapter-look' title='{made_by}'>{image}<b translate='no'>{name}</b>"
        "<small>Look</small></span>"
    )


def _mask_address(mask: Picture) -> str:
    return picture_pool.pool().preview((mask.content_hash, "PNG"), lambda: data_url(mask.image))


def _region(number: int, item: Item, pictures: Pictures) -> str:
    """HTML: the button of a reference with a region of its own, with a small picture of it; another gets one by its
    menu."""
    if "region" not in item or item.get("negative") or item.get("pose"):
        return ""
    mask = pictures.get(item["region"])
    image = "" if mask is None else f"<img src='{_mask_address(mask)}' alt='' draggable='false'>"
    return (
        f"<button type='button' class='ip-adapter-place' aria-expanded='false' "
        f"aria-label='Region of reference {number}' title='Where in the picture it acts'>"
        f"{image}<span>Region</span></button>"
    )


def _buttons(number: int, item: Item, pictures: Pictures) -> str:
    masked, negative, pose = "mask" in item, "negative" in item, "pose" in item
    given = pictures.get(item.get("mask", ""))
    mask = "" if given is None else f" data-mask='{_mask_address(given)}'"
    picture = pictures.get(item["key"])
    turnable = " disabled" if START in item else ""
    paintable = "" if picture is not None and not picture.carries_embeddings else " disabled"
    return (
        f"<button type='button' class='ip-adapter-negate' aria-pressed='{str(negative).lower()}'{turnable} "
        f"aria-label='Reference {number} is negative' title='The picture moves away from it'>Negative</button>"
        f"<button type='button' class='ip-adapter-pose' data-variants='instantid' aria-pressed='{str(pose).lower()}'"
        f"{turnable} aria-label='Reference {number} is for the pose' "
        "title='Only where its face is counts'>Pose</button>"
        f"<button type='button' class='ip-adapter-mask' aria-pressed='{str(masked).lower()}'{mask}{paintable} "
        f"aria-label='Mask of reference {number}' title='What of it counts'>Mask</button>"
        f"{_region(number, item, pictures)}"
        f"<button type='button' class='ip-adapter-more' aria-expanded='false' "
        f"aria-label='More about reference {number}' title='Enlarge, move, weigh'>⋯</button>"
        f"<button type='button' class='ip-adapter-remove' aria-label='Remove reference {number}' "
        "title='Remove'>✕</button>"
    )


def _card(number: int, item: Item, pictures: Pictures, look: Look, is_alone: bool) -> str:
    """``is_alone``: the unit has no other reference, so the unit's own weight says it all where this one is 1."""
    number_field = (
        f"<input type='number' min='{WEIGHT.low:g}' max='{WEIGHT.high:g}' step='0.05' value='{item['weight']:g}' "
        f"aria-label='Weight of reference {number}'>"
    )
    unseen = " hidden" if is_alone and item["weight"] == 1 else ""
    return (
        f"<li class='ip-adapter-card{' ip-adapter-negative' if item.get('negative') else ''}' "
        f"data-key='{html.escape(item['key'])}'>{_face(number, item, pictures, look)}"
        f"<span class='ip-adapter-card-tools'><label title='Weight of this reference'{unseen}>"
        f"<span>Weight</span>{number_field}</label>{'' if is_alone else _at(number, item)}"
        f"{_buttons(number, item, pictures)}</span></li>"
    )


def _at(number: int, item: Item) -> str:
    """HTML: the field of a reference over time."""
    if AT_KEY not in item or item.get("negative") or item.get("pose"):
        return ""
    return (
        f"<label class='ip-adapter-at' title='{AT_TIP}'><span>At</span><input type='number' min='{AT.low:g}' "
        f"max='{AT.high:g}' step='0.05' value='{item[AT_KEY]:.4g}' aria-label='Reference {number} over time'></label>"
    )


def cards(items: Sequence[Item], pictures: Pictures, look: Look, stamp: str = "") -> str:
    """HTML: for each reference the picture, what the encoder sees of it, its weight, and buttons.

    They come as a template: the page's script puts them on view, and changes what has changed (panel/cards.js). It
    looks for ``stamp``.
    """
    is_alone = len(items) == 1
    shown = "".join(_card(number, one, pictures, look, is_alone) for number, one in enumerate(items, 1))
    return f"<template class='ip-adapter-drawn' data-stamp='{html.escape(stamp)}'>{shown}</template>"
