"""Adapters in every container in which they are published."""

from __future__ import annotations

from collections import OrderedDict

import torch
from safetensors.torch import save_file

from tests.helpers.checkpoint_shapes import NARROW_SD, adapter, base, faceid, resampler

SMALL = {
    "base": adapter(base(32, 768), NARROW_SD),
    "plus": adapter(resampler(24, 16, 1, 768, depth=1), NARROW_SD),
    "faceid": adapter(faceid(768, 4), NARROW_SD, with_lora=True),
}


def tensors(shapes, dtype=torch.float16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator).to(dtype) for key, shape in shapes.items()}


def nested(state):
    """tencent's containers: two dicts in a dict."""
    halves = {"image_proj": OrderedDict(), "ip_adapter": OrderedDict()}
    for key, tensor in state.items():
        half, _, rest = key.partition(".")
        halves[half][rest] = tensor
    halves["image_proj"]._metadata = OrderedDict(version=1)  # what Module.state_dict() adds; pickled as BUILD
    return halves


def save_safetensors(state, path):
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata={"format": "pt"})


def save_zip(state, path):
    torch.save(nested(state), path)


def save_legacy(state, path):
    torch.save(nested(state), path, _use_new_zipfile_serialization=False)


def save_flat(state, path):
    torch.save(state | {"epoch": 3, "name": "x", "lr": [0.1, None, True]}, path)


WRITERS = [save_safetensors, save_zip, save_legacy, save_flat]


def same(ours, theirs):
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and torch.equal(ours, theirs)
