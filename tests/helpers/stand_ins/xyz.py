"""A stand-in for X/Y/Z plot: one axis of values, the cells' pictures side by side.

It has what the real one offers to extensions (a module with ``AxisOption`` and ``axis_options``), has each axis's
arguments where that has them (the option's number, values, values from the list; x, y, z), asks the options in
the same order (type, confirm, apply on a shallow copy), goes on after a cell that raised, and closes no cell's job.
"""

from copy import copy

import gradio as gr
from modules import scripts
from modules.processing import Processed, process_images
from PIL import Image


class AxisOption:
    def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None):
        self.label, self.type, self.apply, self.confirm = label, type, apply, confirm
        self.cost, self.choices = cost, choices


def set_seed(p, value, values):
    p.seed = value


axis_options = [AxisOption("Nothing", str, lambda p, value, values: None), AxisOption("Seed", int, set_seed)]


class Script(scripts.Script):
    def title(self):
        return "X/Y/Z plot"

    def show(self, is_img2img):
        return True

    def ui(self, is_img2img):
        self.current_axis_options = list(axis_options)
        return [gr.Textbox(label=f"{axis} {name}") for axis in "XYZ" for name in ("type", "values", "listed values")]

    def run(self, p, *arguments):
        chosen = [(self.current_axis_options[arguments[i]], arguments[i + 1]) for i in (0, 3, 6) if arguments[i]]
        options, columns = [option for option, _ in chosen], [values for _, values in chosen]
        columns = [[option.type(value) for value in values] for option, values in zip(options, columns, strict=True)]
        for option, values in zip(options, columns, strict=True):
            if option.confirm:
                option.confirm(p, values)
        result = None
        for cell in zip(*columns, strict=True):
            pc = copy(p)
            for option, value, values in zip(options, cell, columns, strict=True):
                option.apply(pc, value, values)
            try:
                made = process_images(pc)
            except Exception:
                made = Processed(p, [Image.new("RGB", (p.width, p.height))], p.seed, "blank", all_prompts=["-"],
                                 all_negative_prompts=["-"], all_seeds=[0], all_subseeds=[0])  # fmt: skip
            if result is None:
                result = copy(made)
                result.images, result.infotexts = [], []
            result.images.append(made.images[0])
            result.infotexts.append(made.infotexts[0])
        return result
