"""A whole CLIP model, small and random, and a WebUI of a few lines for ``benchmarks.likeness``."""

from __future__ import annotations

import base64
import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

WIDTH, PROJECTION, SIZE = 64, 24, 42


@functools.cache
def clip_model(seed: int = 0) -> CLIPModel:
    """transformers' own, its weights large enough that all count. None may change them."""
    common = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 1, "hidden_act": "gelu"}
    config = CLIPConfig(
        text_config={**common, "num_hidden_layers": 2, "vocab_size": 49408, "projection_dim": PROJECTION},
        vision_config={**common, "num_hidden_layers": 3, "patch_size": 14, "image_size": SIZE},
        projection_dim=PROJECTION,
    )
    model = CLIPModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = p.shape[-1] ** -0.5 if p.ndim > 1 else 0.3
            p.copy_(torch.randn(p.shape, generator=generator) * scale + ("norm" in name and "weight" in name))
    return model


def write_clip(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> Path:
    state = {k: v.contiguous() for k, v in clip_model().state_dict().items() if not k.endswith("position_ids")}
    save_file(change(state), str(path))
    return path


def write_references(folder: Path, n: int = 2, side: int = 64) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((side, side)).save(folder / f"ref-{number}.png")
    return folder


class SmallWebUI:
    """A session as requests has them. Its pictures are noise of prompt and seed, moved towards the reference by the
    weight. ``asked`` are the requests for pictures; ``answers`` replaces what a path answers."""

    def __init__(self, **answers: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answers = answers
        self.controlnet_acts = True
        self.ends_after: int | None = None
        self.urls: list[str] = []
        self.info: dict[str, Any] = {
            "version": "v1.10.1", "sd_model_name": "small", "sd_model_hash": "0123", "sd_vae_name": None,
            "clip_skip": 1,
        }  # fmt: skip

    def request(self, method: str, url: str, **how: Any) -> Any:
        self.urls.append(url)
        path = url.split("//", 1)[1].partition("/")[2].partition("?")[0].rpartition("/")[2].replace("-", "_")
        if path == "txt2img" and self.ends_after is not None and len(self.asked) >= self.ends_after:
            raise KeyboardInterrupt
        said = self.answers.get(path, getattr(self, f"_{path}", None))
        if callable(said):
            said = said(how.get("json"))
        if isinstance(said, Exception):
            raise said
        status, body = (
            said if isinstance(said, tuple) else (404, {"detail": "Not Found"}) if said is None else (200, said)
        )
        return SimpleNamespace(status_code=status, text=body if isinstance(body, str) else json.dumps(body))

    def _options(self, _body: Any) -> Any:
        return {"sd_model_checkpoint": "small.safetensors [0123]"}

    def _sd_models(self, _body: Any) -> Any:
        return [{"title": "small.safetensors [0123]", "model_name": "small", "hash": "0123"}]

    def _models(self, _body: Any) -> Any:
        return {"adapters": [{"name": "base", "variant": "base", "base": "SD1.5", "file": "base.safetensors"}]}

    def _model_list(self, _body: Any) -> Any:
        return {"model_list": ["None", "base [8a7b]"]}

    def _module_list(self, _body: Any) -> Any:
        return {"module_list": ["none", "ip-adapter_clip_sd15"]}

    def _txt2img(self, body: Any) -> Any:
        self.asked.append(body)
        rng = np.random.default_rng([body["seed"], *body["prompt"].encode()])
        pixels = rng.integers(0, 256, (body["height"], body["width"], 3)).astype(float)
        for name, said in body.get("alwayson_scripts", {}).items():
            (unit,) = said["args"]
            image = unit["images"][0] if name == "IP-Adapter" else unit["image"]
            reference = Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB")
            weight = unit["weight"] if name == "IP-Adapter" else unit["weight"] / 2 * self.controlnet_acts
            pixels += weight * (np.asarray(reference.resize((body["width"], body["height"]))) - pixels)
        out = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "PNG")
        return {"images": [base64.b64encode(out.getvalue()).decode()], "info": json.dumps(self.info)}
