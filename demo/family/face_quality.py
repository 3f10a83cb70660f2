"""Does a drawn face come back: the figures of the FaceID adapter, part of ``demo.family.quality``.

Measured on persons that no training has drawn. Who a picture shows is told by ``witness``, a recognition trained apart
from the one that the adapter is fed by, on other persons. Its cosine says little by itself, so each picture is asked
whose photo it is nearest to: its own person's or one of all others'.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from demo.family import faces, networks, world
from demo.family.bench import WEIGHTS
from demo.family.quality import SCALES, Family, Measure
from lib_ipadapter.attend.lora import Lora

STRENGTHS = (0.0, 0.5, 1.0)
FACEID = "faceid"


class Faces:
    """The drawn faces' networks beside a family, ready to sample."""

    def __init__(self, family: Family, weights: Path = WEIGHTS) -> None:
        self.family = family
        self.identity, self.witness = (networks.load(weights, name, family.device) for name in ("identity", "witness"))
        state = networks.load_state(weights, FACEID)
        family.adapters[FACEID] = {name: value.float().to(family.device) for name, value in state.items()}

    @torch.no_grad()
    def recognise(self, pictures: Tensor) -> Tensor:
        """Pictures in 0…1 [B, 3, 64, 64] -> embeddings [B, 512], of any length: what an embeddings file holds."""
        return self.identity(pictures.to(self.family.device)).float()

    @torch.no_grad()
    def sample(
        self, captions: Sequence[str], embeddings: Tensor, weight: float = 1.0, lora_strength: float = 1.0,
        **settings: Any,
    ) -> Tensor:  # fmt: skip
        """A picture for each caption and embedding; ``settings`` are ``Family.sample``'s."""
        faces = F.normalize(embeddings.to(self.family.device), dim=1)
        state = self.family.adapters[FACEID]
        tensors = {name.removeprefix("ip_adapter."): value for name, value in state.items() if "_lora." in name}
        prompt = self.family.prompt_of(
            FACEID, faces, torch.zeros_like(faces), weight=weight, lora=Lora(FACEID, tensors, lora_strength)
        )
        return self.family.sample(captions, prompt, **settings)

    @torch.no_grad()
    def likeness(self, pictures: Tensor, photos: Tensor) -> Tensor:
        """The witness's cosine of every picture with every photo, [pictures, photos]."""
        one, other = (F.normalize(self.witness(x.to(self.family.device)).float(), dim=1) for x in (pictures, photos))
        return (one @ other.T).cpu()


def references(n: int = 64) -> tuple[Tensor, Tensor, faces.Photos]:
    """Photos of ``n`` persons that no training has drawn, other photos of them, and what these show (CPU)."""
    rng = world.generator("faces")
    who = faces.people(n, rng, held_out=True)
    first, second = (faces.photos(who, rng) for _ in range(2))
    return faces.draw(who, first), faces.draw(who, second), second


def summary(likeness: Tensor) -> dict[str, Measure]:
    """Cosines [N, N] of pictures with photos: with the own, with all others, and how often the own is the nearest."""
    n = len(likeness)
    own, others = likeness.diag(), likeness[~torch.eye(n, dtype=torch.bool)].view(n, n - 1)
    return {
        "own": Measure.of(own), "others": Measure.of(others.mean(1)), "margin": Measure.of(own - others.mean(1)),
        "nearest": Measure.of(own > others.amax(1)),
    }  # fmt: skip


def identity(family: Family, weights: Path = WEIGHTS, n: int = 64, steps: int = 25) -> dict[str, dict[str, dict]]:
    """10. A person on a ground that the prompt names, from one photo: over the weight with the whole LoRA, and over
    the LoRA's strength with the whole weight. "ground" is the share of pictures whose ground has the prompt's colour.
    """
    measured = Faces(family, weights)
    photos, others, shown = references(n)
    with torch.no_grad():
        means = [family.vae.encode(part.to(family.device) * 2 - 1)[0] for part in others.split(16)]
        copies = torch.cat([(family.vae.decode(mean) / 2 + 0.5).clamp(0, 1) for mean in means])
    report: dict[str, dict[str, dict]] = {
        "another photo": {"drawn": summary(measured.likeness(others, photos)),
                          "through the autoencoder": summary(measured.likeness(copies, photos))},
    }  # fmt: skip

    def made(weight: float, strength: float) -> dict[str, Measure]:
        pictures = measured.sample(shown.captions(), measured.recognise(photos), weight, strength, steps=steps)
        ground = family.judge(pictures)["ground"][:, 0].argmax(-1).cpu() == shown.ground
        return summary(measured.likeness(pictures, photos)) | {"ground": Measure.of(ground)}

    report["weight"] = {str(weight): made(weight, 1.0) for weight in SCALES}
    report["lora_strength"] = {str(strength): made(1.0, strength) for strength in STRENGTHS[:-1]}
    report["lora_strength"][str(STRENGTHS[-1])] = report["weight"][str(SCALES[-1])]
    return report
