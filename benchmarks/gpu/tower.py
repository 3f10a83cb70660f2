"""CLIP's image tower as open_clip describes it, for machines without open_clip.

The library builds its encoder from open_clip's modules. They import torchvision, timm and more, which a bare machine
lacks, so there the same modules come from here: equal names, equal arithmetic.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from lib_ipadapter.checkpoint.specs import EncoderSpec


class LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A residual attention block on [N, B, W]."""

    def __init__(self, width: int, heads: int, inner: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = LayerNorm(width), LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)
        self.mlp = nn.Sequential(OrderedDict(c_fc=nn.Linear(width, inner), gelu=act(), c_proj=nn.Linear(inner, width)))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=attn_mask)[0]
        return x + self.mlp(self.ln_2(x))


class VisionTransformer(nn.Module):
    """The parameters of the tower; the library's encoder writes the forward pass out itself."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        act = QuickGELU if spec.quick_gelu else nn.GELU
        self.class_embedding = nn.Parameter(torch.empty(spec.width))
        self.positional_embedding = nn.Parameter(torch.empty((spec.image_size // spec.patch) ** 2 + 1, spec.width))
        self.conv1 = nn.Conv2d(3, spec.width, spec.patch, stride=spec.patch, bias=False)
        self.ln_pre, self.ln_post = LayerNorm(spec.width), LayerNorm(spec.width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(
            Block(spec.width, spec.heads, spec.mlp_width, act) for _ in range(spec.layers)
        )
        self.proj = nn.Parameter(torch.empty(spec.width, spec.projection))


def empty_tower(spec: EncoderSpec) -> nn.Module:
    """The tower of these sizes on the meta device."""
    with torch.device("meta"):
        return VisionTransformer(spec)


def provide() -> str:
    """Let the library have a tower in any case; says whose it is."""
    from lib_ipadapter.encode import clip_image as clip

    try:
        import open_clip.transformer  # noqa: F401
    except Exception:  # not installed, or not fit for this torch: either way there is none
        clip._empty_tower = empty_tower
        return "own description of open_clip's tower"
    return f"open_clip {version('open_clip_torch')}"


@dataclass(frozen=True)
class Sizes:
    """What an image encoder's file tells of its sizes by its tensors' shapes."""

    width: int
    layers: int
    mlp_width: int
    patch: int
    image_size: int
    projection: int


VIT_H = Sizes(width=1280, layers=32, mlp_width=5120, patch=14, image_size=224, projection=1024)
SMALL = Sizes(width=128, layers=3, mlp_width=512, patch=14, image_size=42, projection=32)


def state_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """{key: shape} of an image encoder file in transformers' layout."""
    width, inner, outside, inside = sizes.width, sizes.mlp_width, "vision_model.embeddings.", "vision_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{outside}class_embedding": (width,),
        f"{outside}patch_embedding.weight": (width, 3, sizes.patch, sizes.patch),
        f"{outside}position_embedding.weight": ((sizes.image_size // sizes.patch) ** 2 + 1, width),
        "visual_projection.weight": (sizes.projection, width),
    }

    def layer(name: str, *shape: int) -> None:
        shapes[f"{inside}{name}.weight"], shapes[f"{inside}{name}.bias"] = shape, shape[:1]

    layer("pre_layrnorm", width)
    layer("post_layernorm", width)
    for i in range(sizes.layers):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layer(f"encoder.layers.{i}.self_attn.{name}", width, width)
        layer(f"encoder.layers.{i}.layer_norm1", width)
        layer(f"encoder.layers.{i}.layer_norm2", width)
        layer(f"encoder.layers.{i}.mlp.fc1", inner, width)
        layer(f"encoder.layers.{i}.mlp.fc2", width, inner)
    return shapes


def random_state(
    sizes: Sizes, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 11
) -> dict[str, Tensor]:
    """Random weights of an image encoder in transformers' layout, made on ``device``."""
    generator = torch.Generator(device).manual_seed(seed)
    state = {}
    for key, shape in state_shapes(sizes).items():
        weight = torch.empty(shape, device=device, dtype=dtype).normal_(generator=generator)
        weight *= 0.1 if len(shape) == 1 else weight[0].numel() ** -0.5
        state[key] = weight + 1 if "norm" in key and key.endswith("weight") else weight
    return state
