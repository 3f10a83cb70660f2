"""Ways in which hosts compute attention, hand over views, and keep a UNet's weights elsewhere.

The adapter's hooks lie on ``to_q`` and ``to_out[0]``, so none of it should matter to them. Each way changes the UNet
for as long as it is entered, in the plain step as well. Attention is written from its formulas: in slices of heads, in
chunks of queries and keys with a running sum (Rabe and Staats 2021, arXiv 2112.05682), as two products, with queries
and keys in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib_ipadapter.attend.blocks import CrossAttention

from .bench import Scene

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]  # of [B, heads, L, d] and twice [B, heads, T, d]


def product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two products with the whole softmax between them."""
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v


def sliced(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head after the other."""
    return torch.stack([product(*head) for head in zip(*(x.unbind(1) for x in (q, k, v)), strict=True)], dim=1)


def upcast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries, keys and their softmax in fp32."""
    return product(q.float(), k.float(), v.float()).to(q.dtype)


def chunked(q: Tensor, k: Tensor, v: Tensor, queries: int = 64, keys: int = 32) -> Tensor:
    """Sub-quadratic: chunks of queries, over chunks of keys with a running maximum and sum."""
    return torch.cat([_over_keys(some, k, v, keys) for some in q.split(queries, dim=2)], dim=2)


def _over_keys(q: Tensor, k: Tensor, v: Tensor, size: int) -> Tensor:
    summed, weight, highest = torch.zeros_like(q), q.new_zeros(()), q.new_full((), -torch.inf)
    for some_keys, some_values in zip(k.split(size, dim=2), v.split(size, dim=2), strict=True):
        logits = q @ some_keys.transpose(-1, -2) * q.shape[-1] ** -0.5
        most = torch.maximum(highest, logits.amax(dim=-1, keepdim=True))
        shares, before = (logits - most).exp(), (highest - most).exp()
        summed, weight = summed * before + shares @ some_values, weight * before + shares.sum(-1, keepdim=True)
        highest = most
    return summed / weight


class _Attending:
    """The forward of one attention, by another way of computing it."""

    def __init__(self, module: CrossAttention, attention: Attention) -> None:
        self.module, self.attention = module, attention

    def __call__(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        module, seen = self.module, x if context is None else context
        q, k, v = (
            part.unflatten(-1, (module.heads, -1)).transpose(1, 2)
            for part in (module.to_q(x), module.to_k(seen), module.to_v(seen))
        )
        return module.to_out(self.attention(q, k, v).transpose(1, 2).flatten(2))


@contextmanager
def attending(scene: Scene, attention: Attention) -> Iterator[Scene]:
    changed = [module for module in scene.unet.modules() if isinstance(module, CrossAttention)]
    for module in changed:
        vars(module)["forward"] = _Attending(module, attention)
    try:
        yield scene
    finally:
        for module in changed:
            del vars(module)["forward"]


@contextmanager
def views(scene: Scene) -> Iterator[Scene]:
    """Latents, texts and every linear layer's output as views of something larger, as MPS and some kernels hand them
    on."""

    def view(x: Tensor) -> Tensor:
        return torch.stack([x, x], dim=-1)[..., 0]

    linear = [module for module in scene.unet.modules() if isinstance(module, nn.Linear)]
    handles = [module.register_forward_hook(lambda _module, _args, out: view(out)) for module in linear]
    other = scene.on(scene.unet, scene.x.dtype)
    other.x, other.text = view(scene.x), view(scene.text)
    try:
        yield other
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def moved(scene: Scene) -> Iterator[Scene]:
    """Each stage's weights on the device only while it is called, as with --lowvram."""
    unet, device = scene.unet, scene.x.device
    stages = [*unet.input_blocks, unet.middle_block, *unet.output_blocks]
    handles = []
    for stage in stages:
        stage.to("cpu")
        handles.append(stage.register_forward_pre_hook(lambda module, _args: module.to(device) and None))
        handles.append(stage.register_forward_hook(lambda module, _args, _out: module.to("cpu") and None))
    try:
        yield scene
    finally:
        for handle in handles:
            handle.remove()
        unet.to(device)


@dataclass(frozen=True)
class Way:
    name: str
    entered: Callable[[Scene], AbstractContextManager[Scene]]


def _by(attention: Attention) -> Callable[[Scene], AbstractContextManager[Scene]]:
    return lambda scene: attending(scene, attention)


WAYS = (
    Way("attention as two products", _by(product)),
    Way("attention head by head (split)", _by(sliced)),
    Way("attention in chunks (sub-quadratic)", _by(chunked)),
    Way("attention upcast to fp32", _by(upcast)),
    Way("views that are not contiguous, as on MPS", views),
    Way("weights moved stage by stage (--lowvram)", moved),
)
