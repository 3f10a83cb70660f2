"""Starting the miniature host in this process, and talking to it."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.middleware.cors import CORSMiddleware

HOST = Path(__file__).parent / "host"
REPOSITORY = Path(__file__).parents[1]
WEBUI, FORGE = "webui", "forge"
FACES = (WEBUI, FORGE)


@dataclass
class Answer:
    """A generation: its pictures, and the parsed ``info`` of the API."""

    images: list[Image.Image]
    info: dict[str, Any]

    @property
    def infotext(self) -> str:
        return self.info["infotexts"][0]


class Host:
    """The running host. ``client`` speaks HTTP to ``app`` without a port."""

    def __init__(self, blocks: Any, app: Any) -> None:
        from starlette.testclient import TestClient

        self.blocks, self.app = blocks, app
        self.client = TestClient(app, raise_server_exceptions=False)

    def post(self, path: str, payload: dict[str, Any]) -> Any:
        return self.client.post(f"/sdapi/v1/{path}", json=payload)

    def txt2img(self, **payload: Any) -> Answer:
        """A small picture through the API; an error answer is a RuntimeError with its JSON."""
        return self._generate("txt2img", payload)

    def img2img(self, **payload: Any) -> Answer:
        return self._generate("img2img", payload)

    def _generate(self, path: str, payload: dict[str, Any]) -> Answer:
        small = {"width": 128, "height": 128, "steps": 4, "seed": 1, "sampler_name": "Euler"}
        response = self.post(path, {**small, **payload})
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {response.text}")
        body = response.json()
        pictures = [Image.open(io.BytesIO(base64.b64decode(text))) for text in body["images"]]
        return Answer(pictures, json.loads(body["info"]))

    def close(self) -> None:
        """What "Reload UI" does to extensions: they are told to undo what they changed."""
        from modules import script_callbacks

        script_callbacks.app_reload_callback()
        script_callbacks.script_unloaded_callback()
        script_callbacks.clear_callbacks()
        _another_face.close()


_running: Host | None = None
_another_face = contextlib.ExitStack()  # what takes it off again


def host_start(
    extension_dirs: Iterable[str | Path] = (REPOSITORY,),
    options: dict[str, Any] | None = None,
    cmd_args: Sequence[str] = (),
    *,
    face: str = WEBUI,
    data_dir: str | Path | None = None,
    keep_options: bool = False,
    device: str = "cpu",
    threads: int | None = 1,
    port: int | None = None,
) -> Host:
    """Start the host with these extensions, or start it again with others.

    ``face`` says as which host it behaves, of ``FACES``: the WebUI v1.10.1, or Forge (``demo/forge``).
    ``options`` is what the settings file holds; the host restores only overridden settings that are in it.
    ``cmd_args`` are command-line flags, those of the extensions' preload.py among them. ``data_dir`` takes models,
    settings and outputs; one process keeps one. Small models run best on one thread. With ``port`` the page is
    served on 127.0.0.1 from a thread; without, the app exists only for ``Host.client``.
    """
    global _running
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    if data_dir is not None and "modules.paths_internal" not in sys.modules:
        os.environ["DEMO_HOST_DATA"] = str(data_dir)
    if str(HOST) not in sys.path:
        sys.path.insert(0, str(HOST))
    from modules import paths

    if data_dir is not None and Path(paths.data_path) != Path(data_dir).absolute():
        raise RuntimeError(f"this process already keeps its data in {paths.data_path}")
    if _running is not None:
        _running.close()
    import torch

    from demo import models

    if threads is not None:
        torch.set_num_threads(threads)
    os.makedirs(paths.data_path, exist_ok=True)
    models.write_checkpoints(Path(paths.models_path) / "Stable-diffusion")

    _another_face.close()
    if face == FORGE:
        from demo.forge.face import put_on

        _another_face.callback(put_on())
    folders = [Path(folder).absolute() for folder in extension_dirs]
    _running = _start(folders, options, cmd_args, keep_options, device, port)
    return _running


def _start(
    folders: list[Path],
    options: dict[str, Any] | None,
    cmd_args: Sequence[str],
    keep_options: bool,
    device: str,
    port: int | None,
) -> Host:
    import gradio as gr
    from modules import (
        devices,
        extensions,
        processing,
        script_callbacks,
        scripts,
        sd_models,
        shared,
        shared_cmd_options,
        ui,
    )

    shared_cmd_options._parse(["--api", *cmd_args], folders)
    shared.parser, shared.config_filename = shared_cmd_options.parser, shared.cmd_opts.ui_settings_file
    if not keep_options:
        Path(shared.config_filename).write_text(json.dumps(options or {}), encoding="utf8")
    shared.opts.data_labels = dict(shared.options_templates)
    shared.opts.load(shared.config_filename)
    devices._use(device)
    cls = processing.StableDiffusionProcessing
    cls.cached_c, cls.cached_uc = [None, None], [None, None]

    sd_models.list_models()
    extensions.list_extensions(folders)
    scripts.load_scripts()
    if getattr(sd_models.model_data, "was_loaded_at_least_once", False):
        sd_models.reload_model_weights()
        script_callbacks.model_loaded_callback(shared.sd_model)
    if not shared.opts.sd_model_checkpoint:  # a checkpoint that is loaded, or will be, is always in the settings
        shared.opts.data["sd_model_checkpoint"] = sd_models.select_checkpoint().title
    script_callbacks.before_ui_callback()
    shared.demo = ui.create_ui()
    if port is None:
        app = gr.routes.App.create_app(shared.demo, app_kwargs={"docs_url": "/docs"})
    else:
        shared.demo.queue(64)
        with contextlib.redirect_stdout(io.StringIO()):
            app, _, _ = shared.demo.launch(
                server_name="127.0.0.1",
                server_port=port,
                prevent_thread_lock=True,
                show_api=False,
                allowed_paths=[str(HOST), *map(str, folders), *shared.cmd_opts.gradio_allowed_path],
                app_kwargs={"docs_url": "/docs"},
            )
    _add_api(app)
    script_callbacks.app_started_callback(shared.demo, app)
    return Host(shared.demo, app)


def _set_cors(app: Any) -> None:
    """Other sites' pages may do what the command line allows, not all that gradio allows, as in the real host."""
    from modules import shared

    app.user_middleware = [one for one in app.user_middleware if one.cls is not CORSMiddleware]
    origins, pattern = shared.cmd_opts.cors_allow_origins, shared.cmd_opts.cors_allow_origins_regex
    allowed = {"allow_origins": origins.split(",") if origins else [], "allow_origin_regex": pattern}
    app.add_middleware(CORSMiddleware, allow_methods=["*"], allow_headers=["*"], allow_credentials=True, **allowed)


def _add_api(app: Any) -> None:
    from modules import progress
    from modules.api.api import Api
    from modules.call_queue import queue_lock

    app.middleware_stack = None  # built anew at the first request, with what is added below
    _set_cors(app)
    progress.setup_progress_api(app)
    Api(app, queue_lock)
