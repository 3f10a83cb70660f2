"""The units that act in ADetailer's passes: which they are, what they become, and what became of them.

A pass may have another checkpoint than the picture, and an adapter fits one kind of model. So each unit is prepared,
before the job's first step, for the kind that its adapter is for, and acts in the passes that have such a model.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import infotext
from ..attend.layers import Topology
from ..attend.lora import names_face_lora
from ..attend.models import topology_of
from ..attend.outcome import Outcome
from ..errors import MismatchError, UnitError, errors_name_unit
from ..jobs.fit import check_fit, fits, made_for
from ..jobs.plans import plan_embeddings
from ..kinds import Wording
from . import host, start_pictures
from .host import record
from .host.replaced import Private
from .neighbours import adetailer
from .refusal import LOST_CALLS, NOT_USED, UNUSED, fail

if TYPE_CHECKING:
    from ..checkpoint.catalog import Catalog
    from ..checkpoint.entries import AdapterEntry
    from ..jobs.generation import Generation
    from ..unit import Unit
    from .host.record import Job
    from .neighbours.adetailer import Passes

log = logging.getLogger("ip-adapter")

AS_SET, DETAILER, BOTH = "as set", "detailer", "both"  # what a unit's field may say, beside "picture"
NOTHING_PAINTED = "ADetailer has painted nothing again (it found nothing, or failed, as the console's log would say)"
UNTOLD = "nothing tells which tab a pass of ADetailer's is of"
NO_OWN_PASS = "none of ADetailer's passes was one for it (see their checkpoints, and its start and end)"


@dataclass(eq=False)
class Detailing(Private):
    """What becomes of the units that act in ADetailer's passes.

    ``generations`` are by the model that adapters are for; ``alone`` are the numbers of the units that act there only,
    ``as_set`` of those that do because a setting says so. ``tabs`` says of the units that act in the passes of one of
    ADetailer's tabs alone which one. Pictures are counted from 0, as the job makes them.
    """

    generations: Mapping[Topology, Generation]
    alone: frozenset[int]
    as_set: frozenset[int]
    tabs: Mapping[int, int] = field(default_factory=dict)
    tab: int | None = None  # the one that ADetailer works through just now, where nothing else would tell it
    passes: set[tuple[int, int | None]] = field(default_factory=set)  # pictures that had one, and of which tab
    acted: set[tuple[int, int]] = field(default_factory=set)  # picture and unit
    idle: dict[int, list[int]] = field(default_factory=dict)  # pictures by unit, of those that act there only
    pictures: int = 0  # finished
    told: set[Topology | None] = field(default_factory=set)  # models that units were said not to fit
    has_told_tab: bool = False  # that a pass's tab is not known
    marked: set[str] = field(default_factory=set)  # what the last picture's parameters say of them

    def of(
        self, topology: Topology | None, prompt_lora: str | None = None, tab: int | None = None
    ) -> tuple[Generation, list[int]]:
        """The units for a pass with a model of ``topology``, and the numbers of those that it goes without.
        ``prompt_lora``: the FaceID LoRA that the pass's own prompt names; ``tab``: ADetailer's tab that it is of."""
        found = None if topology is None else self.generations.get(topology)
        if found is None or topology is None or found.topology.blocks != topology.blocks:
            found = next(iter(self.generations.values())).only(())
        everyone = {one.number for generation in self.generations.values() for one in generation.prompts}
        everyone = {number for number in everyone if self.tabs.get(number, tab) == tab}
        found = found.only(everyone)
        return found.inside(prompt_lora), sorted(everyone - {one.number for one in found.prompts})

    def why_idle(self, number: int, pictures: set[int]) -> str:
        """Why a unit has not acted in these ``pictures``."""
        tab = self.tabs.get(number)
        if tab is not None and {picture for picture, of in self.passes if of is None} & pictures:
            return UNTOLD
        if {picture for picture, of in self.passes if tab in (None, of)} & pictures:
            return NO_OWN_PASS
        return NOTHING_PAINTED if tab is None else NOTHING_PAINTED.replace("ADetailer", f"ADetailer's tab {tab}", 1)


# Before the first step


def inside(units: Sequence[Unit]) -> frozenset[int]:
    """The numbers of the units that act in ADetailer's passes."""
    places = (DETAILER, BOTH, AS_SET) if adetailer.joined() else (DETAILER, BOTH)
    return frozenset(unit.number for unit in units if unit.acts_in in places and not start_pictures.among(unit))


def check(p: Any, units: Sequence[Unit]) -> None:
    """Raises UnitError for a unit whose passes will not come, or whose picture is thrown away."""
    passes, joined = adetailer.passes(p), inside(units)
    for unit in units:
        name = unit.called("acts_in")
        if unit.number in joined and passes.missing is None:
            _check_tab(unit, passes)
        if unit.acts_in == DETAILER and passes.missing is not None:
            why, remedy = passes.missing
            raise UnitError(f"{name} is “{DETAILER}”, and {why}: {remedy}, or set {name} to “picture”.").in_unit(
                unit.number
            )
        if passes.only and unit.number not in joined:
            raise UnitError(
                f"ADetailer skips img2img, and throws away the picture in which the unit acts: set {name} to "
                f"“{DETAILER}”, or let ADetailer not skip img2img."
            ).in_unit(unit.number)


def _check_tab(unit: Unit, passes: Passes) -> None:
    tab, name, on = unit.detailer_tab, unit.called("detailer_tab"), [*passes.checkpoints]
    if tab is None:
        return
    every = "empty it" if unit.wording is Wording.PANEL else f"set {name} to null"
    if tab not in on:
        listed = f"tab {on[0]} is" if len(on) == 1 else f"tabs {', '.join(map(str, on))} are"
        raise UnitError(
            f"{name} is {tab}, and ADetailer's tab {tab} is off in this job, where {listed} on: switch it on, name one "
            f"that is on, or {every} for every tab."
        ).in_unit(unit.number)
    if not passes.told:
        raise UnitError(
            f"{name} is {tab}, and this version of ADetailer does not say which tab a pass is of: leave that tab alone "
            f"switched on, or {every} for every tab."
        ).in_unit(unit.number)


def for_other_models(p: Any, units: Sequence[Unit], own: Topology, catalog: Catalog) -> dict[Topology, list[Unit]]:
    """The units that act in ADetailer's passes only and whose adapters are for another model than the picture's, which
    has the topology ``own``.

    Raises IPAdapterError (unit named) for one whose adapter is for none of the passes' models.
    """
    passes = adetailer.passes(p)
    others: dict[Topology, list[Unit]] = {}
    for unit in units:
        if unit.acts_in not in (DETAILER, BOTH) or passes.missing is not None:
            continue
        models = _models(passes.of(unit.detailer_tab), own)
        with errors_name_unit(unit.number):
            adapter = plan_embeddings(unit, catalog).adapter
            _check_fit(unit, adapter, models, own, catalog)
        if unit.acts_in == DETAILER and not fits(adapter, own):
            told = [topology for _, topology in models if topology is not None and fits(adapter, topology)]
            others.setdefault(told[0] if told else made_for(adapter.spec), []).append(unit)
    return others


def _models(checkpoints: Sequence[str | None], own: Topology) -> list[tuple[str | None, Topology | None]]:
    """Name (None: the picture's own) and topology (None: nothing tells it) of each pass's checkpoint."""
    named = [None if name is None else host.current().named_checkpoint(name) for name in checkpoints]
    return [(None, own) if found is None else found for found in named]


def _check_fit(
    unit: Unit,
    adapter: AdapterEntry,
    models: Sequence[tuple[str | None, Topology | None]],
    own: Topology,
    catalog: Catalog,
) -> None:
    if any(topology is None or fits(adapter, topology) for _, topology in models):
        return
    name, topology = models[0]
    assert topology is not None
    another = f"set {unit.called('acts_in')} to “picture”" if fits(adapter, own) else "choose another adapter"
    check_fit(
        adapter, topology, catalog,
        f"ADetailer's checkpoint {name}" if name else "ADetailer's passes have the picture's checkpoint, which",
        f"give ADetailer a checkpoint for {adapter.spec.base}, or {another}",
    )  # fmt: skip


def notes(unit: Unit) -> list[str]:
    """Sentences on what a unit was asked for and cannot do where it acts."""
    found = []
    if unit.detailer_tab is not None and not inside([unit]):
        found.append(f"{unit.called('detailer_tab')} has no effect: the unit acts in none of ADetailer's passes.")
    if unit.acts_in != DETAILER:
        return found
    if unit.hires != "both":
        found.append(f"{unit.called('hires')} has no effect: the unit acts in ADetailer's passes only.")
    if unit.influence_map:
        found.append("there are no influence maps of ADetailer's passes, in which alone the unit acts.")
    return found


def prepared(p: Any, units: Sequence[Unit], generations: Mapping[Topology, Generation]) -> Detailing | None:
    """What the job keeps for ADetailer's passes, from what its ``units`` have become; None where none acts there."""
    joined = inside(units)
    kept = {topology: generation.only(joined) for topology, generation in generations.items()}
    numbers = {one.number for generation in kept.values() for one in generation.prompts}
    if not numbers:
        return None
    only = adetailer.passes(p).only
    alone = {unit.number for unit in units if unit.acts_in == DETAILER or only}
    as_set = frozenset(unit.number for unit in units if unit.acts_in == AS_SET)
    tabs = {unit.number: unit.detailer_tab for unit in units if unit.detailer_tab and unit.number in numbers}
    return Detailing(kept, frozenset(numbers & alone), as_set, tabs)


# A pass


def begin(p: Any) -> Job | None:
    """A pass of ADetailer's begins: ``p``'s job with the outer job's units that act in it, None where none ever do."""
    outer = adetailer.outer_job(p)
    detailing = None if outer is None else outer.detailing
    if outer is None or detailing is None:
        return None
    topology = _sampled_topology()
    job = record.opened(p)
    job.outer = outer
    tab = adetailer.present_tab(outer.owner, outer)
    job.generation, without = detailing.of(topology, names_face_lora(host.current().prompt_loras(p)), tab)
    detailing.passes.add((host.current().finished_picture(outer.owner), tab))
    if tab is None and detailing.tabs and not detailing.has_told_tab:
        detailing.has_told_tab = True
        units = _listed(sorted(detailing.tabs))
        each, them = ("is", "it") if len(detailing.tabs) == 1 else ("are each", "them")
        _comment(
            outer,
            f"{UNTOLD}, so it worked without the references of {units}, which {each} for one tab alone: let {them} act "
            "in all tabs, or leave one tab alone switched on.",
        )
    if without and topology not in detailing.told:
        detailing.told.add(topology)
        model = "no Stable Diffusion model" if topology is None else topology.base
        _comment(
            outer, f"ADetailer's pass worked without the references of {_listed(without)}: its checkpoint is {model}."
        )
    return job


def _listed(numbers: Sequence[int]) -> str:
    return f"unit {numbers[0]}" if len(numbers) == 1 else f"units {', '.join(map(str, numbers))}"


def _comment(job: Job, sentence: str) -> None:
    log.warning("IP-Adapter: %s", sentence)
    job.owner.comment(f"IP-Adapter: {sentence}")


def _sampled_topology() -> Topology | None:
    unet = host.current().sampled_unet()
    try:
        return None if unet is None else topology_of(unet)
    except MismatchError:
        return None


def finish(job: Job) -> None:
    """The pass is over, or has been over before: the hooks go out, and what the units did is kept."""
    outer, generation = job.outer, job.generation
    detailing = None if outer is None else outer.detailing
    if outer is None or generation is None:
        return
    outcome = generation.detach()
    if detailing is not None:
        picture = host.current().finished_picture(outer.owner)
        detailing.acted |= {(picture, one.number) for one in generation.prompts if one.prompt.fired}
    if host.current().cut_short():
        return  # what was cut short owes nothing
    if outcome in (Outcome.LOST, Outcome.MISPLACED):
        fail(job, NOT_USED[outcome])
    elif generation.lost:
        log.warning("%s", LOST_CALLS)
        outer.owner.comment(LOST_CALLS)


# After it


def picture_finished(job: Job) -> None:
    """Let the parameters of the job's picture say whether units have acted in its passes because a setting says so, and
    which of those that act in passes only have done so."""
    detailing, parameters = job.detailing, job.owner.extra_generation_params
    if detailing is None:
        return
    parameters.pop(adetailer.NOTE, None)  # of the picture before
    if job.failure is not None:
        return
    picture = host.current().finished_picture(job.owner)
    if any((picture, number) in detailing.acted for number in detailing.as_set):
        parameters[adetailer.NOTE] = True
    entries = infotext.parameters([plan for plan in job.plans if plan.number in detailing.alone])
    others, marked = set(str(parameters.pop(UNUSED, "")).split()) - detailing.marked, set()
    for number in detailing.alone:
        name = infotext.entry_name(number)
        if (picture, number) in detailing.acted:
            parameters[name] = entries[name]
        else:
            parameters.pop(name, None)
            marked.add(f"{number}")
            if not host.current().is_stopping():  # else no pass could come, and the user knows why
                detailing.idle.setdefault(number, []).append(picture)
    detailing.pictures += 1
    detailing.marked = marked - others
    if marked or others:
        parameters[UNUSED] = " ".join(sorted(marked | others, key=int))


def tell(job: Job, processed: Any) -> None:
    """The job is done: say of the units that act in ADetailer's passes only where they have not, and why."""
    detailing = job.detailing
    if detailing is None or job.failure is not None or host.current().cut_short():
        return
    for number, pictures in sorted(detailing.idle.items()):
        why = detailing.why_idle(number, {*pictures})
        where = ""
        if len(pictures) < detailing.pictures:
            where = f" in picture {', '.join(str(1 + picture) for picture in pictures)}"
        sentence = f"IP-Adapter unit {number}: {why}, so the unit did not act{where}."
        log.warning("%s", sentence)
        processed.comments = "\n".join(filter(None, [processed.comments, sentence]))
