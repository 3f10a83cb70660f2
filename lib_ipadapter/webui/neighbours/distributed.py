"""sd-webui-distributed: what our panel gives its jobs as plain JSON, which it sends to other machines.

It packs every always-on script's arguments as they are, and everything that others have left on the processing object.
Pictures in there would end its requests. So where it is loaded, the job's arguments become what a client of the API
would send: units whose pictures are base64.
"""

from __future__ import annotations

import copy
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...encode.picture import Picture, decode
from ...errors import IPAdapterError, UnitError
from ...kinds import Wording
from ...unit import Unit, parse_units
from .. import host, looks
from ..panel import accordion as panel
from ..picture_text import base64_of
from . import controlnet, xyz, xyz_sources

THEIRS, OURS = "Distribute", "IP-Adapter"  # titles of scripts
AS_THEY_ARE = ("RGB", "RGBA", "L")  # modes that PNG has and that nothing is lost in; others are read as references are


class JsonUnit(dict[str, Any]):
    """An API object in plain JSON; ``local`` is what it was made from, and ``wording`` whose words sentences about it
    use, for the machine that has it."""

    local: Any = None
    wording: Wording = Wording.API

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(dict(self), memo)


def spreads(p: Any) -> bool:
    """Whether other machines may make some of the job's pictures."""
    script = host.current().script(p, THEIRS)
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
            if any(one.folder is not None for one in unit.references):
                raise UnitError(
                    "a folder of references does not work while sd-webui-distributed spreads the pictures over several "
                    "machines, which do not have it: switch Distribute off, or keep the folder as a look."
                ).in_unit(unit.number)
            if unit.batch == "per image":
                raise UnitError(
                    'batch "per image" does not work while sd-webui-distributed spreads the pictures over several '
                    'machines: switch Distribute off, or set batch to "same".'
                ).in_unit(unit.number)
            if len(unit.references) > 1 and any(one.at is not None for one in unit.references):
                raise UnitError(
                    "references over time (“at”) do not work while sd-webui-distributed spreads the pictures over "
                    "several machines: switch Distribute off, or leave “at” out."
                ).in_unit(unit.number)


def local(objects: Sequence[object]) -> list[object]:
    """The objects that ``json_arguments`` was given."""
    return [one.local if isinstance(one, JsonUnit) else one for one in objects]


def wording(args: tuple[Any, ...]) -> Wording:
    """As ``accordion.wording``, of the values that ``json_arguments`` has made, too."""
    made = next((one for one in args[: panel.API_PLACES] if isinstance(one, JsonUnit)), None)
    return panel.wording(args) if made is None else made.wording


def json_arguments(p: Any) -> None:
    """Make the job's units plain JSON in its arguments, where something is there that sends them away.

    What cannot be honoured is left for the job to refuse. Done twice, it changes nothing more.
    """
    current = host.current()
    ours = current.script(p, OURS)
    if ours is None or current.script(p, THEIRS) is None or not p.script_args:
        return
    arguments = list(p.script_args)
    values = arguments[ours.args_from : ours.args_to]
    if not panel.are_ours(tuple(values)):
        return
    places, (pasted, tick, *rest) = values[: panel.API_PLACES], values[panel.API_PLACES :]
    try:
        objects = xyz_sources.with_preset(p)
        if objects is None:
            brought = xyz.brought(p)
            objects = local(panel.units(tuple(values), is_api=current.is_api(p), brought=brought))
        # What a plot sets is set once more in the job's own units, so these are what they were before.
        pairs = zip(_resolved(p, objects), objects, strict=True)
        places = [_json_unit(one, before, wording(tuple(values))) for one, before in pairs]
        places += [panel.NOT_SENT] * (panel.API_PLACES - len(places))
        pasted, tick = ("", False) if objects else (pasted, bool(tick))
    except IPAdapterError:
        places = [_json(place) for place in places]
    arguments[ours.args_from : ours.args_to] = [*places, pasted, tick, *map(_json, rest)]
    p.script_args = type(p.script_args)(arguments)


def _resolved(p: Any, objects: Sequence[object]) -> list[object]:
    """The API objects with what only this machine knows: a plot's values, ControlNet's pictures, looks."""
    try:
        units = parse_units(objects, later=xyz.axis_fields(p))
    except UnitError:
        return list(objects)  # for the job to refuse
    resolved: list[object] = [{"enabled": False}] * len(objects)
    for unit in looks.with_looks(controlnet.with_pictures(p, xyz.apply_axis_values(p, units))):
        resolved[unit.number - 1] = unit.to_object()
    return resolved


def _json_unit(unit: object, before: object, wording: Wording) -> object:
    """A unit as it is sent; ``before`` is the object that it was made from. Its influence maps stay out: they would be
    taken for pictures of the job."""
    if not isinstance(unit, Mapping):
        return _json(unit)
    sent = JsonUnit({name: _json(value) for name, value in unit.items() if name != "influence_map"})
    sent.local, sent.wording = before, wording
    return sent


def _json(value: Any) -> Any:
    """``value`` in JSON's types, pictures as base64; None for what has no place there."""
    if isinstance(value, Mapping):
        return {str(name): _json(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(one) for one in value]
    try:
        if isinstance(value, (Picture, Image.Image, np.ndarray)):
            return _base64(value.image if isinstance(value, Picture) else value)
        if isinstance(value, bytes):
            return b64encode(value).decode()
        json.dumps(value)
    except (IPAdapterError, TypeError, ValueError):
        return None
    return value


def _base64(picture: Image.Image | NDArray[Any]) -> str:
    if isinstance(picture, Image.Image):
        picture = ImageOps.exif_transpose(picture)
    if not isinstance(picture, Image.Image) or picture.mode not in AS_THEY_ARE:
        picture = decode(picture)
    return base64_of(picture, compress_level=1)
