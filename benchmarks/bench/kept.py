"""What keys and values take on a device between steps: those that the hooks keep, counted in fp16 on the CPU. What a
card allocates for them is among its own figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.prompt import ImagePrompt
from lib_ipadapter.attend.rows import layout

from ..gpu import unets
from ..gpu.measure import Row, nbytes
from ..gpu.memory import KEPT


def measure(small: bool) -> Iterator[Row]:
    for name, sizes, pictures in (("SD1.5", unets.SD15, 1), ("SDXL", unets.SDXL, 8)):
        with torch.device("meta"):
            unet = unets.UNet(sizes.shallow() if small else sizes)
        for case, (base, make, limit) in KEPT.items():
            if base == name:
                held = kept(unet, make(unet), pictures)
                figure = f"{name}, {case}: on the device while sampling, fp16"
                yield Row(figure, nbytes(held), "counted", 1, limit.of_number(held))


def kept(unet: nn.Module, prompts: Sequence[ImagePrompt], pictures: int) -> int:
    """Bytes of the keys and values that the hooks keep for fp16 queries of that many pictures, one place each."""
    layers, rows = cross_attention_layers(unet), layout([1] * pictures, 2 * pictures)
    injection = Injection(unet, layers, prompts)
    injection.begin(rows, 0, 1)
    found = 0
    for layer, hooks in zip(layers, injection.layers, strict=True):
        query = torch.zeros(len(rows), 1, layer.width, dtype=torch.float16)
        for i in range(len(prompts)):
            hooks.kept.added(i, query, rows, lambda q, _k, _v: q)
        whole = list(hooks.gathered.values())
        both = [*whole, *(one.brief for one in whole if one.brief is not None)]
        found += sum(tensor.nbytes for one in both for tensor in (one.key, one.value))
        hooks.let_go()
    return found
