"""The image encoder ViT-H: fp16 beside fp32, its moves to the device and back, and how long pictures take."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from . import tower
from .bench import Bench
from .measure import AtMost, Deviation, Row, Spread, ms, nbytes, share
from .run import Part

if TYPE_CHECKING:
    from lib_ipadapter.encode.clip_image import ImageEncoder

OWN, HALF = AtMost(1.05, share), AtMost(0.5, share)


def make(bench: Bench) -> ImageEncoder:
    """The encoder in fp32 on the device, random weights."""
    from lib_ipadapter.checkpoint.identify import identify
    from lib_ipadapter.checkpoint.specs import EncoderSpec
    from lib_ipadapter.encode.clip_image import ImageEncoder

    sizes = tower.SMALL if bench.small else tower.VIT_H
    spec = identify(tower.state_shapes(sizes))
    if not isinstance(spec, EncoderSpec):
        raise TypeError(f"an image encoder's tensors were taken for {type(spec).__name__}")
    return ImageEncoder.from_state(spec, tower.random_state(sizes, bench.device), dtype=torch.float32)


def pixels(encoder: ImageEncoder, count: int) -> Tensor:
    """[count, 3, S, S] random pictures of normalised pixels, in main memory as the library makes them."""
    side = encoder.spec.image_size
    coarse = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    return F.interpolate(coarse, (side, side), mode="bicubic")


def formats(encoder: ImageEncoder, name: str, shown: Tensor) -> Generator[Part, None, None]:
    """An encoder in fp32 beside itself in other number formats, the last of which it is left in: fp16."""
    from lib_ipadapter.encode.clip_blocks import arithmetic

    wanted = encoder.encode(shown)
    state = {key: tensor.clone() for key, tensor in encoder._tower.state_dict().items()}
    for dtype in (torch.bfloat16, torch.float16):
        encoder._tower.to(torch.float32).load_state_dict(state)
        encoder.to(dtype=dtype)
        computed = arithmetic(encoder.device, dtype)
        said = str(dtype).removeprefix("torch.")
        said += "" if computed == dtype else f" weights, computed in {str(computed).removeprefix('torch.')}"

        def compared(said: str = said) -> Iterator[Row]:
            found = encoder.encode(shown)
            for source in ("pooled", "penultimate"):
                one, other = getattr(found, source).float(), getattr(wanted, source).float()
                alike = F.cosine_similarity(one.flatten(1), other.flatten(1)).min()
                yield Row(
                    f"{name}, {said}: {source} off fp32 by", str(Deviation.of(one, other)),
                    f"smallest cosine {float(alike):.6f}",
                )  # fmt: skip

        yield Part(f"{name}, {said}: off fp32", compared)


def parts(bench: Bench) -> Generator[Part, None, None]:
    whose = tower.provide()
    encoder = make(bench)
    name, few = encoder.spec.kind, pixels(encoder, 2 if bench.small else 4)
    yield Part(f"{name}, fp32 weights", lambda: [Row(f"{name}, fp32 weights", nbytes(encoder.nbytes), whose)])
    yield Part(f"{name}, fp32: 1 picture", lambda: [_taking(bench, encoder, f"{name}, fp32: 1 picture", 1)])
    yield from formats(encoder, name, few)
    for count in (1, 4, 16):
        if count == 16 and bench.small:
            break
        figure = f"{name}, fp16: {count} picture{'s' if count > 1 else ''}"
        yield Part(figure, partial(_batch, bench, encoder, count, figure), needs=3)
    figure = f"{name}, fp16: ours / open_clip's own forward"
    if bench.is_card:  # the CPU's is among its own figures
        yield Part(figure, partial(_beside, bench, encoder, figure), needs=3)
    yield Part(f"{name}, fp16: moves", lambda: _moves(bench, encoder, f"{name}, fp16"), needs=5)
    if bench.is_card:
        figure = f"{name}, fp16: 1 picture on the CPU"
        yield Part(figure, lambda: _on_cpu(bench, encoder, few, f"{name}, fp16"), needs=15)


def _taking(bench: Bench, encoder: ImageEncoder, figure: str, count: int) -> Row:
    some = pixels(encoder, count)
    encoder.encode(some, "penultimate")
    spread = Spread.of(
        [bench.seconds(lambda: encoder.encode(some, "penultimate")) for _ in range(2 if bench.small else 10)]
    )
    return Row(figure, ms(spread.median), spread.said(ms), spread.count)


def _batch(bench: Bench, encoder: ImageEncoder, count: int, figure: str) -> Iterator[Row]:
    """All at once beside one after the other, which is what a job does."""
    some = pixels(encoder, count)
    if bench.is_card:
        bench.tidy()
        before = bench.allocated()
        torch.cuda.reset_peak_memory_stats(bench.device)
    row = _taking(bench, encoder, f"{figure} at once", count)
    yield row
    if bench.is_card:
        peak = torch.cuda.max_memory_allocated(bench.device) - before
        yield Row(f"{figure} at once: memory beside the weights", nbytes(peak))
    if count > 1:

        def one_by_one() -> None:
            for one in some:
                encoder.encode(one[None], "penultimate")

        taken = [bench.seconds(one_by_one) for _ in range(2 if bench.small else 5)]
        spread = Spread.of(taken)
        yield Row(f"{figure} one by one, as a job does", ms(spread.median), spread.said(ms), spread.count)
        at_once = f"{figure} at once / one by one"
        target = HALF if count == 16 else None
        yield bench.paired(
            at_once, one_by_one, lambda: encoder.encode(some, "penultimate"), target, most=20 if target is None else 40,
            calls=1,
        )  # fmt: skip


def _beside(bench: Bench, encoder: ImageEncoder, figure: str) -> Iterator[Row]:
    """The library's forward pass beside the tower's own, where the tower has one."""
    shown = pixels(encoder, 1).to(encoder.device, encoder.dtype)
    tower = encoder._tower
    if type(tower).forward is torch.nn.Module.forward:
        yield Row(figure, "left out: open_clip is not installed")
        return
    with torch.no_grad():
        yield bench.paired(figure, lambda: tower(shown), lambda: encoder.encode(shown, "pooled"), OWN)


def _moves(bench: Bench, encoder: ImageEncoder, figure: str) -> Iterator[Row]:
    """To main memory and back, as each job with a new reference does."""
    down, up = [], []
    for _ in range(2 if bench.small else 5):
        down.append(bench.seconds(lambda: encoder.to("cpu")))
        up.append(bench.seconds(lambda: encoder.to(bench.device)))
    for way, taken in (("to the device", up), ("back to main memory", down)):
        spread = Spread.of(taken)
        rate = f"{encoder.nbytes / max(spread.median, 1e-9) / 1e9:.1f} GB/s"
        yield Row(f"{figure}: move {way}", ms(spread.median), f"{rate}; {spread.said(ms)}", spread.count)


def _on_cpu(bench: Bench, encoder: ImageEncoder, few: Tensor, figure: str) -> Iterator[Row]:
    """What a job falls back to where the device has no room for encoding."""
    wanted = encoder.encode(few[:1])
    try:
        encoder.to("cpu")
        taken = bench.seconds(lambda: encoder.encode(few[:1]))
        found = encoder.encode(few[:1], "penultimate")
    finally:
        encoder.to(bench.device)
    if wanted.penultimate is None or found.penultimate is None:
        raise RuntimeError("the encoder gave no hidden states")
    off = Deviation.of(found.penultimate, wanted.penultimate.cpu())
    yield Row(f"{figure}: 1 picture on the CPU", ms(taken), f"off the card's by {off}")
