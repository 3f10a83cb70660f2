"""Files of any shapes and any size, and catalogues of them."""

from __future__ import annotations

import json
import struct
from math import prod

import torch
from safetensors.torch import save_file

from lib_ipadapter.checkpoint.catalog import Catalog
from tests.helpers.checkpoint_shapes import (
    NARROW_SD,
    NARROW_XL,
    XL_WIDTHS,
    adapter,
    base,
    faceid_plus,
    resampler,
    transformers_tower,
)

BASE = adapter(base(32, 768), NARROW_SD)
WIDE = adapter(base(1024, 768), NARROW_SD)
FACEID_PLUS = adapter(faceid_plus(768), NARROW_SD)
INSTANT = adapter(resampler(512, 16, 1, 2048, depth=1), NARROW_XL, 2048)
KOLORS = adapter(resampler(1024, 2048, 1, 2048, depth=1), XL_WIDTHS, 2048)
LORA = {"lora_unet_x.lora_down.weight": (4, 8)}


def write(path, shapes, dtype="F16", pairs_dtype=None, metadata=None):
    """A safetensors file with these shapes; its data is a hole, so that even full-size files cost nothing."""
    header, end = {} if metadata is None else {"__metadata__": metadata}, 0
    for key, shape in shapes.items():
        kind = pairs_dtype if pairs_dtype and key.startswith("ip_adapter.") else dtype
        first, end = end, end + prod(shape) * {"F16": 2, "F32": 4}[kind]
        header[key] = {"dtype": kind, "shape": list(shape), "data_offsets": [first, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


def listed(*folders, encoders=(), memory=None):
    catalog = Catalog(folders, encoders, memory)
    catalog.refresh()
    return catalog


def names(entries):
    return [entry.name for entry in entries]


SMALL = transformers_tower(48, 2, 64, 4, 5, 24)


def save(path, shapes, seed, metadata=None, dtype=torch.float32):
    """A file with numbers in it: an image tower's are the same for the same ``seed``, in either layout."""
    state = {key: torch.ones(shape, dtype=dtype) for key, shape in shapes.items()}
    generator = torch.Generator().manual_seed(seed)
    for key in state:
        if key.endswith("class_embedding"):
            state[key] = torch.randn(state[key].shape, generator=generator).to(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(state, path, metadata)
    else:
        torch.save(state, path)
