"""ControlNet's list of units in a job: found, read, and changed for one run.

Everything goes through what sd-webui-controlnet offers to other extensions, which is looked up when a job begins: it
may be absent, switched off, or loaded again at any time. Its units are only read. Where one has to be another for a
run, a copy takes its place in the job's own arguments, which keep their length: the runner's table of who reads which
arguments is shared by all jobs.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ...encode.picture import decode
from ...errors import IPAdapterError, UnitError

MODULES = ("internal_controlnet.external_code", "scripts.external_code")  # its public module, the older name last
# Attribute of the host's processing object: what stands in its arguments, and what stood there.
REPLACED = "ip_adapter_controlnet_replaced"
# Names by which older clients call a field of a unit that they send as an object.
ALIASES = {"image": "input_image", "mask": "mask_image", "guidance_end": "guidance", "low_vram": "lowvram"}
UNPAINTED = 5  # ControlNet takes a mask without any lighter spot for none


@dataclass(frozen=True)
class Picture:
    """A unit's picture, RGB, and what is painted on it: "L", lighter than 0 where it is; None for nothing."""

    image: Image.Image
    mask: Image.Image | None = None

    def as_item(self) -> dict[str, Any]:
        """One of a unit's ``images``. What is painted over is what does not count, as in ControlNet's own units."""
        return {"image": self.image} if self.mask is None else {"image": self.image, "mask": ImageOps.invert(self.mask)}


@dataclass(frozen=True)
class Slot:
    """One of ControlNet's units: ``number`` counts from 1, ``value`` is its object or the client's."""

    number: int
    value: Any
    blank: Any  # a unit with ControlNet's own defaults

    def __str__(self) -> str:
        return f"ControlNet's unit {self.number} (tab “ControlNet Unit {self.number - 1}”)"

    def get(self, field: str, default: Any = None) -> Any:
        """A field's value, enumerations as their text; ControlNet's default where a client has left it out."""
        if isinstance(self.value, Mapping):
            names = [name for name in (field, ALIASES.get(field)) if name in self.value]
            found = self.value[names[0]] if names else getattr(self.blank, field, default)
        else:
            found = getattr(self.value, field, getattr(self.blank, field, default))
        return found.value if isinstance(found, Enum) else found

    @property
    def enabled(self) -> bool:
        return bool(self.get("enabled", False))

    @property
    def module(self) -> str:
        return str(self.get("module") or "none")

    @property
    def is_ip_adapter(self) -> bool:
        return self.module.casefold().startswith("ip-adapter")

    def number_of(self, field: str, default: float) -> float:
        """A field's number; the default for what is none."""
        value = self.get(field, default)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else default

    def pictures(self) -> list[Picture]:
        """The unit's own pictures, none where it has none. Raises PictureError for what is no usable picture.

        Text is always base64: no path that a client names is opened.
        """
        image, mask = self.get("image"), self.get("mask")
        if image is None or (isinstance(image, (str, list, tuple)) and not len(image)):
            return []
        if isinstance(image, Mapping):
            pairs = [(image.get("image"), image.get("mask"))]
        elif isinstance(image, (list, tuple)):
            if all(isinstance(one, Mapping) for one in image):
                pairs = [(one.get("image"), one.get("mask")) for one in image]
            else:
                pairs = [(image[0], image[1] if len(image) > 1 else None)]
        else:
            pairs = [(image, mask)]
        return [Picture(decode(one), _painted(mask)) for one, mask in pairs if one is not None]


def _painted(mask: Any) -> Image.Image | None:
    if mask is None:
        return None
    values = np.asarray(decode(mask))[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(values)) if values.max(initial=0) > UNPAINTED else None


# Finding


def api() -> Any | None:
    """ControlNet's public module, None where it is not loaded."""
    found = (sys.modules.get(name) for name in MODULES)
    return next((module for module in found if hasattr(module, "find_cn_script")), None)


def script(p: Any) -> Any | None:
    """ControlNet's script in the job's runner, None where it is absent or switched off."""
    module, runner = api(), getattr(p, "scripts", None)
    if module is None or runner is None:
        return None
    return module.find_cn_script(runner)


def _is_unit(value: Any) -> bool:
    return isinstance(value, Mapping) or all(hasattr(value, name) for name in ("enabled", "module", "image"))


def slots(p: Any) -> list[Slot] | None:
    """The units of ``p``'s job as ControlNet counts them; None where it is absent, switched off, or without units."""
    reader, arguments = script(p), getattr(p, "script_args", None)
    if reader is None or not arguments:
        return None
    values = arguments[reader.args_from : reader.args_to]
    module = api()
    try:
        blank = None if module is None else module.ControlNetUnit()
    except Exception:  # a version whose units cannot be had blank
        blank = None
    found = [Slot(number, value, blank) for number, value in enumerate(filter(_is_unit, values), 1)]
    return found or None


def slot(p: Any, number: int) -> Slot:
    """Unit ``number``. Raises UnitError where there is no ControlNet, or no such unit."""
    found = slots(p)
    if found is None:
        raise UnitError(
            f"it takes the picture of ControlNet's unit {number}, but ControlNet is not there: install or enable "
            "sd-webui-controlnet, or give the picture itself."
        )
    if not 1 <= number <= len(found):
        raise UnitError(
            f"it takes the picture of ControlNet's unit {number}, but ControlNet has {len(found)}: "
            f"give 1 to {len(found)}, which are its tabs 0 to {len(found) - 1}."
        )
    return found[number - 1]


# Its pictures as references


def pictures(p: Any, number: int) -> list[Picture]:
    """The pictures of unit ``number``, enabled or not, for use as references.

    What is painted on the picture of a unit that is at work with something else (an inpainting model, say) is that
    unit's business. On any other it is what the reference leaves out. Raises IPAdapterError where there is no such
    picture.
    """
    from_unit = slot(p, number)
    try:
        found = from_unit.pictures()
    except IPAdapterError as error:
        raise type(error)(f"{from_unit}: {error.detail}") from None
    if not found:
        raise UnitError(f"{from_unit} has no picture: add one there; the unit need not be enabled.")
    if from_unit.enabled and not from_unit.is_ip_adapter:
        return [Picture(picture.image) for picture in found]
    return found


def _wanted(item: object) -> int | None:
    """The unit whose picture a reference takes; None for any other reference, and for one that is not well-formed."""
    if not isinstance(item, Mapping):
        return None
    number = item.get("controlnet")
    good = isinstance(number, int) and not isinstance(number, bool) and number >= 1 and item.get("image") is None
    return number if good else None


def with_pictures(p: Any, units: Sequence[object]) -> list[object]:
    """API objects with ControlNet's pictures in the place of ``{"controlnet": n}``; the given ones stay as they are.

    A unit of several pictures becomes as many references. Disabled units are left alone. Raises UnitError (ours
    named) for a picture that is not there.
    """
    filled: list[object] = []
    for number, unit in enumerate(units, 1):
        try:
            filled.append(_with_pictures(p, unit))
        except IPAdapterError as error:
            raise error.in_unit(number) from None
    return filled


def _with_pictures(p: Any, unit: object) -> object:
    if not isinstance(unit, Mapping) or unit.get("enabled") is False:
        return unit
    if _wanted(unit.get("image")) is not None and unit.get("images") is None:
        unit = {**{name: value for name, value in unit.items() if name != "image"}, "images": [unit["image"]]}
    items = unit.get("images")
    if not isinstance(items, (list, tuple)) or all(_wanted(item) is None for item in items):
        return unit
    references: list[object] = []
    for item in items:
        if (wanted := _wanted(item)) is None:
            references.append(item)
        else:
            rest = {name: value for name, value in item.items() if name != "controlnet"}
            # A mask of our own counts more than what is painted there.
            own = {name: value for name, value in rest.items() if value is not None}
            references += [{**picture.as_item(), **own} for picture in pictures(p, wanted)]
    return {**unit, "images": references}


# Changing units for one run


def off(value: Any) -> Any:
    """A copy of a unit that does nothing."""
    if isinstance(value, Mapping):
        return {**value, "enabled": False}
    changed = copy.copy(value)
    changed.enabled = False
    return changed


def already_read(p: Any) -> bool:
    """Whether ControlNet makes ``p``'s job as one of a batch of files: it has read its units then, for all of them."""
    return any(slot.enabled and slot.get("input_mode") == "batch" for slot in slots(p) or ())


def replace(p: Any, changes: Mapping[int, Any]) -> None:
    """Put other units in the place of those with these numbers, for ``p``'s run. ``restore`` takes it back."""
    reader, arguments = script(p), list(p.script_args)
    assert reader is not None  # whoever has changes has found ControlNet's units
    places = [i for i in range(reader.args_from, reader.args_to) if _is_unit(arguments[i])]
    swapped = list(getattr(p, REPLACED, ()))
    for number, value in changes.items():
        place = places[number - 1]
        swapped.append((value, arguments[place]))
        arguments[place] = value
    setattr(p, REPLACED, swapped)
    p.script_args = type(p.script_args)(arguments)


@contextmanager
def restored_on_error(p: Any) -> Iterator[None]:
    """A job that is refused leaves its arguments as they were."""
    try:
        yield
    except BaseException:
        restore(p)
        raise


def restore(p: Any) -> None:
    """Put back what ``replace`` has taken out of ``p``'s arguments; what others have changed since then stays."""
    swapped = vars(p).pop(REPLACED, None)
    if not swapped or not p.script_args:
        return
    arguments = list(p.script_args)
    for ours, theirs in reversed(swapped):
        for place, value in enumerate(arguments):
            if value is ours:
                arguments[place] = theirs
    p.script_args = type(p.script_args)(arguments)
