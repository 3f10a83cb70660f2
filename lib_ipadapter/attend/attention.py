"""Attention through torch's own kernel."""

from __future__ import annotations

import torch
from torch import Tensor

# Torch's own, whatever has been put in the place of its Python name: kernels that take some widths of head only.
ATTENTION = torch.ops.aten.scaled_dot_product_attention
VECTOR = 16  # numbers that CPUs work on at a time
LONG = 128  # queries from which on it pays to bring fewer tokens to so many


def image_attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of a query [B, L, C] to keys and values [B, T, C]; [B, L, C] in the query's dtype."""
    tokens = key.shape[1]
    if query.device.type == "cpu" and tokens < VECTOR and VECTOR % tokens == 0 and query.shape[1] >= LONG:
        # Each token several times gives the same sum, in less than half the time: the kernel works on what does not
        # fill a vector number by number.
        key, value = key.repeat(1, VECTOR // tokens, 1), value.repeat(1, VECTOR // tokens, 1)
    attended: Tensor = ATTENTION(_by_head(query, heads), _by_head(key, heads), _by_head(value, heads))
    return attended.transpose(1, 2).flatten(2)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """[B, n, C] -> [B, heads, n, C / heads]."""
    apart: Tensor = x.unflatten(-1, (heads, -1))
    return apart.transpose(1, 2)
