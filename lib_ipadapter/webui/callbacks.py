"""The host's callbacks, in the order of a job: names and order only. The script and this file are where the WebUI calls
in."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from modules import script_callbacks

from ..errors import IPAdapterError
from . import api, history, job, options, preview, sampling
from . import influence_pictures as influence
from .host import current, record
from .neighbours import adetailer, distributed, xyz, xyz_cells
from .panel import send_to
from .panel.controlnet_bar import ControlNetBar
from .process import resources, store


def setup(p: Any) -> None:
    """``setup``: the job has its scripts and arguments, and nobody has read these yet."""
    distributed.json_arguments(p)


def before_process(p: Any, args: tuple[Any, ...]) -> None:
    """``before_process``: the job's checkpoint and options are not in force yet."""
    if adetailer.is_inner(p):
        return
    job.expect(p, args)  # first: if anything below fails, the host goes on
    if not record.is_copy(p):
        job.end(p)
    job.clean()
    distributed.json_arguments(p)  # a plot's cell: its values have come since ``setup``


def process(p: Any, args: tuple[Any, ...]) -> None:
    """``process``: normally everything is done. If something else called the method in whose place we were and kept
    what it raised, or nothing called it, the job is refused a little later."""
    if current().passed_over_before_prompts(p):
        if record.is_copy(p):  # made to tell scripts that the job goes on, with its next batch
            return
        with contextlib.suppress(IPAdapterError):
            job.begin(p, args)
    job.check_before_latents(p)


def before_sampling(p: Any) -> None:
    """``process_before_every_sampling``."""
    sampling.before(p)


def on_cfg_denoiser(params: script_callbacks.CFGDenoiserParams) -> None:
    """Before each denoising step."""
    sampling.step(params)


def after_sampling(p: Any) -> None:
    """``post_sample``."""
    sampling.after(p)


def picture_finished(p: Any, shown: Any) -> None:
    """``postprocess_image_after_composite``: nobody but extensions after us changes the picture any more."""
    if (own := record.own(p)) is not None:
        influence.remember(own, shown.image)
    xyz_cells.finish(p, shown)


def finished(p: Any, processed: Any) -> None:
    """``postprocess``: the job's pictures are there."""
    own = record.own(p)
    if own is None:  # or a copy, made to tell scripts that the job rests; it goes on
        return
    arguments = own.arguments
    try:
        history.keep(own, processed)
        influence.append(own, processed)
    finally:
        job.end(p)
        if arguments is not None:  # ControlNet's batches go on with the same p, behind ``before_process``
            job.expect(p, arguments)


def on_app_started(_demo: Any, app: Any) -> None:
    guards = api.add_routes(app, resources().catalog, store())
    if guards is not None:
        preview.add_preview_route(app, lambda: resources().catalog, guards)


def on_script_unloaded() -> None:
    """The page is reloaded: nothing of ours stays in a model, and files are looked for anew."""
    job.clean()
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
