"""Device memory of a step, and what is left of it when the hooks are gone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.prompt import ImagePrompt

from . import unets
from .bench import BASE, PLUS, Bench, Scene, image_prompt
from .job import jobs
from .measure import AtMost, Row, nbytes
from .run import Part
from .steps import CASES, SDXL_CASES, Make

UNTOLD = "not told on the CPU"
BESIDE = "beside the layers: too little memory is free"
# Each keeps something of its own.
FEW = ("4 base units", "1 base unit in a region", "1 base unit, influence measured", "1 face unit with its LoRA")
MB = 10**6


def references(unet: nn.Module, tokens: int) -> list[ImagePrompt]:
    """A unit whose references together have so many image tokens, as a job without negative references has it: the
    unconditional side of each is the same."""
    (prompt,) = [image_prompt(unet, tokens, 1.0)]
    pictures = prompt.kv.pictures
    for keys in (prompt.kv.keys, prompt.kv.values):
        for one in keys:
            own = one[pictures:, :PLUS]
            one[pictures:] = own.repeat(1, -(-tokens // PLUS), 1)[:, :tokens]
    return [replace(prompt, kv=replace(prompt.kv, copies=max(1, tokens // PLUS)))]


# What a unit may keep on the device while a batch is sampled, by base: pictures of a batch, and references.
KEPT: dict[str, tuple[str, Callable[[nn.Module], list[ImagePrompt]], AtMost]] = {
    "1 base unit": ("SD1.5", lambda unet: references(unet, BASE), AtMost(1 * MB, nbytes)),
    "1 plus unit, 16 references, 8 pictures, next to each other": (
        "SDXL", lambda unet: references(unet, 16 * PLUS), AtMost(100 * MB, nbytes),
    ),
    "1 plus unit, 16 references, 8 pictures, averaged": (
        "SDXL", lambda unet: references(unet, PLUS), AtMost(12 * MB, nbytes),
    ),
}  # fmt: skip


def parts(bench: Bench) -> Generator[Part, None, None]:
    yield from _of(bench, "SD1.5", unets.SD15, ("plain", *(FEW if bench.small else CASES)))
    bench.tidy()
    yield from _of(bench, "SDXL", unets.SDXL, FEW[:1] if bench.small else ("plain", *SDXL_CASES))


def _of(bench: Bench, name: str, sizes: unets.Sizes, cases: Sequence[str]) -> Generator[Part, None, None]:
    scene = bench.scene(sizes, all_layers=name == "SD1.5")
    for case in cases:
        yield Part(f"{name}, {case}", partial(_case, bench, scene, f"{name}, {case}", CASES.get(case)))
    batch = scene.of_pictures(bench, 1 if name == "SD1.5" or bench.small else 8)
    for case, (base, make, limit) in KEPT.items():
        if base == name and bench.is_card:
            yield Part(f"{name}, {case}", partial(_kept, bench, batch, f"{name}, {case}", make, limit), needs=5)
    if name == "SD1.5":
        yield Part("SD1.5, a whole job", partial(_job, bench, scene), needs=10)


def _case(bench: Bench, scene: Scene, figure: str, make: Make | None) -> Iterator[Row]:
    yield from measured_step(bench, scene, figure, [] if make is None else make(scene))


def measured_step(bench: Bench, scene: Scene, figure: str, prompts: Sequence[ImagePrompt]) -> Iterator[Row]:
    """Two steps, because the second shows what is kept from the first; with a LoRA four, because the third puts it into
    the weights. Everything that the job owns in Python stays alive while the rest is counted, as it does in a host
    until the next job."""
    if bench.is_card:
        scene.plain()  # so that the card's own workspaces are there
    before = bench.allocated()
    injection = Injection(scene.unet, cross_attention_layers(scene.unet), prompts).attach()
    lora = injection.lora
    peak = 0
    try:
        if bench.is_card:
            torch.cuda.reset_peak_memory_stats(bench.device)
        for _ in range(2 if lora is None else 4):
            scene.announce(injection)
            scene.plain()
        between = bench.allocated() - before
        where = "" if lora is None else f", its LoRA {'in the weights' if lora.merged.is_there else BESIDE}"
        if bench.is_card:
            peak = torch.cuda.max_memory_allocated(bench.device) - before
    finally:
        injection.detach()
    after = bench.allocated() - before
    during = nbytes(peak) if bench.is_card else UNTOLD
    yield Row(f"{figure}: during a step, at most", during, f"kept between steps {nbytes(between)}{where}")
    yield Row(f"{figure}: after detaching", nbytes(after), "it should be 0 B" if after else "as it should be")


def _kept(
    bench: Bench, scene: Scene, figure: str, make: Callable[[nn.Module], list[ImagePrompt]], limit: AtMost
) -> Iterator[Row]:
    """What is allocated while the hooks are there, between steps."""
    prompts = make(scene.unet)
    scene.plain()  # so that the card's own workspaces are there
    before = bench.allocated()
    with scene.injected(prompts) as step:
        step()
        held = bench.allocated() - before
    yield Row(f"{figure}: on the device while sampling", nbytes(held), "allocated", 1, limit.of_number(held))


def _job(bench: Bench, scene: Scene) -> Iterator[Row]:
    with jobs(bench, scene) as made:
        resources = made.resources()
        job = made.generation(resources)  # once before, so that the card's own workspaces are there
        made.step(job)
        job.detach()
        resources.unload()
        del job
        before = bench.allocated()
        if bench.is_card:
            torch.cuda.reset_peak_memory_stats(bench.device)
        job = made.generation(resources)
        ready = bench.allocated() - before
        peak = nbytes(torch.cuda.max_memory_allocated(bench.device) - before) if bench.is_card else UNTOLD
        made.step(job)
        job.detach()
        after = bench.allocated() - before
        # On the CPU main memory is the device, so the encoder and the adapter that stay there count.
        note = "encoder, adapter and embeddings stay in main memory" if bench.is_card else "main memory is the device"
        yield Row("SD1.5, a whole job: encoding and projecting, at most", peak, "ViT-H, 1 picture")
        yield Row("SD1.5, a whole job: on the device before its first step", nbytes(ready), note)
        yield Row("SD1.5, a whole job: on the device between jobs", nbytes(after), note)
