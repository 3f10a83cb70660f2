"""The UNets of SD1.5 and SDXL of the library's own plain blocks, named as in the published checkpoints.

Key names are ldm's (``input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight``), so a state dict of ldm's own UNet
loads and gives the same output. Attention is torch's ``scaled_dot_product_attention``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_ipadapter.attend.blocks import (
    BasicTransformerBlock,
    Downsample,
    ResBlock,
    SpatialTransformer,
    Stage,
    perceptron,
    time_embedding,
)


@dataclass(frozen=True)
class Sizes:
    """What tells one UNet from another. ``depths``: transformer blocks behind each ResBlock, by level."""

    channels: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    depths: tuple[int, ...] = (1, 1, 1, 0)
    middle_depth: int = 1
    context: int = 768
    heads: int | None = 8  # None: as many as are 64 channels wide
    linear: bool = False  # whether transformers begin and end with linear layers (else 1 x 1 convolutions)
    vector: int | None = None  # width of SDXL's extra conditioning, added to the time's embedding
    res_blocks: int = 2
    latent: int = 64  # side of the latent that the UNet was trained on

    def narrow(self) -> Sizes:
        """The same topology with a tenth of the channels, for a latent of 16 x 16."""
        return replace(self, channels=32, heads=self.heads and 4, vector=self.vector and 64, latent=16)

    def shallow(self) -> Sizes:
        """A tenth of the channels and fewer layers, for a latent of 8 x 8: as quick as a UNet of this form can be."""
        depths = tuple(min(depth, 2) for depth in self.depths)
        return replace(self.narrow(), depths=depths, middle_depth=min(self.middle_depth, 2), res_blocks=1, latent=8)


SD15 = Sizes()
SDXL = Sizes(
    multipliers=(1, 2, 4), depths=(0, 2, 10), middle_depth=10, context=2048, heads=None, linear=True, vector=2816,
    latent=128,
)  # fmt: skip


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class UNet(nn.Module):
    """A latent-diffusion UNet, called as the host calls its own."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        width, time = sizes.channels, 4 * sizes.channels
        self.time_embed = perceptron(width, time)
        if sizes.vector is not None:
            self.label_emb = nn.Sequential(perceptron(sizes.vector, time))

        def transformers(width: int, depth: int) -> list[nn.Module]:
            heads = sizes.heads or width // 64
            made = SpatialTransformer(width, depth, sizes.context, heads, linear=sizes.linear) if depth else None
            return [] if made is None else [made]

        levels = list(zip(sizes.multipliers, sizes.depths, strict=True))
        down, skips = [Stage(nn.Conv2d(4, width, 3, padding=1))], [width]
        for level, (multiplier, depth) in enumerate(levels):
            for _ in range(sizes.res_blocks):
                out = multiplier * sizes.channels
                down.append(Stage(ResBlock(width, out, time), *transformers(out, depth)))
                width = out
                skips.append(width)
            if level + 1 < len(levels):
                down.append(Stage(Downsample(width)))
                skips.append(width)
        middle = Stage(
            ResBlock(width, width, time), *transformers(width, sizes.middle_depth), ResBlock(width, width, time)
        )
        up = []
        for level, (multiplier, depth) in reversed(list(enumerate(levels))):
            for i in range(sizes.res_blocks + 1):
                out = multiplier * sizes.channels
                modules: list[nn.Module] = [ResBlock(width + skips.pop(), out, time), *transformers(out, depth)]
                width = out
                if level and i == sizes.res_blocks:
                    modules.append(Upsample(width))
                up.append(Stage(*modules))
        self.input_blocks, self.middle_block, self.output_blocks = nn.ModuleList(down), middle, nn.ModuleList(up)
        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, 4, 3, padding=1))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor | None = None) -> Tensor:
        """[B, 4, H, W] latents, [B] steps, [B, T, context] texts and, for SDXL, [B, vector]; [B, 4, H, W]."""
        emb = self.time_embed(time_embedding(timesteps, self.sizes.channels).to(x.dtype))
        if y is not None:
            emb = emb + self.label_emb(y)
        skips = []
        for stage in self.input_blocks:
            x = stage(x, emb, context)
            skips.append(x)
        x = self.middle_block(x, emb, context)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), emb, context)
        return self.out(x)


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Seeded weights for every parameter, on the device where it is; none is zero, so every layer matters.

    Scaled by what a weight takes in, so that hidden states stay near 1 from first layer to last, as trained ones do.
    """
    generators: dict[torch.device, torch.Generator] = {}
    for _, parameter in sorted(module.named_parameters()):
        if parameter.device not in generators:
            generators[parameter.device] = torch.Generator(parameter.device).manual_seed(seed)
        draw = parameter.data.normal_(generator=generators[parameter.device])
        draw.mul_(0.1 if parameter.ndim < 2 else parameter[0].numel() ** -0.5)
    for part in module.modules():
        if isinstance(part, (nn.GroupNorm, nn.LayerNorm)):
            part.weight.data.add_(1.0)
    return module


def build_sharing(sizes: Sizes, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 1) -> UNet:
    """Like ``build``, but transformer blocks of the same sizes have their weights in common: SDXL in 1.9 GB instead of
    10 of fp32. Each is computed all the same, and no cache holds one until the next."""
    with torch.device("meta"):
        unet = UNet(sizes).to(dtype)
    first: dict[tuple[torch.Size, ...], nn.Module] = {}
    for block in [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]:
        same = first.setdefault(tuple(p.shape for p in block.parameters()), block)
        if same is block:
            block.to_empty(device=device)
        for name, parameter in list(same.named_parameters()):
            owner, _, leaf = name.rpartition(".")
            block.get_submodule(owner).register_parameter(leaf, parameter)
    for module in unet.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                module.register_parameter(name, nn.Parameter(torch.empty_like(parameter, device=device)))
    randomise(unet, seed)
    return unet.eval().requires_grad_(False)


def twin(unet: UNet, dtype: torch.dtype) -> UNet:
    """A UNet of its own with the same weights in ``dtype``; never more than both are on the device."""
    with torch.device("meta"):
        other = UNet(unet.sizes).to(dtype)
    other.to_empty(device=next(unet.parameters()).device).load_state_dict(unet.state_dict())
    return other.eval().requires_grad_(False)


def build(sizes: Sizes, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 1) -> UNet:
    """A UNet of these sizes with random weights, made on ``device``; drawn in ``dtype``."""
    with torch.device("meta"):
        unet = UNet(sizes).to(dtype)
    randomise(unet.to_empty(device=device), seed)
    return unet.eval().requires_grad_(False)
