"""The networks of the drawn faces: recognition, and a FaceID adapter with its LoRA.

Tensor names are the published ones. Recognition is a small convolutional network, trained with ArcFace's margin (arXiv
1801.07698); as with the published ones its embedding of a photo is 512 wide and of any length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from demo.family import world
from lib_ipadapter.attend.layers import CrossAttention, cross_attention_layers

FACE = 512
TOKENS, HIDDEN, RANK = 4, 128, 32
"""Of the adapter: its image tokens, the width of its projection's hidden layer, and its LoRA's rank."""
LINEARS = ("q", "k", "v", "out")


class FaceTower(nn.Module):
    """Pictures in 0…1 [B, 3, 64, 64] -> embeddings [B, 512] of whose face they show."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for after, stride in ((1, 2), (1, 1), (2, 2), (2, 1), (4, 2), (4, 1), (5, 2)):
            layers += [nn.Conv2d(before, after * width, 3, stride, 1), nn.GroupNorm(4, after * width), nn.SiLU()]
            before = after * width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(before * (world.SIDE // 16) ** 2, FACE)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.body(pictures * 2 - 1).flatten(1))


def arcface(embeddings: Tensor, centres: Tensor, who: Tensor, scale: float, margin: float) -> Tensor:
    """The cross-entropy of ``who`` [B] among persons with ``centres`` [persons, width], whose own angle counts as
    larger by ``margin`` radians (arXiv 1801.07698, equation 3)."""
    cosines = F.linear(F.normalize(embeddings.float(), dim=1), F.normalize(centres, dim=1)).clamp(-0.999, 0.999)
    own = cosines.gather(1, who[:, None])
    # Beyond pi - margin the cosine would fall no more: there it goes on as a line, as in the published code.
    harder = torch.where(own.acos() + margin < torch.pi, (own.acos() + margin).cos(), own - margin * torch.sin(
        torch.as_tensor(margin)))  # fmt: skip
    return F.cross_entropy(scale * cosines.scatter(1, who[:, None], harder), who)


def attentions(unet: nn.Module) -> Iterator[tuple[int, nn.Module]]:
    """The number and the module of every attention, in the published order: attn1 even, attn2 odd."""
    modules = dict(unet.named_modules())
    for i, layer in enumerate(cross_attention_layers(unet)):
        name = next(name for name, module in modules.items() if module is layer.module)
        yield 2 * i, modules[name.removesuffix("attn2") + "attn1"]
        yield 2 * i + 1, layer.module


def linears(attention: Any) -> dict[str, nn.Linear]:
    return {"q": attention.to_q, "k": attention.to_k, "v": attention.to_v, "out": attention.to_out[0]}


def new_faceid(unet: nn.Module) -> dict[str, Tensor]:
    """Fresh tensors under their published names, from torch's global generator. K_ip and V_ip begin as copies of the
    text's K and V, the LoRA as nothing: its second matrices are zero."""
    layers: list[CrossAttention] = list(cross_attention_layers(unet))
    context = layers[0].module.to_k.in_features
    first, second = nn.Linear(FACE, HIDDEN), nn.Linear(HIDDEN, TOKENS * context)
    state = {f"image_proj.proj.0.{part}": value.detach() for part, value in first.named_parameters()}
    state |= {f"image_proj.proj.2.{part}": value.detach() for part, value in second.named_parameters()}
    state |= {"image_proj.norm.weight": torch.ones(context), "image_proj.norm.bias": torch.zeros(context)}
    for i, layer in enumerate(layers):
        for part in "kv":
            weight = getattr(layer.module, f"to_{part}").weight
            state[f"ip_adapter.{2 * i + 1}.to_{part}_ip.weight"] = weight.detach().float().cpu().clone()
    for number, attention in attentions(unet):
        for name, linear in linears(attention).items():
            key = f"ip_adapter.{number}.to_{name}_lora"
            state[f"{key}.down.weight"] = torch.randn(RANK, linear.in_features) / RANK
            state[f"{key}.up.weight"] = torch.zeros(linear.out_features, RANK)
    return state


class TrainableLora:
    """An adapter's LoRA on a UNet's attentions with gradients, times ``strength``. To be attached before
    ``networks.TrainableInjection``, whose query is then the one with the LoRA in it, as published."""

    def __init__(self, unet: nn.Module, weights: Mapping[str, Tensor], strength: float = 1.0) -> None:
        self.weights, self.strength = weights, strength
        self.handles = [
            linear.register_forward_hook(self._add(f"ip_adapter.{number}.to_{name}_lora"))
            for number, attention in attentions(unet)
            for name, linear in linears(attention).items()
        ]

    def _add(self, key: str) -> Any:
        def add(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            low = F.linear(args[0], self.weights[f"{key}.down.weight"])
            return output + self.strength * F.linear(low, self.weights[f"{key}.up.weight"])

        return add

    def __enter__(self) -> TrainableLora:
        return self

    def __exit__(self, *_exc: object) -> None:
        for handle in self.handles:
            handle.remove()


def embeddings_file(embeddings: Tensor, encoder: str) -> bytes:
    """A person as a small file that stands for photos: [photos, 512] embeddings as recognition puts them out.

    ``encoder`` is the recognition's name, which the metadata of adapters trained with it have as ``image_encoder``.
    """
    tensors = {f"{i}.face": one.float().cpu()[None].contiguous() for i, one in enumerate(embeddings)}
    return save(tensors, {"ip-adapter": "embeddings 1", "face": encoder})
