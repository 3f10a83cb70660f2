"""Weights of the projections, at the scale of trained ones."""

from __future__ import annotations

import torch

from tests.helpers.checkpoint_shapes import linear, norm
from tests.helpers.tensors import draw


def tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Seeded weights at the scale of trained ones: matrices keep their input's variance, norms are near identity."""
    out = {}
    for i, (name, shape) in enumerate(sorted(shapes.items())):
        out[name] = draw(*shape, seed=seed + i, scale=shape[-1] ** -0.5 if len(shape) > 1 else 0.1)
        if len(shape) == 1 and name.endswith("weight"):
            out[name] += 1
    return out


def perceiver(prefix: str, dim: int, depth: int, features: int, out: int, ff: int = 4) -> dict[str, tuple[int, ...]]:
    shapes = {
        **linear(f"{prefix}proj_in", dim, features),
        **linear(f"{prefix}proj_out", out, dim),
        **norm(f"{prefix}norm_out", out),
    }
    for i in range(depth):
        attention, feed = f"{prefix}layers.{i}.0", f"{prefix}layers.{i}.1"
        shapes |= {
            **norm(f"{attention}.norm1", dim),
            **norm(f"{attention}.norm2", dim),
            f"{attention}.to_q.weight": (dim, dim),
            f"{attention}.to_kv.weight": (2 * dim, dim),
            f"{attention}.to_out.weight": (dim, dim),
            **norm(f"{feed}.0", dim),
            f"{feed}.1.weight": (ff * dim, dim),
            f"{feed}.3.weight": (dim, ff * dim),
        }
    return shapes


def resampler(dim: int, depth: int, tokens: int, features: int, out: int) -> dict[str, tuple[int, ...]]:
    return {"latents": (1, tokens, dim), **perceiver("", dim, depth, features, out)}


def face_mlp(tokens: int, width: int, hidden: int = 1024) -> dict[str, tuple[int, ...]]:
    return {**linear("proj.0", hidden, 512), **linear("proj.2", tokens * width, hidden), **norm("norm", width)}
