"""The host's callbacks, in the order of a job. The script and this file are where the WebUI calls in.

The host swallows every exception of a script's callbacks and would go on to make a plain picture, so a refusal has to
come from a place that it does not guard. That place is ``p.setup_prompts``: the host calls it once for each job, when
the job's checkpoint and options are in force, and before any script's ``process``. A job that is refused there leaves
other extensions alone: ControlNet, which hooks the model in its ``process``, takes harm from jobs that end later.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules import errors, script_callbacks, shared

from .. import infotext
from ..attend.inject import Injection, detach_all, injections
from ..attend.layers import Topology, cross_attention_layers
from ..errors import IPAdapterError, MismatchError
from ..generation import Generation, told_as, unlike
from ..unit import Unit, parse_units
from . import api, options, preview
from . import influence_pictures as influence
from .host import a1111 as host
from .neighbours import adetailer, controlnet, controlnet_adapters, distributed, instantid, xyz
from .panel import accordion as panel
from .panel import send_to
from .panel.controlnet_bar import ControlNetBar
from .process import resources, store

log = logging.getLogger("ip-adapter")
# Attributes of the host's processing object: its Generation, or the error with which it was refused.
JOB, REFUSAL = "ip_adapter_generation", "ip_adapter_refusal"
UNITS = "ip_adapter_units"  # what it was asked for
FILLED = "ip_adapter_filled"  # p, and a function that raises where ControlNet did not take up what we had filled
OUTER = "ip_adapter_outer"  # the job that it is a part of


class InternalError(IPAdapterError):
    """Not the user's fault."""

    http_status = 500


class _Start(distributed.Private):
    """In the place of ``p.setup_prompts``: the job begins with us, or not at all."""

    def __init__(self, p: Any, args: tuple[Any, ...]) -> None:
        self.p, self.args = p, args

    def __call__(self) -> None:
        del self.p.setup_prompts  # the class's own again
        begin(self.p, self.args)
        self.p.setup_prompts()


def _clean() -> None:
    """Take back whatever any job has left in any loaded checkpoint."""
    for unet in host.loaded_unets():
        detach_all(unet)


def _is_copy(p: Any) -> bool:
    """Whether ``p`` is a copy that another extension has made of a running job's object."""
    marks = (vars(p).get(JOB), vars(p).get(UNITS))
    return any(mark is not None and mark.owner is not p for mark in marks) or vars(p).get(FILLED, (p,))[0] is not p


def _forget_original(p: Any) -> None:
    """Let a copy be a job of its own; the job that it was copied from keeps what it has."""
    controlnet.restore(p)
    for name in (JOB, UNITS, FILLED, OUTER, influence.FINISHED):
        vars(p).pop(name, None)
    if (close := _closing(p)) is not None and close.p is not p:
        del p.close


def setup(p: Any) -> None:
    """``setup``: the job has its scripts and arguments, and nobody has read these yet."""
    distributed.plain_arguments(p)


def before_process(p: Any, args: tuple[Any, ...]) -> None:
    """``before_process``: the job's checkpoint and options are not in force yet."""
    if adetailer.is_inner(p):
        return
    p.setup_prompts = _Start(p, args)  # first: if anything below fails, the host goes on
    vars(p).pop(REFUSAL, None)
    if not _is_copy(p):
        end(p)
    _clean()
    distributed.plain_arguments(p)  # a plot's cell: its values have come since ``setup``


def process(p: Any, args: tuple[Any, ...]) -> None:
    """``process``: normally everything is done. If something else called ``p.setup_prompts`` and kept what it raised,
    or nothing called it, the job is refused a little later, through ``p.init``."""
    if isinstance(vars(p).get("setup_prompts"), _Start):
        del p.setup_prompts
        if _is_copy(p):  # made to tell scripts that the job goes on, with its next batch
            return
        with contextlib.suppress(IPAdapterError):
            begin(p, args)
    error = vars(p).pop(REFUSAL, None)
    if error is not None:

        def init(*_args: Any, **_kwargs: Any) -> None:
            del p.init
            raise error

        p.init = init
    elif vars(p).get(FILLED, (None,))[0] is p and getattr(p, "refiner_checkpoint", None) is None:
        check = getattr(p, FILLED)[1]

        def checked(*args: Any, **kwargs: Any) -> None:  # after every extension's ``process``
            del p.init
            check()
            p.init(*args, **kwargs)

        p.init = checked


def begin(p: Any, args: tuple[Any, ...]) -> None:
    """Check, read and encode everything that the job's units want.

    Raises IPAdapterError, which is also kept on ``p``, where a unit cannot be honoured.
    """
    if _is_copy(p):
        _forget_original(p)
    try:
        given = distributed.local(panel.units(args, is_api=host.is_api(p)))
        objects = controlnet.with_pictures(p, xyz.applied(p, given))
        units = parse_units(objects)
        distributed.check(p, units)
        with controlnet.restored_on_error(p):
            if units:
                units = controlnet_adapters.settle(p, units, resources().catalog, options.controlnet_same())
            if units:
                _prepare(p, units)
                setattr(p, UNITS, _Asked(p, args, objects))
    except host.Interrupted:
        log.info("IP-Adapter: interrupted before sampling")
    except IPAdapterError as error:
        if xyz.refuse(p, error):
            return
        setattr(p, REFUSAL, error)
        raise
    except Exception as error:
        errors.report("IP-Adapter: unexpected error", exc_info=True)
        refusal = InternalError(
            f"IP-Adapter: unexpected {type(error).__name__}: {error}. Disable its units to go on; "
            "the console's log has the details for a report."
        )
        if xyz.refuse(p, refusal):
            return
        setattr(p, REFUSAL, refusal)
        raise refusal from error


@dataclass(frozen=True)
class _Asked:
    """What a job was asked for. A copy of its ``owner`` made by another extension was not asked."""

    owner: Any
    args: tuple[Any, ...]
    units: list[object]


def _prepare(p: Any, units: list[Unit]) -> None:
    with told_as(units[0].number):
        unet = host.unet(shared.sd_model)
        topology = Topology.of(cross_attention_layers(unet))
    units, filled = instantid.fill(p, units, resources().catalog, topology)
    if units:
        _prepare_ours(p, units, unet)
    if filled:
        p.extra_generation_params.update(infotext.parameters(filled))
        hooked = instantid.Hooked(p)
        setattr(p, FILLED, (p, lambda: hooked.check(filled[0].number)))
    if _closing(p) is None:  # one with a failure of an earlier run of p stays
        p.close = _CleanClose(p)


def _prepare_ours(p: Any, units: list[Unit], unet: Any) -> None:
    stock, unmeasured = resources(), _unmeasured(p)
    stock.cache.limit, stock.kept_adapter_bytes = options.cache_bytes(), options.adapter_bytes()
    try:
        with host.progress_text() as progress:
            generation = Generation(
                units, unet, stock, host.device(), owner=p, progress=progress, hires_topology=host.hires_topology(p),
                measure=unmeasured is None,
            )  # fmt: skip
    finally:
        if not options.keep_encoder():
            stock.release_encoder()
    setattr(p, JOB, generation)
    p.extra_generation_params.update(infotext.parameters(generation.plans))
    _tell(p, generation)
    if unmeasured is not None and any(unit.influence_map for unit in units):
        p.comment(f"IP-Adapter: there are no influence maps while {unmeasured}.")


def _unmeasured(p: Any) -> str | None:
    """Why the job has no influence maps, None where it can have some."""
    if host.script_chosen(p):
        return "a script from the list of scripts makes the pictures"
    return "sd-webui-distributed spreads the pictures over several machines" if distributed.spreads(p) else None


def _tell(p: Any, generation: Generation) -> None:
    """Notes on units that are honoured, though perhaps not as they were meant."""
    for made in generation.plans:
        notes = list(made.notes)
        if made.region is not None and unlike(made.region.form, host.picture_form(p)):
            notes.append("the region mask is stretched over a picture of another form.")
        for note in notes:
            log.info("IP-Adapter unit %d: %s", made.number, note)
            p.comment(f"IP-Adapter unit {made.number}: {note}")


class _CleanClose(distributed.Private):
    """``p.close``, which the host calls however a job ends (``postprocess`` only when all went well).

    It is also the last unguarded place: what failed after the job had begun is raised from here, so that no picture
    is handed out that only looks as if the references had been used.
    """

    def __init__(self, p: Any) -> None:
        self.p = p
        self.failure: IPAdapterError | None = None

    def __call__(self) -> None:
        del self.p.close  # the class's own again
        end(self.p)
        self.p.close()
        if self.failure is not None and sys.exc_info()[0] is None:
            raise self.failure


def _closing(p: Any) -> _CleanClose | None:
    """What of ours will end ``p``'s job."""
    close = vars(p).get("close")
    return close if isinstance(close, _CleanClose) else None


def _failure(p: Any) -> IPAdapterError | None:
    """What has gone wrong since the job began."""
    close = _closing(p)
    return None if close is None else close.failure


def _fail(p: Any, generation: Generation, reason: str) -> None:
    """The references have not done what was asked for, and it is too late to stop the job. The first reason counts."""
    p = vars(p).get(OUTER, p)
    if _failure(p) is not None:
        return
    error = IPAdapterError(f"IP-Adapter: the references were not used in this picture: {reason}")
    log.error("%s", error)
    for name in infotext.parameters(generation.plans):
        p.extra_generation_params.pop(name, None)
    p.comment(error.detail)
    if (close := _closing(p)) is not None:
        close.failure = error


def _generation(p: Any) -> Generation | None:
    """The generation of ``p`` itself: a copy of p made by another extension does not own p's."""
    generation = getattr(p, JOB, None)
    return generation if generation is not None and generation.owner is p else None


def before_sampling(p: Any) -> None:
    """``process_before_every_sampling``: the hooks go into the checkpoint that is loaded now."""
    generation = _generation(p)
    if generation is None:
        return
    try:
        _attach(generation, p, host.unet(shared.sd_model))
    except Exception as error:
        errors.report("IP-Adapter: could not be attached", exc_info=True)
        _fail(p, generation, f"{error}")


def _attach(generation: Generation, p: Any, unet: Any, same_pass: bool = False) -> Injection | None:
    outer = vars(p).get(OUTER)
    if outer is None:
        first, hires = p.iteration * p.batch_size, bool(p.is_hr_pass)
    else:  # it goes on with one finished picture
        first = outer.iteration * outer.batch_size + outer.batch_index
        hires = bool(getattr(outer, "enable_hr", False))
    return generation.attach(
        unet, hires_pass=hires, first_picture=first, same_pass=same_pass, part=host.sampled_part(p)
    )


_sampled: weakref.ref[Any] | None = None  # the job whose pictures are being finished; the host has one at a time


def _outer() -> Any | None:
    return None if _sampled is None else _sampled()


def _inner_generation(p: Any) -> Generation | None:
    """The outer job's references for ``p``, a pass of ADetailer's, if they are to act there."""
    outer = _outer()
    generation = None if outer is None else _generation(outer)
    if outer is None or generation is None or not adetailer.joined():
        return None
    setattr(p, OUTER, outer)
    setattr(p, JOB, generation.inside(p))
    p.close = _CleanClose(p)
    outer.extra_generation_params[adetailer.NOTE] = True
    return _generation(p)


def after_sampling(p: Any) -> None:
    """``post_sample``: the hooks go out, before anybody else uses the UNet."""
    global _sampled
    if not adetailer.is_inner(p):
        _sampled = weakref.ref(p)
    generation = _generation(p)
    if generation is None:
        return
    injection, state = generation.injection, shared.state
    if state.interrupted or state.skipped or state.stopping_generation:
        pass  # what was cut short owes nothing
    elif _missed(p, generation) or (injection is not None and injection.without_effect):
        _fail(
            p, generation,
            "another extension or optimisation replaces the sampling or the model's attention layers; switch it off, "
            "or the units.",
        )  # fmt: skip
    elif injection is not None and injection.misplaced:
        _fail(
            p, generation,
            "another extension or setting takes the picture apart, so that nothing tells where a region mask lies; "
            "switch it off, or leave out the mask.",
        )  # fmt: skip
    elif injection is not None and injection.idle:
        _fail(p, generation, "none of this sampler's steps lies between a unit's start and end; move them apart.")
    elif adetailer.throws_away(p) and not adetailer.joined():
        _fail(
            p, generation,
            "ADetailer skips img2img, and the references stay out of its own passes; let them in (Settings, "
            "IP-Adapter), or switch off the units.",
        )  # fmt: skip
    generation.detach()


def _missed(p: Any, generation: Generation) -> bool:
    """Whether the first pass went by without us; when a finished picture is only upscaled, there is none."""
    return generation.missed and getattr(p, "firstpass_image", None) is None


def picture_finished(p: Any, shown: Any) -> None:
    """``postprocess_image_after_composite``: nobody but extensions after us changes the picture any more."""
    generation = _generation(p)
    if generation is not None:
        influence.remember(p, generation, shown.image)
    xyz.finish(p, shown, _failure(p))


def finished(p: Any, processed: Any) -> None:
    """``postprocess``: the job's pictures are there."""
    if _is_copy(p):  # made to tell scripts that the job rests; it goes on
        return
    generation = _generation(p)
    try:
        _keep(p, processed)
        if generation is not None:
            influence.append(p, generation, processed)
    finally:
        asked = _asked(p)
        end(p)
        if asked is not None:  # ControlNet's batches go on with the same p, behind ``before_process``
            p.setup_prompts = _Start(p, asked.args)


def _asked(p: Any) -> _Asked | None:
    asked = vars(p).get(UNITS)
    return asked if asked is not None and asked.owner is p else None


def _keep(p: Any, processed: Any) -> None:
    """Keep the job's units among the presets, named after its first picture. A plot's many jobs are not worth it."""
    asked = _asked(p)
    if asked is None or _failure(p) is not None or not processed.images:
        return
    if not options.save_generations() or host.script_chosen(p):
        return
    first = processed.images[min(processed.index_of_first_image, len(processed.images) - 1)]
    saved = getattr(first, "already_saved_as", None)
    name = Path(saved).stem if saved else time.strftime(f"%Y-%m-%d %H.%M.%S, seed {processed.seed}")
    try:
        store().history = options.history()
        store().keep(name, asked.units)
    except IPAdapterError as error:  # the pictures are made all the same
        log.warning("IP-Adapter: this generation's units are not kept. %s", error.detail)


def end(p: Any) -> None:
    """After ``postprocess``, ``close``, and the next ``before_process`` of the same p."""
    global _sampled
    if _outer() is p:
        _sampled = None
    controlnet.restore(p)
    generation = _generation(p)
    vars(p).pop(influence.FINISHED, None)
    if generation is not None:
        generation.detach()
        delattr(p, JOB)
    if _asked(p) is not None:
        delattr(p, UNITS)
    vars(p).pop(FILLED, None)
    vars(p).pop(OUTER, None)
    if _closing(p) is not None and _failure(p) is None:
        del p.close


def on_cfg_denoiser(params: script_callbacks.CFGDenoiserParams) -> None:
    """Before each denoising step: tell the hooks its rows, or keep them out of a step that is another job's."""
    p = getattr(params.denoiser, "p", None)
    unet = getattr(getattr(shared.sd_model, "model", None), "diffusion_model", None)
    if unet is None:
        return
    generation = _generation(p) if p is not None else None
    if generation is None and p is not None and adetailer.is_inner(p):
        generation = _inner_generation(p)
    attached = generation.injection if generation is not None else None
    try:
        if generation is not None and (attached is None or attached.unet is not unet):
            # The refiner's checkpoint has taken over, or a script samples by itself.
            attached = _follow(generation, p, unet)
        for injection in injections(unet):
            if injection is not attached:
                injection.pause()
        if attached is not None:
            # A job inside this one may have cleaned the UNet.
            attached.attach().begin(**host.denoising_step(params))
    except Exception as error:
        errors.report("IP-Adapter: unexpected error", exc_info=True)
        if attached is not None:
            attached.pause()
        if generation is not None:
            _fail(p, generation, f"{type(error).__name__}: {error}")


def _follow(generation: Generation, p: Any, unet: Any) -> Injection | None:
    """Into the UNet that is used now, if the adapters fit it; SDXL's own refiner is left alone."""
    if generation.unfit is unet:
        return None
    try:
        return _attach(generation, p, unet, same_pass=True)
    except MismatchError as error:
        generation.unfit = unet
        outer = vars(p).get(OUTER)
        what = "the refiner works" if outer is None else "ADetailer's pass worked"
        log.warning("IP-Adapter: %s without the references: %s", what, error)
        if outer is not None:
            outer.comment(f"IP-Adapter: {what} without the references: {error}")
        return None


def on_app_started(_demo: Any, app: Any) -> None:
    guards = api.add_routes(app, resources().catalog, store())
    if guards is not None:
        preview.add_preview_route(app, lambda: resources().catalog, guards)


def on_script_unloaded() -> None:
    """The page is reloaded: nothing of ours stays in a model, and files are looked for anew."""
    _clean()
    resources.cache_clear()
    store.cache_clear()


def _register_axes() -> None:
    xyz.register(lambda: resources().catalog)


def register() -> None:
    """Called by the script each time the host loads it.

    The host inspects the whole stack for every callback, to see whose it is. From where scripts are loaded that takes
    80 ms each; a thread of its own has a stack of a few frames.
    """
    with ThreadPoolExecutor(1) as thread:
        thread.submit(_register).result()
    # Scripts that are built in are loaded by now, and without a page nothing else comes before their arguments are
    # built; another extension's may come later.
    _register_axes()


def _register() -> None:
    script_callbacks.on_cfg_denoiser(on_cfg_denoiser)
    script_callbacks.on_app_started(on_app_started)
    script_callbacks.on_after_component(send_to.Buttons().after_component)
    script_callbacks.on_after_component(ControlNetBar.after_component)
    script_callbacks.on_ui_settings(options.register)
    script_callbacks.on_ui_settings(influence.register)
    script_callbacks.on_before_ui(_register_axes)
    script_callbacks.on_script_unloaded(on_script_unloaded)
