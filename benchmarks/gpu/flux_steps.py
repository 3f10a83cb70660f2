"""What a step of FLUX costs with units, beside the same step without, and attention with a bias beside one without.

The blocks have their published sizes; there are a tenth as many, in the published proportion of double and single ones,
so a whole model's ratios are the same, and its times about ten times these.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lib_ipadapter.attend.attention import ATTENTION
from lib_ipadapter.attend.flux.appended import Appended, Bias
from lib_ipadapter.attend.flux.appended import parts as parts_of
from lib_ipadapter.attend.flux.inject import FluxInjection
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.rows import Rows, layout

from . import flux
from .bench import Bench, left_half
from .measure import Row, effect
from .run import Part

REDUX, COARSE, XLABS = 27, 9, 4  # sides of Redux' grid, and of a coarser one; tokens of XLabs' adapter


@dataclass
class FluxScene:
    """A transformer and what a step gives it: one conditional row."""

    model: flux.Flux
    sizes: flux.Sizes
    x: Tensor  # [1, channels, latent, latent]
    text: Tensor  # [1, T, context]
    pooled: Tensor  # [1, pooled]
    rows: Rows

    @classmethod
    def draw(cls, bench: Bench) -> FluxScene:
        sizes = flux.FULL.small() if bench.small else flux.FULL
        dtype = torch.bfloat16 if bench.is_card else torch.float32

        def draw(*shape: int, seed: int) -> Tensor:
            return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(bench.device, dtype)

        return cls(
            flux.build(sizes, bench.device, dtype), sizes,
            draw(1, sizes.channels, sizes.latent, sizes.latent, seed=1), draw(1, sizes.text, sizes.context, seed=2),
            draw(1, sizes.pooled, seed=3), layout([1], 1),
        )  # fmt: skip

    @torch.no_grad()
    def plain(self) -> Tensor:
        return self.model(self.x, torch.full((1,), 0.5, device=self.x.device), context=self.text, y=self.pooled)

    @contextmanager
    def injected(self, prompts: Sequence[ImagePrompt]) -> Iterator[Callable[[], Tensor]]:
        """What makes one step with ``prompts``."""
        with FluxInjection(self.model, prompts) as injection:

            def step() -> Tensor:
                injection.begin(self.rows, 0, 1)
                return self.plain()

            yield step

    def with_prompts(self, prompts: Sequence[ImagePrompt]) -> Tensor:
        with self.injected(prompts) as step:
            return step()


def _redux(scene: FluxScene, side: int = REDUX, weight: float = 1.0, **more: object) -> list[ImagePrompt]:
    side = side if scene.sizes == flux.FULL else side // 9
    tokens = torch.randn(1, side**2, scene.sizes.context, generator=torch.Generator().manual_seed(5))
    return [ImagePrompt(KeysValues((), ()), weight, appended=Appended(tokens), **more)]


def _xlabs(scene: FluxScene, **more: object) -> list[ImagePrompt]:
    generator = torch.Generator().manual_seed(5)

    def draw() -> tuple[Tensor, ...]:
        return tuple(
            torch.randn(2, XLABS, scene.sizes.width, generator=generator) for _ in range(scene.sizes.double_blocks)
        )

    return [ImagePrompt(KeysValues(draw(), draw()), 0.7, **more)]


CASES: dict[str, Callable[[FluxScene], list[ImagePrompt]]] = {
    "Redux, weight 1": _redux,
    "Redux, weight 0.5 (a bias)": partial(_redux, weight=0.5),
    "Redux, weight 0.5, 9 × 9 tokens": partial(_redux, side=COARSE, weight=0.5),
    "Redux in a region": lambda scene: _redux(scene, region=left_half(512)),
    "2 Redux units, weight 0.5": lambda scene: _redux(scene, weight=0.5) * 2,
    "XLabs' adapter": _xlabs,
    "XLabs' adapter in a region": lambda scene: _xlabs(scene, region=left_half(512)),
}


def parts(bench: Bench) -> Generator[Part, None, None]:
    scene = FluxScene.draw(bench)
    sizes = scene.sizes
    name = (
        f"FLUX {str(scene.x.dtype).removeprefix('torch.')}, {sizes.double_blocks} + {sizes.single_blocks} blocks, "
        f"{sizes.places} + {sizes.text} places"
    )
    figure = f"{name}, plain step"
    yield Part(figure, lambda: [bench.plain(scene, figure)])
    for case, make in CASES.items():
        yield Part(f"{name}, {case}", partial(_with, bench, scene, f"{name}, {case}", make), needs=3)
    for what, region in (("a line", False), ("a matrix, as a region needs", True)):
        yield Part(f"attention, bias as {what}", partial(_biased, bench, scene, what, region), needs=3)


def _with(bench: Bench, scene: FluxScene, figure: str, make: Callable[[FluxScene], list[ImagePrompt]]) -> Iterator[Row]:
    prompts = make(scene)
    if not effect(scene.with_prompts(prompts), scene.plain()) > 1e-3:
        yield Row(figure, "failed: NO EFFECT, so there is no cost to measure")
        return
    yield bench.pairs(scene, prompts, seconds=5).compared(f"{figure}: with / without")


def _biased(bench: Bench, scene: FluxScene, what: str, region: bool) -> Iterator[Row]:
    """Attention over text, Redux' tokens and picture, its strength as a bias, beside the same without."""
    prompts = _redux(scene, weight=0.5, region=left_half(512) if region else None)
    for prompt in prompts:
        prompt.now = 0.5
    side = scene.sizes.latent // flux.PATCH
    bias = Bias(parts_of(prompts, scene.rows, (side, side)), scene.sizes.text)
    length = bias.after + scene.sizes.places
    q, k, v = (
        torch.randn(1, scene.sizes.heads, length, scene.sizes.width // scene.sizes.heads, device=scene.x.device)
        .to(scene.x.dtype)
        for _ in range(3)
    )  # fmt: skip
    mask = bias.mask(length, q)
    figure = f"attention, bias as {what}, over {length} places, {scene.sizes.heads} heads: with / without"
    yield bench.paired(figure, lambda: ATTENTION(q, k, v), lambda: ATTENTION(q, k, v, mask))
