"""A unit's references as the panel keeps them, and how they are shown: each beside what the image encoder sees."""

from __future__ import annotations

import base64
import io
import json
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image

from ..checkpoint.catalog import Catalog
from ..encode.picture import decode, decode_mask, views
from ..errors import IPAdapterError
from ..generation import encoder_for
from ..unit import MAX_REFERENCES, Unit

# {"image": RGB picture, "weight": number} as in the API's ``images``, and a "key" that tells it from every other
Item = dict[str, Any]
CARD = 224  # height of a shown reference, in pixels
SEEN = "What the encoder sees"


def item(picture: Image.Image, weight: float = 1.0) -> Item:
    return {"image": picture, "weight": weight, "key": secrets.token_hex(6)}


def for_api(items: Sequence[Item]) -> list[dict[str, Any]]:
    return [{"image": one["image"], "weight": one["weight"]} for one in items]


def add(items: Sequence[Item], pictures: Iterable[Any]) -> list[Item]:
    """``items`` and one more for each of ``pictures``, which may be anything that ``decode`` takes.

    Raises PictureError for what is no usable picture, and where there would be too many.
    """
    grown = [*items, *(item(decode(picture)) for picture in pictures if picture is not None)]
    if len(grown) > MAX_REFERENCES:
        raise IPAdapterError(f"A unit has at most {MAX_REFERENCES} references: remove one first.")
    return grown


def encoder_size(model: str | None, catalog: Catalog) -> int | None:
    """How many pixels square the encoder of the adapter ``model`` sees; None where there is no such thing."""
    try:
        return encoder_for(catalog.find(model), catalog).spec.image_size if model else None
    except IPAdapterError:
        return None


def seen(unit: Unit, catalog: Catalog) -> list[Image.Image]:
    """Exactly what the image encoder sees of each of the unit's references.

    Raises IPAdapterError for an adapter or encoder that is not there, and for what is no usable picture.
    """
    size = encoder_for(catalog.find(unit.model), catalog).spec.image_size
    found = []
    for reference in unit.references:
        mask = None if reference.mask is None else decode_mask(reference.mask)
        found += views(decode(reference.image), size, unit.crop, mask)
    return found


def _jpeg(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _card(number: int, one: Item, size: int | None) -> str:
    whole = one["image"].copy()
    whole.thumbnail((CARD * 2, CARD), Image.Resampling.BICUBIC, reducing_gap=2.0)
    pictures = f"<img src='{_jpeg(whole)}' alt='Reference {number}' title='Reference {number}'>"
    if size is not None:
        crop = views(one["image"], size)[0]
        pictures += f"<img src='{_jpeg(crop)}' alt='{SEEN}' title='{SEEN}' class='ip-adapter-seen'>"
    number_field = (
        f"<input type='number' min='-1' max='3' step='0.05' value='{one['weight']:g}' "
        f"aria-label='Weight of reference {number}'>"
    )
    return (
        f"<li class='ip-adapter-card' data-key='{one['key']}'><span>{pictures}</span>"
        f"<span><label title='Weight of this reference'>Weight{number_field}</label>"
        f"<button type='button' aria-label='Remove reference {number}' title='Remove'>✕</button></span></li>"
    )


def cards(items: Sequence[Item], size: int | None) -> str:
    """HTML: for each reference the picture, what an encoder of ``size`` pixels sees of it, its weight, and a button
    that removes it. What is done there comes back as an ``act`` (ip_adapter.js)."""
    shown = "".join(_card(number, one, size) for number, one in enumerate(items, 1))
    return f"<ul class='ip-adapter-cards'>{shown}</ul>" if items else ""


def act(items: Sequence[Item], text: str | None) -> list[Item]:
    """``items`` after what was done with the cards: ``{"weights": {key: number}}`` or ``{"remove": key}``. Done twice,
    it changes nothing more; what makes no sense changes nothing at all."""
    try:
        done = json.loads(text or "{}")
        gone, weights = done.get("remove"), dict(done.get("weights") or {})
    except (ValueError, TypeError, AttributeError):
        return list(items)
    return [{**one, "weight": _weight(weights.get(one["key"]), one["weight"])} for one in items if one["key"] != gone]


def _weight(value: Any, default: float) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and -1 <= value <= 3 else default
