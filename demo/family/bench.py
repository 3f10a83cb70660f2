"""What the stages of training share: recipes, the bench with its files, and pictures as latents with noise in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from demo.family import networks, world

WEIGHTS = Path(__file__).parent / "weights"
WORK = Path(__file__).parents[1] / "data" / "family"


@dataclass(frozen=True)
class Plan:
    """One stage: how long, how many at once, AdamW's highest learning rate, how many pictures share a caption, and the
    share of captions that are left empty."""

    steps: int
    batch: int
    rate: float
    share: int = 1
    untold: float = 0.1


@dataclass(frozen=True)
class Recipe:
    """``captions`` are encoded once and kept (118 KB each), ``pictures`` are drawn and encoded to latents once.
    ``people`` are the persons that recognition is trained on, and as many whose photos the adapter is trained on."""

    stages: dict[str, Plan]
    captions: int
    pictures: int
    seed: int = 1
    text_layers: int = 12
    kl: float = 2e-5
    ema: float = 0.999
    people: int = 4096

    def key(self, stage: str) -> dict:
        """What a stage's result depends on, to be compared on resuming."""
        common = {k: v for k, v in asdict(self).items() if k != "stages"}
        plan = {k: v for k, v in asdict(self.stages[stage]).items() if (k, v) != ("untold", Plan.untold)}
        return json.loads(json.dumps(common | plan))


RECIPES = {
    "gpu": Recipe(  # meant for 20 minutes on one H100
        {
            "autoencoder": Plan(4000, 96, 1e-3), "encoder": Plan(3000, 1024, 1e-3), "judge": Plan(1500, 256, 2e-3),
            "unet": Plan(9000, 512, 6e-4, 4), "adapter": Plan(2000, 512, 5e-4, 4), "plus": Plan(2000, 512, 5e-4, 4),
            "words": Plan(2400, 512, 2e-3), "identity": Plan(4000, 512, 2e-3), "witness": Plan(4000, 512, 2e-3),
            "faceid": Plan(6000, 512, 1e-3, 4),
        },
        captions=49152, pictures=524288, people=32768,
    ),
    "cpu": Recipe(
        {
            "autoencoder": Plan(6000, 8, 1e-3), "encoder": Plan(2500, 128, 1e-3), "judge": Plan(2000, 64, 2e-3),
            "unet": Plan(6000, 64, 8e-4, 4), "adapter": Plan(3400, 48, 8e-4, 4, 0.6), "plus": Plan(1800, 48, 6e-4, 4),
            "words": Plan(1200, 256, 2e-3), "identity": Plan(1000, 64, 2e-3), "witness": Plan(400, 64, 2e-3),
            "faceid": Plan(1300, 32, 1.5e-3, 4),
        },
        captions=4096, pictures=24576, ema=0.998,
    ),
    "smoke": Recipe(  # a few minutes on one core: every stage runs and learns something
        {
            "autoencoder": Plan(60, 8, 2e-3), "encoder": Plan(60, 64, 1e-3), "judge": Plan(60, 32, 2e-3),
            "unet": Plan(60, 16, 1e-3, 2), "adapter": Plan(20, 16, 1e-3, 2), "plus": Plan(20, 16, 1e-3, 2),
            "words": Plan(60, 64, 2e-3), "identity": Plan(60, 32, 2e-3), "witness": Plan(60, 32, 2e-3),
            "faceid": Plan(20, 16, 1e-3, 2),
        },
        captions=24, pictures=192, ema=0.9, people=64,
    ),
}  # fmt: skip


@dataclass
class Bench:
    """What the stages share: where files are, on what they compute, and the recipe."""

    recipe: Recipe
    weights: Path = WEIGHTS
    work: Path = WORK
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    compiled: bool = False

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    def autocast(self, stage: str) -> contextlib.AbstractContextManager:
        """bf16 where it is faster: everywhere on a GPU; on a CPU for all but the denoiser's many small products."""
        half = self.gpu or stage in ("autoencoder", "encoder", "judge")
        return torch.autocast(self.device.type, torch.bfloat16) if half else contextlib.nullcontext()

    def pictures(self, scenes: world.Scenes) -> Tensor:
        return world.draw(scenes.to(self.device))

    def load(self, name: str) -> nn.Module:
        return self.prepare(networks.load(self.weights, name, self.device))

    def prepare(self, module: nn.Module) -> nn.Module:
        return module.to(self.device, memory_format=torch.channels_last) if self.gpu else module

    def call(self, module: nn.Module) -> Callable[..., Tensor]:
        return torch.compile(module) if self.compiled else module


@dataclass
class Job:
    """A stage made ready: what is trained, the loss of a step, and the file that comes of it."""

    parameters: dict[str, Tensor]
    loss: Callable[[torch.Generator], Tensor]
    file: str
    result: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]  # from averaged parameters to the file's tensors


def parameters(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: parameter for name, parameter in module.named_parameters()}


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else ""


def write(path: Path, content: object) -> None:
    """torch.save, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, str(path) + ".part")
    os.replace(str(path) + ".part", path)


@dataclass
class Pool:
    """Scenes with what is costly about them computed once: latents (mean and deviation) and text states, in fp16."""

    scenes: world.Scenes
    text: Tensor  # [1 + captions, 77, 768]; the first is the empty prompt; scene i has caption 1 + i % captions
    mean: Tensor
    std: Tensor


def kept(bench: Bench, name: str, key: list, make: Callable[[], dict]) -> dict:
    """What ``make`` makes, kept on disk for the same ``key``; not on GPU machines, where making it takes seconds."""
    path, began = bench.work / f"{name}.pt", time.monotonic()
    if path.exists() and not bench.gpu:
        saved = torch.load(str(path), map_location="cpu", mmap=True)
        if saved["key"] == key:
            return saved["content"]
    content = make()
    print(f"{name}: made in {time.monotonic() - began:.0f} s", flush=True)
    if not bench.gpu:
        write(path, {"key": key, "content": content})
    return content


@dataclass
class Noised:
    """A batch for the denoiser: pool indices, noised latents, the noise in them, when, and how much each counts."""

    index: Tensor
    x: Tensor
    noise: Tensor
    t: Tensor
    weight: Tensor
    text: Tensor
    """[batch / share]: rows of the pool's text, the empty one for captions that are dropped."""

    def loss(self, predicted: Tensor) -> Tensor:
        return (self.weight[:, None, None, None] * (predicted.float() - self.noise) ** 2).mean()


TOO_EASY = 5.0
"""Signal-to-noise ratio above which a sample counts less, its error in the picture being small: arXiv 2303.09556."""


def noised(source: Pool, plan: Plan, rng: torch.Generator, alphas: Tensor) -> Noised:
    """``plan.batch`` latents in runs of ``plan.share`` that have one caption; some captions are empty."""
    captions, groups = len(source.text) - 1, plan.batch // plan.share
    caption = torch.randint(captions, (groups,), generator=rng)
    variant = torch.randint(len(source.scenes) // captions, (groups, plan.share), generator=rng)
    told = torch.rand(groups, generator=rng) >= plan.untold
    index, t = (caption[:, None] + captions * variant).flatten(), torch.randint(1000, (plan.batch,), generator=rng)
    noise, jitter = torch.randn(2, plan.batch, *source.mean.shape[1:], generator=rng).to(alphas.device)
    index, t, text = (tensor.to(alphas.device) for tensor in (index, t, (caption + 1) * told))
    z = (source.mean[index] + source.std[index] * jitter) * networks.SCALE
    a = alphas[t]
    ratio, a = a / (1 - a), a[:, None, None, None]
    return Noised(index, a.sqrt() * z + (1 - a).sqrt() * noise, noise, t, (TOO_EASY / ratio).clamp(max=1), text)
