"""A whole job as the host makes it: files on disk, a unit with a picture, and the library's ``Generation``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lib_ipadapter.attend.layers import cross_attention_layers

from . import tower
from .bench import BASE, Bench, Scene

if TYPE_CHECKING:
    from PIL.Image import Image

    from lib_ipadapter.jobs.generation import Generation
    from lib_ipadapter.jobs.resources import Resources


def adapter_state(widths: Sequence[int], context: int, embedding: int, seed: int = 5) -> dict[str, dict[str, Tensor]]:
    """A base adapter for layers of these widths in the layout of the published ``.bin`` files, fp16, in main memory."""
    generator = torch.Generator().manual_seed(seed)

    def draw(rows: int, columns: int) -> Tensor:
        return (torch.randn(rows, columns, generator=generator) * columns**-0.5).half()

    pairs = {}
    for i, width in enumerate(widths):
        pairs[f"{2 * i + 1}.to_k_ip.weight"] = draw(width, context)
        pairs[f"{2 * i + 1}.to_v_ip.weight"] = draw(width, context)
    projection = {
        "proj.weight": draw(BASE * context, embedding),
        "proj.bias": torch.zeros(BASE * context).half(),
        "norm.weight": torch.ones(context).half(),
        "norm.bias": torch.zeros(context).half(),
    }
    return {"image_proj": projection, "ip_adapter": pairs}


def picture(side: int = 512) -> Image:
    """A reference: soft colours that are the same in every run."""
    from PIL import Image

    image = Image.new("RGB", (8, 8))
    image.putdata([(37 * i % 256, 91 * i % 256, 59 * i % 256) for i in range(64)])
    return image.resize((side, side), Image.Resampling.BICUBIC)


class Jobs:
    """The files of a base adapter and an image encoder, and jobs with them."""

    def __init__(self, bench: Bench, scene: Scene, folder: Path) -> None:
        self.bench, self.scene, self.folder = bench, scene, folder

    def resources(self) -> Resources:
        """What a host keeps between jobs, with nothing in it yet."""
        from lib_ipadapter.checkpoint.catalog import Catalog
        from lib_ipadapter.jobs.resources import Resources

        catalog = Catalog([self.folder], [])
        catalog.refresh()
        return Resources(catalog)

    def generation(self, resources: Resources, **unit: object) -> Generation:
        """A job of one unit, with these settings beside its own: encodes, projects, and has its keys and values when it
        returns."""
        from lib_ipadapter.encode.device import Device
        from lib_ipadapter.jobs.generation import prepare_generation
        from lib_ipadapter.unit import parse_units

        shown = {} if "images" in unit else {"image": picture()}
        units = parse_units([{"model": "base", "weight": 0.7, **shown, **unit}])
        return prepare_generation(units, self.scene.unet, resources, Device(self.bench.device, self.bench.half))

    def step(self, job: Generation) -> Tensor:
        """The first step of a sampling pass; the hooks stay until ``job.detach()``."""
        injection = job.attach(self.scene.unet)
        if injection is None:
            raise RuntimeError("the job has no image prompt")
        self.scene.announce(injection)
        return self.scene.plain()


@contextmanager
def jobs(bench: Bench, scene: Scene, *, small_tower: bool = False) -> Iterator[Jobs]:
    """Jobs for ``scene``; their files are in a folder of their own that goes at the end (1.3 GB in full size, unless
    with a ``small_tower``)."""
    tower.provide()
    sizes = tower.SMALL if bench.small or small_tower else tower.VIT_H
    with tempfile.TemporaryDirectory(prefix="ip-adapter-gpu-") as name:
        folder = Path(name)
        state = tower.random_state(sizes, bench.device, torch.float16 if bench.is_card else torch.float32)
        torch.save({key: tensor.cpu() for key, tensor in state.items()}, folder / "encoder.bin")
        del state
        widths = [layer.width for layer in cross_attention_layers(scene.unet)]
        torch.save(adapter_state(widths, scene.sizes.context, sizes.projection), folder / "base.bin")
        bench.tidy()
        yield Jobs(bench, scene, folder)
