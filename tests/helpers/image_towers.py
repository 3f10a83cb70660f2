"""Image towers of transformers, small and random, and what our spec of them is."""

import functools

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from lib_ipadapter.checkpoint.specs import EncoderSpec


def make_spec(width=64, layers=3, heads=2, mlp_width=None, patch=14, image_size=42, projection=24, quick_gelu=False):
    return EncoderSpec(
        kind="ViT (small)",
        layout="transformers",
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=mlp_width or 4 * width,
        patch=patch,
        image_size=image_size,
        projection=projection,
        quick_gelu=quick_gelu,
        parameters=0,
    )


SPECS = {
    "two heads of 32": make_spec(),
    "heads of 80, as in ViT-H": make_spec(width=160, heads=2),
    "heads of 104, odd mlp, as in bigG": make_spec(width=208, heads=2, mlp_width=1024, projection=40),
    "three heads": make_spec(width=96, heads=3, mlp_width=200),
    "quick_gelu": make_spec(quick_gelu=True),
    "patch 16, 5 layers": make_spec(patch=16, image_size=64, layers=5, quick_gelu=True),
    "one layer": make_spec(layers=1),
    "mlp width that rounds down": make_spec(width=88, heads=1, mlp_width=185),
}


@functools.cache
def reference(spec, seed=0):
    """transformers' model of these sizes, its weights larger than the usual initialisation so that all count.

    Shared between tests: none may change its weights.
    """
    config = CLIPVisionConfig(
        hidden_size=spec.width,
        intermediate_size=spec.mlp_width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        patch_size=spec.patch,
        image_size=spec.image_size,
        projection_dim=spec.projection,
        hidden_act="quick_gelu" if spec.quick_gelu else "gelu",
    )
    model = CLIPVisionModelWithProjection(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = p.shape[-1] ** -0.5 if p.ndim > 1 else 0.3
            p.copy_(torch.randn(p.shape, generator=generator) * scale + ("norm" in name and "weight" in name))
    return model
