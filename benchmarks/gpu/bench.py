"""What all sections work with: the device, the time left, UNets with their inputs, and image prompts."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.lora import LAYERS, Lora
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.regions import Region
from lib_ipadapter.attend.rows import Rows, layout

from . import unets
from .measure import AtMost, Row, Spread, launched, ms, ratio

BASE, PLUS, FULL_FACE = 4, 16, 257  # image tokens of the published adapters
SPARE = 2.0  # seconds before a section's end at which what is measured in turns ends: its rows have to be told, too


class OutOfTime(BaseException):
    """The time for a part is over. Not an Exception, so that nothing takes it for a fault of what is measured."""


class Bench:
    """The device, and until when. ``small``: narrow models, few repeats."""

    def __init__(self, device: torch.device, *, small: bool = False, budget: float = 480.0) -> None:
        self.device, self.small = device, small
        self.webui: str | None = None  # address or folder of one, for what is asked of it
        self.deadline = time.monotonic() + budget
        self.until = self.deadline  # of the present section
        self.launching = 0.0  # share of the last ``seconds`` in which a card was still being given its work
        if self.is_card:
            # fp32 is the reference of all deviations, so nothing may shorten it; TF32 has a row of its own.
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def __enter__(self) -> Bench:
        """What there is until now is left out of the CPU's count of tensors, which would take long over it."""
        if not self.is_card:
            gc.collect()
            gc.freeze()
        return self

    def __exit__(self, *_exc: object) -> None:
        if not self.is_card:
            gc.unfreeze()

    @property
    def is_card(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds left to the present section."""
        return self.until - time.monotonic()

    @property
    def half(self) -> torch.dtype:
        """What a host computes in here: fp16 on a card, fp32 on the CPU."""
        return torch.float16 if self.is_card else torch.float32

    def sync(self) -> None:
        """Wait until the card has done what it was given."""
        if self.is_card:
            torch.cuda.synchronize(self.device)

    def tidy(self) -> None:
        """Let go of what nothing refers to, and give the card's unused memory back."""
        gc.collect()
        if self.is_card:
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()

    def allocated(self) -> int:
        """Bytes that tensors take on the device. On the CPU, a stand-in: the tensors that Python can see and that were
        made since the bench was entered."""
        gc.collect()
        if self.is_card:
            self.sync()
            return torch.cuda.memory_allocated(self.device)
        storages = {}
        for thing in gc.get_objects():
            kind = type(thing)  # merged weights are parameters of a kind of their own
            if (kind is Tensor or issubclass(kind, nn.Parameter)) and thing.device.type == "cpu":
                storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        return sum(storages.values())

    def seconds(self, call: Callable[[], object], repeats: int = 1) -> float:
        """What one call takes, from an idle device to an idle device, as the mean of ``repeats`` in a row: of few, or
        the card, which takes a thousand kernels ahead, would keep whoever gives them waiting."""
        self.sync()
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        given = time.perf_counter()
        self.sync()
        taken = time.perf_counter() - started
        self.launching = (given - started) / taken if self.is_card else 0.0
        return taken / repeats

    def turns(self, most: int, seconds: float = math.inf, least: int = 1) -> Iterator[int]:
        """Numbers of rounds: ``most``, or as many as ``seconds`` hold, but ``least``. They end before the section's
        time does, which would throw away all of them."""
        begun, longest, seconds = time.monotonic(), 0.0, min(seconds, self.left - SPARE)
        for number in range(most):
            started = time.monotonic()
            if number >= least and started - begun + 1.1 * longest > seconds:
                return
            yield number
            longest = max(longest, time.monotonic() - started)

    def paired(
        self,
        figure: str,
        plain: Callable[[], object],
        other: Callable[[], object],
        target: AtMost | None = None,
        most: int = 40,
        calls: int = 5,
    ) -> Row:
        """The ratio of two calls' times, taken in turns, which are reversed in every other pair; on a card of ``most``
        pairs at most and ``calls`` in a row each."""
        ratios: list[float] = []
        launching: list[float] = []
        for call in (plain, other):
            self.seconds(call)
        pairs, calls = (2, 1) if self.small else (most, calls) if self.is_card else (20, 1)
        for number in self.turns(pairs):
            base, taken, share = self._pair(
                number, lambda: self.seconds(plain, calls), lambda: self.seconds(other, calls)
            )
            ratios.append(taken / base)
            launching.append(share)
        found = Spread.of(ratios)
        told = "" if target is None else target.of_spread(found)
        return Row(figure, ratio(found.median), found.said(ratio) + launched(launching), found.count, told)

    def _pair(self, number: int, plain: Callable[[], float], other: Callable[[], float]) -> tuple[float, float, float]:
        """The seconds that either gives, in every other pair the other way round, and the larger share in which a card
        was still being given its work."""
        taken, shares = {}, []
        for call in (other, plain) if number % 2 else (plain, other):
            taken[call] = call()
            shares.append(self.launching)
        return taken[plain], taken[other], max(shares)

    def plain(self, scene: Scene, figure: str) -> Row:
        """What a step takes without prompts."""
        for _ in range(0 if self.small else 5):
            scene.plain()
        taken, launching = [], []
        for _ in self.turns(2 if self.small else 20):
            taken.append(self.seconds(scene.plain))
            launching.append(self.launching)
        found = Spread.of(taken)
        return Row(figure, ms(found.median), found.said(ms) + launched(launching), found.count)

    def scene(self, sizes: unets.Sizes, dtype: torch.dtype | None = None, *, all_layers: bool = False) -> Scene:
        """A UNet of these sizes with inputs of one picture, both its rows; in small runs a shallow UNet, or a narrow
        one with ``all_layers``, which an adapter's file must be for."""
        if self.small:
            sizes = replace(sizes.narrow(), latent=8) if all_layers else sizes.shallow()
        return Scene.draw(self, unets.build(sizes, self.device, dtype or self.half))

    def pairs(
        self, scene: Scene, prompts: Sequence[ImagePrompt], seconds: float, most: int = 40, calls: int = 2
    ) -> Pairs:
        """Steps of ``scene`` without and with ``prompts``, in turns, for at most ``seconds``; ``calls`` in a row each.

        Turns are reversed in every other pair (ABBA), so that what drifts evens out.
        """
        found = Pairs()
        most, calls, least = (1, 1, 1) if self.small else (most, calls, 3)
        if not self.small:
            self.seconds(scene.plain)
        has_lora = any(prompt.lora is not None for prompt in prompts)

        def with_it() -> float:
            with scene.injected(prompts) as step:
                found.first.append(self.seconds(step))
                if has_lora:
                    found.beside.append(self.seconds(step))
                    found.merging.append(self.seconds(step))
                taken = self.seconds(step, calls)
                found.is_merged &= not has_lora or step.is_merged
                return taken

        def without() -> float:
            return self.seconds(scene.plain, calls)

        for number in self.turns(most, seconds, least):
            base, taken, share = self._pair(number, without, with_it)
            found.plain.append(base)
            found.ratios.append(taken / base)
            found.launching.append(share)
        return found


@dataclass
class Pairs:
    """Measured steps. ``first``: a job's first step, in which keys and values go to the device. With a LoRA,
    ``beside``: the next one, which has it beside the layers still, and ``merging``: the one in which it is merged, if
    it ``is_merged``."""

    plain: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    merging: list[float] = field(default_factory=list)
    launching: list[float] = field(default_factory=list)  # of each pair the larger share
    is_merged: bool = True  # in all pairs, whatever LoRA there is

    @property
    def ratio(self) -> Spread:
        return Spread.of(self.ratios)

    def compared(self, figure: str, target: AtMost | None = None) -> Row:
        """The ratio as a row."""
        found = self.ratio
        told = "" if target is None else target.of_spread(found)
        return Row(figure, ratio(found.median), found.said(ratio) + launched(self.launching), found.count, told)

    @property
    def gathering(self) -> float:
        """What the first step takes longer than a plain one, in seconds."""
        return Spread.of(self.first).median - Spread.of(self.plain).median

    def of_lora(self, figure: str) -> Iterator[Row]:
        """What a LoRA costs before it is in the weights, and what it takes to put it there, where there is room."""
        found = Spread.of([beside / plain for beside, plain in zip(self.beside, self.plain, strict=True)])
        said, what = found.said(ratio) + launched(self.launching), f"{figure}, the LoRA beside the layers"
        yield Row(f"{what}: with / without", ratio(found.median), said, found.count)
        if not self.is_merged:
            return
        longer = Spread.of([merging - plain for merging, plain in zip(self.merging, self.plain, strict=True)])
        yield Row(
            f"{figure}: the step in which the LoRA is merged, longer by",
            ms(longer.median),
            longer.said(ms),
            longer.count,
        )


@dataclass
class Step:
    """One step with prompts, whose hooks are there."""

    scene: Scene
    injection: Injection

    def __call__(self) -> Tensor:
        self.scene.announce(self.injection)
        return self.scene.plain()

    @property
    def is_merged(self) -> bool:
        """Whether a LoRA is in the weights."""
        lora = self.injection.lora
        return lora is not None and lora.merged.is_there


@dataclass
class Scene:
    """A UNet and what a step gives it: rows are [cond of all pictures, uncond of all pictures]."""

    unet: unets.UNet  # or what a compiler made of one
    sizes: unets.Sizes
    x: Tensor  # [rows, 4, latent, latent]
    t: Tensor  # [rows]
    text: Tensor  # [rows, 77, context]
    y: Tensor | None  # [rows, vector] of SDXL
    rows: Rows

    @classmethod
    def draw(cls, bench: Bench, unet: unets.UNet, pictures: int = 1, latent: int | None = None) -> Scene:
        """``latent``: its side, where that is not the one that the UNet was trained on."""
        n, sizes, dtype = 2 * pictures, unet.sizes, next(unet.parameters()).dtype
        side = latent or sizes.latent

        def draw(*shape: int, seed: int) -> Tensor:
            return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(bench.device, dtype)

        return cls(
            unet, sizes, draw(n, 4, side, side, seed=1),
            torch.full((n,), 500.0, device=bench.device), draw(n, 77, sizes.context, seed=2),
            None if sizes.vector is None else draw(n, sizes.vector, seed=3), layout([1] * pictures, n),
        )  # fmt: skip

    def of_pictures(self, bench: Bench, pictures: int) -> Scene:
        """The same UNet with a batch of that many pictures."""
        return Scene.draw(bench, self.unet, pictures)

    def on(self, unet: unets.UNet, dtype: torch.dtype) -> Scene:
        """The same step on another UNet, its inputs in ``dtype``."""
        y = None if self.y is None else self.y.to(dtype)
        return Scene(unet, self.sizes, self.x.to(dtype), self.t, self.text.to(dtype), y, self.rows)

    @torch.no_grad()
    def plain(self) -> Tensor:
        """One call of the UNet, [rows, 4, latent, latent]."""
        more = {} if self.y is None else {"y": self.y}
        return self.unet(self.x, self.t, context=self.text, **more)

    def announce(self, injection: Injection) -> None:
        """A step in the middle of a job."""
        injection.begin(self.rows, 6, 20, size=(self.x.shape[-2], self.x.shape[-1]))

    @contextmanager
    def injected(self, prompts: Sequence[ImagePrompt]) -> Iterator[Step]:
        """What makes one step with ``prompts``; the hooks are there until the end of the context."""
        with Injection(self.unet, cross_attention_layers(self.unet), prompts) as injection:
            yield Step(self, injection)

    def with_prompts(self, prompts: Sequence[ImagePrompt]) -> Tensor:
        with self.injected(prompts) as step:
            return step()

    @property
    def hooks(self) -> int:
        """How many modules of the UNet have hooks."""
        return sum(bool(m._forward_hooks or m._forward_pre_hooks) for m in self.unet.modules())


def image_prompt(
    unet: nn.Module, tokens: int = BASE, weight: float = 0.7, seed: int = 5, region: Region | None = None
) -> ImagePrompt:
    """A unit's image prompt with random keys and values near 1, as layer-normed tokens become; in main memory."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> tuple[Tensor, ...]:
        widths = (layer.width for layer in cross_attention_layers(unet))
        return tuple(torch.randn(2, tokens, width, generator=generator) for width in widths)

    return ImagePrompt(KeysValues(draw(), draw()), weight, region=region)


def face_lora(unet: nn.Module, rank: int = 128, strength: float = 1.0, seed: int = 5) -> Lora:
    """The LoRA inside a FaceID checkpoint, of the published rank, with random numbers in fp16; in main memory. Its
    effect on a layer's output is a fifth of that."""
    generator = torch.Generator().manual_seed(seed)

    def draw(rows: int, columns: int, size: float = 1.0) -> Tensor:
        return (torch.randn(rows, columns, generator=generator) * size * columns**-0.5).half()

    tensors = {}
    for i, layer in enumerate(cross_attention_layers(unet)):
        for attention, context in ((2 * i, layer.width), (2 * i + 1, layer.context_width)):
            for name in LAYERS:
                columns = context if name in ("k", "v") else layer.width
                tensors[f"{attention}.to_{name}_lora.down.weight"] = draw(rank, columns)
                tensors[f"{attention}.to_{name}_lora.up.weight"] = draw(layer.width, rank, 0.2)
    return Lora(f"lora {seed}", tensors, strength)


def left_half(side: int) -> Region:
    """A region of the picture's left half, as a mask of ``side`` x ``side``."""
    mask = torch.zeros(side, side)
    mask[:, : side // 2] = 1.0
    return Region(mask)
