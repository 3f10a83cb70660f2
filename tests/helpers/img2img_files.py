"""img2img's batch of files, as the WebUI's page runs it: each file is a run of the same processing object."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from demo.start import Host
from tests.helpers.files import picture
from tests.helpers.host import pixels
from tests.helpers.panel import panel_args


def files_through(host: Host, count: int, *units: dict, first: int = 0, **fields: Any) -> list[list[np.ndarray]]:
    """The pictures of each of ``count`` equal files that img2img's batch of files makes pictures of, ``first`` being
    the place of the first of them."""
    from modules import processing, scripts, shared

    runner = scripts.scripts_img2img
    script = next(s for s in runner.alwayson_scripts if s.title() == "IP-Adapter")
    args = [0, *[None] * (len(runner.inputs) - 1)]
    values = panel_args(host, {}, {}, {}, tick=False)
    values[: len(units)] = units
    args[script.args_from : script.args_to] = values
    p = processing.StableDiffusionProcessingImg2Img(
        sd_model=shared.sd_model, prompt="a cat", negative_prompt="blurry", seed=5, steps=3, width=64, height=64,
        denoising_strength=0.9, sampler_name="Euler", do_not_save_samples=True, do_not_save_grid=True, **fields,
    )  # fmt: skip
    p.is_api, p.scripts, p.script_args = True, runner, args
    made = []
    shared.state.begin("test")
    try:
        for i in range(count):
            shared.state.job = f"{first + i + 1} out of {first + count}"
            p.init_images = [picture(50, (64, 64))] * p.batch_size
            torch.manual_seed(3)  # what is drawn from the global generator is the same for each
            made.append(pixels(processing.process_images(p))[-p.batch_size * p.n_iter :])
    finally:
        p.close()
        shared.state.end()
    return made
