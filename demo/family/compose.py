"""``python -m demo.family.compose MODELS``: the family as ordinary files in a WebUI's models folder.

UNet and autoencoder are shipped in fp16 and put under a checkpoint's keys; the text encoder is generated on the spot.
The checkpoint's .yaml says how narrow the UNet is: the WebUI reads it because it has the checkpoint's name.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from demo.family import networks
from demo.family.bench import WEIGHTS, hash_of

CHECKPOINT = "Stable-diffusion/ip-adapter-demo.safetensors"
COPIES = {
    "adapter": "ipadapter/ip-adapter-demo_sd15.safetensors",
    "plus": "ipadapter/ip-adapter-plus-demo_sd15.safetensors",
    "faceid": "ipadapter/ip-adapter-faceid-demo_sd15.safetensors",
}
ENCODER = "clip_vision/ip-adapter-demo-encoder.safetensors"


def config() -> dict[str, Any]:
    """The checkpoint's configuration: v1-inference.yaml with the family's widths."""
    first, last, steps = networks.SCHEDULE
    return {"model": {"base_learning_rate": 1e-4, "target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": {
        "linear_start": first, "linear_end": last, "num_timesteps_cond": 1, "log_every_t": 200, "timesteps": steps,
        "first_stage_key": "jpg", "cond_stage_key": "txt", "image_size": 8, "channels": 4,
        "cond_stage_trainable": False, "conditioning_key": "crossattn", "monitor": "val/loss_simple_ema",
        "scale_factor": networks.SCALE, "use_ema": False,
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": networks.UNET,
        },
        "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": {
            "embed_dim": 4, "monitor": "val/rec_loss", "ddconfig": networks.AUTOENCODER,
            "lossconfig": {"target": "torch.nn.Identity"},
        }},
        "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"},
    }}}  # fmt: skip


def checkpoint_state(weights: Path = WEIGHTS) -> dict[str, Tensor]:
    """The checkpoint's tensors under the host's keys, fp16."""
    parts = {
        "model.diffusion_model.": networks.load_state(weights, "unet"),
        "first_stage_model.": networks.load_state(weights, "vae"),
        "cond_stage_model.transformer.": networks.text_weights(),
    }
    state = {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}
    positions = torch.arange(networks.LENGTH)[None]
    return state | {"cond_stage_model.transformer.text_model.embeddings.position_ids": positions}


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(str(path), "pt") as file:
        return file.metadata() or {}


def _write(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """The file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, str(path) + ".part", metadata=metadata)
    Path(str(path) + ".part").replace(path)


def encoder_state(weights: Path = WEIGHTS) -> dict[str, Tensor]:
    """The image encoder's tensors, and in transformers' layout of a whole CLIP model its text tower's, fp16.

    A text tower that was trained beside another image encoder is left out: its words would mean nothing here.
    """
    state, words = networks.load_state(weights, "encoder"), weights / "words.safetensors"
    if words.exists() and _metadata(words).get("image_encoder") == networks.encoder_name(state):
        state |= networks.whole_vocabulary(networks.load_state(weights, "words"))
    return state


def compose(models: Path, weights: Path = WEIGHTS) -> list[Path]:
    """Write checkpoint, configuration, adapters and encoder under ``models``; returns the files.

    A file that was made of the same weights is left alone. FileNotFoundError says which stage has not been trained.
    """
    checkpoint = models / CHECKPOINT
    made_of = {name: hash_of(weights / f"{name}.safetensors") for name in ("unet", "vae")}
    metadata = {"title": "IP-Adapter demo family", "licence": "Apache-2.0", "made_of": json.dumps(made_of)}
    present = None
    if checkpoint.exists():
        present = _metadata(checkpoint)
    if present != metadata:
        _write(checkpoint, checkpoint_state(weights), metadata)
    settings = checkpoint.with_suffix(".yaml")
    settings.write_text(json.dumps(config(), indent=2) + "\n", encoding="utf8")  # JSON is YAML
    return [checkpoint, settings, *compose_adapters(models, weights)]


def compose_adapters(models: Path, weights: Path = WEIGHTS) -> list[Path]:
    """Write the adapters and the encoder alone."""
    written = []
    for name, target in COPIES.items():
        _write(models / target, networks.load_state(weights, name), _metadata(weights / f"{name}.safetensors"))
        written.append(models / target)
    _write(models / ENCODER, encoder_state(weights), _metadata(weights / "encoder.safetensors"))
    return [*written, models / ENCODER]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="the WebUI's models folder")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    for path in compose(options.models, options.weights):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
