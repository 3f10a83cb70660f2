"""What a step costs with units, beside the same step without."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial

from lib_ipadapter.attend.influence import Influence
from lib_ipadapter.attend.prompt import ImagePrompt

from . import unets
from .bench import BASE, FULL_FACE, PLUS, Bench, Scene, face_lora, image_prompt, left_half
from .measure import ENOUGH, AtMost, Row, effect, ms, nbytes, share
from .run import Part

Make = Callable[[Scene], list[ImagePrompt]]


def _measured(scene: Scene) -> list[ImagePrompt]:
    prompt = image_prompt(scene.unet)
    prompt.influence = Influence()
    return [prompt]


def _curved(scene: Scene) -> list[ImagePrompt]:
    prompt = image_prompt(scene.unet)
    prompt.weight = ((0.0, 0.9), (1.0, 0.5))
    return [prompt]


def _face(scene: Scene) -> list[ImagePrompt]:
    return [replace(image_prompt(scene.unet), lora=face_lora(scene.unet))]


CASES: dict[str, Make] = {
    "1 base unit": lambda scene: [image_prompt(scene.unet)],
    "4 base units": lambda scene: [image_prompt(scene.unet, seed=seed) for seed in range(4)],
    "1 plus unit (16 tokens)": lambda scene: [image_prompt(scene.unet, PLUS)],
    "1 full-face unit (257 tokens)": lambda scene: [image_prompt(scene.unet, FULL_FACE)],
    "16 references next to each other": lambda scene: [image_prompt(scene.unet, 16 * BASE)],
    "1 base unit in a region": lambda scene: [image_prompt(scene.unet, region=left_half(512))],
    "1 base unit, influence measured": _measured,
    "1 base unit, weight over the steps": _curved,
    "1 face unit with its LoRA": _face,
}
TARGETS = {
    "1 base unit": AtMost(1.01, share),
    "4 base units": AtMost(1.04, share),
    "1 plus unit (16 tokens)": AtMost(1.03, share),
    "1 full-face unit (257 tokens)": AtMost(1.06, share),
}
SDXL_TARGETS = {
    "1 base unit": AtMost(1.02, share),
    "1 base unit in a region": AtMost(1.03, share),
    "1 face unit with its LoRA": AtMost(1.06, share),
}
SDXL_CASES = (
    "1 base unit", "4 base units", "1 plus unit (16 tokens)", "1 base unit in a region", "1 face unit with its LoRA",
)  # fmt: skip
# Seconds for a case; for one with a target as many as 40 pairs of SDXL take, each of which merges a LoRA.
SHORT, LONG = 8.0, 25.0


def parts(bench: Bench) -> Generator[Part, None, None]:
    yield from _of(bench, "SD1.5", unets.SD15, tuple(CASES))
    bench.tidy()
    yield from _of(bench, "SDXL", unets.SDXL, SDXL_CASES[:1] if bench.small else SDXL_CASES)


def _of(bench: Bench, base: str, sizes: unets.Sizes, cases: Sequence[str]) -> Generator[Part, None, None]:
    """What has a target comes first, for where there is not time enough for all."""
    scene = bench.scene(sizes)
    name = f"{base} {str(bench.half).removeprefix('torch.')}, latent {scene.sizes.latent}²"
    targets = TARGETS if base == "SD1.5" else SDXL_TARGETS

    def of(case: str, some: Scene = scene, name: str = name) -> Part:
        figure = f"{name}, {case}"
        return Part(figure, partial(_with, bench, some, figure, CASES[case], targets.get(case)), needs=3)

    yield plain(bench, scene, name)
    yield from (of(case) for case in cases if case in targets)
    if base == "SD1.5" and not bench.small:
        batch, figure = scene.of_pictures(bench, 4), f"{name}, 4 pictures"
        yield plain(bench, batch, figure)
        yield of("1 base unit", batch, figure)
    figure = f"{name}, diffusers' IP-Adapter (1 base)"
    if base == "SD1.5" or not bench.small:  # theirs has no SDXL as narrow as that
        yield Part(figure, partial(_beside_theirs, bench, scene, figure), needs=10)
    yield from (of(case) for case in cases if case not in targets)


def plain(bench: Bench, scene: Scene, name: str) -> Part:
    return Part(f"{name}, plain step", lambda: [bench.plain(scene, f"{name}, plain step")])


def _beside_theirs(bench: Bench, scene: Scene, figure: str) -> Iterator[Row]:
    """diffusers' own, on a UNet of the same sizes, and ours in the same rounds."""
    from ..bench.step import beside_theirs  # which has this module's cases

    yield from beside_theirs(bench, scene, figure, LONG, most=ENOUGH)


def _with(bench: Bench, scene: Scene, figure: str, make: Make, target: AtMost | None = None) -> Iterator[Row]:
    prompts = make(scene)
    out = scene.with_prompts(prompts)
    if not effect(out, scene.plain()) > 1e-3:
        yield Row(figure, "failed: NO EFFECT, so there is no cost to measure")
        return
    loras = [prompt.lora for prompt in prompts if prompt.lora is not None]
    if loras and not effect(out, scene.with_prompts([replace(prompt, lora=None) for prompt in prompts])) > 1e-3:
        yield Row(figure, "failed: NO EFFECT of the LoRA, so there is no cost to measure")
        return
    found = bench.pairs(scene, prompts, seconds=SHORT if target is None else LONG)
    if found.is_merged:
        yield found.compared(f"{figure}: with / without", target)
    else:
        yield Row(f"{figure}: with / without", "left out: too little memory is free for its LoRA in the weights")
    if loras:
        yield from found.of_lora(figure)
    kept = f"K and V of {nbytes(sum(prompt.kv.nbytes for prompt in prompts))}"
    if loras:
        kept += f" and a LoRA of {nbytes(sum(lora.nbytes for lora in loras))}"
    yield Row(f"{figure}: first step longer by", ms(found.gathering), f"{kept} in main memory")
