"""The page: txt2img and img2img with the scripts' panels, Extras, PNG Info, and the settings."""

import contextlib
import html

import gradio as gr

from modules import (
    images,
    infotext_utils,
    processing,
    script_callbacks,
    scripts,
    sd_models,
    shared,
    ui_gradio_extensions,
)
from modules.call_queue import wrap_gradio_gpu_call
from modules.infotext_utils import ParamBinding, PasteField
from modules.shared import opts
from modules.ui_components import FormRow, InputAccordion, ToolButton

_THEME = gr.themes.Base(font=["sans-serif"], font_mono=["monospace"])  # named fonts would be fetched from the web


class _Tab:
    """One generation tab. ``controls`` are its components under the names of the job's arguments."""

    def __init__(self, name):
        self.name, self.is_img2img = name, name == "img2img"
        self.runner = scripts.scripts_img2img if self.is_img2img else scripts.scripts_txt2img
        self.controls, self.fields = {}, []
        self.runner.initialize_scripts(self.is_img2img)
        self.runner.prepare_ui()
        scripts.scripts_current = self.runner
        try:
            self._build()
        finally:
            scripts.scripts_current = None

    def _add(self, argument, component, parameter=None):
        """``parameter`` is what a picture's text calls it."""
        self.controls[argument] = component
        if parameter is not None:
            self.fields.append(PasteField(component, parameter, api=argument))
        return component

    def _slider(self, argument, label, low, high, value, step, parameter=None, elem=None):
        elem = f"{self.name}_{elem or argument}"
        return self._add(argument, gr.Slider(low, high, value, step=step, label=label, elem_id=elem), parameter)

    def _build(self):
        tab = self.name
        task = gr.Label(visible=False)  # script.js puts the task's name there
        with gr.Row(elem_id=f"{tab}_toprow"):
            with gr.Column(scale=6):
                prompt = gr.Textbox(label="Prompt", elem_id=f"{tab}_prompt", lines=2)
                negative = gr.Textbox(label="Negative prompt", elem_id=f"{tab}_neg_prompt", lines=2)
            with gr.Column(scale=1):
                generate = gr.Button("Generate", elem_id=f"{tab}_generate", variant="primary")
                with gr.Row():
                    interrupt = gr.Button("Interrupt", elem_id=f"{tab}_interrupt")
                    skip = gr.Button("Skip", elem_id=f"{tab}_skip")
                    paste = ToolButton("↙️", elem_id="paste", tooltip="Read parameters from the prompt")
        self._add("prompt", prompt, "Prompt")
        self._add("negative_prompt", negative, "Negative prompt")
        with gr.Row(equal_height=False):
            with gr.Column(variant="compact", elem_id=f"{tab}_settings"):
                self._settings()
            with gr.Column(elem_id=f"{tab}_results"):
                gr.HTML("<div class='progress-text'></div>", elem_id=f"{tab}_progress")
                gallery = gr.Gallery(show_label=False, elem_id=f"{tab}_gallery", columns=4, preview=True, height=420)
                _send_buttons(tab, gallery, self.runner.paste_field_names)
                info = gr.HTML(elem_id=f"html_info_{tab}", elem_classes="infotext")
                log = gr.HTML(elem_id=f"html_log_{tab}")
                told = gr.Textbox(visible=False, elem_id=f"generation_info_{tab}")
        press = {
            "fn": wrap_gradio_gpu_call(self._job(), extra_outputs=[None, "", ""]), "_js": f"submit_{tab}",
            "inputs": [task, *self.controls.values(), *self.runner.inputs], "outputs": [gallery, told, info, log],
            "show_progress": False,
        }  # fmt: skip
        generate.click(**press)
        prompt.submit(**press)
        interrupt.click(shared.state.interrupt, queue=False)
        skip.click(shared.state.skip, queue=False)
        infotext_utils.add_paste_fields(tab, self.controls.get("start"), self.fields + self.runner.infotext_fields)
        infotext_utils.register_paste_params_button(ParamBinding(paste, tab, source_text_component=prompt))

    def _settings(self):
        if self.is_img2img:
            with gr.Row():
                for argument, label, elem in (("start", "Start picture", "img2img_image"),
                                              ("mask", "Mask (white is repainted)", "img_inpaint_mask")):  # fmt: skip
                    self._add(argument, gr.Image(label=label, type="pil", image_mode="RGBA", elem_id=elem))
        self.runner.setup_ui_for_section("sampler")
        with FormRow():
            self._slider("width", "Width", 64, 1024, 256, 8, "Size-1")
            self._slider("height", "Height", 64, 1024, 256, 8, "Size-2")
        with FormRow():
            self._slider("n_iter", "Batch count", 1, 16, 1, 1, elem="batch_count")
            self._slider("batch_size", "Batch size", 1, 8, 1, 1)
        self._slider("cfg_scale", "CFG Scale", 1, 30, 7.0, 0.5, "CFG scale")
        self._slider("denoising_strength", "Denoising strength", 0, 1, 0.7, 0.01, "Denoising strength")
        if self.is_img2img:
            self._slider("image_cfg_scale", "Image CFG Scale", 0, 3, 1.5, 0.05, "Image CFG scale")
        else:
            with InputAccordion(False, label="Hires. fix", elem_id="txt2img_hr") as enabled:
                self._slider("hr_scale", "Upscale by", 1, 4, 2.0, 0.05, "Hires upscale")
            self._add("enable_hr", enabled, lambda params: "Hires upscale" in params)
        self.runner.setup_ui_for_section("seed")
        with gr.Group(elem_id=f"{self.name}_script_container"):
            self.runner.setup_ui()

    def _job(self):
        names, runner, is_img2img = list(self.controls), self.runner, self.is_img2img

        def generate(task: str, request: gr.Request, *values):
            settings = dict(zip(names, values, strict=False))
            if is_img2img:
                settings["init_images"] = [images.fix_image(settings.pop("start"))]
                if settings["init_images"] == [None]:
                    raise ValueError("choose a start picture first")
                p = processing.StableDiffusionProcessingImg2Img(**settings)
            else:
                p = processing.StableDiffusionProcessingTxt2Img(**settings)
            p.outpath_samples = opts.outdir_samples or (
                opts.outdir_img2img_samples if is_img2img else opts.outdir_txt2img_samples
            )
            with contextlib.closing(p):
                p.user, p.scripts, p.script_args = request.username, runner, values[len(names) :]
                processed = runner.run(p, *p.script_args) or processing.process_images(p)
            pictures = [getattr(image, "already_saved_as", image) for image in processed.images]
            shown = plaintext_to_html(processed.info), plaintext_to_html(processed.comments)
            return pictures, processed.js(), *shown

        return generate


def _send_buttons(tab, gallery, paste_field_names=()):
    """The row of buttons under a gallery."""
    with gr.Row(elem_id=f"image_buttons_{tab}", elem_classes="image-buttons"):
        for target, sign in (("img2img", "🖼️"), ("extras", "📐")):
            button = ToolButton(sign, elem_id=f"{tab}_send_to_{target}", tooltip=f"Send to {target}")
            infotext_utils.register_paste_params_button(ParamBinding(
                button, target, source_image_component=gallery, source_tabname="txt2img" if tab == "txt2img" else None,
                paste_field_names=list(paste_field_names),
            ))  # fmt: skip


def _create_extras():
    """Twice as large, whatever it is."""
    with gr.Row(equal_height=False):
        with gr.Column():
            picture = gr.Image(label="Source", type="pil", image_mode="RGBA", elem_id="extras_image")
            generate = gr.Button("Generate", elem_id="extras_generate", variant="primary")
        with gr.Column(elem_id="extras_results"):
            gallery = gr.Gallery(show_label=False, elem_id="extras_gallery", columns=4, preview=True, height=420)
            _send_buttons("extras", gallery)
    enlarge = lambda image: [image.resize((2 * image.width, 2 * image.height))] if image else []  # noqa: E731
    generate.click(enlarge, inputs=[picture], outputs=[gallery], show_progress=False)
    infotext_utils.add_paste_fields("extras", picture, None)


def _create_png_info():
    def read(image):
        text = images.read_info_from_image(image)[0] if image is not None else None
        return plaintext_to_html(text or ""), text or ""

    with gr.Row(equal_height=False):
        picture = gr.Image(label="Source", type="pil", elem_id="pnginfo_image")
        with gr.Column():
            shown = gr.HTML(elem_classes="infotext")
            info = gr.Textbox(visible=False, elem_id="pnginfo_generation_info")
            with gr.Row():
                for target in ("txt2img", "img2img", "extras"):
                    button = gr.Button(f"Send to {target}", elem_id=f"{target}_tab")
                    infotext_utils.register_paste_params_button(
                        ParamBinding(button, target, source_text_component=info, source_image_component=picture)
                    )
    picture.change(read, inputs=[picture], outputs=[shown, info], show_progress=False)


def plaintext_to_html(text):
    return f"<p style='white-space: pre-line'>{html.escape(text)}</p>" if text else ""


def _setting(key):
    """The component for a setting, None where its type has none."""
    info = opts.data_labels[key]
    simple = {bool: gr.Checkbox, int: gr.Number, float: gr.Number, str: gr.Textbox}
    component = info.component or simple.get(type(info.default))
    if component is None or info.do_not_save:
        return None
    args = info.component_args() if callable(info.component_args) else info.component_args
    comment = f"{info.comment_before} {info.comment_after}".strip()
    if comment:
        gr.HTML(f"<span class='settings-comment'>{comment}</span>")
    return component(label=info.label, value=getattr(opts, key), elem_id=f"setting_{key}", **(args or {}))


def _create_settings():
    """Settings of extensions first and unfolded, then the host's."""
    sections = {}
    for key, info in opts.data_labels.items():
        sections.setdefault(info.section or ("other", "Other"), []).append(key)
    of_host = {info.section for info in shared.options_templates.values()}
    apply = gr.Button("Apply settings", elem_id="settings_submit", variant="primary")
    result, shown = gr.HTML(elem_id="settings_result"), {}
    for section in sorted(sections, key=lambda section: section in of_host):
        with gr.Accordion(section[1], open=section not in of_host, elem_id=f"settings_{section[0]}"):
            shown |= {key: _setting(key) for key in sections[section]}
    shared.settings_components = {key: component for key, component in shown.items() if component is not None}
    keys = list(shared.settings_components)

    def save(*values):
        changed = [key for key, value in zip(keys, values, strict=True) if opts.set(key, value)]
        opts.save(shared.config_filename)
        return f"Changed: {', '.join(changed) or 'nothing'}."

    apply.click(save, inputs=list(shared.settings_components.values()), outputs=[result])


def _choose_checkpoint(title):
    opts.set("sd_model_checkpoint", title)
    sd_models.reload_model_weights()


def create_ui():
    infotext_utils.reset()
    ui_gradio_extensions.reload_javascript()
    script_callbacks.ui_settings_callback()
    with gr.Blocks(theme=_THEME, analytics_enabled=False, title="Demo host") as demo:
        with gr.Row(elem_id="quicksettings"):
            checkpoint = gr.Dropdown(
                sd_models.checkpoint_tiles(), value=sd_models.select_checkpoint().title,
                label="Stable Diffusion checkpoint", elem_id="setting_sd_model_checkpoint_quick",
            )  # fmt: skip
        chosen = checkpoint.change(_choose_checkpoint, inputs=[checkpoint], outputs=[], show_progress=False)
        chosen.then(None, inputs=[checkpoint], _js="checkpointChanged")
        with gr.Tabs(elem_id="tabs"):
            for name in ("txt2img", "img2img"):
                with gr.TabItem(name, id=name, elem_id=f"tab_{name}"):
                    _Tab(name)
            for name, title, build in (("extras", "Extras", _create_extras), ("pnginfo", "PNG Info", _create_png_info)):
                with gr.TabItem(title, id=name, elem_id=f"tab_{name}"):
                    build()
            for tabs in script_callbacks.ui_tabs_callback():
                for interface, label, name in tabs or ():
                    with gr.TabItem(label, id=name, elem_id=f"tab_{name}"):
                        interface.render()
            with gr.TabItem("Settings", id="settings", elem_id="tab_settings"):
                _create_settings()
        infotext_utils.connect_paste_params_buttons()
    return demo
