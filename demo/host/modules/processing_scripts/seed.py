"""The seed on the page."""

import gradio as gr
from modules import scripts
from modules.infotext_utils import PasteField
from modules.ui_components import FormRow


class ScriptSeed(scripts.ScriptBuiltinUI):
    section = "seed"
    create_group = False

    def title(self):
        return "Seed"

    def ui(self, is_img2img):
        with FormRow():
            seed, other = (
                gr.Number(-1, label=label, precision=0, elem_id=self.elem_id(name))
                for label, name in (("Seed", "seed"), ("Variation seed", "subseed"))
            )
            share = gr.Slider(0, 1, 0.0, label="Variation strength", elem_id=self.elem_id("subseed_strength"))
        self.infotext_fields = [
            PasteField(seed, "Seed", api="seed"),
            PasteField(other, "Variation seed", api="subseed"),
            PasteField(share, "Variation seed strength", api="subseed_strength"),
        ]
        return seed, other, share

    def setup(self, p, seed, subseed, subseed_strength):
        p.seed, p.subseed, p.subseed_strength = seed, subseed, subseed_strength
