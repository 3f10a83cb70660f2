"""sd-webui-distributed: what our panel gives its jobs as plain JSON, which it sends to other machines.

It packs every always-on script's arguments as they are, and everything that others have left on the processing object.
Pictures in there would end its requests. So where it is loaded, the job's arguments become what a client of the API
would send: units whose pictures are base64.
"""

from __future__ import annotations

import base64
import copy
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...encode.picture import decode
from ...errors import IPAdapterError, UnitError
from ...unit import Unit
from ..host import a1111 as host
from ..panel import accordion as panel
from . import controlnet, xyz

TITLES = ("Distribute", "IP-Adapter")
AS_THEY_ARE = ("RGB", "RGBA", "L")  # modes that PNG has and that nothing is lost in; others are read as references are


class Private:
    """What is left on a processing object, and means nothing in a copy that goes to another machine."""

    def __deepcopy__(self, _memo: dict[int, Any]) -> None:
        return None


class Plain(dict[str, Any]):
    """An API object in plain JSON; ``local`` is what it was made from, for the machine that has it."""

    local: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(dict(self), memo)


def _script(p: Any, title: str) -> Any | None:
    runner = getattr(p, "scripts", None)
    return next((one for one in getattr(runner, "alwayson_scripts", None) or () if one.title() == title), None)


def spreads(p: Any) -> bool:
    """Whether other machines may make some of the job's pictures."""
    script = _script(p, TITLES[0])
    world = getattr(script, "world", None)
    if world is None:
        return False
    if not getattr(world, "enabled_i2i" if getattr(p, "init_images", None) else "enabled", True):
        return False
    return any(not getattr(worker, "master", False) for worker in world.get_workers())


def check(p: Any, units: Sequence[Unit]) -> None:
    """Raises UnitError (unit named) for what the other machines could not do right: no machine knows which of the job's
    pictures are its own."""
    if spreads(p):
        for unit in units:
            if unit.batch == "per image":
                raise UnitError(
                    'batch "per image" does not work while sd-webui-distributed spreads the pictures over several '
                    'machines: switch Distribute off, or set batch to "same".'
                ).in_unit(unit.number)


def local(objects: Sequence[object]) -> list[object]:
    """The objects that ``plain_arguments`` was given."""
    return [one.local if isinstance(one, Plain) else one for one in objects]


def plain_arguments(p: Any) -> None:
    """Make the job's units plain JSON in its arguments, where something is there that sends them away.

    What cannot be honoured is left for the job to refuse. Done twice, it changes nothing more.
    """
    ours = _script(p, TITLES[1])
    if ours is None or _script(p, TITLES[0]) is None or not p.script_args:
        return
    arguments = list(p.script_args)
    values = arguments[ours.args_from : ours.args_to]
    slots, (pasted, tick, *rest) = values[: panel.SLOTS], values[panel.SLOTS :]
    try:
        objects = controlnet.with_pictures(p, xyz.applied(p, local(panel.units(tuple(values), is_api=host.is_api(p)))))
        slots = [_sent(one) for one in objects]
        slots += [panel.NOT_SENT] * (panel.SLOTS - len(slots))
        pasted, tick = ("", False) if objects else (pasted, bool(tick))
    except IPAdapterError:
        slots = [_plain(slot) for slot in slots]
    arguments[ours.args_from : ours.args_to] = [*slots, pasted, tick, *map(_plain, rest)]
    p.script_args = type(p.script_args)(arguments)


def _sent(unit: object) -> object:
    """A unit as it is sent. Its influence maps stay out: they would be taken for pictures of the job."""
    if not isinstance(unit, Mapping):
        return _plain(unit)
    sent = Plain({name: _plain(value) for name, value in unit.items() if name != "influence_map"})
    sent.local = unit
    return sent


def _plain(value: Any) -> Any:
    """``value`` in JSON's types, pictures as base64; None for what has no place there."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    try:
        if isinstance(value, (Image.Image, np.ndarray)):
            return _base64(value)
        json.dumps(value)
    except (IPAdapterError, TypeError, ValueError):
        return None
    return value


def _base64(picture: Image.Image | NDArray[Any]) -> str:
    if isinstance(picture, Image.Image):
        picture = ImageOps.exif_transpose(picture)
    if not isinstance(picture, Image.Image) or picture.mode not in AS_THEY_ARE:
        picture = decode(picture)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
