"""The routes under /sdapi/v1."""

import base64
import contextlib
import inspect
import io
from secrets import compare_digest
from typing import Any

import gradio as gr
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from starlette.middleware.base import BaseHTTPMiddleware

from modules import (
    call_queue,
    errors,
    images,
    infotext_utils,
    processing,
    progress,
    script_callbacks,
    scripts,
    sd_models,
    sd_samplers,
    shared,
)
from modules.api import models
from modules.util import convert, png_info


def decode_base64_to_image(encoding):
    """A picture from base64 or a data URI; links are not followed."""
    if encoding.startswith("http"):
        raise HTTPException(500, "the demo fetches no pictures")
    data = encoding.partition("base64,")[2] if encoding.startswith("data:") else encoding
    try:
        return images.read(io.BytesIO(base64.b64decode(data)))
    except Exception as error:
        raise HTTPException(500, "this is no picture in base64") from error


def encode_pil_to_base64(image):
    """A picture as PNG with its texts, in base64."""
    with io.BytesIO() as buffer:
        image.save(buffer, format="PNG", pnginfo=png_info(image.info))
        return base64.b64encode(buffer.getvalue())


def _error_answer(request, error):
    """Exceptions may bring a status of their own: ``status_code``, ``detail`` and ``body`` as attributes."""
    said = {name: getattr(error, name, default) for name, default in
            {"status_code": 500, "detail": "", "body": ""}.items()}  # fmt: skip
    if not isinstance(error, HTTPException):
        errors.report(f"{request.method} {request.url.path}: {type(error).__name__}", exc_info=True)
    status = said.pop("status_code")
    headers = getattr(error, "headers", None)
    return JSONResponse({"error": type(error).__name__, **said, "errors": str(error)}, status, headers)


def api_middleware(app: FastAPI):
    async def guard(request: Request, call_next):
        try:
            return await call_next(request)
        except Exception as error:
            return _error_answer(request, error)

    async def refuse(request: Request, error: HTTPException):
        return _error_answer(request, error)

    app.add_middleware(BaseHTTPMiddleware, dispatch=guard)
    app.add_exception_handler(HTTPException, refuse)


def _route(method, path):
    """Marks a method of Api as what answers there."""

    def mark(function):
        function.answers = (method, f"/sdapi/v1/{path}")
        return function

    return mark


def _runner(tab):
    return scripts.scripts_img2img if tab == "img2img" else scripts.scripts_txt2img


class Api:
    def __init__(self, app: FastAPI, queue_lock):
        self.app, self.queue_lock = app, queue_lock
        accounts = shared.cmd_opts.api_auth or ""
        self.credentials = dict(account.split(":", 1) for account in accounts.split(",") if account)
        self.defaults = {tab: self.init_default_script_args(_runner(tab)) for tab in ("txt2img", "img2img")}
        api_middleware(app)
        for _, endpoint in inspect.getmembers(self, lambda member: hasattr(member, "answers")):
            method, path = endpoint.answers
            self.add_api_route(path, endpoint, methods=[method])

    def add_api_route(self, path, endpoint, **kwargs):
        guards = [Depends(self.auth)] if self.credentials else []
        return self.app.add_api_route(path, endpoint, dependencies=guards, **kwargs)

    def auth(self, credentials: HTTPBasicCredentials = Depends(HTTPBasic())):  # noqa: B008 (FastAPI's form)
        expected = self.credentials.get(credentials.username)
        if expected is None or not compare_digest(expected.encode(), credentials.password.encode()):
            raise HTTPException(401, "wrong user or password", {"WWW-Authenticate": "Basic"})

    # scripts and their arguments

    def get_script(self, script_name, script_runner):
        """The script called so, whatever the case of the letters."""
        wanted = script_name.lower()
        script = next((script for script in script_runner.scripts if script.title().lower() == wanted), None)
        if script is None:
            raise HTTPException(422, f"there is no script {script_name!r}")
        return script

    def init_default_script_args(self, script_runner):
        """The components' initial values; as in the real host, ``ui()`` is called once more to get them."""
        args = [0, *[None] * (max((script.args_to for script in script_runner.scripts), default=1) - 1)]
        with gr.Blocks():
            for script in script_runner.scripts:
                for position, control in enumerate(script.ui(script.is_img2img) or (), script.args_from):
                    args[position] = control.value
        return args

    def init_script_args(
        self, request, default_script_args, selectable_scripts, selectable_idx, script_runner, *, input_script_args=None
    ):
        """All scripts' arguments in one list. What a client sends beyond a script's own is dropped without a word."""
        args = [(input_script_args or {}).get(i, default) for i, default in enumerate(default_script_args)]
        if selectable_scripts is not None:
            args[selectable_scripts.args_from : selectable_scripts.args_to] = request.script_args
            args[0] = selectable_idx + 1
        for name, said in (request.alwayson_scripts or {}).items():
            script = self.get_script(name, script_runner)
            if not script.alwayson:
                raise HTTPException(422, f"{name} is not always on: name it in script_name")
            values = said.get("args", ())
            for i in range(min(len(values), script.args_to - script.args_from)):
                args[script.args_from + i] = values[i]
        return args

    def apply_infotext(self, request, tabname, *, script_runner=None, mentioned_script_args=None):
        """Take from ``request.infotext`` what the request itself does not say."""
        if not request.infotext:
            return {}
        params = infotext_utils.parse_generation_parameters(request.infotext)
        silent_on = request.__fields__.keys() - request.__fields_set__
        for field in infotext_utils.paste_fields[tabname]["fields"]:
            value = field._value(params)
            if isinstance(value, dict):
                value = value.get("value")
            if field.api in silent_on and value is not None:
                setattr(request, field.api, convert(value, request.__fields__[field.api].type_))
            elif not field.api and field.component in script_runner.inputs and value is not None:
                mentioned_script_args[script_runner.inputs.index(field.component)] = value
        settings = {key: value for _, key, value in infotext_utils.get_override_settings(params)}
        request.override_settings = settings | (request.override_settings or {})
        return params

    # pictures

    def _generate(self, request, tab, cls):
        """Make what a request asks for."""
        runner, mentioned = _runner(tab), {}
        self.apply_infotext(request, tab, script_runner=runner, mentioned_script_args=mentioned)
        chosen = self.get_script(request.script_name, runner) if request.script_name else None
        index = runner.selectable_scripts.index(chosen) if chosen else None
        args = self.init_script_args(request, self.defaults[tab], chosen, index, runner, input_script_args=mentioned)
        wanted = request.sampler_name or request.sampler_index
        sampler, schedule = sd_samplers.get_sampler_and_scheduler(wanted, request.scheduler)
        if wanted not in (sampler, *(f"{sampler} {name}" for name in sd_samplers.SCHEDULES)):
            raise HTTPException(400, f"there is no sampler {wanted!r}")
        job = {name: value for name, value in vars(request).items() if name not in models.EXTRAS}
        job |= {"sampler_name": sampler, "scheduler": request.scheduler or schedule, "sampler_index": None}
        job["do_not_save_samples"] = job["do_not_save_grid"] = not request.save_images
        if tab == "img2img":
            job["init_images"] = [decode_base64_to_image(picture) for picture in request.init_images]
            job["mask"] = decode_base64_to_image(request.mask) if request.mask else None
        task = request.force_task_id or progress.create_task_id(tab)
        with call_queue.turn(task, f"scripts_{tab}"), contextlib.closing(cls(**job)) as p:
            p.is_api = True
            p.scripts = runner
            p.script_args = tuple(args)  # from here on the scripts take part
            processed = runner.run(p, *p.script_args) or processing.process_images(p)
        if not request.include_init_images and tab == "img2img":
            request.init_images = request.mask = None
        made = processed.images if request.send_images else []
        return models.ImagesResponse(images=[encode_pil_to_base64(picture).decode() for picture in made],
                                     parameters=vars(request), info=processed.js())  # fmt: skip

    @_route("POST", "txt2img")
    def text2imgapi(self, txt2imgreq: models.StableDiffusionTxt2ImgProcessingAPI):
        return self._generate(txt2imgreq, "txt2img", processing.StableDiffusionProcessingTxt2Img)

    @_route("POST", "img2img")
    def img2imgapi(self, img2imgreq: models.StableDiffusionImg2ImgProcessingAPI):
        if not img2imgreq.init_images:
            raise HTTPException(404, "there is no start picture")
        return self._generate(img2imgreq, "img2img", processing.StableDiffusionProcessingImg2Img)

    @_route("POST", "png-info")
    def pnginfoapi(self, req: models.PNGInfoRequest):
        info, items = images.read_info_from_image(decode_base64_to_image(req.image))
        params = infotext_utils.parse_generation_parameters(info or "")
        script_callbacks.infotext_pasted_callback(info or "", params)
        return {"info": info or "", "items": items, "parameters": params}

    # the running job

    @_route("GET", "progress")
    def progressapi(self, req: models.ProgressRequest = Depends()):  # noqa: B008 (FastAPI's form)
        state, share = shared.state, progress.share_done()
        state.set_current_image()
        picture = None if req.skip_current_image or state.current_image is None else state.current_image
        return {
            "progress": share, "eta_relative": progress.time_left(share) or 0, "state": state.dict(),
            "current_image": picture and encode_pil_to_base64(picture).decode(), "textinfo": state.textinfo,
        }  # fmt: skip

    @_route("POST", "interrupt")
    def interruptapi(self):
        shared.state.interrupt()

    @_route("POST", "skip")
    def skip(self):
        shared.state.skip()

    # what there is

    @_route("GET", "options")
    def get_config(self):
        return {key: getattr(shared.opts, key) for key in [*shared.opts.data_labels, *shared.opts.data]}

    @_route("POST", "options")
    def set_config(self, req: dict[str, Any]):
        unknown = {req.get("sd_model_checkpoint")} - {None} - sd_models.checkpoint_aliases.keys()
        if unknown:
            raise HTTPException(404, f"there is no checkpoint {unknown.pop()!r}")
        for key, value in req.items():
            shared.opts.set(key, value, is_api=True)
        shared.opts.save(shared.config_filename)

    @_route("GET", "cmd-flags")
    def get_cmd_flags(self):
        return vars(shared.cmd_opts)

    @_route("GET", "samplers")
    def get_samplers(self):
        return [{"name": s.name, "aliases": s.aliases, "options": s.options} for s in sd_samplers.all_samplers]

    @_route("GET", "sd-models")
    def get_sd_models(self):
        told = ("title", "model_name", "hash", "sha256", "filename")
        return [{name: getattr(info, name) for name in told} for info in sd_models.checkpoints_list.values()]

    @_route("GET", "scripts")
    def get_scripts_list(self):
        return {tab: [script.name for script in _runner(tab).scripts if script.name] for tab in self.defaults}

    @_route("GET", "script-info")
    def get_script_info(self):
        return [script.api_info for tab in self.defaults for script in _runner(tab).scripts if script.api_info]

    @_route("POST", "refresh-checkpoints")
    def refresh_checkpoints(self):
        with self.queue_lock:
            sd_models.list_models()
