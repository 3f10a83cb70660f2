"""Axes of the X/Y/Z plot for the numbers and choices of every unit, from ``Unit``'s own table.

An axis leaves its value on the cell's processing object, from where it reaches the job's units; the panel's and the
client's stay what they are. A cell whose unit cannot be honoured shows the reason in its place in the grid.
"""

from __future__ import annotations

import functools
import logging
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from modules import scripts
from PIL import Image, ImageDraw

from ...checkpoint.catalog import Catalog
from ...errors import CheckpointError, IPAdapterError, UnitError
from ...unit import CHOICES, Unit
from .. import options
from .. import host
from ..drawing import INK, PAPER, font, in_characters_of
from ..host import record
from ..panel import accordion as panel

log = logging.getLogger("ip-adapter")
PREFIX = "[IP-Adapter] "
# What a change of the field costs beside another checkpoint's 1 and another VAE's 0.7: the dearest axis changes least
# often. Another model may have to be read, another combination only projected.
COST = {"model": 0.6, "crop": 0.2, "noise": 0.2, "subtract_prompt": 0.1, "combine": 0.1, "batch": 0.1}
TEXTS = ("layer_weights", "subtract_prompt")  # fields that are written down


@dataclass(frozen=True)
class Axis:
    """One field of one unit."""

    number: int
    field: str
    type: type
    choices: Callable[[], list[str]] | None = None

    @property
    def label(self) -> str:
        return f"{PREFIX}{self.field.replace('_', ' ').capitalize()} {self.number}"

    @property
    def cost(self) -> float:
        return COST.get(self.field, 0.0)

    def apply(self, p: Any, value: Any, _values: list[Any]) -> None:
        """Set the field for ``p`` alone, which is a shallow copy of the plot's."""
        record.opened(p).axis_values[f"{self.number} {self.field}"] = value
        # The copy is shallow: what one cell tells in here, the next would tell, too.
        p.extra_generation_params = dict(p.extra_generation_params)

    def confirm(self, catalog: Callable[[], Catalog], p: Any, values: list[Any]) -> None:
        """Refuse the plot for a value that no cell could be made with, or a unit that is not in use."""
        try:
            if not values:
                raise UnitError(f"the plot's axis {self.label[len(PREFIX):]} has no values: give some.")
            for value in values:
                Unit.parse({"model": "any", "images": ["any"], self.field: value})
                if self.field == "model":
                    _look_up(catalog(), value)
            units = _units(p)
            if units is not None:
                _place(units, self.number, self.field)
        except IPAdapterError as error:
            raise error.in_unit(self.number) from None


def _look_up(catalog: Catalog, name: str) -> None:
    try:
        catalog.find(name)
    except CheckpointError:
        catalog.refresh()
        catalog.find(name)


def _units(p: Any) -> list[object] | None:
    """The units of a plot's job; None where the job does not tell."""
    current = host.current()
    script = current.script(p, "IP-Adapter")
    if script is None:
        return None
    return panel.units(tuple(p.script_args[script.args_from : script.args_to]), is_api=current.is_api(p))


def _place(units: list[object], number: int, field: str) -> dict[str, Any]:
    """Unit ``number`` as an API object. Raises UnitError where there is nothing to set a field of."""
    unit = units[number - 1] if number <= len(units) else None
    if unit is None or (isinstance(unit, dict) and unit.get("enabled") is False):
        raise UnitError(
            f"the X/Y/Z plot sets its {field}, but it is not in use: enable it with a reference, or take the axis out."
        )
    if not isinstance(unit, dict):
        raise UnitError(f"the X/Y/Z plot sets its {field}, but it is no unit: give an object.")
    return unit


def _values(p: Any) -> dict[str, Any]:
    """What the plot sets for p's cell, or for the cell that p is a copy of: {"number field": value}."""
    job = record.attached(p)
    return {} if job is None else job.axis_values


def applied(p: Any, units: list[object]) -> list[object]:
    """The job's API objects with the values of its cell; the given ones stay as they are."""
    units = list(units)
    for place, value in _values(p).items():
        number, field = int(place.split()[0]), place.split()[1]
        try:
            units[number - 1] = {**_place(units, number, field), field: value}
        except UnitError as error:
            raise error.in_unit(number) from None
    return units


# --- refused cells --------------------------------------------------------------------------------------------------


def refuse(p: Any, error: IPAdapterError) -> bool:
    """Let a cell's job end in a picture of the reason instead of an exception, of which the plot would leave a blank.

    Nothing is sampled. False if ``p`` is no cell of an axis of ours.
    """
    if not _values(p):
        return False
    log.error("%s", error)
    record.opened(p).refused_cell = error
    p.do_not_save_samples = True
    p.extra_generation_params["IP-Adapter refused"] = error.detail
    host.current().sample_nothing(p)
    return True


def finish(p: Any, shown: Any) -> None:
    """``postprocess_image_after_composite``: a cell that was refused, or has failed, is a picture of the reason.

    The plot never closes its cells' jobs, which is how other jobs tell a failure.
    """
    job = record.attached(p)
    error = None if job is None or not job.axis_values else job.failure or job.refused_cell
    if error is not None:
        shown.image = _written(error.detail, shown.image.size)


def _written(sentence: str, size: tuple[int, int]) -> Image.Image:
    """The sentence on paper of ``size``, as large as it fits."""
    picture = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(picture)
    margin = max(4, size[0] // 24)
    for height in range(max(8, min(28, size[0] // 16)), 5, -1):
        letters, line = font(height), 1.3 * height
        columns = max(4, int((size[0] - 2 * margin) / letters.getlength("n")))
        lines = textwrap.wrap(in_characters_of(letters, sentence), columns)
        if len(lines) * line <= size[1] - 2 * margin and all(
            letters.getlength(text) <= size[0] - 2 * margin for text in lines
        ):
            break
    for i, text in enumerate(lines):
        draw.text((margin, margin + round(i * line)), text, INK, letters)
    return picture


# --- registration ---------------------------------------------------------------------------------------------------


def axes(count: int, catalog: Callable[[], Catalog]) -> list[Axis]:
    """The axes of ``count`` units: ``Unit``'s numbers, its choices, and the model."""

    def models() -> list[str]:
        return [entry.name for entry in catalog().adapters]

    found = []
    for number in range(1, count + 1):
        for field in fields(Unit):
            if field.name == "model":
                found.append(Axis(number, field.name, str, models))
            elif field.name in CHOICES:
                found.append(Axis(number, field.name, str, functools.partial(list, CHOICES[field.name])))
            elif field.type.startswith("float"):  # also where a curve, or nothing, may stand in its place
                found.append(Axis(number, field.name, float))
            elif field.name in TEXTS:
                found.append(Axis(number, field.name, str))
    return found


def _plots() -> Iterable[Any]:
    """The loaded modules of X/Y/Z plot; there is one, unless an extension brings another."""
    modules = {id(m): m for m in (getattr(data, "module", None) for data in scripts.scripts_data)}
    return [m for m in modules.values() if hasattr(m, "AxisOption") and hasattr(m, "axis_options")]


def register(catalog: Callable[[], Catalog]) -> None:
    """Give the plot our axes, in the place of those that it has of us. Without such a script there is nothing to do."""
    for plot in _plots():
        plot.axis_options[:] = [option for option in plot.axis_options if not option.label.startswith(PREFIX)]
        plot.axis_options += [
            plot.AxisOption(
                axis.label, axis.type, axis.apply, confirm=functools.partial(axis.confirm, catalog), cost=axis.cost,
                choices=axis.choices,
            )
            for axis in axes(options.unit_count(), catalog)
        ]  # fmt: skip
