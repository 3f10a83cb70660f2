"""``python -m demo.family.quality``: does a reference steer the picture, as numbers with their spread.

Everything is measured on scenes that training never drew, with fixed seeds, through the project's own injection
(``lib_ipadapter.attend``). What is to be seen in a picture is told by ``networks.Judge``, a classifier trained apart
from the image encoder; similarity is the cosine in the encoder's space, "CLIP-I" in the literature.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.family import networks, world
from demo.family.bench import WEIGHTS, WORK
from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.rows import layout
from lib_ipadapter.encode.clip_text import subtract

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latents, times, text) -> noise, for rows [cond of all pictures, uncond of all pictures]."""


@dataclass(frozen=True)
class Measure:
    """A mean over pictures with its standard error and the pictures' own deviation."""

    mean: float
    error: float
    deviation: float
    n: int

    @classmethod
    def of(cls, values: Tensor) -> Measure:
        values = values.double().flatten().cpu()
        deviation = values.std().item() if len(values) > 1 else 0.0
        return cls(values.mean().item(), deviation / math.sqrt(len(values)), deviation, len(values))

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"


class Family:
    """The trained family, ready to sample; ``adapter`` is "adapter" (base) or "plus"."""

    def __init__(self, weights: Path = WEIGHTS, device: torch.device | str = "cpu", *, text_layers: int = 12) -> None:
        self.device = torch.device(device)
        self.unet, self.vae, self.encoder, self.judge = (
            networks.load(weights, name, device) for name in ("unet", "vae", "encoder", "judge")
        )
        self.words = networks.load(weights, "words", device) if (weights / "words.safetensors").exists() else None
        self.adapters = {
            name: {key: value.float().to(device) for key, value in networks.load_state(weights, name).items()}
            for name in networks.ADAPTERS
        }
        self.layers = cross_attention_layers(self.unet)
        self._encode = networks.TextEncoder(networks.text_weights(layers=text_layers, vocabulary=False), device)
        self._told: dict[str, Tensor] = {}
        self.alphas = networks.alphas_cumprod(device)

    def text(self, captions: Sequence[str]) -> Tensor:
        """Text states [B, 77, 768]; each caption is encoded once."""
        if new := sorted({caption for caption in captions if caption not in self._told}):
            self._told.update(zip(new, self._encode(new), strict=True))
        return torch.stack([self._told[caption] for caption in captions])

    @torch.no_grad()
    def embed(self, adapter: str, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """What an adapter is fed with for pictures in 0…1, and what for the unconditional side."""
        pixels = networks.to_pixels(pictures)
        pooled, penultimate = self.encoder(pixels)
        if networks.ADAPTERS[adapter] == "base":
            return pooled, torch.zeros_like(pooled)
        return penultimate, self.encoder(torch.zeros_like(pixels))[1]

    def prompt(self, adapter: str, pictures: Tensor, weight: float, *, rows_ignored: bool = False) -> ImagePrompt:
        """The image prompt of one reference for each picture. ``rows_ignored``: the unconditional side gets the
        reference too, the mistake of implementations that do not tell the rows apart."""
        cond, uncond = self.embed(adapter, pictures)
        return self.prompt_of(adapter, cond, cond if rows_ignored else uncond, weight=weight)

    def prompt_of(self, adapter: str, cond: Tensor, uncond: Tensor, **settings: Any) -> ImagePrompt:
        """The image prompt of embeddings, one of each side for each picture; ``settings`` are ``ImagePrompt``'s."""
        state = self.adapters[adapter]
        cond, uncond = (networks.image_tokens(state, side) for side in (cond, uncond))
        key, value = (
            [state[f"ip_adapter.{2 * i + 1}.to_{part}_ip.weight"] for i in range(len(self.layers))] for part in "kv"
        )
        return ImagePrompt(KeysValues.project(key, value, cond, uncond), **settings)

    def similarity(self, one: Tensor, other: Tensor) -> Tensor:
        """Cosine of pooled embeddings, [B]."""
        with torch.no_grad():
            return F.cosine_similarity(*(self.encoder(networks.to_pixels(x))[0] for x in (one, other)), dim=1)

    @torch.no_grad()
    def denoise(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return self.unet(x, t, context=text)

    @torch.no_grad()
    def sample(
        self, captions: Sequence[str], *prompts: ImagePrompt, seed: int = 0, steps: int = 25, guidance: float = 5.0,
        denoise: Denoise | None = None,
    ) -> Tensor:  # fmt: skip
        """Pictures [B, 3, 64, 64] in 0…1 by DDIM (arXiv 2010.02502) with classifier-free guidance.

        ``denoise`` replaces the UNet (diffusers' twin); the ``prompts`` are then its business.
        """
        n = len(captions)
        x = torch.randn(n, 4, 8, 8, generator=world.generator("sample", seed)).to(self.device)
        text = self.text([*captions, ""])
        text = torch.cat([text[:-1], text[-1:].expand(n, -1, -1)])
        times = torch.linspace(999, 0, steps + 1).round().long()[:-1].to(self.device)
        injection = Injection(self.unet, self.layers, prompts)
        with injection:
            for i, t in enumerate(times):
                injection.begin(layout([1] * n, 2 * n), i, steps)
                noise, free = (denoise or self.denoise)(torch.cat([x, x]), t.expand(2 * n), text).chunk(2)
                noise = free + guidance * (noise - free)
                a = self.alphas[t]
                b = self.alphas[times[i + 1]] if i + 1 < steps else torch.ones_like(a)
                clean = (x - (1 - a).sqrt() * noise) / a.sqrt()
                x = b.sqrt() * clean + (1 - b).sqrt() * noise
        return (self.vae.decode(x / networks.SCALE) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def matches(self, pictures: Tensor, scenes: world.Scenes) -> dict[str, Tensor]:
        """For each attribute whether the picture shows it, [B] bool: "colour" and "shape" are the main (left)
        object's, "objects" all objects' colours and shapes, "ground" and "texture" the ground's."""
        seen = {name: logits.argmax(-1) for name, logits in self.judge(pictures).items()}
        right = {name: seen[name] == getattr(scenes, name).to(self.device).view_as(seen[name]) for name in seen}
        return {
            "colour": right["colour"][:, 0], "shape": right["shape"][:, 0],
            "objects": right["colour"].all(1) & right["shape"].all(1),
            "ground": right["ground"][:, 0], "texture": right["texture"][:, 0],
        }  # fmt: skip


def references(n: int = 64) -> tuple[world.Scenes, Tensor]:
    """The held-out scenes that everything is measured on, and their pictures (CPU)."""
    scenes = world.scenes(n, world.generator("references"), held_out=True)
    return scenes, world.draw(scenes)


def _summary(matches: dict[str, Tensor]) -> dict[str, Measure]:
    return {name: Measure.of(values) for name, values in matches.items()}


def judge_alone(family: Family, n: int = 512) -> dict[str, Measure]:
    """How far the judge is to be trusted: its hits on held-out drawings after a trip through the autoencoder."""
    scenes, pictures = references(n)
    with torch.no_grad():
        mean, _ = family.vae.encode(pictures.to(family.device) * 2 - 1)
        return _summary(family.matches((family.vae.decode(mean) / 2 + 0.5).clamp(0, 1), scenes))


def prompt_only(family: Family, n: int = 64) -> dict[str, Measure]:
    """1. The prompt alone: does the picture show what the caption says?"""
    scenes, _ = references(n)
    return _summary(family.matches(family.sample([scene.caption for scene in scenes.words()]), scenes))


def reference_only(family: Family, adapter: str, n: int = 64) -> dict[str, dict]:
    """2. The reference alone, over the weight: similarity to it, and whether its main object and ground return."""
    scenes, pictures = references(n)
    pictures = pictures.to(family.device)
    report = {}
    for weight in SCALES:
        made = family.sample([""] * n, family.prompt(adapter, pictures, weight))
        report[str(weight)] = {
            "similarity": Measure.of(family.similarity(made, pictures)), **_summary(family.matches(made, scenes)),
        }  # fmt: skip
    return report


def both(family: Family, adapter: str, n: int = 64) -> dict[str, dict]:
    """3. Prompt and reference, which disagree: the prompt names an object, the reference shows other things."""
    shown, pictures = references(n)
    asked = world.scenes(n, world.generator("asked"), held_out=True, things=1)
    captions = [f"a {scene.things[0].shape}" for scene in asked.words()]
    pictures = pictures.to(family.device)
    report = {}
    for weight in SCALES:
        made = family.sample(captions, family.prompt(adapter, pictures, weight))
        report[str(weight)] = {
            "similarity": Measure.of(family.similarity(made, pictures)),
            "prompt": Measure.of(family.matches(made, asked)["shape"]),
            "ground": Measure.of(family.matches(made, shown)["ground"]),
            "colour": Measure.of(family.matches(made, shown)["colour"]),
        }
    return report


def rows_ignored(family: Family, adapter: str, n: int = 64) -> dict[str, dict]:
    """4. The same with the unconditional rows given the reference too; the differences are taken picture by picture."""
    scenes, pictures = references(n)
    pictures = pictures.to(family.device)
    report = {}
    for name, captions in (("reference only", [""] * n), ("with caption", [s.caption for s in scenes.words()])):
        prompts = (family.prompt(adapter, pictures, 1.0, rows_ignored=ignored) for ignored in (False, True))
        right, wrong = (family.similarity(family.sample(captions, prompt), pictures) for prompt in prompts)
        measures = (Measure.of(right), Measure.of(wrong), Measure.of(right - wrong))
        report[name] = dict(zip(("told apart", "ignored", "loss"), measures, strict=True))
    return report


def diffusers_twin(family: Family) -> nn.Module:
    """The same UNet in diffusers, as an independent answer."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    channels = networks.UNET["model_channels"]
    down, up = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
    twin = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=2, norm_num_groups=32,
        cross_attention_dim=networks.CONTEXT, attention_head_dim=networks.UNET["num_heads"],
        block_out_channels=tuple(channels * factor for factor in networks.UNET["channel_mult"]),
        down_block_types=(down, down, down, "DownBlock2D"), up_block_types=("UpBlock2D", up, up, up),
    )  # fmt: skip
    options = {**twin.config, "layers_per_block": 2, "class_embed_type": None, "addition_embed_type": None}
    prefixed = {f"model.diffusion_model.{name}": value for name, value in family.unet.state_dict().items()}
    converted = convert_ldm_unet_checkpoint(prefixed, options)
    twin.load_state_dict({name: value.clone() for name, value in converted.items()})
    return twin.to(family.device).eval().requires_grad_(False)


def beside_diffusers(family: Family, adapter: str, n: int = 16) -> dict[str, Measure]:
    """5. The same references, noise and steps through diffusers' own IP-Adapter: similarity, and levels of 255."""
    _, pictures = references(n)
    pictures = pictures.to(family.device)
    twin, state = diffusers_twin(family), family.adapters[adapter]
    halves = {"image_proj": "image_proj.", "ip_adapter": "ip_adapter."}
    nested = {
        half: {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        for half, prefix in halves.items()
    }
    twin._load_ip_adapter_weights([nested])
    embeds = [torch.cat(family.embed(adapter, pictures))[:, None]]
    for processor in twin.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [1.0]

    def denoise(x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return twin(x, t, encoder_hidden_states=text, added_cond_kwargs={"image_embeds": embeds}).sample

    ours = family.sample([""] * n, family.prompt(adapter, pictures, 1.0))
    theirs = family.sample([""] * n, denoise=denoise)
    return {
        "similarity": Measure.of(family.similarity(ours, pictures)),
        "similarity, diffusers": Measure.of(family.similarity(theirs, pictures)),
        "levels apart": Measure.of((ours - theirs).abs().mean((1, 2, 3)) * 255),
    }


WORDS = {
    "shapes": world.SHAPES, "colours": tuple(world.COLOURS), "textures": tuple(world.TEXTURES),
    "sizes": tuple(filter(None, world.SIZES)),
}  # fmt: skip


@torch.no_grad()
def words_subtracted(family: Family, n: int = 1024) -> dict[str, dict[str, Measure]]:
    """9. The encoder's words. How often a caption finds a picture that it is true of among all ``n``, and a picture a
    caption; then, word by word, what taking it out of the embeddings of pictures that it is true of does: to their
    cosine with the word, and with all other single words that are true of them. "told apart" says what the word is
    worth: the share of pairs, one picture with it and one without, in which the former is nearer to it."""
    scenes = world.scenes(n, world.generator("words subtracted"), held_out=True)
    pictures = world.draw(scenes).to(family.device)
    pooled = torch.cat([family.encoder(networks.to_pixels(part))[0] for part in pictures.split(128)]).cpu().float()
    captions, single = [scene.caption for scene in scenes.words()], [word for group in WORDS.values() for word in group]
    told, text = (family.words(texts).cpu().float() for texts in (captions, single))
    fits, near = world.Meaning.of(captions).true_of(scenes), F.normalize(told, dim=1) @ F.normalize(pooled, dim=1).T
    rows = torch.arange(n)
    report = {"retrieval": {
        "caption finds picture": Measure.of(fits[rows, near.argmax(1)]),
        "picture finds caption": Measure.of(fits[near.argmax(0), rows]),
    }}  # fmt: skip
    true, unit = world.Meaning.of(single).true_of(scenes), F.normalize(text, dim=1)
    cosines = unit @ F.normalize(pooled, dim=1).T
    found: dict[str, list[Tensor]] = {}
    for i, word in enumerate(single):
        shown = true[i]
        after = unit @ F.normalize(subtract(pooled[shown], text[i : i + 1]), dim=1).T
        others = true[:, shown] & (torch.arange(len(single)) != i)[:, None]
        before, change = cosines[:, shown], after - cosines[:, shown]
        apart = (cosines[i, shown][:, None] > cosines[i, ~shown]).double().mean()
        found[word] = [before[i], after[i], before[others], change[others].abs(), apart[None]]
    names = ("the word", "after", "other true words", "their change", "told apart")
    for group, words in {"red": ("red",), **WORDS}.items():
        parts = zip(*(found[word] for word in words), strict=True)
        report[group] = {name: Measure.of(torch.cat(part)) for name, part in zip(names, parts, strict=True)}
    return report


def plot(report: dict[str, dict], path: Path) -> None:
    """Similarity and adherence over the weight, and one against the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for adapter, results in report.items():
        for run in ("reference only", "prompt and reference"):
            points = [results[run][str(weight)] for weight in SCALES]
            means, errors = ([getattr(p["similarity"], part) for p in points] for part in ("mean", "error"))
            left.errorbar(SCALES, means, errors, capsize=3, label=f"{adapter}, {run}")
        right.plot(
            [p["similarity"].mean for p in points], [p["prompt"].mean for p in points], marker="o", label=adapter
        )
        for weight, p in zip(SCALES, points, strict=True):
            right.annotate(f"{weight}", (p["similarity"].mean, p["prompt"].mean))
    left.set(xlabel="weight", ylabel="similarity to the reference")
    right.set(xlabel="similarity to the reference", ylabel="share that shows the prompt's shape")
    for axes in (left, right):
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


PARTS = ("judge", "prompt only", *networks.ADAPTERS, "words", "faces")


def _adapter(family: Family, weights: Path, adapter: str, n: int) -> dict[str, Callable[[], dict]]:
    """The measurements of one adapter."""
    from demo.family import transfer  # it is made of what stands here

    return {
        "reference only": functools.partial(reference_only, family, adapter, n),
        "prompt and reference": functools.partial(both, family, adapter, n),
        "rows ignored": functools.partial(rows_ignored, family, adapter, n),
        "beside diffusers": functools.partial(beside_diffusers, family, adapter, n),
        **dict(transfer.measurements(family, weights, adapter)),
    }


def measure(family: Family, weights: Path, n: int = 64, parts: Sequence[str] = PARTS) -> dict[str, dict]:
    """These of PARTS, those of adapters for both, each printed as it comes."""
    from demo.family import face_quality  # it is made of what stands here

    report: dict[str, dict] = {}

    def add(into: dict, name: str, measured: Callable[[], dict]) -> None:
        began = time.monotonic()
        try:
            into[name] = measured()
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            return
        print("\n".join(lines({name: into[name]})), f"  ({time.monotonic() - began:.0f} s)", sep="\n", flush=True)

    alone: dict[str, Callable[[], dict]] = {
        "judge": lambda: judge_alone(family),
        "prompt only": lambda: prompt_only(family, n),
        "words": lambda: words_subtracted(family),
        "faces": lambda: face_quality.identity(family, weights, n),
    }
    for part in parts:
        if part in alone:
            add(report, part, alone[part])
            continue
        print(f"— {part} —", flush=True)
        report[part] = {}
        for name, measured in _adapter(family, weights, part, n).items():
            add(report[part], name, measured)
    return report


def lines(report: dict, indent: str = "") -> list[str]:
    """The report for reading."""
    if all(isinstance(value, Measure) for value in report.values()):
        return [indent + ", ".join(f"{name} {value}" for name, value in report.items())]
    return [line for name, part in report.items() for line in (f"{indent}{name}:", *lines(part, indent + "  "))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--out", type=Path, default=WORK / "quality")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-n", type=int, default=64, help="references")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}; what was measured of the "
                        "others before stays in the report")  # fmt: skip
    options = parser.parse_args()
    parts = options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: give some of {', '.join(PARTS)}")
    measured = measure(Family(options.weights, options.device), options.weights, options.n, parts)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "quality.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(report | measured, default=vars, indent=1))
    if set(networks.ADAPTERS) <= set(measured):
        try:
            plot({adapter: measured[adapter] for adapter in networks.ADAPTERS}, options.out / "quality.png")
        except ImportError:
            print("matplotlib is not installed: no plot", file=sys.stderr)
    return 0


if __name__ == "__main__":
    from demo.family import quality  # the module that the others import: this one has a Measure of its own

    sys.exit(quality.main())
