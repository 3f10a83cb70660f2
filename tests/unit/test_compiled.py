"""A UNet that torch compiles, hooks inside: the same numbers, and after the first step nothing is compiled any more."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import torch
from torch._dynamo.utils import counters
from benchmarks.gpu import unets
from benchmarks.gpu.bench import Bench, Scene, image_prompt
from benchmarks.gpu.compiled import TINY
from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers

device = torch.device("cpu")
unet = unets.build(TINY, device, torch.float32)
scene = Scene.draw(Bench(device, small=True), unet)
prompts = [image_prompt(unet, seed=5), image_prompt(unet, seed=6)]
plain, eager = scene.plain(), scene.with_prompts(prompts)
step = scene.on(torch.compile(unet, backend="eager"), torch.float32).plain
same, frames = [], []
with Injection(unet, cross_attention_layers(unet), prompts) as injection:
    for _ in range(3):
        scene.announce(injection)
        same.append(torch.allclose(step(), eager, atol=1e-6))
        frames.append(counters["frames"]["total"])
print(not torch.allclose(plain, eager, atol=1e-3), same, injection.lost)
print(frames[0] > 0, frames[0] == frames[2])
print(torch.allclose(step(), plain, atol=1e-6))
"""


def test_a_compiled_unet_sees_the_reference_and_is_compiled_once() -> None:
    """In a process of its own: what was compiled stays."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["True [True, True, True] 0", "True True", "True"], done.stderr[-3000:]
