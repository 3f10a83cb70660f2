"""LoRAs as FaceID checkpoints hold them, and the same numbers added to weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.lora import Lora
from tests.helpers.checkpoint_shapes import lora as lora_shapes
from tests.helpers.tensors import draw


def lora_tensors(unet: nn.Module, seed: int = 70, rank: int = 4, scale: float = 0.5) -> dict[str, torch.Tensor]:
    """A LoRA for every attention of ``unet``, whose effect is ``scale`` times that of the weights."""
    layers = cross_attention_layers(unet)
    shapes = lora_shapes([layer.width for layer in layers], layers[0].context_width, rank)
    return {
        key: draw(*shape, seed=seed + i, scale=shape[1] ** -0.5 * (scale if ".up." in key else 1.0))
        for i, (key, shape) in enumerate(sorted(shapes.items()))
    }


def face_lora(unet: nn.Module, strength: float = 1.0, seed: int = 70, **options) -> Lora:
    return Lora(f"file {seed}", lora_tensors(unet, seed, **options), strength)


def deltas(unet: nn.Module, tensors: dict[str, torch.Tensor], strength: float = 1.0) -> dict[nn.Module, torch.Tensor]:
    """What the LoRA adds to the weight of each linear layer, by names in ldm's UNet."""
    found = {}
    for i, layer in enumerate(cross_attention_layers(unet)):
        for number, name in ((2 * i, layer.name.replace("attn2", "attn1")), (2 * i + 1, layer.name)):
            for part, place in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("out", "to_out.0")):
                key = f"{number}.to_{part}_lora"
                delta = tensors[f"{key}.up.weight"] @ tensors[f"{key}.down.weight"]
                found[unet.get_submodule(f"{name}.{place}")] = strength * delta
    return found


@contextmanager
def merged(unet: nn.Module, tensors: dict[str, torch.Tensor], strength: float = 1.0) -> Iterator[None]:
    """In here the LoRA is in the weights of ``unet``."""
    before = {module: module.weight.data for module in deltas(unet, tensors)}
    for module, delta in deltas(unet, tensors, strength).items():
        module.weight.data = module.weight.data + delta
    try:
        yield
    finally:
        for module, weight in before.items():
            module.weight.data = weight


@contextmanager
def patched(unet: nn.Module, tensors: dict[str, torch.Tensor]) -> Iterator[None]:
    """In here ``nn.Linear.forward`` itself is another, and adds the LoRA, as the WebUI's own Lora does it."""
    original, networks = nn.Linear.forward, deltas(unet, tensors)

    def forward(self, x):
        delta = networks.get(self)
        return original(self, x) if delta is None else original(self, x) + nn.functional.linear(x, delta)

    nn.Linear.forward = forward
    try:
        yield
    finally:
        nn.Linear.forward = original
