"""Small files of the published kinds, written to a folder: adapters for the narrow UNets, an image encoder; and the
pictures, masks and units that go with them."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.helpers.checkpoint_shapes import faceid, faceid_plus, linear, norm
from tests.helpers.projections import resampler, tensors
from tests.helpers.tensors import draw, kv_weights

WIDTH, PROJECTION = 128, 32  # of the small encoder: penultimate states and pooled embedding


def encoder_state(seed: int = 11, layers: int = 3, patch: int = 14, side: int = 3) -> dict[str, torch.Tensor]:
    """A CLIP image tower in transformers' layout, 42 pixels wide."""
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (WIDTH,),
        "vision_model.embeddings.patch_embedding.weight": (WIDTH, 3, patch, patch),
        "vision_model.embeddings.position_embedding.weight": (side * side + 1, WIDTH),
        **norm("vision_model.pre_layrnorm", WIDTH),
        **norm("vision_model.post_layernorm", WIDTH),
        "visual_projection.weight": (PROJECTION, WIDTH),
    }
    for i in range(layers):
        block = f"vision_model.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{block}.self_attn.{name}", WIDTH, WIDTH)
        shapes |= {
            **norm(f"{block}.layer_norm1", WIDTH),
            **norm(f"{block}.layer_norm2", WIDTH),
            **linear(f"{block}.mlp.fc1", 4 * WIDTH, WIDTH),
            **linear(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH),
        }
    state = tensors(shapes, seed)
    state["vision_model.embeddings.patch_embedding.weight"] *= patch**0.5 / 8
    return state


def image_proj(kind: str, width: int, seed: int) -> dict[str, torch.Tensor]:
    shapes = {
        "base": lambda: {**linear("proj", 4 * width, PROJECTION), **norm("norm", width)},
        "plus": lambda: resampler(64, 2, 16, WIDTH, width),
        "instantid": lambda: resampler(64, 2, 16, 512, width),
        "full-face": lambda: {
            **linear("proj.0", WIDTH, WIDTH), **linear("proj.2", width, WIDTH), **norm("proj.3", width)
        },
        "faceid": lambda: faceid(width, 16),
        "faceid-lora": lambda: faceid(width, 4),
        "faceid-plus": lambda: faceid_plus(width, WIDTH),
    }[kind]()  # fmt: skip
    return tensors(shapes, seed)


def write_adapter(path: Path, unet, kind: str = "base", seed: int = 5) -> Path:
    """An adapter of ``kind`` for ``unet``, flat safetensors."""
    key, value = kv_weights(unet, seed)
    flat = {f"image_proj.{k}": v for k, v in image_proj(kind, key[0].shape[1], seed).items()}
    for i, (k, v) in enumerate(zip(key, value, strict=True)):
        flat[f"ip_adapter.{2 * i + 1}.to_k_ip.weight"] = k
        flat[f"ip_adapter.{2 * i + 1}.to_v_ip.weight"] = v
    if kind in ("faceid-lora", "faceid-plus"):
        flat |= lora(key, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(flat, path)
    return path


def lora(key: list[torch.Tensor], seed: int, rank: int = 4) -> dict[str, torch.Tensor]:
    """The LoRA of a FaceID file whose pairs have these keys [C, D]."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (width, context) in enumerate(one.shape for one in key):
        for number, source in ((2 * i, width), (2 * i + 1, context)):
            for name, columns in (("q", width), ("k", source), ("v", source), ("out", width)):
                shapes[f"ip_adapter.{number}.to_{name}_lora.down.weight"] = (rank, columns)
                shapes[f"ip_adapter.{number}.to_{name}_lora.up.weight"] = (width, rank)
    return tensors(shapes, seed)


def write_encoder(path: Path, seed: int = 11) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(encoder_state(seed), path)
    return path


def picture(seed: int = 0, size: tuple[int, int] = (60, 48)) -> Image.Image:
    """A picture of soft coloured noise."""
    noise = draw(3, 6, 6, seed=seed).sigmoid().mul(255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(noise)).resize(size, Image.BICUBIC)


def half(side: str, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """A mask: white on that side."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]) if side == "left" else (size[0] // 2, 0, *size))
    return mask


def corner(size: tuple[int, int] = (64, 64)) -> Image.Image:
    """A mask: white in the upper left quarter."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1] // 2))
    return mask


def base64_of(image: Image.Image, kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def unit(model: str = "base", seeds: tuple[int, ...] = (0,), **settings) -> dict:
    """A unit as a client sends it, with one reference for each seed."""
    return {"model": model, "images": [base64_of(picture(seed)) for seed in seeds], **settings}
