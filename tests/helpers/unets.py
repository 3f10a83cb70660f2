"""What several test files need: narrow UNets of the real topologies, and adapters of any shape, all seeded."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from lib_ipadapter.attend.layers import cross_attention_layers

torch.set_num_threads(1)  # the tests' tensors are small: threads would only wait for each other


@pytest.fixture(scope="session", autouse=True)
def own_data(tmp_path_factory) -> None:
    """The miniature host keeps its data for this run alone: tests that run side by side from one checkout would find
    each other's presets and kept generations."""
    os.environ.setdefault("DEMO_HOST_DATA", str(tmp_path_factory.mktemp("data")))


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Seeded weights everywhere, also where a fresh UNet has zeros, so that every layer matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        if parameter.ndim < 2:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
            if name.endswith("weight"):
                parameter.data += 1.0
        else:
            fan_in = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
    return module


def sd_unet(context_width: int = 768, *, in_channels: int = 4, heads: int = 8, linear: bool = False) -> nn.Module:
    """A UNet of SD1.5's (SD2.x's with ``linear``) topology, 32 channels wide instead of 320."""
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = UNetModel(
        image_size=16, in_channels=in_channels, out_channels=4, model_channels=32, attention_resolutions=[4, 2, 1],
        num_res_blocks=2, channel_mult=[1, 2, 4, 4], num_heads=heads, use_spatial_transformer=True,
        transformer_depth=1, context_dim=context_width, use_checkpoint=False, legacy=False,
        use_linear_in_transformer=linear,
    )  # fmt: skip
    return randomise(unet, 1).eval().requires_grad_(False)


def deepen(unet: nn.Module, depth: int, seed: int = 3) -> None:
    """Give every transformer of the UNet ``depth`` blocks instead of one."""
    from ldm.modules.attention import BasicTransformerBlock, SpatialTransformer

    class DeepTransformer(SpatialTransformer):
        def forward(self, x, context=None):  # the package's own wants one context for each block
            return super().forward(x, [context] * len(self.transformer_blocks))

    for module in unet.modules():
        if isinstance(module, SpatialTransformer):
            first = module.transformer_blocks[0]
            width, heads = first.attn2.to_q.out_features, first.attn2.heads
            module.transformer_blocks = nn.ModuleList(
                BasicTransformerBlock(width, heads, width // heads, context_dim=first.attn2.to_k.in_features)
                for _ in range(depth if width > 64 else 2)
            )
            module.__class__ = DeepTransformer
    randomise(unet, seed).eval().requires_grad_(False)


def sdxl_unet() -> nn.Module:
    """A UNet of SDXL's topology: 70 cross-attention layers, context 2048, three levels, none at the first."""
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = UNetModel(
        image_size=16, in_channels=4, out_channels=4, model_channels=32, attention_resolutions=[4, 2],
        num_res_blocks=2, channel_mult=[1, 2, 4], num_heads=4, use_spatial_transformer=True, transformer_depth=1,
        context_dim=2048, use_checkpoint=False, legacy=False, use_linear_in_transformer=True,
    )  # fmt: skip
    deepen(unet, 10)
    return unet


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


@pytest.fixture(scope="session")
def unet() -> nn.Module:
    return sd_unet()


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield
