"""The host's callbacks, in the order of a job. The script and this file are where the WebUI calls in.

The host swallows every exception of a script's callbacks and would go on to make a plain picture. So nothing is
raised here: a job that cannot be honoured is refused through ``p.init``, which the host calls next, unguarded, and
before it has encoded anything.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from modules import errors, script_callbacks, shared

from ..attend.inject import Injection, detach_all, injections
from ..checkpoint.catalog import Catalog
from ..errors import IPAdapterError
from ..generation import Generation, Resources
from ..unit import parse_units
from . import api, host, infotext, options, panel

log = logging.getLogger("ip-adapter")
JOB = "ip_adapter_generation"  # the attribute of the host's processing object that holds its Generation


class InternalError(IPAdapterError):
    """Not the user's fault."""

    http_status = 500


@functools.cache
def resources() -> Resources:
    """The catalogue and caches of this process."""
    catalog = Catalog(host.adapter_folders(), host.encoder_folders(), host.catalog_memory())
    catalog.refresh()
    return Resources(catalog, options.cache_bytes())


def _refuse(p: Any, error: IPAdapterError) -> None:
    """Let the host stop with ``error`` right after its ``process`` callbacks."""

    def init(*_args: Any, **_kwargs: Any) -> None:
        del p.init  # the class's own is back for whoever uses p again
        raise error

    p.init = init


def _clean() -> None:
    """Take back whatever any job has left in any loaded checkpoint."""
    for unet in host.loaded_unets():
        detach_all(unet)


def begin(p: Any, args: tuple) -> None:
    """``process``: everything is checked, read and encoded here, or the job is refused."""
    end(p)
    _clean()
    try:
        units = parse_units(panel.units(args))
        if units:
            _prepare(p, units)
    except host.Interrupted:
        log.info("IP-Adapter: interrupted before sampling")
    except IPAdapterError as error:
        log.info("%s", error)
        _refuse(p, error)
    except Exception as error:
        errors.report("IP-Adapter: unexpected error", exc_info=True)
        _refuse(
            p,
            InternalError(
                f"IP-Adapter: unexpected {type(error).__name__}: {error}. Disable its units to go on; "
                "the console's log has the details for a report."
            ),
        )


def _prepare(p: Any, units: list) -> None:
    unet = host.unet(shared.sd_model)
    stock = resources()
    stock.cache.limit = options.cache_bytes()
    with host.progress_text() as progress:
        generation = Generation(
            units, unet, stock, host.device(), owner=p, progress=progress, hires_topology=host.hires_topology(p)
        )
    setattr(p, JOB, generation)
    p.close = _CleanClose(p)
    p.extra_generation_params.update(infotext.parameters(generation.plans))


class _CleanClose:
    """``p.close``, which the host calls however a job ends (``postprocess`` only when all went well)."""

    def __init__(self, p: Any) -> None:
        self.p = p

    def __call__(self) -> None:
        end(self.p)
        self.p.close()  # the class's own again


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
    except Exception as error:  # too late to refuse: say it where the picture's parameters would say otherwise
        errors.report("IP-Adapter: could not be attached", exc_info=True)
        for name in infotext.parameters(generation.plans):
            p.extra_generation_params.pop(name, None)
        p.comment(f"IP-Adapter was left out of this picture: {error}")


def _attach(generation: Generation, p: Any, unet: Any) -> Injection | None:
    return generation.attach(unet, hires_pass=bool(p.is_hr_pass), first_picture=p.iteration * p.batch_size)


def after_sampling(p: Any) -> None:
    """``post_sample``: the hooks go out, before anybody else uses the UNet."""
    generation = _generation(p)
    if generation is None:
        return
    if generation.injection is not None and generation.injection.lost and not generation.injection.fired:
        p.comment("IP-Adapter had no effect: another extension calls the model in a way that it cannot follow.")
    generation.detach()


def end(p: Any) -> None:
    """``postprocess``, ``close``, and the next ``process`` of the same p."""
    generation = _generation(p)
    if generation is not None:
        generation.detach()
        delattr(p, JOB)
    if isinstance(vars(p).get("close"), _CleanClose):
        del p.close


def on_cfg_denoiser(params: script_callbacks.CFGDenoiserParams) -> None:
    """Before each denoising step: tell the hooks its rows, or keep them out of a step that is another job's."""
    p = getattr(params.denoiser, "p", None)
    unet = getattr(getattr(shared.sd_model, "model", None), "diffusion_model", None)
    if unet is None:
        return
    generation = _generation(p) if p is not None else None
    attached = generation.injection if generation is not None else None
    if attached is not None and attached.unet is not unet:  # the refiner's checkpoint has taken over
        attached = _attach(generation, p, unet)
    for injection in injections(unet):
        if injection is not attached:
            injection.pause()
    if attached is not None:
        attached.begin(**host.denoising_step(params))


def on_app_started(_demo: Any, app: Any) -> None:
    api.add_routes(app, resources().catalog)


def on_script_unloaded() -> None:
    """The page is reloaded: nothing of ours stays in a model, and files are looked for anew."""
    _clean()
    resources.cache_clear()


def register() -> None:
    """Called by the script each time the host loads it."""
    script_callbacks.on_cfg_denoiser(on_cfg_denoiser)
    script_callbacks.on_app_started(on_app_started)
    script_callbacks.on_ui_settings(options.register)
    script_callbacks.on_script_unloaded(on_script_unloaded)
