"""Narrow UNets of the real topologies, seeded."""

from __future__ import annotations

from torch import nn

from tests.helpers.tensors import randomise


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
