"""A job's image prompts, from the checked units to the clean UNet."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn

from ..attend.influence import Influence
from ..attend.inject import Injection
from ..attend.layers import Topology, count_blocks, cross_attention_layers
from ..attend.outcome import Outcome
from ..attend.prompt import ImagePrompt, KeysValues
from ..attend.regions import Box, Size
from ..checkpoint.catalog import Catalog
from ..encode.device import Device
from ..errors import MismatchError, errors_name_unit
from ..unit import Unit
from .fit import check_fit
from .influence import InfluenceMaps
from .plans import Plan, plan_unit
from .prepare import prepare
from .resources import Progress, Resources


class PassPrompt(NamedTuple):
    """A unit's prompt with the passes that it acts in: "both", "base" or "hires"."""

    hires: str
    prompt: ImagePrompt


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
        self.injection: Injection | None = None
        self.attached = False  # whether attach has ever put anything into a UNet
        self.unfit: nn.Module | None = None  # the UNet last found to be of another topology
        self._regions = [prompt.region for _, prompt in self.prompts]  # in the whole picture

    def inside(self) -> Generation:
        """The same prompts for a job inside this one. Nothing is measured there."""
        inner = copy.copy(self)
        inner.injection, inner.attached, inner.unfit = None, False, None
        inner.prompts = [PassPrompt(hires, replace(p, influence=None, acted=False)) for hires, p in self.prompts]
        inner.maps = InfluenceMaps()
        return inner

    def attach(
        self,
        unet: nn.Module,
        *,
        hires_pass: bool = False,
        first_picture: int = 0,
        same_pass: bool = False,
        part: tuple[Box, Size] | None = None,
    ) -> Injection | None:
        """Put the prompts of this pass into ``unet``; None if there are none.

        ``first_picture`` is the index in the job of the coming batch's first picture; ``same_pass`` says that another
        UNet goes on with the pass that has begun; ``part`` is the box of the picture, and the picture's height and
        width, where only a part is sampled. Raises MismatchError for a UNet of another topology than the one that the
        units were checked against (SDXL's refiner, say).
        """
        self.detach()
        for (_, prompt), region in zip(self.prompts, self._regions, strict=True):
            prompt.region = region if region is None or part is None else region.within(*part)
        skipped = "base" if hires_pass else "hires"
        prompts = [prompt for hires, prompt in self.prompts if hires != skipped]
        for prompt in prompts:
            if prompt.influence is not None and not same_pass:
                prompt.influence = Influence()
        if not prompts:
            return None
        layers = cross_attention_layers(unet)
        topology = Topology.of(layers)
        if topology != self.topology:
            raise MismatchError(f"the model has {topology}, the job's adapters are for {self.topology}.")
        for prompt in prompts:
            prompt.picture_offset = first_picture
        self.injection = Injection(unet, layers, prompts).attach()
        self.attached = True
        return self.injection

    def detach(self) -> Outcome:
        """Remove this job's hooks, if there are any, and say what the pass turned out to be.

        MISSED means that units wanted the job's first pass and were never attached.
        """
        outcome = Outcome.ACTED
        if self.injection is not None:
            outcome = self.injection.detach()
            self.injection = None
            self.maps.collect()
        wanted = any(hires != "hires" for hires, _ in self.prompts)
        return Outcome.MISSED if wanted and not self.attached else outcome

    def influence(self, picture: int) -> dict[int, Tensor | None]:
        """The heat maps of a picture of the job by unit, for the units that are to have some."""
        return self.maps.of(picture)

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.detach()


def prepare_generation(
    units: Sequence[Unit],
    unet: nn.Module,
    resources: Resources,
    device: Device,
    *,
    progress: Progress = lambda text: None,
    hires_topology: tuple[str, Topology] | None = None,
    measure: bool = True,
) -> Generation:
    """Check all units, then load, encode and project what they need.

    ``hires_topology``: name and topology of another checkpoint that the hires pass will load. Without ``measure`` there
    are no influence maps, even for units that ask.

    Raises IPAdapterError before anything is loaded if any unit cannot be honoured.
    """
    with errors_name_unit(units[0].number if units else 1):
        layers = cross_attention_layers(unet)
        topology = Topology.of(layers)
    blocks = count_blocks(layers)
    plans = [plan_unit(unit, topology, blocks, resources.catalog) for unit in units]
    if hires_topology is not None:
        _check_hires(plans, resources.catalog, *hires_topology)
    acting = [plan for plan in plans if plan.acts]
    prepared = prepare(acting, resources, device, progress)
    prompts = [_prompt(plan, kv) for plan, kv in zip(acting, prepared, strict=True)]
    maps = InfluenceMaps(
        [plan.number for plan in plans if measure and plan.unit.influence_map],
        {plan.number: prompt for plan, (_, prompt) in zip(acting, prompts, strict=True)},
    )
    return Generation(topology, [plan.without_pictures() for plan in plans], prompts, maps)


def _check_hires(plans: Sequence[Plan], catalog: Catalog, name: str, topology: Topology) -> None:
    for plan in plans:
        if plan.unit.hires != "base":
            with errors_name_unit(plan.number):
                check_fit(
                    plan.adapter, topology, catalog, f"the hires checkpoint {name}",
                    'set hires to "base", or use a hires checkpoint of the same kind',
                )  # fmt: skip


def _prompt(plan: Plan, kv: KeysValues) -> PassPrompt:
    unit = plan.unit
    return PassPrompt(
        unit.hires,
        ImagePrompt(kv, unit.weight, unit.start, unit.end, plan.spread, unit.embeds_scaling, plan.region),
    )
