"""Seeded numbers."""

from __future__ import annotations

import torch
from torch import nn

from lib_ipadapter.attend.layers import cross_attention_layers


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Seeded weights everywhere, also where a fresh UNet has zeros, so that every layer matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        parameter.data.normal_(generator=generator)
        if parameter.ndim < 2:
            parameter.data.mul_(0.1).add_(float(name.endswith("weight")))
        else:
            parameter.data.div_(parameter[0].numel() ** 0.5)
    return module


def kv_weights(unet: nn.Module, seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """to_k_ip and to_v_ip for every layer of ``unet``, in key order."""
    generator = torch.Generator().manual_seed(seed)
    layers = cross_attention_layers(unet)

    def make() -> list[torch.Tensor]:
        return [
            torch.randn(layer.width, layer.context_width, generator=generator) / layer.context_width**0.5
            for layer in layers
        ]

    return make(), make()


def draw(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return torch.allclose(a, b, rtol=0, atol=tolerance)
