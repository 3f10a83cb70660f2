"""Main memory of a process that keeps a warm ViT-H, beside the encoder's own file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.jobs.resources import Resources

from ..gpu import tower
from ..gpu.measure import AtMost, Row, nbytes, ratio, share
from .own_memory import counted, forget_largest, largest, own_memory

LIMIT = AtMost(1.1, share)


def write_encoder(path: Path, sizes: tower.Sizes, dtype: torch.dtype) -> int:
    """An image encoder of these sizes in transformers' layout; the file's bytes."""
    save_file(tower.random_state(sizes, torch.device("cpu"), dtype), path)
    return path.stat().st_size


def measure(small: bool) -> Iterator[Row]:
    sizes = tower.SMALL if small else tower.VIT_H
    with tempfile.TemporaryDirectory() as name:
        folder, pixels = Path(name), torch.zeros(1, 3, sizes.image_size, sizes.image_size)
        # What is imported and laid out at the first encoder is there once in a process, whatever its size.
        write_encoder(folder / "first.safetensors", tower.SMALL, torch.float16)
        _kept(folder, torch.float16).encode(torch.zeros(1, 3, tower.SMALL.image_size, tower.SMALL.image_size))
        (folder / "first.safetensors").unlink()
        size = write_encoder(folder / "encoder.safetensors", sizes, torch.float16)
        for dtype, what in ((torch.float16, "in its file's fp16"), (torch.float32, "fp16 in the file, fp32 kept")):
            before, everything = own_memory(), counted("VmRSS")
            forget_largest()
            encoder = _kept(folder, dtype)
            built = largest() - everything
            encoder.encode(pixels)
            warm = own_memory() - before
            figure = f"a warm {encoder.spec.kind} {what}"
            beside = f"{nbytes(warm)} of a file of {nbytes(size)}"
            target = LIMIT.of_number(warm / size) if dtype == torch.float16 else ""
            yield Row(f"{figure}: main memory / file", ratio(warm / size), beside, 1, target)
            yield Row(f"{figure}: while it is built, the mapped file included", nbytes(built))
            del encoder


def _kept(folder: Path, dtype: torch.dtype):
    catalog = Catalog([], [folder])
    catalog.refresh()
    (entry,) = catalog.encoders
    return Resources(catalog).encoder(entry, dtype)
