"""Encoding a reference with ViT-H, beside open_clip's own forward on the same weights, and in other number formats."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial

import torch

from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.checkpoint.specs import EncoderSpec
from lib_ipadapter.encode.clip_image import ImageEncoder

from ..gpu import tower
from ..gpu.bench import Bench
from ..gpu.encoder import formats, pixels
from ..gpu.measure import AtMost, Deviation, Row, ms, share
from ..gpu.run import Part
from .rotation import in_turns

LIMIT = AtMost(1.05, share)
LAYERS = 8  # of 32 that are alike
OURS, THEIRS = "ours", "open_clip's"


def parts(bench: Bench) -> Generator[Part, None, None]:
    sizes = tower.SMALL if bench.small else replace(tower.VIT_H, layers=LAYERS)
    spec = identify(tower.state_shapes(sizes))
    assert isinstance(spec, EncoderSpec)
    encoder = ImageEncoder.from_state(spec, tower.random_state(sizes, bench.device), dtype=torch.float32)
    yield Part("encoding a reference", partial(_compared, bench, encoder, sizes.layers), needs=20)
    yield from formats(encoder, f"ViT-H's sizes, {sizes.layers} of 32 layers", pixels(encoder, 2))


@torch.no_grad()
def _compared(bench: Bench, encoder: ImageEncoder, layers: int) -> Iterator[Row]:
    shown = pixels(encoder, 1)
    calls = {
        OURS: lambda: bench.seconds(lambda: encoder.encode(shown, "pooled")),
        THEIRS: lambda: bench.seconds(lambda: encoder._tower(shown)),
    }
    off = Deviation.of(encoder.encode(shown, "pooled").of("pooled"), encoder._tower(shown))
    for call in calls.values():
        call()
    found = in_turns(bench, calls, bench.left - 12, what="encoding")
    name = f"encoding 1 reference, ViT-H's sizes, {layers} of 32 layers, fp32"
    plain = found.seconds(THEIRS)
    yield Row(f"{name}, by open_clip's own forward", ms(plain.median), plain.said(ms), plain.count)
    row = found.compared(f"{name}: ours / open_clip's", OURS, THEIRS, LIMIT)
    yield replace(row, spread=f"{row.spread}; off its embedding by {off}")
