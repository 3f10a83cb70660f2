"""A unit's references as the panel keeps them, and how they are shown: each beside what the image encoder sees.

An item is ``{"key": …, "weight": …}``, and its picture lies in the session's pictures under that key; or it has
``"controlnet": n`` instead of a picture. ``"waiting"`` says that the page is about to send the picture.
"""

from __future__ import annotations

import base64
import html
import io
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from ..checkpoint.catalog import Catalog
from ..encode.picture import decode, decode_mask, views
from ..errors import IPAdapterError
from ..generation import encoder_for
from ..unit import Unit

Item = dict[str, Any]
Pictures = dict[str, Image.Image]  # RGB
CARD = 224  # height of a shown reference, in pixels
SEEN = "What the encoder sees"


def new_key() -> str:
    return secrets.token_hex(6)


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


def controlnet_name(number: int) -> str:
    """Unit ``number``, counted from 1, as ControlNet's own tabs call it."""
    return f"ControlNet Unit {number - 1}"


# Cards


def _jpeg(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _face(number: int, item: Item, picture: Image.Image | None, size: int | None) -> str:
    """The upper half of a card: its picture, or why there is none."""
    if "controlnet" in item:
        name = controlnet_name(item["controlnet"])
        text = f"<em title='The picture that {name} has when the generation starts'>{name}</em>"
    elif picture is None and item.get("waiting"):
        text = "<em>on its way …</em>"
    elif picture is None:
        text = "<em class='ip-adapter-problem'>⚠ not there any more: add it again</em>"
    else:
        whole = picture.copy()
        whole.thumbnail((CARD * 2, CARD), Image.Resampling.BICUBIC, reducing_gap=2.0)
        text = f"<img src='{_jpeg(whole)}' alt='Reference {number}' title='Reference {number}'>"
        if size is not None:
            crop = views(picture, size)[0]
            text += f"<img src='{_jpeg(crop)}' alt='{SEEN}' title='{SEEN}' class='ip-adapter-seen'>"
    return f"<span>{text}</span>"


def _card(number: int, item: Item, picture: Image.Image | None, size: int | None) -> str:
    number_field = (
        f"<input type='number' min='-1' max='3' step='0.05' value='{item['weight']:g}' "
        f"aria-label='Weight of reference {number}'>"
    )
    return (
        f"<li class='ip-adapter-card' data-key='{html.escape(item['key'])}'>{_face(number, item, picture, size)}"
        f"<span><label title='Weight of this reference'>Weight{number_field}</label>"
        f"<button type='button' aria-label='Remove reference {number}' title='Remove'>✕</button></span></li>"
    )


def cards(items: Sequence[Item], pictures: Mapping[str, Image.Image], size: int | None, stamp: str = "") -> str:
    """HTML: for each reference the picture, what an encoder of ``size`` pixels sees of it, its weight, and a button
    that removes it. The page's script (ip_adapter.js) puts into the sheet what is done there; it looks for ``stamp``.
    """
    shown = "".join(_card(number, one, pictures.get(one["key"]), size) for number, one in enumerate(items, 1))
    if len(items) > 1:
        clear = "<button type='button' class='ip-adapter-clear' title='Remove all of them'>Remove all</button>"
        shown += f"<li>{clear}</li>"
    return f"<ul class='ip-adapter-cards' data-stamp='{html.escape(stamp)}'>{shown}</ul>"
