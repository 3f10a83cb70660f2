"""ControlNet's units in a job: found and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ....encode.picture import decode
from ....errors import UnitError
from ... import host
from ...host import ControlNet

UNPAINTED = 5  # ControlNet takes a mask without any lighter spot for none


@dataclass(frozen=True)
class ControlNetPicture:
    """A unit's picture, RGB, and what is painted on it: "L", lighter than 0 where it is; None for nothing."""

    image: Image.Image
    painted: Image.Image | None = None

    @property
    def mask(self) -> Image.Image | None:
        """What counts of it, None for all: what is painted over does not, as in ControlNet's own units."""
        return None if self.painted is None else ImageOps.invert(self.painted)


@dataclass(frozen=True)
class ControlNetUnitView:
    """One of a ControlNet's units: ``number`` counts from 1, ``value`` is its object or the client's, ``blank`` a unit
    with that ControlNet's own defaults."""

    home: ControlNet
    number: int
    value: Any
    blank: Any = None

    def __str__(self) -> str:
        return self.home.unit_name(self.number)

    def get(self, field: str, default: Any = None) -> Any:
        """A field's value, enumerations as their text; ControlNet's default where a client has left it out."""
        if self.is_sent:
            names = [name for name in self.home.names(field) if name in self.value]
            found = self.value[names[0]] if names else getattr(self.blank, field, default)
        else:
            found = getattr(self.value, field, getattr(self.blank, field, default))
        return found.value if isinstance(found, Enum) else found

    @property
    def is_sent(self) -> bool:
        """Whether a client has sent it as an object of JSON."""
        return isinstance(self.value, Mapping)

    @property
    def enabled(self) -> bool:
        return bool(self.get("enabled", False))

    @property
    def module(self) -> str:
        return str(self.get("module") or "none")

    @property
    def is_ip_adapter(self) -> bool:
        return self.home.is_ip_adapter(self.module)

    def number_of(self, field: str, default: float) -> float:
        """A field's number; the default for what is none."""
        value = self.get(field, default)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else default

    def pictures(self) -> list[ControlNetPicture]:
        """The unit's own pictures, none where it has none. Raises PictureError for what is no usable picture, and
        UnitError where they cannot be had.

        Text is always base64: no path that a client names is opened.
        """
        pairs = self.home.pictures(self.get, sent=self.is_sent)
        return [ControlNetPicture(decode(image), _painted(mask)) for image, mask in pairs if image is not None]

    @property
    def region(self) -> Any | None:
        """Where in the result it acts, None for everywhere. Raises PictureError."""
        return self.home.region(self.get)

    def fed(self, pictures: Sequence[ControlNetPicture]) -> list[ControlNetPicture]:
        """Those of an IP-Adapter unit's ``pictures`` that its adapter is fed with: what is painted over one that says
        where in the result it acts is nothing to the adapter."""
        used = pictures if self.home.habits.averages else pictures[:1]
        return [ControlNetPicture(one.image) for one in used] if self.home.habits.paints_regions else list(used)


def _painted(mask: Any) -> Image.Image | None:
    if mask is None:
        return None
    values = np.asarray(decode(mask))[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(values)) if values.max(initial=0) > UNPAINTED else None


def script(p: Any) -> Any | None:
    """ControlNet's script in the job's runner, None where it is absent or switched off."""
    home, runner = host.current().controlnet(), getattr(p, "scripts", None)
    return None if home is None or runner is None else home.script(runner)


def is_unit(value: Any) -> bool:
    return isinstance(value, Mapping) or all(hasattr(value, name) for name in ("enabled", "module", "image"))


def units_of(p: Any) -> list[ControlNetUnitView] | None:
    """The units of ``p``'s job as ControlNet counts them; None where it is absent, switched off, or without units."""
    home, reader, arguments = host.current().controlnet(), script(p), getattr(p, "script_args", None)
    if home is None or reader is None or not arguments:
        return None
    values = arguments[reader.args_from : reader.args_to]
    try:
        blank = home.unit()
    except Exception:  # a version whose units cannot be had blank
        blank = None
    views = [ControlNetUnitView(home, number, value, blank) for number, value in enumerate(filter(is_unit, values), 1)]
    return views or None


def unit_of(p: Any, number: int) -> ControlNetUnitView:
    """Unit ``number``. Raises UnitError where there is no ControlNet, or no such unit."""
    views = units_of(p)
    if views is None:
        expected = host.current().expected_controlnet()
        raise UnitError(
            f"it takes the picture of ControlNet's unit {number}, but {expected.title} is not there: "
            f"{expected.remedy}, or give the picture itself."
        )
    if not 1 <= number <= len(views):
        raise UnitError(
            f"it takes the picture of ControlNet's unit {number}, but {views[0].home.title} has {len(views)}: "
            f"give 1 to {len(views)}, which are its tabs 0 to {len(views) - 1}."
        )
    return views[number - 1]


def has_begun_batch(p: Any) -> bool:
    """Whether ControlNet makes ``p``'s job as one of a batch of files: it has read its units then, for all of them."""
    return any(view.enabled and view.home.has_begun_batch(view.get) for view in units_of(p) or ())
