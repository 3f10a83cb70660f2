"""A job's image prompts, from the checked units to the clean UNet."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..attend.flux.appended import Appended
from ..attend.influence import Influence
from ..attend.injection import ModelInjection
from ..attend.keyframes import Run
from ..attend.keypoints import Keypoints
from ..attend.layers import Topology
from ..attend.lora import Lora
from ..attend.models import injection_into, topology_of
from ..attend.outcome import Outcome
from ..attend.prompt import ImagePrompt
from ..attend.regions import Part
from ..attend.shares import Shares
from ..bases import FLUX
from ..checkpoint.catalog import Catalog
from ..encode.device import Device
from ..errors import MismatchError, errors_name_unit
from ..unit import Unit
from .faces import keypoints_of, with_faces
from .fit import check_fit
from .influence import InfluenceMaps
from .keyframes import fade_of
from .places import parts
from .plans import Plan, plan_unit
from .prepare import Prepared, prepare
from .resources import Progress, Resources
from .shares import UnitShare, groups_of, unit_share

BEHIND_TEXT = "redux"  # the variant of adapters whose tokens stand behind the text


class PassPrompt(NamedTuple):
    """A unit's prompt, or that of one of its places, with the passes that it acts in, "both", "base" or "hires", and
    the unit's number."""

    hires: str
    prompt: ImagePrompt
    number: int = 0


class Inaction(NamedTuple):
    """A unit that has not done all that it was to do: whether it has ``acted`` at all, and whether steps of its own
    were ``unserved``, because their UNet was of another topology."""

    number: int
    acted: bool
    unserved: bool


class Generation:
    """The image prompts of one job, for every sampling pass and for every UNet that the job comes to use.

    ``attach`` may be called any number of times; ``detach`` takes back what the last ``attach`` did. As a context
    manager it detaches at the end.
    """

    def __init__(
        self, topology: Topology, plans: Sequence[Plan], prompts: Sequence[PassPrompt], maps: InfluenceMaps
    ) -> None:
        """``topology`` is that of the UNet which the ``plans`` were checked against; ``prompts`` are of those that act.
        Nothing is loaded or computed here: ``prepare_generation`` does that."""
        self.topology, self.plans, self.prompts, self.maps = topology, list(plans), list(prompts), maps
        self.injection: ModelInjection | None = None
        self.attached = False  # whether attach has ever put anything into a UNet
        self.unfit: nn.Module | None = None  # the UNet last found to be of another topology
        self.unfit_why = ""
        self.lost = 0  # calls whose rows nothing told
        self._earlier: Outcome | None = None  # what went wrong before the present attachment
        self._of_pass: list[ImagePrompt] = []
        self._inside = False  # whether it is for a job inside the one that it was prepared for
        self._groups: dict[int, str] = {}  # of the UNet's blocks
        self._regions = [one.prompt.region for one in self.prompts]  # in the whole picture

    def only(self, numbers: Collection[int]) -> Generation:
        """Those of these units that are among ``numbers``, with the same prompts; for different passes of a job."""
        some = copy.copy(self)
        some.plans = [plan for plan in self.plans if plan.number in numbers]
        kept = [i for i, one in enumerate(self.prompts) if one.number in numbers]
        some.prompts, some._regions = [self.prompts[i] for i in kept], [self._regions[i] for i in kept]
        return some

    def inside(self, prompt_lora: str | None = None) -> Generation:
        """The same prompts for a job inside this one. Nothing is measured there. ``prompt_lora``: the FaceID LoRA that
        its own prompt names, in the place of those inside the units' files."""
        inner = copy.copy(self)
        inner.injection, inner.attached, inner.unfit = None, False, None
        inner.lost, inner._earlier, inner._of_pass, inner._inside = 0, None, [], True
        given: dict[str, Any] = {"lora": None} if prompt_lora else {}
        inner.prompts = [
            PassPrompt(
                hires,
                replace(p, influence=None, shares=None, acted=False, fired=False, unserved=False, **given),
                number,
            )
            for hires, p, number in self.prompts
        ]
        inner.maps = InfluenceMaps()
        return inner

    def attach(
        self,
        unet: nn.Module,
        *,
        hires_pass: bool = False,
        first_picture: int = 0,
        same_pass: bool = False,
        part: Part | None = None,
        run: Run | None = None,
    ) -> ModelInjection | None:
        """Put the prompts of this pass into ``unet``; None if there are none.

        ``first_picture`` is the index in the job of the coming batch's first picture; ``same_pass`` says that another
        UNet goes on with the pass that has begun; ``part`` is what of the picture is sampled, where that is not all
        of it; ``run`` says which pictures keyframes are spread over, by default this one alone. Raises MismatchError
        for a UNet of another topology than the one that the units were checked against (SDXL's refiner, say).
        """
        self._earlier = self._take_out()
        for (_, prompt, _), region in zip(self.prompts, self._regions, strict=True):
            prompt.region = region if region is None or part is None else region.within(part)
        skipped = "base" if hires_pass else "hires"
        prompts = self._of_pass = [prompt for hires, prompt, _ in self.prompts if hires != skipped]
        for prompt in prompts:
            if prompt.influence is not None and not same_pass:
                prompt.influence = Influence()
        if not prompts:
            return None
        topology = topology_of(unet)
        if topology != self.topology:
            raise MismatchError(f"the model has {topology}, the job's adapters are for {self.topology}.")
        for prompt in prompts:
            # A job inside this one paints a face where it has found one: its part is a picture to the keypoints.
            prompt.picture_offset, prompt.part = first_picture, None if self._inside else part
            prompt.during(run or Run())
        self.injection = injection_into(unet, prompts).attach()
        self._groups = self._groups | groups_of(self.injection.sections)  # on FLUX of these prompts alone
        self.attached = True
        return self.injection

    def detach(self) -> Outcome:
        """Remove this job's hooks, if there are any, and say what the passes since the last call turned out to be.

        MISSED means that units wanted the job's first pass and were never attached.
        """
        idle = self.injection is not None and self.injection.outcome is Outcome.IDLE
        outcome = self._take_out() or (Outcome.IDLE if idle else Outcome.ACTED)
        self._earlier = None
        wanted = any(hires != "hires" for hires, *_ in self.prompts)
        return Outcome.MISSED if wanted and not self.attached else outcome

    def _take_out(self) -> Outcome | None:
        """Remove the hooks; what went wrong since the job's last detach, None where nothing did."""
        if self.injection is None:
            return self._earlier
        outcome = self.injection.detach()
        self.lost += self.injection.lost
        self.injection = None
        self.maps.collect()
        return self._earlier or (outcome if outcome in (Outcome.LOST, Outcome.MISPLACED) else None)

    def pass_over(self, step: int, steps: int) -> None:
        """Step ``step`` of ``steps`` is made by a UNet that the adapters do not fit."""
        for prompt in self._of_pass:
            prompt.unserved |= prompt.acts_in(step, steps)

    def inactions(self) -> list[Inaction]:
        """The units that have not done all that they were to do since the last call."""
        of_units: dict[int, list[ImagePrompt]] = {}
        for _, prompt, number in self.prompts:
            of_units.setdefault(number, []).append(prompt)
        found = [
            Inaction(number, all(one.fired for one in prompts), any(one.unserved for one in prompts))
            for number, prompts in of_units.items()
            if any(one.unserved or not one.fired for one in prompts)
        ]
        for _, prompt, _ in self.prompts:
            prompt.fired = prompt.unserved = False
        return found

    def influence(self, picture: int) -> dict[int, Tensor | None]:
        """The heat maps of a picture of the job by unit, for the units that are to have some."""
        return self.maps.of(picture)

    def shares(self) -> list[UnitShare]:
        """How much the units did in the passes until now, those that did something."""
        measured: dict[int, list[Shares]] = {}
        for _, prompt, number in self.prompts:
            if prompt.shares is not None:
                measured.setdefault(number, []).append(prompt.shares)
        found = [unit_share(number, of, self._groups) for number, of in measured.items()]
        return [one for one in found if one is not None]

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.detach()


def prepare_generation(
    units: Sequence[Unit],
    unet: nn.Module | Topology,
    resources: Resources,
    device: Device,
    *,
    progress: Progress = lambda text: None,
    hires_topology: tuple[str, Topology] | None = None,
    measure: bool = True,
    shares: bool = True,
    prompt_lora: str | None = None,
) -> Generation:
    """Check all units, then load, encode and project what they need.

    ``unet`` may be the topology of one that is not loaded yet. ``hires_topology``: name and topology of another
    checkpoint that the hires pass will load. Without ``measure`` there are no influence maps, even for units that ask,
    and nothing tells how much the units did, nor without ``shares``.
    ``prompt_lora``: the FaceID LoRA that the prompt names, beside which the one inside a FaceID file would count twice.

    Raises IPAdapterError before anything is loaded if any unit cannot be honoured.
    """
    with errors_name_unit(units[0].number if units else 1):
        topology = unet if isinstance(unet, Topology) else topology_of(unet)
    plans = [plan_unit(unit, topology, topology.blocks, resources.catalog) for unit in units]
    if hires_topology is not None:
        _check_hires(plans, resources.catalog, *hires_topology)
    full = with_faces([plan.expanded() for plan in plans], resources, progress)
    full = [_with_lora_note(_with_influence_note(plan), prompt_lora) for plan in full]
    acting = [part for plan in full for part in parts(plan) if part.acts]
    prepared = prepare(acting, resources, device, progress)
    prompts = []
    for plan, one in zip(acting, prepared, strict=True):
        with errors_name_unit(plan.number):
            loaded = None if isinstance(unet, Topology) else unet
            keypoints = keypoints_of(plan, one, resources, loaded, progress)
        prompts.append(_prompt(plan, one, None if prompt_lora else _lora(plan, resources), keypoints))
        if measure and shares:
            prompts[-1].prompt.shares = Shares()
    maps = InfluenceMaps(
        [plan.number for plan in plans if measure and _is_measured(plan)],
        [(one.number, one.prompt) for one in prompts],
    )
    written = [replace(plan, notes=one.notes).without_pictures() for plan, one in zip(plans, full, strict=True)]
    return Generation(topology, written, prompts, maps)


def _is_measured(plan: Plan) -> bool:
    """Whether the unit has influence maps."""
    return plan.unit.influence_map and not _inside_only(plan.unit) and plan.spec.base != FLUX


def _with_influence_note(plan: Plan) -> Plan:
    if not plan.unit.influence_map or plan.spec.base != FLUX:
        return plan
    note = "there are no influence maps on FLUX, where references and text share one attention."
    return replace(plan, notes=(*plan.notes, note))


def _check_hires(plans: Sequence[Plan], catalog: Catalog, name: str, topology: Topology) -> None:
    for plan in plans:
        if plan.unit.hires != "base" and not _inside_only(plan.unit):
            with errors_name_unit(plan.number):
                check_fit(
                    plan.adapter, topology, catalog, f"the hires checkpoint {name}",
                    'set hires to "base", or use a hires checkpoint of the same kind',
                )  # fmt: skip


def _inside_only(unit: Unit) -> bool:
    """Whether none of the job's own passes are the unit's, but those of jobs inside it."""
    return unit.acts_in == "detailer"


def _lora(plan: Plan, resources: Resources) -> Lora | None:
    """The LoRA that the unit's file carries, where it is to act."""
    if not plan.spec.has_lora or plan.unit.lora_strength == 0:
        return None
    weights = resources.adapter(plan.adapter, plan.spec)
    return Lora(resources.identity(plan.adapter), weights.lora, plan.unit.lora_strength)


def _with_lora_note(plan: Plan, prompt_lora: str | None) -> Plan:
    if prompt_lora is None or not plan.spec.has_lora or plan.unit.lora_strength == 0:
        return plan
    note = f"the prompt names the LoRA {prompt_lora}, so the one inside {plan.adapter.name} is left out."
    return replace(plan, notes=(*plan.notes, note))


def _appended(plan: Plan, prepared: Prepared) -> Appended | None:
    """The tokens that stand behind the text, of an adapter whose tokens do."""
    if plan.spec.variant != BEHIND_TEXT:
        return None
    return Appended(prepared.cond, prepared.factor, prepared.uncond, prepared.uncond_factor)


def _prompt(plan: Plan, prepared: Prepared, lora: Lora | None, keypoints: Keypoints | None) -> PassPrompt:
    unit = plan.unit
    return PassPrompt(
        "both" if _inside_only(unit) else unit.hires,
        ImagePrompt(
            prepared.kv,
            unit.weight,
            unit.start,
            unit.end,
            plan.spread,
            unit.embeds_scaling,
            plan.region,
            lora=lora,
            keypoints=keypoints,
            appended=_appended(plan, prepared),
            fade=fade_of(plan, prepared),
        ),
        plan.number,
    )
