"""Small random files of the published layouts: an adapter that fits the demo's UNets, and an image encoder."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from demo import models

TOKENS, POOLED = 4, 1024


def adapter_state(kind: str = "sd15", seed: int = 7, strength: float = 0.3) -> dict[str, Tensor]:
    """A base IP-Adapter on pooled 1024-d embeddings for ``models.build(kind)``, keys as published."""
    generator = torch.Generator().manual_seed(seed)

    def random(rows: int, columns: int, gain: float = 1.0) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * (gain / math.sqrt(columns))

    width = models.KINDS[kind][1]
    unet = models.build_unet(kind, torch.Generator().manual_seed(0))
    state = {
        "image_proj.proj.weight": random(TOKENS * width, POOLED, gain=3.0),
        "image_proj.proj.bias": random(1, TOKENS * width).flatten(),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    blocks = [unet.input_blocks, unet.output_blocks, unet.middle_block]  # the order in which adapters count
    layers = [m for part in blocks for m in part.modules() if isinstance(m, models.BasicTransformerBlock)]
    for number, layer in enumerate(layers):
        inner = layer.attn2.to_q.out_features
        state[f"ip_adapter.{2 * number + 1}.to_k_ip.weight"] = random(inner, width)
        state[f"ip_adapter.{2 * number + 1}.to_v_ip.weight"] = random(inner, width, gain=strength)
    return state


def encoder_state(seed: int = 9) -> dict[str, Tensor]:
    """A CLIP image encoder of two layers with pooled width 1024, keys as in transformers."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=224,
        patch_size=32,
        projection_dim=POOLED,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = CLIPVisionModelWithProjection(config).state_dict()
    grown = ("patch_embedding.weight", "visual_projection.weight", "fc1.weight", "fc2.weight", "v_proj.weight")
    return {
        key: (value * 8 if key.endswith(grown) else value).contiguous()
        for key, value in state.items()
        if not key.endswith("position_ids")
    }


def write_files(folder: Path) -> str:
    """Put adapter and encoder where the extension looks for them; returns the adapter's name."""
    from safetensors.torch import save_file

    for path, make in (
        (folder / "ipadapter" / "demo-sd15.safetensors", adapter_state),
        (folder / "ipadapter" / "demo-sdxl.safetensors", lambda: adapter_state("sdxl")),
        (folder / "clip_vision" / "demo-vit.safetensors", encoder_state),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            save_file(make(), str(path))
    return "demo-sd15"
