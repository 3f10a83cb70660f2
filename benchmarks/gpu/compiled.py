"""``torch.compile`` on the UNet: whether the adapter still acts, however the two were put together, and what it costs.

A compiled module may leave out hooks that were not there when it was compiled, or that its own guards do not watch.
Whether they act is asked on a shallow UNet, since it does not depend on size; the cost on a whole one, if time is left.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.outcome import Outcome
from lib_ipadapter.attend.prompt import ImagePrompt

from . import unets
from .bench import Bench, Scene, face_lora, image_prompt
from .measure import Deviation, Row, Spread, effect, effect_said, ms, ratio
from .run import Part

SHALLOW = unets.Sizes(
    channels=32, multipliers=(1, 2), depths=(1, 1), heads=4, context=64, res_blocks=1, latent=16
)  # of seven transformers
TINY = unets.Sizes(channels=32, multipliers=(1,), depths=(1,), heads=4, context=64, res_blocks=1, latent=4)


@dataclass(frozen=True)
class Way:
    """How compiler and adapter meet. ``onto``: whether the hooks go onto what was compiled or onto the UNet itself."""

    name: str
    warm: bool  # whether a plain step comes before the hooks
    onto: str = "unet"
    forward: bool = False  # whether only the UNet's forward is compiled, as extensions do it


WAYS = (
    Way("hooks there when it is compiled", warm=False),
    Way("hooks put in after a plain compiled step", warm=True),
    Way("hooks put onto the compiled module, after a plain step", warm=True, onto="compiled"),
    Way("its forward compiled, hooks put in after a plain step", warm=True, forward=True),
)


def parts(bench: Bench) -> Generator[Part, None, None]:
    sizes = TINY if bench.small else SHALLOW
    unet = unets.build(sizes, bench.device, bench.half)
    scene = Scene.draw(bench, unet)
    prompts = _job(unet, 5)
    eager = Eager(scene.plain(), scene.with_prompts(prompts), scene.with_prompts(_job(unet, 9)))
    # Whether hooks are called is settled when the UNet is traced, so the ways can do without the making of kernels,
    # which takes long: the backend "eager" leaves it out.
    for way, backend in (*((way, "eager") for way in WAYS), *([(WAYS[0], "inductor")] if bench.is_card else [])):
        figure = f"torch.compile ({backend}), {way.name}"
        yield Part(figure, partial(_acts, scene, prompts, way, backend, eager), needs=10, most=40)
    if bench.is_card and not bench.small:
        whole = bench.scene(unets.SD15)
        yield Part("torch.compile (inductor), SD1.5 step", partial(_cost, bench, whole, "inductor"), needs=45)


@dataclass(frozen=True)
class Eager:
    """What the UNet gives uncompiled: without prompts, with one job's, with another job's."""

    plain: Tensor
    acting: Tensor
    other: Tensor


def _job(unet: nn.Module, seed: int) -> list[ImagePrompt]:
    """A face unit with its LoRA, which has hooks in all layers of attention."""
    return [replace(image_prompt(unet, seed=seed), lora=face_lora(unet, seed=seed))]


def _acts(scene: Scene, prompts: list[ImagePrompt], way: Way, backend: str, eager: Eager) -> Iterator[Row]:
    figure = f"torch.compile ({backend}), {way.name}"
    torch._dynamo.reset()
    unet = scene.unet
    compiled = unet
    if way.forward:
        vars(unet)["forward"] = torch.compile(unet.forward, backend=backend)
    else:
        compiled = cast(unets.UNet, torch.compile(unet, backend=backend))
    step = scene.on(compiled, scene.x.dtype).plain
    target = compiled if way.onto == "compiled" else unet
    try:
        if way.warm:
            step()
        with Injection(target, cross_attention_layers(target), prompts) as injection:
            scene.announce(injection)
            out, noticed = step(), injection.outcome is Outcome.LOST
            scene.announce(injection)
            off_again = Deviation.of(step(), out)
        after = Deviation.of(step(), eager.plain)
        with Injection(target, cross_attention_layers(target), _job(unet, 9)) as injection:
            scene.announce(injection)
            next_job = step()
    finally:
        vars(unet).pop("forward", None)
        torch._dynamo.reset()
    found, wanted = effect(out, eager.plain), effect(eager.acting, eager.plain)
    told = "" if found > 0.01 * wanted else "; the library says so" if noticed else "; and the library does not notice"
    yield Row(
        figure, effect_said(found, wanted) + told, f"off the uncompiled step by {Deviation.of(out, eager.acting)}"
    )
    yield Row(f"{figure}: the step after", f"off the first by {off_again}", f"detached, off plain by {after}")
    found, wanted = effect(next_job, eager.plain), effect(eager.other, eager.plain)
    own = f"off its own uncompiled step by {Deviation.of(next_job, eager.other)}"
    yield Row(
        f"{figure}: the next job", effect_said(found, wanted), f"{own}, off the first job's by "
        f"{Deviation.of(next_job, eager.acting)}",
    )  # fmt: skip


def _cost(bench: Bench, scene: Scene, backend: str) -> Iterator[Row]:
    name = f"torch.compile ({backend}), SD1.5 step"
    prompts = [image_prompt(scene.unet)]
    eager = Spread.of([bench.seconds(scene.plain) for _ in range(8)])
    torch._dynamo.reset()
    compiled = scene.on(cast(unets.UNet, torch.compile(scene.unet, backend=backend)), scene.x.dtype)

    def timed(step: Callable[[], Tensor]) -> Spread:
        return Spread.of([bench.seconds(step) for _ in range(12)])

    try:
        first = bench.seconds(compiled.plain)
        plain = timed(compiled.plain)
        yield Row(f"{name}: plain / uncompiled", ratio(plain.median / eager.median), f"compiling took {ms(first)}")
        torch._dynamo.reset()
        with Injection(scene.unet, cross_attention_layers(scene.unet), prompts) as injection:

            def step() -> Tensor:
                scene.announce(injection)
                return compiled.plain()

            first = bench.seconds(step)
            acting = timed(step)
        yield Row(
            f"{name}: 1 base unit / plain, both compiled", ratio(acting.median / plain.median),
            f"{ms(acting.median)} and {ms(plain.median)}; compiling took {ms(first)}",
        )  # fmt: skip
    finally:
        torch._dynamo.reset()
