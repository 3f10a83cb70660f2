"""A job from the script's arguments to its end: units, what they become, and what is taken back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from .. import infotext
from ..attend.injection import detach_all
from ..attend.layers import Topology
from ..attend.lora import names_face_lora
from ..attend.models import topology_of
from ..attend.regions import Region
from ..encode.picture import KEPT_PIXELS, Mask, Picture, Pictures
from ..errors import BudgetError, PictureError, UnitError, errors_name_unit
from ..jobs.fit import made_for
from ..jobs.generation import prepare_generation
from ..jobs.planned import differ_in_form
from ..jobs.plans import Plan
from ..kinds import Wording
from ..reference import MAX_REFERENCES, Reference
from ..unit import MAX_UNITS, Unit, parse_units
from . import detailing, host, options, start_pictures
from .host import record
from .host.record import Job
from .looks import with_looks
from .neighbours import adetailer, controlnet, distributed, instantid, xyz, xyz_cells, xyz_sources
from .neighbours.controlnet import overlaps
from .panel import accordion as panel
from .panel import model_choice
from .process import keep_to_settings, resources
from .reference_folders import EVERY, Walk, with_folders
from .refusal import PARTLY, UNUSED, refusing, take_refusal

log = logging.getLogger("ip-adapter")


def expect(p: Any, arguments: tuple[Any, ...]) -> None:
    """The job begins with us, or not at all: as soon as its checkpoint and options are in force."""
    host.current().before_prompts(p, lambda: begin(p, arguments))


def begin(p: Any, arguments: tuple[Any, ...]) -> None:
    """Check, read and encode everything that the job's units want.

    Raises IPAdapterError, which is also kept in the job's record, where a unit cannot be honoured.
    """
    if record.is_copy(p):
        _forget_original(p)
    _forget_entries(p)
    with refusing(p):
        objects, wording = _objects(p, arguments)
        if wording is Wording.PANEL:
            model_choice.check(objects, xyz.axis_fields(p), resources())
        units = units_of(p, objects, wording)
        _check_passes(p, units)
        if not objects and panel.left_out(arguments):
            p.comment("IP-Adapter is not ticked: its references were left out of this picture.")
        with controlnet.restored_on_error(p):
            left = units
            if left:
                left = _without_overlaps(p, left)
            if left:
                _prepare(p, left)
                job = record.opened(p)
                job.arguments, job.units, job.places = arguments, units, len(objects)
                job.file = host.current().file_of_batch(p)
                if wording is Wording.PANEL:
                    _remember(job, objects)


def _objects(p: Any, arguments: tuple[Any, ...]) -> tuple[list[object], Wording]:
    """The job's units as API objects, and whose words sentences about them use. A cell's preset comes in their place,
    whatever they are."""
    if (of_preset := xyz_sources.with_preset(p)) is not None:
        return of_preset, Wording.API
    given = panel.units(arguments, is_api=host.current().is_api(p), brought=xyz.brought(p))
    return distributed.local(given), distributed.wording(arguments)


def _remember(job: Job, objects: Sequence[object]) -> None:
    """The models of the panel's units, for those that nobody chooses a model for."""
    specs = [(plan.number, plan.adapter.name, plan.spec) for plan in job.plans]
    used = [(number, name, made_for(spec)) for number, name, spec in specs]
    model_choice.remember(objects, used)


def _without_overlaps(p: Any, units: Sequence[Unit]) -> list[Unit]:
    """The units that are left to us. ControlNet's act in the job's own passes, so those that do not are no overlap."""
    inside = [unit for unit in units if unit.acts_in == detailing.DETAILER]
    here = [unit for unit in units if unit.acts_in != detailing.DETAILER]
    left = overlaps.settle(p, here, resources().catalog, options.controlnet_same())
    return sorted([*left, *inside], key=lambda unit: unit.number)


def _check_passes(p: Any, units: Sequence[Unit]) -> None:
    """Raises UnitError for a unit whose pass will not come."""
    detailing.check(p, units)
    for unit in units:
        if unit.acts_in == detailing.DETAILER:
            continue
        if unit.hires == "hires" and not host.current().has_second_pass(p):
            raise UnitError(
                'hires is "hires", and this job has no second pass: switch on hires fix, or set hires to "both".'
            ).in_unit(unit.number)


def units_of(p: Any, objects: Sequence[object], wording: Wording) -> list[Unit]:
    """The enabled units among the ``objects`` of ``p``'s job, with their numbers and their pictures decoded."""
    units = parse_units(objects, wording, later=xyz.axis_fields(p))
    units = xyz.apply_axis_values(p, units)
    with host.current().progress_text() as progress:
        units = controlnet.with_pictures(p, units)
        _check_upscaled(p, units)
        units = decoded(
            start_pictures.with_pictures(p, units),
            lambda: progress("reading the references"),
            Walk(host.current().pictures(p).start, len(host.current().pictures(p))),
        )
    distributed.check(p, units)
    _check_places(p, units)
    return units


def _check_upscaled(p: Any, units: Sequence[Unit]) -> None:
    """Raises UnitError (unit named) for references of single pictures, where p is a finished picture's second pass by
    itself: nothing tells which of its job's pictures that one was."""
    if not host.current().starts_with_second_pass(p):
        return
    for unit in units:
        if unit.hires == "base" and not detailing.inside([unit]):
            continue  # it rests
        several, batch = len(unit.references) > 1, unit.called("batch")
        walked = any(one.folder is not None and one.folder.only is None for one in unit.references)
        if unit.batch == "per image" and (several or walked):
            why = (
                f"{batch} is “per image”, and nothing tells which of a job's pictures is upscaled here: give the "
                f"reference of that picture alone, or set {batch} to “same”."
            )
        elif len({one.at for one in unit.references}) > 1:
            why = (
                "its references stand over time (“at”), and nothing tells which of a job's pictures is upscaled here: "
                "give the references of that picture alone, or leave “at” out."
            )
        else:
            continue
        raise UnitError(why).in_unit(unit.number)


def _check_places(p: Any, units: Sequence[Unit]) -> None:
    """Raises UnitError (unit named) for a region, of a unit or of its references, whose place nothing tells."""
    script = host.current().lost_part(p, elsewhere=distributed.spreads(p))
    if script is None:
        return
    for unit in units:
        name = "region_mask" if unit.wording is Wording.API else "the region mask"
        own = [(f"the region of reference {i}", one.region) for i, one in enumerate(unit.references, 1)]
        for called, mask in [(name, unit.region_mask), *own]:
            if mask is None or (isinstance(mask, Mask) and len({*mask.image.getextrema()}) == 1):
                continue
            why = (
                f"nothing tells where {called} lies in what the script “{script}” makes of img2img's batch of files: "
                f"make the pictures without the script, or one by one, or leave out {called}."
                if host.current().seems_of_batch(p)
                else f"the script “{script}” takes the picture apart, so that nothing tells where {called} lies: make "
                f"the picture without the script, or leave out {called}."
            )
            raise UnitError(why).in_unit(unit.number)


def decoded(units: Sequence[Unit], progress: Callable[[], None] = lambda: None, walk: Walk = EVERY) -> list[Unit]:
    """The units with their pictures decoded, so that nobody has to do it again in this job. What is no usable picture
    stays as it is: the unit's plan says so in its turn. Looks come in the place of their names, and folders with what
    the job takes of them; of the pictures of a unit that has very many, only the files are kept.

    ``progress`` is called before each and may raise. ``walk`` says which pictures see the references that are for one
    picture each. Raises BudgetError with the unit's number where all pictures together are too large.
    """
    units, pictures = with_folders(with_looks(units), walk, progress), Pictures(check=progress)

    def of(kind: type[Picture], data: Any, kept_pixels: int = KEPT_PIXELS) -> Any:
        try:
            return None if data is None else pictures.of(kind, data, kept_pixels)
        except BudgetError:
            raise
        except PictureError:
            return data

    def reference(one: Reference, kept_pixels: int = KEPT_PIXELS) -> Reference:
        image = one.image if one.folder is not None else of(Picture, one.image, kept_pixels)
        return replace(one, image=image, mask=of(Mask, one.mask, kept_pixels), region=of(Mask, one.region))

    done = []
    for unit in units:
        with errors_name_unit(unit.number):
            kept = KEPT_PIXELS if len(unit.references) <= MAX_REFERENCES else 0
            references = tuple(reference(one, kept) for one in unit.references)
            negatives = tuple(map(reference, unit.negative_references))
            region, pose = of(Mask, unit.region_mask), of(Picture, unit.keypoints_image)
        done.append(
            replace(
                unit, references=references, negative_references=negatives, region_mask=region, keypoints_image=pose
            )
        )
    return done


def _forget_original(p: Any) -> None:
    """Let a copy be a job of its own; the job that it was copied from keeps what it has."""
    controlnet.restore(p)
    record.opened(p)
    host.current().leave_the_end_alone(p, copied=True)
    p.extra_generation_params = dict(p.extra_generation_params)


def _forget_entries(p: Any) -> None:
    """Take out of the parameters what an earlier run of ``p``, or a copy beside it, has said of its units: img2img's
    batch of files, a plot's cells and the like have one dict for all their pictures."""
    entries = map(infotext.entry_name, range(1, MAX_UNITS + 1))
    for entry in (*entries, UNUSED, PARTLY, adetailer.NOTE, xyz_cells.NOTE):
        p.extra_generation_params.pop(entry, None)


def _prepare(p: Any, units: list[Unit]) -> None:
    current = host.current()
    with errors_name_unit(units[0].number):
        unet = current.usable_unet()
        topology = topology_of(unet)
    filled: list[instantid.Filled] = []
    if options.instantid_in_controlnet():
        inside = [unit for unit in units if unit.acts_in == detailing.DETAILER]
        here = [unit for unit in units if unit.acts_in != detailing.DETAILER]
        here, filled = instantid.fill(p, here, resources().catalog, topology)
        units = sorted([*here, *inside], key=lambda unit: unit.number)
    job = record.opened(p)
    if units:
        _prepare_ours(job, units, unet, topology)
    if filled:
        p.extra_generation_params.update(infotext.parameters(filled))
        hooked = instantid.Hooked(p)
        job.check = lambda: hooked.check(filled[0].number)
    watch_end(job)


def watch_end(job: Job) -> None:
    """However the job ends, clean up after it, and tell its failure. What tells that of an earlier run stays."""

    def failure() -> Exception | None:
        found, job.failure = job.failure, None
        return found

    if not host.current().has_an_end(job.owner):
        host.current().at_the_end(job.owner, lambda: _close(job), failure)


def watch_script(p: Any) -> None:
    """A script from the list of scripts is about to make its jobs, perhaps with copies of ``p``, which nobody closes:
    so ``p``'s end cleans up after them, too, and tells their failure."""
    job = record.opened(p)
    job.original = job
    watch_end(job)


def _close(job: Job) -> None:
    if job.original is job:
        job.original = None
        clean()
        adetailer.clean(job.owner)
    end(job.owner)


def _prepare_ours(job: Job, units: list[Unit], unet: Any, topology: Topology) -> None:
    p, current, stock = job.owner, host.current(), resources()
    unmeasured = _unmeasured(p)
    lora = names_face_lora(current.prompt_loras(p))
    others = detailing.for_other_models(p, units, topology, stock.catalog)
    elsewhere = {unit.number for group in others.values() for unit in group}
    own = [unit for unit in units if unit.number not in elsewhere]
    keep_to_settings(stock)
    try:
        with current.progress_text() as progress:
            generation = prepare_generation(
                own, unet, stock, current.device(), progress=progress, hires_topology=current.hires_topology(p),
                measure=unmeasured is None, shares=options.tells_shares(), prompt_lora=lora,
            )  # fmt: skip
            generations = {topology: generation} | {
                other: prepare_generation(
                    group, other, stock, current.device(), progress=progress, shares=False, prompt_lora=lora
                )
                for other, group in others.items()
            }
    finally:
        if not options.keep_encoder():
            stock.release_encoder()
    here = {unit.number for unit in units if unit.acts_in != detailing.DETAILER}
    job.generation, job.detailing = generation.only(here), detailing.prepared(p, units, generations)
    job.plans = sorted((plan for one in generations.values() for plan in one.plans), key=lambda plan: plan.number)
    p.extra_generation_params.update(infotext.parameters(job.plans))
    _comment(p, job.plans)
    if unmeasured is not None and any(unit.influence_map for unit in units):
        p.comment(f"IP-Adapter: there are no influence maps while {unmeasured}.")


def _unmeasured(p: Any) -> str | None:
    """Why the job has no influence maps, None where it can have some."""
    if host.current().script_chosen(p):
        return "a script from the list of scripts makes the pictures"
    return "sd-webui-distributed spreads the pictures over several machines" if distributed.spreads(p) else None


def _comment(p: Any, plans: Sequence[Plan]) -> None:
    """Notes on units that are honoured, though perhaps not as they were meant."""
    for plan in plans:
        notes: Sequence[str] = [*plan.notes, *detailing.notes(plan.unit)]
        for called, region in _regions(plan):
            if not region.is_band and differ_in_form(region.form, host.current().picture_form(p)):
                notes = [*notes, f"{called} is stretched over a picture of another form."]
        # Forge and its kin have a scale for the second pass.
        second = getattr(p, "hr_cfg", None) if host.current().has_second_pass(p) else None
        for note in (*notes, *idle_negative_side(plan.unit, p.cfg_scale, second)):
            log.info("IP-Adapter unit %d: %s", plan.number, note)
            p.comment(f"IP-Adapter unit {plan.number}: {note}")


def _regions(plan: Plan) -> Iterator[tuple[str, Region]]:
    """Where a unit acts, and its references, with what that is called."""
    if plan.region is not None:
        yield "the region mask", plan.region
    for item, name in sorted({(one.item, one.region_hash) for one in plan.references if one.region_hash is not None}):
        yield f"the region of reference {item + 1}", plan.places[name]


def idle_negative_side(unit: Unit, scale: float, second: float | None) -> list[str]:
    """Notes on what acts on the negative side, which is not there at a CFG ``scale`` of 1. ``second`` is that of the
    second pass, where it has one of its own."""
    has_second = second is not None and second > 1 and unit.hires != "base"
    if scale != 1 or has_second or unit.acts_in == detailing.DETAILER:
        return []
    idle, end = [], "no effect at a CFG scale of 1: raise it."
    if unit.negative_references:
        is_api = unit.wording is Wording.API
        idle.append(f"negative_images has {end}" if is_api else f"the negative references have {end}")
    return [*idle, f"{unit.called('noise')} has {end}"] if unit.noise else idle


def check_before_latents(p: Any) -> None:
    """After every extension's ``process``: refuse what was not refused yet, and what a neighbour could not do."""
    current, refusal, job = host.current(), take_refusal(p), record.own(p)
    if refusal is not None:
        current.before_latents(p, _raising(refusal))
    elif job is not None and job.check is not None and not current.changes_checkpoint_midway(p):
        current.before_latents(p, job.check)


def _raising(error: Exception) -> Any:
    def act() -> None:
        raise error

    return act


def end(p: Any) -> None:
    """After ``postprocess``, at the end, and before the next run of the same p."""
    adetailer.withdraw(p)
    controlnet.restore(p)
    job = record.own(p)
    if job is None:
        return
    if job.generation is not None:
        job.generation.detach()
    if job.failure is None and job.original is not job:
        host.current().leave_the_end_alone(p)
    job.forget_run()


def clean() -> None:
    """Take back whatever any job has left in any loaded checkpoint."""
    for unet in host.current().loaded_unets():
        detach_all(unet)
