"""What happens before any job: the host's events are listened to, and routes, settings and plots get ours.

The callbacks of a job are not imported here. The first job loads them, and what they need, so that a start does not
wait for it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from modules import script_callbacks

from . import ahead, api, downloads, embeddings, face_install, looks, options, preview
from . import influence_pictures as influence
from .neighbours import xyz
from .panel import last_picture, picture_pool, send_to
from .panel.controlnet_bar import ControlNetBar
from .process import faces, purposes, resources, store, used_models
from .process import looks as kept_looks


def on_cfg_denoiser(params: script_callbacks.CFGDenoiserParams) -> None:
    """Before each denoising step of a job: its own callbacks are loaded by then."""
    from . import callbacks

    callbacks.on_cfg_denoiser(params)


def on_image_grid(params: script_callbacks.ImageGridLoopParams) -> None:
    """Before several pictures are put together to one."""
    from . import callbacks

    callbacks.before_grid(params)


def on_app_started(_demo: Any, app: Any) -> None:
    guards = api.add_routes(app, resources().catalog, store())
    if guards is not None:
        preview.add_preview_route(app, resources, guards)
        embeddings.add_embeddings_route(app, resources, guards)
        looks.add_routes(app, resources, guards)
        downloads.add_routes(app, guards)
    face_install.install_if_told()
    ahead.at_start()


def on_script_unloaded() -> None:
    """The page is reloaded: nothing of ours stays in a model, and files are looked for anew."""
    from . import host, job

    ahead.worker().end()
    ahead.worker.cache_clear()
    job.clean()
    host.current().unwatch_parts()
    faces().end()
    resources.cache_clear()
    faces.cache_clear()
    store.cache_clear()
    kept_looks.cache_clear()
    used_models.cache_clear()
    purposes.cache_clear()
    picture_pool.pool.cache_clear()


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
    script_callbacks.on_image_grid(on_image_grid)
    script_callbacks.on_app_started(on_app_started)
    script_callbacks.on_after_component(send_to.Buttons().after_component)
    script_callbacks.on_after_component(ControlNetBar.after_component)
    script_callbacks.on_after_component(last_picture.after_component)
    script_callbacks.on_ui_settings(options.register)
    script_callbacks.on_ui_settings(influence.register)
    script_callbacks.on_before_ui(_register_axes)
    script_callbacks.on_script_unloaded(on_script_unloaded)
