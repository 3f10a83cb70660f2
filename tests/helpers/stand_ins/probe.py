"""An extension that notes what the host calls, and fails or refuses where its argument says so."""

import sys

import gradio as gr
from modules import script_callbacks, scripts, shared

LOG = []
AT_LOAD = {"basedir": scripts.basedir(), "path0": sys.path[0]}


def note(name):
    def method(self, p, *args, **kwargs):
        LOG.append((name, args, kwargs, getattr(p, "is_hr_pass", None)))
        if args and name == args[0]:
            raise ValueError("probe fails in " + name)
        if name == "process" and args and args[0] == "refuse":

            def init(*_):
                error = ValueError("IP-Adapter unit 1: no")
                error.status_code, error.detail = 422, "IP-Adapter unit 1: no"
                raise error

            p.init = init
        if name == "process" and args and args[0] == "mark":
            p.extra_generation_params["Probe"] = "a: 1, b: 2"

    return method


class Probe(scripts.Script):
    def title(self):
        return "Probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        first = gr.Textbox(label="first", value="", elem_id=self.elem_id("first"))
        self.infotext_fields = [(first, "Probe")]
        return [first, gr.Slider(0, 1, 0.5, label="second")]


for name in (
    "setup before_process process before_process_batch after_extra_networks_activate process_batch "
    "process_before_every_sampling before_hr post_sample postprocess_batch postprocess_batch_list "
    "postprocess_image postprocess_maskoverlay postprocess_image_after_composite postprocess "
    "on_mask_blend"
).split():
    setattr(Probe, name, note(name))


def on_ui_settings():
    shared.opts.add_option("probe_option", shared.OptionInfo(3, "Probe", section=("probe", "Probe")))


def on_app_started(demo, app):
    LOG.append(("app_started", [r.path for r in app.routes], {}, None))
    app.add_api_route("/probe", lambda: {"ok": True}, methods=["GET"])


def on_cfg_denoiser(params):
    LOG.append(
        (
            "cfg_denoiser",
            (len(params.x), len(params.text_cond), params.sampling_step, params.total_sampling_steps),
            {},
            None,
        )
    )
    raise RuntimeError("swallowed")


script_callbacks.on_ui_settings(on_ui_settings)
script_callbacks.on_app_started(on_app_started)
script_callbacks.on_cfg_denoiser(on_cfg_denoiser)
