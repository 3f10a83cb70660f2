"""From an adapter's file on disk, in the system's cache, to keys and values of every layer."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.prompt import KeysValues
from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.jobs.resources import Resources
from lib_ipadapter.projections import build

from ..gpu import unets
from ..gpu.job import adapter_state
from ..gpu.measure import AtMost, Row, Spread, ms, nbytes

POOLED = 1024  # width of ViT-H's embedding
LIMIT = AtMost(0.3, ms)


def write_adapter(path: Path, sizes: unets.Sizes, embedding: int = POOLED) -> int:
    """A base adapter for a UNet of these sizes, 44 MB for SD1.5; the file's bytes."""
    with torch.device("meta"):
        widths = [layer.width for layer in cross_attention_layers(unets.UNet(sizes))]
    state = adapter_state(widths, sizes.context, embedding)
    save_file({f"{kind}.{key}": tensor for kind, some in state.items() for key, tensor in some.items()}, path)
    return path.stat().st_size


def measure(small: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        size = write_adapter(Path(name) / "base.safetensors", unets.SD15.narrow() if small else unets.SD15)
        stages = [_stages(Path(name)) for _ in range(3 if small else 41)][1:]  # the first also imports what is needed
    figure = f"first use, an adapter's file of {nbytes(size)}"
    for what, taken in (
        ("listed to ready", [read + made for _, read, made in stages]),
        ("new on disk to ready", [sum(times) for times in stages]),
    ):
        found = Spread.of(taken)
        yield Row(f"{figure}, {what}", ms(found.median), found.said(ms), found.count, LIMIT.of_spread(found))
    parts = ("recognising, in a process of its own", "reading and checking", "projecting")
    shares = "; ".join(
        f"{part} {ms(Spread.of(taken).median)}" for part, taken in zip(parts, zip(*stages, strict=False), strict=True)
    )
    yield Row(f"{figure}, its parts", shares)


def _stages(folder: Path) -> tuple[float, float, float]:
    """Seconds for recognising the file, reading it, and projecting with it."""
    gc.collect()
    begun = time.perf_counter()
    catalog = Catalog([folder], [])
    catalog.refresh()
    resources, (entry,) = Resources(catalog), catalog.adapters
    known = time.perf_counter()
    weights = resources.adapter(entry, entry.spec)
    read = time.perf_counter()
    with torch.no_grad():
        project = build(entry.spec.projection, weights.image_proj, entry.spec.context_width)
        width = weights.image_proj["proj.weight"].shape[1]
        tokens, empty = project(torch.ones(1, width)), project(torch.zeros(1, width))
        KeysValues.project(weights.key, weights.value, tokens, empty)
    return known - begun, read - known, time.perf_counter() - read
