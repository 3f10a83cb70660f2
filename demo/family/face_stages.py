"""The drawn faces' stages of ``demo.family.train``: recognition, a second one that measures, and a FaceID adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from demo.family import face_networks, faces, networks, world
from demo.family.bench import Bench, Job, Plan, hash_of, kept, noised, parameters

SCALE, MARGIN = 24.0, 0.3
COPIES = 512
"""How many photos the judge sees as the autoencoder gives them back."""
SHOWN = 4
"""How many photos of each person the adapter's recognition has seen: any of them stands for the person."""
UNSAID = 8
PER_SLOT = 96
GROUNDS = [(ground, texture) for ground in range(len(world.COLOURS)) for texture in range(len(world.TEXTURES))]


def identity(bench: Bench, plan: Plan) -> Job:
    """Recognition: the persons of the training, each on a photo never seen before."""
    return _recognition(bench, plan, "identity")


def witness(bench: Bench, plan: Plan) -> Job:
    """A second recognition, narrower, of other persons and other weights, which measures. A quarter of its photos are
    as the autoencoder gives them back, since what it is to judge has gone through it."""
    return _recognition(bench, plan, "witness", COPIES)


@torch.no_grad()
def _copied(bench: Bench, who: faces.People, shown: faces.Photos) -> Tensor:
    """Photos as the autoencoder gives them back."""
    vae, parts = bench.load("vae"), []
    for i in range(0, len(who), 32):
        x = faces.draw(who[i : i + 32].to(bench.device), shown[i : i + 32].to(bench.device)) * 2 - 1
        with bench.autocast("witness"):
            parts.append((vae.decode(vae.encode(x)[0]).float() / 2 + 0.5).clamp(0, 1))
    return torch.cat(parts)


def _recognition(bench: Bench, plan: Plan, stage: str, copies: int = 0) -> Job:
    tower, rng = bench.prepare(networks.MODULES[stage]()), world.generator(bench.recipe.seed, stage, "people")
    people = faces.people(bench.recipe.people, rng)
    centres = torch.randn(len(people), face_networks.FACE, generator=rng).mul(0.05).to(bench.device).requires_grad_()
    known = torch.randint(len(people), (copies,), generator=rng)
    seen = _copied(bench, people[known], faces.photos(people[known], rng)) if copies else None

    def loss(rng: torch.Generator) -> Tensor:
        some = torch.randint(copies, (plan.batch // 4,), generator=rng) if copies else torch.empty(0, dtype=torch.long)
        who = torch.randint(len(people), (plan.batch - len(some),), generator=rng)
        x = faces.draw(people[who].to(bench.device), faces.photos(people[who], rng).to(bench.device))
        if seen is not None:
            x, who = torch.cat([seen[some.to(bench.device)], x]), torch.cat([known[some], who])
        x = (x + 0.03 * torch.randn(x.shape, generator=rng).to(x)).clamp(0, 1)
        return face_networks.arcface(tower(x), centres, who.to(bench.device), SCALE, MARGIN)

    def result(average: dict[str, Tensor]) -> Mapping[str, Tensor]:
        return {name.removeprefix("tower."): value for name, value in average.items() if name.startswith("tower.")}

    return Job({**parameters(tower, "tower."), "centres": centres}, loss, stage, result)


@dataclass
class Album:
    """Photos under captions, as ``bench.noised`` takes them. ``scenes`` is a person's number for each photo, ``seen``
    [persons, SHOWN, 512] what recognition says of other photos of them, normalised."""

    scenes: Tensor
    text: Tensor
    mean: Tensor
    std: Tensor
    seen: Tensor


def _photos(people: faces.People, slots: int, rng: torch.Generator) -> tuple[Tensor, faces.Photos, list[str]]:
    """Persons, photos and captions for the adapter: photo i has caption i % captions. One caption in six leaves the
    ground unsaid."""
    index, shown, captions = [], [], []
    for slot in range(len(GROUNDS) + UNSAID):
        said = GROUNDS[slot] if slot < len(GROUNDS) else None
        free = torch.ones(len(people)) if said is None else (people.kinds[:, :2] != said[0]).all(1).float()
        index.append(torch.multinomial(free, slots, replacement=True, generator=rng))
        photos = faces.photos(people[index[-1]], rng)
        if said is not None:
            ground, texture = (torch.full((slots,), value) for value in said)
            photos = replace(photos, ground=ground, texture=texture)
        shown.append(photos)
        captions.append("a face" if said is None else faces.caption(*said))
    order = torch.arange(len(captions) * slots).view(len(captions), slots).T.flatten()
    return torch.cat(index)[order], faces.Photos.join(shown)[order], captions


def album(bench: Bench) -> Album:
    """The photos for the adapter; what was computed for the same recipe and networks is taken from disk."""
    recipe, rng = bench.recipe, world.generator(bench.recipe.seed, "album")
    people = faces.people(recipe.people, rng)
    who, shown, captions = _photos(people, max(1, recipe.people * PER_SLOT // 4096), rng)

    def text() -> dict:
        encode = networks.TextEncoder(networks.text_weights(layers=recipe.text_layers, vocabulary=False), bench.device)
        return {"text": encode(["", *captions]).half()}

    @torch.no_grad()
    def latents() -> dict:
        vae, means, stds = bench.load("vae"), [], []
        for part in torch.arange(len(who)).split(64):
            x = faces.draw(people[who[part]].to(bench.device), shown[part].to(bench.device))
            mean, std = vae.encode(x * 2 - 1)
            means.append(mean.half())
            stds.append(std.half())
        return {"mean": torch.cat(means), "std": torch.cat(stds)}

    @torch.no_grad()
    def seen() -> Tensor:
        tower, parts = bench.load("identity"), []
        for part in torch.arange(len(people)).repeat_interleave(SHOWN).split(256):
            x = faces.draw(people[part].to(bench.device), faces.photos(people[part], rng).to(bench.device))
            parts.append(F.normalize(tower(x), dim=1))
        return torch.cat(parts).view(len(people), SHOWN, -1)

    key = [recipe.seed, recipe.people]
    told = kept(bench, "face-text", [*key, recipe.text_layers], text)
    made_by = hash_of(bench.weights / "vae.safetensors")
    return Album(who.to(bench.device), **told, **kept(bench, "face-latents", [*key, made_by], latents), seen=seen())


def faceid(bench: Bench, plan: Plan) -> Job:
    """A FaceID adapter as published: its LoRA acts on the whole UNet, all else is frozen; 5 % without face, 5 % without
    text, 5 % without either. Who the person is comes from another photo than the one to be made."""
    model, source, alphas = bench.load("unet"), album(bench), networks.alphas_cumprod(bench.device)
    weights = {name: value.to(bench.device).requires_grad_() for name, value in face_networks.new_faceid(model).items()}
    face_networks.TrainableLora(model, weights)
    injection, call = networks.TrainableInjection(model, weights), bench.call(model)

    def loss(rng: torch.Generator) -> Tensor:
        batch = noised(source, plan, rng, alphas)
        told = (batch.text > 0).repeat_interleave(plan.share)
        dropped = torch.where(told, 0.05 / (1 - plan.untold), 0.05 / plan.untold)
        face = torch.rand(plan.batch, generator=rng).to(bench.device) >= dropped
        photo = torch.randint(SHOWN, (plan.batch,), generator=rng).to(bench.device)
        injection.tokens = networks.image_tokens(
            weights, source.seen[source.scenes[batch.index], photo] * face[:, None]
        )
        return batch.loss(call(batch.x, batch.t, context=source.text[batch.text].float()))

    return Job(weights, loss, "faceid", dict)


STAGES: dict[str, Callable[[Bench, Plan], Job]] = {"identity": identity, "witness": witness, "faceid": faceid}
