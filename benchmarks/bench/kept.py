"""What keys and values take on a device between steps, counted on the CPU; a card's own count is among its figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.prompt import ImagePrompt

from ..gpu import unets
from ..gpu.bench import Bench, Scene
from ..gpu.measure import Row, nbytes
from ..gpu.memory import KEPT, references


def measure(small: bool) -> Iterator[Row]:
    bench = Bench(torch.device("cpu"), small=small)
    for name, sizes, pictures in (("SD1.5", unets.SD15, 1), ("SDXL", unets.SDXL, 8)):
        unet = unets.build_sharing(sizes.shallow() if small else sizes, bench.device)
        scene = Scene.draw(bench, unet, pictures, latent=8)
        for case, (base, make, limit) in KEPT.items():
            if base == name:
                held = kept_in_half(scene, make(scene)) if not small else kept_in_half(scene, references(scene, 2))
                yield Row(f"{name}, {case}: on the device while sampling, in fp16", nbytes(held), "counted", 1,
                          limit.of_number(held))  # fmt: skip


def kept_in_half(scene: Scene, prompts: list[ImagePrompt]) -> int:
    """Bytes of the keys and values that hooks keep after a step of ``scene``, whose UNet is fp32, if it were fp16."""
    first = replace(scene, x=scene.x[..., :8, :8].contiguous())
    with Injection(scene.unet, cross_attention_layers(scene.unet), prompts) as injection:
        first.announce(injection)
        first.plain()
        held = [one for hooks in injection.layers for one in hooks.gathered.values()]
        held += [one.brief for one in held if one.brief is not None]
        return sum(tensor.numel() * 2 for one in held for tensor in (one.key, one.value))
