"""The models of the panel's units: chosen where nobody has, and exchanged where a change of the checkpoint has left one
that does not fit any more (jobs/choose.py has the order).

A unit's entry in the state says what has to be known of the past: ``"own"`` is the model that was chosen by itself
last, and ``"fitted"`` has, by the names of checkpoints' bases, the model that fitted such a checkpoint last. So a model
that never fitted, out of a preset or chosen for the next checkpoint, stays; and *None* stays where a person has chosen
it. One that was chosen by itself, and whose file has gone, stays not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import IPAdapterError, UnitError
from ...fields import meaningless
from ...jobs import choose
from ...jobs.fit import fits
from ...unit import Unit
from .. import host, process
from .controls import NO_MODEL, model_name

if TYPE_CHECKING:
    from ...attend.layers import Topology
    from ...checkpoint.entries import AdapterEntry
    from ...jobs.resources import Resources
    from .panel_state import PanelState

OWN, FITTED = "own", "fitted"  # a unit's entries in the state


class Settled(NamedTuple):
    """What a unit's model was and is now, as the list shows them (the same where it stays), and the base of the
    checkpoint that it fits, None for none."""

    number: int
    before: str
    now: str
    base: str | None


@dataclass(frozen=True)
class ModelChoice:
    """The choice for the checkpoint that is there; ``topology`` is None while none is."""

    resources: Resources
    topology: Topology | None

    @classmethod
    def present(cls, resources: Resources) -> ModelChoice:
        return cls(resources, host.current().present_topology())

    def chosen(self, *, faces: bool | None = None, before: Sequence[str] = ()) -> str | None:
        """The model for a unit: one of those that it had ``before``, or that were used lately, or another one.

        ``faces``: True for one that shows a face, False for none of these; None where none is ready. Of any, one that
        lacks something is better than none: the lines below the list say what to get.
        """
        if self.topology is None:
            return None
        catalog, remembered = self.resources.catalog, [*before, *process.used_models().last(self.topology.base)]
        found = choose.chosen(catalog, self.topology, remembered, faces=faces, has_pack=has_pack(self.resources))
        if found is None and faces is None:
            found = next(iter(choose.in_order(catalog, self.topology, remembered)), None)
        return None if found is None else found.name

    def blank(self) -> dict[str, Any]:
        """The entries of a unit that is empty."""
        model = self.chosen()
        if model is None or self.topology is None:
            return {}
        return {"model": model, OWN: model, FITTED: {self.topology.base: model}}

    def listed(self, used: Sequence[str | None]) -> list[str]:
        """What stands in the list of models: those that fit the checkpoint, all while there is none, and those in use,
        whatever they are."""
        catalog, topology = self.resources.catalog, self.topology
        there = [one.name for one in catalog.adapters if topology is None or fits(one, topology)]
        names = dict.fromkeys(name for name in map(model_name, used) if name and name not in there)
        return [NO_MODEL, *there, *names]

    def missing(self) -> str | None:
        """A sentence for where nothing can be chosen: what to get; None where something can, or nothing tells."""
        catalog, topology = self.resources.catalog, self.topology
        return None if topology is None or self.chosen() is not None else choose.missing(catalog, topology)

    def settle(self, state: PanelState) -> list[Settled]:
        """What each unit's model is to be. Nothing is settled while there is no checkpoint."""
        if self.topology is None:
            return []
        return [self._settled(number, unit, self.topology) for number, unit in enumerate(state.units, 1)]

    def _settled(self, number: int, unit: Mapping[str, Any], topology: Topology) -> Settled:
        before, fitted = unit.get("model") or NO_MODEL, _fitted(unit)
        stays = Settled(number, before, before, None)
        if model_name(before) is None:
            new = None if fitted and unit.get(OWN) != NO_MODEL else self.chosen()
        else:
            try:
                adapter = self.resources.catalog.find(before)
            except IPAdapterError:  # its file has gone; what a person has chosen may come again
                if before != unit.get(OWN):
                    return stays
                new = self.chosen()
                return Settled(number, before, new or NO_MODEL, topology.base if new else None)
            if fits(adapter, topology):
                return stays._replace(base=topology.base, now=self._completed(before, unit, adapter))
            if before not in fitted.values():
                return stays
            last = [fitted[topology.base]] if topology.base in fitted else []
            new = self.chosen(before=last)
            if new not in last:
                new = self.chosen(faces=choose.is_for_faces(adapter)) or new
        return stays if new is None else Settled(number, before, new, topology.base)

    def _completed(self, before: str, unit: Mapping[str, Any], adapter: AdapterEntry) -> str:
        """The model of a unit that fits. One that was chosen by itself gives way: in a unit without references to the
        one of its sort, for faces or not, that was used last (the page may have been built before), in others to
        one that is ready, where it is not."""
        if before == unit.get(OWN) and not unit.get("images"):
            before = self.chosen(faces=choose.is_for_faces(adapter)) or before
            adapter = self.resources.catalog.find(before)
        if before != unit.get(OWN) or choose.is_ready(adapter, self.resources.catalog, has_pack(self.resources)):
            return before
        return self.chosen() or before


def has_pack(resources: Resources) -> Callable[[str], bool]:
    return lambda pack: resources.faces_identity(pack) is not None


def _fitted(unit: Mapping[str, Any]) -> dict[str, str]:
    found = unit.get(FITTED)
    return {str(base): str(name) for base, name in found.items()} if isinstance(found, Mapping) else {}


def is_own(unit: Mapping[str, Any], model: str | None) -> bool:
    """Whether ``model`` was chosen for a unit of the state by itself, or is none."""
    return model is None or model == unit.get(OWN)


def exchanged(settled: Sequence[Settled], state: PanelState, topology: Topology | None) -> str:
    """A sentence on the models that do not fit any more, and are exchanged, in units with references; empty without
    any. In others it is no news: a page that is opened later begins with the model for an earlier checkpoint."""
    pairs: dict[tuple[str, str], list[int]] = {}
    for number, before, now, base in settled:
        unit = state.units[number - 1]
        is_told = unit.get("images") and _fitted(unit).get(base or "") != before
        if now not in (before, NO_MODEL) and before != NO_MODEL and is_told:
            pairs.setdefault((before, now), []).append(number)
    if not pairs or topology is None:
        return ""
    told = [f"{_units(numbers)} {now} instead of {before}" for (before, now), numbers in pairs.items()]
    return f"The checkpoint is {topology.base} now: {'; '.join(told)}."


def _units(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"units {', '.join(first)} and {last} take" if first else f"unit {last} takes"


# At a press of Generate


def complete(objects: Sequence[dict[str, Any]], state: PanelState, resources: Resources) -> None:
    """Give the panel's units that have references and no model the one that the panel would have shown: it may not have
    come to that yet."""
    waiting = [
        unit for unit, shown in zip(objects, state.units, strict=True) if _wants_model(unit) and not _fitted(shown)
    ]
    if not waiting:
        return
    choice = ModelChoice.present(resources)
    model = choice.chosen()
    if model is None and choice.topology is not None:  # it may have been put there since the disk was looked at
        resources.catalog.refresh()
        model = choice.chosen()
    for unit in waiting if model is not None else ():
        unit["model"] = model


def leave_out_hidden(objects: Sequence[dict[str, Any]], resources: Resources) -> None:
    """Take from the panel's units what means nothing to their adapters, and so is not in sight: it stays in the page,
    for other adapters."""
    for unit in objects:
        try:
            adapter = resources.catalog.find(unit["model"]) if unit.get("model") else None
        except IPAdapterError:  # the job says so
            continue
        for name in meaningless(Unit, adapter.spec.variant) if adapter else ():
            unit.pop(name, None)


def check(objects: Sequence[object], given: Mapping[int, Any], resources: Resources) -> None:
    """Raises UnitError (unit named) for a unit of the panel that has no model because there is none to choose; it says
    what to get. ``given``: the fields that a plot sets, by the unit's number."""
    for number, unit in enumerate(objects, 1):
        if not isinstance(unit, dict) or not _wants_model(unit) or "model" in given.get(number, ()):
            continue
        sentence = ModelChoice.present(resources).missing()
        if sentence is not None:
            raise UnitError(sentence).in_unit(number)


def _wants_model(unit: Mapping[str, Any]) -> bool:
    has_pictures = unit.get("images") or unit.get("negative_images")
    return bool(unit.get("enabled", True) and has_pictures and "model" not in unit)


def remember(objects: Sequence[object], used: Sequence[tuple[int, str, Topology]]) -> None:
    """Units of the panel were used: the next ones begin with their models. ``used``: numbers, adapters, and what these
    were made for; one that a plot has set is none that a person has chosen."""
    by_base: dict[str, list[str]] = {}
    for number, name, topology in used:
        unit = objects[number - 1] if number <= len(objects) else None
        if isinstance(unit, Mapping) and unit.get("model") == name:
            by_base.setdefault(topology.base, []).append(name)
    for base, names in by_base.items():
        process.used_models().note(base, names)
