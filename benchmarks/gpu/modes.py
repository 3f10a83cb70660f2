"""Number formats and layouts that hosts run a UNet in: how far its output is from fp32's, with the adapter and without.

The adapter adds no error of its own where both deviations are alike. fp32 here is fp32 without TF32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_ipadapter.attend.layers import cross_attention_layers

from . import unets
from .attentions import WAYS, Way
from .bench import BASE, FULL_FACE, Bench, Scene, face_lora, image_prompt
from .measure import Deviation, Row, Spread, effect, effect_said, ms
from .run import Part


@dataclass(frozen=True)
class Mode:
    """``dtype`` of weights and inputs, ``autocast`` to what, ``fp8`` weights, ``last`` for channels_last."""

    name: str
    dtype: torch.dtype
    autocast: torch.dtype | None = None
    fp8: bool = False
    last: bool = False
    tf32: bool = False

    def scene(self, reference: Scene) -> Scene:
        """``reference``, whose UNet is fp32, in this mode; its UNet is left as it is."""
        unet = reference.unet
        if self.dtype != torch.float32 or self.fp8 or self.last:
            unet = unets.twin(unet, self.dtype)
        if self.fp8:
            store_in_fp8(unet)
        scene = reference.on(unet, self.dtype)
        if self.last:
            for parameter in unet.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
            scene.x = scene.x.contiguous(memory_format=torch.channels_last)
        return scene

    def entered(self, bench: Bench) -> AbstractContextManager[object]:
        """What has to be on while the UNet is called."""
        if self.autocast is not None:
            return torch.autocast(bench.device.type, dtype=self.autocast)
        return tf32() if self.tf32 else contextlib.nullcontext()


def modes(bench: Bench) -> list[Mode]:
    half, bf16, full = torch.float16, torch.bfloat16, torch.float32
    lower = half if bench.is_card else bf16  # what autocast can do on the CPU in every torch
    name = str(lower).removeprefix("torch.")
    return [
        Mode("fp32", full),
        Mode("fp16", half),
        Mode("bf16", bf16),
        Mode(f"autocast {name} on fp32 weights", full, lower),
        Mode(f"autocast {name} on {name} weights, the host's default", lower, lower),
        *([Mode("autocast bf16 on fp32 weights", full, bf16)] if lower != bf16 else []),
        Mode(f"fp8-stored, computed in {name}", lower, fp8=True),
        Mode(f"fp8-stored, autocast {name}", lower, lower, fp8=True),
        Mode("fp32, channels_last", full, last=True),
        Mode(f"{name}, channels_last", lower, last=True),
        *([Mode("fp32 with TF32", full, tf32=True)] if bench.is_card else []),
    ]


@contextmanager
def tf32() -> Iterator[None]:
    """Let the card shorten fp32's factors, as the host does."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = True
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def store_in_fp8(unet: nn.Module) -> None:
    """Keep the weights of linear and convolution layers in float8_e4m3fn, cast to the input's dtype in each call, which
    is what the WebUI's fp8 option comes to. All else stays."""
    for module in unet.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.weight.data = module.weight.data.to(torch.float8_e4m3fn)
            vars(module)["forward"] = _Widened(module)  # an attribute of this layer alone


class _Widened:
    """The forward of a layer with 8-bit weights."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        weight, bias = layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype)
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def parts(bench: Bench) -> Generator[Part, None, None]:
    # bf16 is slow on CPUs, so a small run makes do with two levels.
    sizes = replace(unets.SD15, multipliers=(1, 2), depths=(1, 1)) if bench.small else unets.SD15
    yield from compared(bench, "SD1.5", bench.scene(sizes, torch.float32), modes(bench))
    if not bench.small:
        bench.tidy()
        few = [m for m in modes(bench) if m.name in ("fp16", "bf16") or "host's default" in m.name]
        yield from compared(bench, "SDXL", bench.scene(unets.SDXL, torch.float32), few, ways=())


def compared(
    bench: Bench, name: str, reference: Scene, wanted: Sequence[Mode], ways: Sequence[Way] = WAYS, *, timed: bool = True
) -> Iterator[Part]:
    """Each of the modes and ways beside ``reference``, whose UNet is fp32; ``timed``: what it costs there as well."""
    # The weight is a full unit's: at less, the plain picture's own deviation would cover the adapter's.
    units = {"1 base unit": [image_prompt(reference.unet, BASE, 1.0)]}
    face = [replace(image_prompt(reference.unet, BASE, 1.0), lora=face_lora(reference.unet))]
    if not bench.small:
        units |= {"1 full-face unit": [image_prompt(reference.unet, FULL_FACE, 1.0)]}
    plain = reference.plain()
    acting = {unit: reference.with_prompts(prompts) for unit, prompts in units.items()}
    with_lora = {"1 face unit with its LoRA": (face, reference.with_prompts(face))}

    def run(mode: Mode) -> Iterator[Row]:
        scene = mode.scene(reference)
        with mode.entered(bench):
            acts = yield from deviations(mode.name, scene)
            if acts and timed and (not bench.small or mode.name == "fp32"):
                unit, prompts = next(iter(units.items()))
                pairs = bench.pairs(scene, prompts, seconds=1.5, most=20)
                row, own_time = pairs.compared(f"{name}, {mode.name}, {unit}: with / without"), Spread.of(pairs.plain)
                yield replace(row, spread=f"{row.spread}; plain {ms(own_time.median)}")

    def deviations(what: str, scene: Scene) -> Generator[Row, None, bool]:
        """A row for each unit; whether all of them act."""
        own, seen = _plain_noting_queries(scene)
        acts = True
        cases = {unit: (prompts, acting[unit]) for unit, prompts in units.items()} | with_lora
        for unit, (prompts, wanted) in cases.items():
            out = scene.with_prompts(prompts)
            off, found, full = Deviation.of(out, wanted), effect(out, own), effect(wanted, plain)
            # Without a finite effect there is nothing to compare: the deviations say NaN then.
            said = effect_said(found, full) if off.finite else "no effect to tell"
            beside = f"plain {Deviation.of(own, plain)}; {said}; query {seen}"
            yield Row(f"{name}, {what}, {unit}: off fp32 by", str(off), beside)
            acts &= off.finite and "NO EFFECT" not in said
        return acts

    def on_the_way(way: Way, what: str) -> Iterator[Row]:
        half = Mode("", bench.half)
        with way.entered(half.scene(reference)) as scene:
            yield from deviations(what, scene)

    for mode in wanted:
        yield Part(f"{name}, {mode.name}", partial(run, mode), needs=3)
    for way in ways:
        what = f"{str(bench.half).removeprefix('torch.')}, {way.name}"
        yield Part(f"{name}, {what}", partial(on_the_way, way, what), needs=3)


def _plain_noting_queries(scene: Scene) -> tuple[Tensor, str]:
    """A plain step, and in what dtype the layers' queries come: what the adapter's keys and values are cast to."""
    seen: set[str] = set()

    def note(_module: nn.Module, _args: tuple, query: Tensor) -> None:
        seen.add(str(query.dtype).removeprefix("torch."))

    handles = [layer.to_q.register_forward_hook(note) for layer in cross_attention_layers(scene.unet)]
    try:
        return scene.plain(), " and ".join(sorted(seen))
    finally:
        for handle in handles:
            handle.remove()
