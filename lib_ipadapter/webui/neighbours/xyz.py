"""Axes of the X/Y/Z plot for the numbers and choices of every unit, as ``Unit`` declares them.

An axis leaves its value on the cell's processing object, from where it reaches the job's units; the panel's and the
client's stay what they are. A cell whose unit cannot be honoured shows the reason in its place (xyz_cells.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modules import scripts

from ...checkpoint.catalog import AUTO, Catalog
from ...errors import CheckpointError, IPAdapterError, UnitError
from ...fields import choices_of, settings_of
from ...kinds import EncoderName, ModelName
from ...unit import Unit
from .. import host, options
from ..host import record
from ..panel import accordion as panel

PREFIX = "[IP-Adapter] "
# What a change of a field costs beside another checkpoint's 1 and another VAE's 0.7: the dearest axis changes least
# often. Another adapter may have to be read; other tokens have to be encoded or projected.
ADAPTER_COST, TOKENS_COST = 0.6, 0.2


@dataclass(frozen=True)
class Axis:
    """One field of one unit."""

    number: int
    field: str
    type: type
    choices: Callable[[], list[str]] | None = None
    cost: float = 0.0

    @property
    def label(self) -> str:
        return f"{PREFIX}{self.field.replace('_', ' ').capitalize()} {self.number}"

    def apply(self, p: Any, value: Any, _values: list[Any]) -> None:
        """Set the field for ``p`` alone, which is a shallow copy of the plot's."""
        record.opened(p).axis_values[f"{self.number} {self.field}"] = value
        # The copy is shallow: the parameters of one cell would be the next one's, too.
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
                _in_use(units, self.number, self.field)
        except IPAdapterError as error:
            raise error.in_unit(self.number) from None


def _look_up(catalog: Catalog, name: str) -> None:
    try:
        catalog.find(name)
    except CheckpointError:
        catalog.refresh()
        catalog.find(name)


def _units(p: Any) -> list[object] | None:
    """The units of a plot's job as API objects; None where the job does not say."""
    current = host.current()
    script = current.script(p, "IP-Adapter")
    if script is None:
        return None
    return panel.units(tuple(p.script_args[script.args_from : script.args_to]), is_api=current.is_api(p))


def _in_use(units: list[object], number: int, field: str) -> Mapping[str, Any]:
    """Unit ``number`` as an API object. Raises UnitError where there is nothing to set a field of."""
    unit = units[number - 1] if number <= len(units) else None
    if unit is None or (isinstance(unit, Mapping) and unit.get("enabled") is False):
        raise _not_in_use(field)
    if not isinstance(unit, Mapping):
        raise UnitError(f"the X/Y/Z plot sets its {field}, but it is no unit: give an object.")
    return unit


def _not_in_use(field: str) -> UnitError:
    return UnitError(
        f"the X/Y/Z plot sets its {field}, but it is not in use: enable it with a reference, or take the axis out."
    )


# A cell's values


def _values(p: Any) -> dict[int, dict[str, Any]]:
    """The values of the job's cell by unit and field; none where it is no cell."""
    values: dict[int, dict[str, Any]] = {}
    for place, value in record.axis_values(p).items():
        number, field = place.split()
        values.setdefault(int(number), {})[field] = value
    return values


def axis_fields(p: Any) -> Mapping[int, Collection[str]]:
    """The fields that the job's cell sets, by the unit's number: what the units hold there does not matter."""
    return {number: tuple(values) for number, values in _values(p).items()}


def apply_axis_values(p: Any, units: list[Unit]) -> list[Unit]:
    """The job's units with the values of its cell. Raises UnitError (unit named) for a unit that is not in use, and for
    values that it may not have."""
    numbered = {unit.number: unit for unit in units}
    for number, values in _values(p).items():
        try:
            if number not in numbered:
                raise _not_in_use(next(iter(values)))
            numbered[number] = numbered[number].with_values(values)
        except UnitError as error:
            raise error.in_unit(number) from None
    return list(numbered.values())


# Registration


def axes(count: int, catalog: Callable[[], Catalog], unit_class: type[Unit] = Unit) -> list[Axis]:
    """The axes of ``count`` units: what is declared as a number, a text or a choice, and the model."""

    def models() -> list[str]:
        return [entry.name for entry in catalog().adapters]

    def encoders() -> list[str]:
        return [AUTO, *(entry.name for entry in catalog().encoders)]

    axes = []
    for number in range(1, count + 1):
        for name, setting in settings_of(unit_class).items():
            if setting.kind.axis is None:
                continue
            if isinstance(setting.kind, (ModelName, EncoderName)):
                there = models if isinstance(setting.kind, ModelName) else encoders
                axes.append(Axis(number, name, setting.kind.axis, there, ADAPTER_COST))
                continue
            choices = choices_of(unit_class, name)
            listed = functools.partial(list[str], choices) if choices else None
            cost = TOKENS_COST if setting.changes_tokens else 0.0
            axes.append(Axis(number, name, setting.kind.axis, listed, cost))
    return axes


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
