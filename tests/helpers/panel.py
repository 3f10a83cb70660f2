"""The panel: made outside of a page, filled with units, and its arguments as the page sends them."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from demo.start import Host
from tests.helpers.host import pixels


def held_of(**pictures: Image.Image) -> dict[str, str]:
    """What a page's session holds when it has these pictures, by their keys."""
    from lib_ipadapter.webui.panel.picture_pool import Intake

    intake = Intake()
    return {key: intake.picture(image) for key, image in pictures.items()}


def panel_args(host: Host, *units: dict, tick: object = True, shown: int = 1, inbox: str = "") -> list:
    """The script's arguments as the page sends them: untouched API slots, the tick, the state with all units, a
    picture on its way, the session's pictures, and gradio's components, which are right for the unit that is shown
    alone.

    ``units``: controls' values by name, ``"pictures"`` and their ``"weights"`` among them.
    """
    from lib_ipadapter.webui.panel import accordion as panel
    from lib_ipadapter.webui.panel.controls import COMPONENTS

    pictures, entries = {}, []
    for number, given in enumerate(units, 1):
        keys = [f"{number}-{i}" for i in range(len(given.get("pictures", ())))]
        pictures |= held_of(**dict(zip(keys, given.get("pictures", ()), strict=True)))
        settings = {name: value for name, value in given.items() if name not in ("pictures", "weights")}
        weights = given.get("weights", [1] * len(keys))
        stale = {"weight": -1, "model": "what the state says of the unit that is shown"} if number == shown else {}
        images = [{"key": key, "weight": weight} for key, weight in zip(keys, weights, strict=True)]
        images += settings.pop("images", [])
        entries.append({**settings, **stale, "images": images})
    components = [units[shown - 1].get(control.field, control.default) for control in COMPONENTS]
    state = json.dumps({"shown": shown, "units": entries})
    return [*[panel.NOT_SENT] * panel.API_PLACES, "", tick, state, inbox, pictures, *components]


def from_panel(host: Host, *tabs: dict, tick: bool = True, **fields) -> list[np.ndarray]:
    """What the page's button makes of these units."""
    from modules import processing, scripts, shared

    runner = scripts.scripts_txt2img
    script = next(s for s in runner.alwayson_scripts if s.title() == "IP-Adapter")
    args = [0, *[None] * (len(runner.inputs) - 1)]
    args[script.args_from : script.args_to] = panel_args(host, *tabs, tick=tick)
    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model, prompt="a cat", negative_prompt="blurry", seed=1, steps=3, width=64, height=64,
        sampler_name="Euler", do_not_save_samples=True, do_not_save_grid=True, **fields,
    )  # fmt: skip
    p.is_api = True  # the page's own sampler and seed controls are left out
    p.scripts, p.script_args = runner, args
    try:
        return pixels(processing.process_images(p))
    finally:
        p.close()


def panel_of(_host: Host):
    """A panel outside of a page, with a checkpoint."""
    import gradio as gr
    from modules import shared

    from lib_ipadapter.webui import process
    from lib_ipadapter.webui.panel import accordion as panel

    assert shared.sd_model is not None  # asked for, so it is loaded
    with gr.Blocks():
        return panel.Panel("txt2img", process.resources, process.store)


def put_in(made, units: list[dict]) -> tuple[list[object], list[str]]:
    """The values that the panel's arguments have after ``units`` were put into it, and the notes."""
    values, notes = made.filled(units)
    shown = dict(zip(made.targets, values, strict=True)) | {made.editor.inbox: ""}
    arguments = [shown[component] for component in made.editor.arguments]
    return [v["value"] if isinstance(v, dict) and "__type__" in v else v for v in arguments], notes
