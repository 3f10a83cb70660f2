"""Axes of the X/Y/Z plot for the numbers and choices of every unit, as ``Unit`` declares them, and for what units come
from (xyz_sources.py).

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
from ...unit import MAX_UNITS, Unit
from .. import host, options
from ..host import record
from ..panel import accordion as panel
from . import xyz_sources

PREFIX = "[IP-Adapter] "
# What a change of a field costs beside another checkpoint's 1 and another VAE's 0.7: the dearest axis changes least
# often. Another adapter may have to be read; other tokens have to be encoded or projected.
ADAPTER_COST, TOKENS_COST = 0.6, 0.2


@dataclass(frozen=True)
class Axis:
    """One field of one unit, or one of its sources; ``number`` is 0 for what is all units'."""

    number: int
    field: str
    type: type
    choices: Callable[[], list[str]] | None = None
    cost: float = 0.0

    @property
    def label(self) -> str:
        return f"{PREFIX}{self.field.replace('_', ' ').capitalize()} {self.number or ''}".rstrip()

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
                self._check(catalog, value)
            # A preset's units are not here yet: the cells say what is wrong with these.
            units = None if not self.number or PRESETS in _chosen(p) else _units(p)
            if units is not None:
                unit = _in_use(units, self.number, self.field)
                for value in values if self.field in xyz_sources.SOURCES else ():
                    xyz_sources.check_unit(unit, self.field, value)
        except IPAdapterError as error:
            raise (error.in_unit(self.number) if self.number else error) from None

    def _check(self, catalog: Callable[[], Catalog], value: Any) -> None:
        if self.field in xyz_sources.SOURCES:
            return xyz_sources.check(self.field, value)
        Unit.parse({"model": "any", "images": ["any"], self.field: value})
        return _look_up(catalog(), value) if self.field == "model" else None


PRESETS = Axis(xyz_sources.ALL_UNITS, xyz_sources.PRESET, str).label


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
    arguments, labels = tuple(p.script_args[script.args_from : script.args_to]), _chosen(p)
    brought = [n for n in range(1, MAX_UNITS + 1) if Axis(n, xyz_sources.LOOK, str).label in labels]
    return panel.units(arguments, is_api=current.is_api(p), brought=brought)


def _chosen(p: Any) -> set[str]:
    """The axes of the plot that ``p``, which is no cell yet, goes to. The host's script has their numbers in its list
    among its arguments, before each one's values in two forms; none are known of another script."""
    number, *_ = getattr(p, "script_args", None) or [0]
    choosable = getattr(getattr(p, "scripts", None), "selectable_scripts", None) or ()
    if not isinstance(number, int) or not 0 < number <= len(choosable):
        return set()
    script = choosable[number - 1]
    listed = getattr(script, "current_axis_options", ())
    places = p.script_args[script.args_from : script.args_to][:9:3]
    return {listed[place].label for place in places if isinstance(place, int) and 0 <= place < len(listed)}


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
    bring = brought(p)
    return {number: (*values, *(["references"] if number in bring else [])) for number, values in _values(p).items()}


def brought(p: Any) -> set[int]:
    """The numbers of the units that get their reference from the job's cell."""
    return {number for number, values in _values(p).items() if xyz_sources.LOOK in values}


def apply_axis_values(p: Any, units: list[Unit]) -> list[Unit]:
    """The job's units with the values of its cell. Raises UnitError (unit named) for a unit that is not in use, and for
    values that it may not have."""
    numbered = {unit.number: unit for unit in units}
    for number, values in _values(p).items():
        if number == xyz_sources.ALL_UNITS:  # these are the preset's units already
            continue
        try:
            if number not in numbered:
                raise _not_in_use(next(iter(values)))
            fields = {name: value for name, value in values.items() if name not in xyz_sources.SOURCES}
            if "model" in fields:  # which other sources ask for
                numbered[number] = numbered[number].with_values({"model": fields.pop("model")})
            numbered[number] = xyz_sources.applied(numbered[number], values).with_values(fields)
        except UnitError as error:
            raise error.in_unit(number) from None
    return list(numbered.values())


# Registration


def axes(count: int, catalog: Callable[[], Catalog], unit_class: type[Unit] = Unit) -> list[Axis]:
    """The axes of ``count`` units: what is declared as a number, a text or a choice, the model, and what units come
    from."""

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
        axes.append(Axis(number, xyz_sources.REFERENCE, int, None, TOKENS_COST))
        axes.append(Axis(number, xyz_sources.LOOK, str, xyz_sources.looks, TOKENS_COST))
        axes.append(Axis(number, xyz_sources.PURPOSE, str, xyz_sources.purposes))
    return [*axes, Axis(xyz_sources.ALL_UNITS, xyz_sources.PRESET, str, xyz_sources.presets, ADAPTER_COST)]


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
