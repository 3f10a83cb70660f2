"""Jobs without a WebUI: files and pictures in, one denoising step out."""

from __future__ import annotations

import torch

from lib_ipadapter.attend.rows import layout
from lib_ipadapter.encode.device import Device
from lib_ipadapter.jobs.generation import Generation, prepare_generation
from lib_ipadapter.jobs.resources import Resources
from lib_ipadapter.unit import parse_units
from tests.helpers.tensors import draw

DEVICE = Device(torch.device("cpu"), torch.float32)


def generation(unet, resources: Resources, *units: dict, **kwargs) -> Generation:
    return prepare_generation(parse_units(list(units)), unet, resources, DEVICE, **kwargs)


def denoise(
    unet, job: Generation | None, *, hires_pass: bool = False, first_picture: int = 0, pictures: int = 1, **given
):
    rows = 2 * pictures
    x, t, text = draw(rows, 4, 8, 8, seed=1), torch.full((rows,), 500.0), draw(rows, 77, 768, seed=2)
    if job is None:
        return unet(x, t, context=text)
    try:
        injection = job.attach(unet, hires_pass=hires_pass, first_picture=first_picture, **given)
        if injection is not None:
            injection.begin(layout([1] * pictures, rows), 0, 4)
        return unet(x, t, context=text)
    finally:
        job.detach()


def far(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a - b).abs().mean() > 1e-2
