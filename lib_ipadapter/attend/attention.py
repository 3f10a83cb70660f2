"""Attention through torch's own kernel."""

from __future__ import annotations

import torch
from torch import Tensor

# Torch's own, whatever has been put in the place of its Python name: kernels that take some widths of head only.
ATTENTION = torch.ops.aten.scaled_dot_product_attention


def image_attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of a query [B, L, C] to keys and values [B, T, C]; [B, L, C] in the query's dtype."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    attended: Tensor = ATTENTION(q, k, v)
    return attended.transpose(1, 2).flatten(2)
