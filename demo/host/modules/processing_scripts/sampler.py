"""Steps, sampler and schedule on the page."""

import gradio as gr
from modules import scripts, sd_samplers
from modules.infotext_utils import PasteField
from modules.ui_components import FormRow


def _read(index):
    """The sampler (0) or the schedule (1) that a text names."""
    return lambda params: sd_samplers.get_sampler_and_scheduler(params.get("Sampler"), params["Schedule type"])[index]


class ScriptSampler(scripts.ScriptBuiltinUI):
    section = "sampler"

    def title(self):
        return "Sampler"

    def ui(self, is_img2img):
        names, schedules = [sampler.name for sampler in sd_samplers.samplers], sd_samplers.SCHEDULES
        with FormRow():
            sampler = gr.Dropdown(names, value=names[0], label="Sampling method", elem_id=self.elem_id("sampling"))
            schedule = gr.Dropdown(schedules, value=schedules[0], label="Schedule type",
                                   elem_id=self.elem_id("scheduler"))  # fmt: skip
            steps = gr.Slider(1, 150, 12, step=1, label="Sampling steps", elem_id=self.elem_id("steps"))
        self.infotext_fields = [
            PasteField(steps, "Steps", api="steps"),
            PasteField(sampler, _read(0), api="sampler_name"),
            PasteField(schedule, _read(1), api="scheduler"),
        ]
        return steps, sampler, schedule

    def setup(self, p, steps, sampler_name, scheduler):
        p.steps, p.sampler_name, p.scheduler = steps, sampler_name, scheduler
