"""Train the family: ``python -m demo.family.train``. One command, stage after stage; run it again to go on.

Every stage writes one fp16 file to ``--weights`` when it is done, and later stages train on these files, so that the
adapters know exactly the checkpoint that is shipped. A running stage keeps its whole state in ``--work``. All that is
random in a step is drawn from (seed, stage, step), so a resumed run equals one that was never stopped, bit for bit
where the device's kernels are deterministic (the CPU's are). Exit status 3 means: out of time, run it again.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.family import face_stages, networks, world
from demo.family.bench import (
    RECIPES,
    WEIGHTS,
    WORK,
    Bench,
    Job,
    Plan,
    Pool,
    hash_of,
    kept,
    noised,
    parameters,
    write,
)  # fmt: skip

# --- stages ---------------------------------------------------------------------------------------------------------


def autoencoder(bench: Bench, plan: Plan) -> Job:
    """Pictures to latents and back: absolute error of pixels and of edges, and a light pull towards N(0, 1).

    Objects are a twentieth of a picture, and what it is about: their pixels count five times.
    """
    model = bench.prepare(networks.Autoencoder())

    def loss(rng: torch.Generator) -> Tensor:
        scenes = world.scenes(plan.batch, rng)
        x = bench.pictures(scenes) * 2 - 1
        objects = (x != bench.pictures(scenes.without_objects()) * 2 - 1).any(1, keepdim=True)
        mean, std = model.encode(x)
        noise = torch.randn(mean.shape, generator=rng).to(bench.device)
        y = model.decode(mean + std * noise).float()
        wrong, weight = y - x, 1 + 4 * objects
        edges = sum((torch.diff(wrong, dim=d).abs() * weight.narrow(d, 1, world.SIDE - 1)).mean() for d in (2, 3))
        kl = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).mean()
        return (wrong.abs() * weight).mean() + 0.5 * edges + bench.recipe.kl * kl

    def result(average: dict[str, Tensor]) -> Mapping[str, Tensor]:
        model.load_state_dict(average)
        rng = world.generator(bench.recipe.seed, "latents")
        means = [model.encode(bench.pictures(world.scenes(plan.batch, rng)) * 2 - 1)[0] for _ in range(16)]
        z = torch.cat(means).transpose(0, 1).flatten(1)
        model.standardise(z.mean(1), z.std(1))
        return model.state_dict()

    return Job(parameters(model), loss, "vae", result)


def encoder(bench: Bench, plan: Plan) -> Job:
    """The image tower, contrastively: each picture must find its own attributes among the batch's, and vice versa."""
    tower = bench.prepare(networks.VisionTower(**networks.VISION))
    head = nn.Sequential(nn.Linear(world.ATTRIBUTES, 512), nn.GELU(), nn.Linear(512, networks.POOLED)).to(bench.device)
    scale = nn.Parameter(torch.tensor(math.log(1 / 0.07), device=bench.device))

    def loss(rng: torch.Generator) -> Tensor:
        scenes = world.scenes(plan.batch, rng).to(bench.device)
        image = F.normalize(tower(networks.to_pixels(world.draw(scenes)))[0].float(), dim=1)
        truth = F.normalize(head(world.attributes(scenes)).float(), dim=1)
        logits = scale.exp().clamp(max=100) * image @ truth.T
        target = torch.arange(len(logits), device=bench.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def result(average: dict[str, Tensor]) -> Mapping[str, Tensor]:
        return {name.removeprefix("tower."): value for name, value in average.items() if name.startswith("tower.")}

    return Job({**parameters(tower, "tower."), **parameters(head, "head."), "scale": scale}, loss, "encoder", result)


COPIES = 1024
"""How many pictures the judge sees as the autoencoder gives them back, which costs more than all else about a step."""


def judge(bench: Bench, plan: Plan) -> Job:
    """The classifier that measures: on drawn pictures and on the autoencoder's copies of some."""
    model, vae = bench.prepare(networks.Judge()), bench.load("vae")
    known = world.scenes(COPIES, world.generator(bench.recipe.seed, "copies"))

    @torch.no_grad()
    def copy(scenes: world.Scenes) -> Tensor:
        return (vae.decode(vae.encode(bench.pictures(scenes) * 2 - 1)[0]).float() / 2 + 0.5).clamp(0, 1)

    copies = torch.cat([copy(known[i : i + plan.batch]) for i in range(0, COPIES, plan.batch)])

    def loss(rng: torch.Generator) -> Tensor:
        some = torch.randint(COPIES, (max(1, plan.batch // 4),), generator=rng)
        drawn = world.scenes(plan.batch - len(some), rng)
        scenes = world.Scenes.join([known[some], drawn]).to(bench.device)
        x = torch.cat([copies[some.to(bench.device)], bench.pictures(drawn)])
        x = (x + 0.03 * torch.randn(x.shape, generator=rng).to(x)).clamp(0, 1)
        answers = model(x)
        return sum(F.cross_entropy(answers[name].flatten(0, 1), getattr(scenes, name).flatten()) for name in answers)

    return Job(parameters(model), loss, "judge", dict)


def pool(bench: Bench) -> Pool:
    """The training scenes; what was computed for the same recipe and autoencoder is taken from disk."""
    recipe, rng = bench.recipe, world.generator(bench.recipe.seed, "pool")
    prototypes = world.scenes(recipe.captions, rng)
    captions = ["", *(world.vary_caption(scene, rng) for scene in prototypes.words())]
    scenes = world.move(prototypes[torch.arange(recipe.pictures) % recipe.captions], rng)
    size = 256 if bench.gpu else 16

    def text() -> dict:
        encode = networks.TextEncoder(networks.text_weights(layers=recipe.text_layers, vocabulary=False), bench.device)
        states = torch.empty(len(captions), networks.LENGTH, networks.CONTEXT, dtype=torch.float16, device=bench.device)
        for i in range(0, len(captions), size):
            states[i : i + size] = encode(captions[i : i + size]).half()
        return {"text": states}

    @torch.no_grad()
    def latents() -> dict:
        vae = bench.load("vae")
        parts = (scenes[i : i + 4 * size] for i in range(0, len(scenes), 4 * size))
        means, stds = zip(*(vae.encode(bench.pictures(part) * 2 - 1) for part in parts), strict=True)
        return {"mean": torch.cat(means).half(), "std": torch.cat(stds).half()}

    told = kept(bench, "text", [recipe.seed, recipe.captions, recipe.text_layers], text)
    made_by = hash_of(bench.weights / "vae.safetensors")
    return Pool(
        scenes, **told, **kept(bench, "latents", [recipe.seed, recipe.captions, recipe.pictures, made_by], latents)
    )


def unet(bench: Bench, plan: Plan) -> Job:
    """The denoiser: predicts the noise, told the caption (in one of ten cases, nothing)."""
    model, source, alphas = bench.prepare(networks.build_unet()), pool(bench), networks.alphas_cumprod(bench.device)
    call = bench.call(model)

    def loss(rng: torch.Generator) -> Tensor:
        batch = noised(source, plan, rng, alphas)
        return batch.loss(call(batch.x, batch.t, context=source.text[batch.text].float()))

    return Job(parameters(model), loss, "unet", dict)


def adapter(bench: Bench, plan: Plan, file: str = "adapter") -> Job:
    """An IP-Adapter as published: all else frozen; 5 % without picture, 5 % without either, and 5 % without text.

    A plan may leave out the text more often: the captions of this world say nearly all that a picture shows, so an
    adapter that hears them learns slowly what only a picture tells.
    """
    kind = networks.ADAPTERS[file]
    model, tower, source = bench.load("unet"), bench.load("encoder"), pool(bench)
    scenes, alphas = source.scenes.to(bench.device), networks.alphas_cumprod(bench.device)
    weights = {
        name: value.to(bench.device).requires_grad_()
        for name, value in networks.new_adapter(kind, model, networks.VISION["width"]).items()
    }
    injection, call = networks.TrainableInjection(model, weights), bench.call(model)

    def embed(index: Tensor, shown: Tensor) -> Tensor:
        with torch.no_grad():
            pixels = networks.to_pixels(world.draw(scenes[index]))
            if kind == "base":
                return tower(pixels)[0].float() * shown[:, None]
            return tower(pixels * shown[:, None, None, None])[1].float()

    def loss(rng: torch.Generator) -> Tensor:
        batch = noised(source, plan, rng, alphas)
        told = (batch.text > 0).repeat_interleave(plan.share)
        dropped = torch.where(told, 0.05 / (1 - plan.untold), 0.05 / plan.untold)  # 5 % of all with text, 5 % without
        shown = torch.rand(plan.batch, generator=rng).to(bench.device) >= dropped
        injection.tokens = networks.image_tokens(weights, embed(batch.index, shown))
        return batch.loss(call(batch.x, batch.t, context=source.text[batch.text].float()))

    return Job(weights, loss, file, lambda average: networks.packed(average, tower.state_dict()))


def words(bench: Bench, plan: Plan) -> Job:
    """The text tower beside the frozen image tower: captions, and parts of them.

    Each text must tell of which pictures of the batch it is true, true and false weighing the same, by the cosine's
    sign: arXiv 2303.15343 without its offset, and with logits so small that the loss is nearly linear. A word's
    embedding then points from the mean of pictures without it to the mean of those with it, which is what is taken out
    when words are subtracted. Captions must also find their picture among the others.
    """
    tower = bench.prepare(networks.WordTower(**networks.WORDS))
    scenes = world.scenes(min(bench.recipe.pictures, SHOWN), world.generator(bench.recipe.seed, "words", "pictures"))
    seen, told = _embedded(bench, scenes), scenes.words()

    def loss(rng: torch.Generator) -> Tensor:
        index = torch.randint(len(scenes), (plan.batch,), generator=rng)
        captions = plan.batch // 2
        texts = [
            world.vary_caption(told[scene], rng) if i < captions else world.part(told[scene], rng)
            for i, scene in enumerate(index.tolist())
        ]
        true = world.Meaning.of(texts).true_of(scenes[index]).float().to(bench.device)
        embedded = F.normalize(tower(texts).float(), dim=1)
        cosines = embedded @ seen[index.to(bench.device)].T
        share = true.mean(1, keepdim=True)
        weight = torch.where(true > 0, 1 / share, 1 / (1 - share).clamp(min=1 / plan.batch))
        judged = F.binary_cross_entropy_with_logits(GENTLE * cosines, true, weight)
        targets = (true / true.sum(1, keepdim=True))[:captions]
        found = F.cross_entropy(tower.logit_scale.exp().clamp(max=100) * cosines[:captions], targets)
        return judged + 0.1 * found

    return Job(parameters(tower), loss, "words", dict)


GENTLE = 5.0
SHOWN = 16384
"""Pictures that words are learnt from: what is learnt is a direction in the image tower's space for each."""


@torch.no_grad()
def _embedded(bench: Bench, scenes: world.Scenes) -> Tensor:
    """The image tower's pooled embeddings of these scenes, normalised, [scenes, 1024]."""
    tower = bench.load("encoder")
    with bench.autocast("encoder"):
        parts = (bench.pictures(scenes[i : i + 128]) for i in range(0, len(scenes), 128))
        return F.normalize(torch.cat([tower(networks.to_pixels(part))[0].float() for part in parts]), dim=1)


STAGES: dict[str, Callable[[Bench, Plan], Job]] = {
    "autoencoder": autoencoder, "encoder": encoder, "judge": judge, "unet": unet, "adapter": adapter,
    "plus": lambda bench, plan: adapter(bench, plan, "plus"), "words": words, **face_stages.STAGES,
}  # fmt: skip


# --- the loop -------------------------------------------------------------------------------------------------------


def rate_at(step: int, plan: Plan) -> float:
    """A short rise, then half a cosine down to a twentieth."""
    rise = max(1, min(200, plan.steps // 20))
    return plan.rate * min(1.0, (step + 1) / rise) * (0.525 + 0.475 * math.cos(math.pi * step / plan.steps))


class Training:
    """One stage from its first step, or from where it stopped, to its file."""

    def __init__(self, bench: Bench, stage: str) -> None:
        self.bench, self.stage, self.plan = bench, stage, bench.recipe.stages[stage]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(world.generator(bench.recipe.seed, stage).initial_seed())
            self.job = STAGES[stage](bench, self.plan)
        self.trained = list(self.job.parameters.values())
        self.optimiser = torch.optim.AdamW(self.trained, lr=self.plan.rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.average = [parameter.detach().clone() for parameter in self.trained]
        self.step, self.seconds, self.losses = 0, 0.0, []
        self.running = torch.zeros((), device=bench.device)
        self._resume()

    @property
    def path(self) -> Path:
        return self.bench.work / f"{self.stage}.pt"

    def _named(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.job.parameters, tensors, strict=True))

    def _resume(self) -> None:
        if self.path.exists():
            saved = torch.load(self.path, map_location=self.bench.device)
            if saved["recipe"] != self.bench.recipe.key(self.stage):
                raise SystemExit(f"{self.path} was made by another recipe: remove it, or train with that one.")
            with torch.no_grad():
                for name, parameter in self.job.parameters.items():
                    parameter.copy_(saved["parameters"][name])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.average = [saved["average"][name] for name in self.job.parameters]
            self.step, self.seconds, self.losses = saved["step"], saved["seconds"], saved["losses"]
            self.running = saved["running"]
        elif (self.bench.work / f"{self.stage}.warm.safetensors").exists():
            state = networks.load_state(self.bench.work, f"{self.stage}.warm")
            progress = json.loads((self.bench.work / f"{self.stage}.warm.json").read_text())
            with torch.no_grad():
                for name, parameter, average in zip(self.job.parameters, self.trained, self.average, strict=True):
                    parameter.copy_(state[name])
                    average.copy_(state[name])
            self.step, self.losses, self.seconds = progress["step"], progress["losses"], progress["seconds"]
            print(f"{self.stage}: from half-precision averages at step {self.step}; not the unbroken run", flush=True)

    def save(self) -> None:
        write(self.path, {
            "recipe": self.bench.recipe.key(self.stage), "parameters": self._named([p.detach() for p in self.trained]),
            "average": self._named(self.average), "optimiser": self.optimiser.state_dict(), "step": self.step,
            "seconds": self.seconds, "losses": self.losses, "running": self.running,
        })  # fmt: skip
        # The averages alone, in fp16: an eighth of that, for a machine that takes little along.
        networks.save(self.bench.work, f"{self.stage}.warm", self._named(self.average))
        progress = {"step": self.step, "losses": self.losses, "seconds": self.seconds}
        (self.bench.work / f"{self.stage}.warm.json").write_text(json.dumps(progress))

    def take_step(self) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.step, self.plan)
        rng = world.generator(self.bench.recipe.seed, self.stage, self.step)
        with torch.enable_grad(), self.bench.autocast(self.stage):
            loss = self.job.loss(rng)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        with torch.no_grad():
            decay = min(self.bench.recipe.ema, self.step / (self.step + 9))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.trained], 1 - decay)
            self.running += loss.detach().float()
        every = max(1, self.plan.steps // 300)
        if self.step % every == 0:
            self.losses.append([self.step, self.running.item() / every])
            self.running.zero_()

    def run(self, stop: Callable[[], bool] = lambda: False, save_every: float = 120.0) -> bool:
        """Train until done (True) or until ``stop`` says so (False); the state is saved either way."""
        began, saved, first = time.monotonic(), time.monotonic(), self.step
        while self.step < self.plan.steps:
            if stop():
                self.save()
                print(f"{self.stage}: stopped at step {self.step} of {self.plan.steps}", flush=True)
                return False
            before = time.monotonic()
            self.take_step()
            now = time.monotonic()
            self.seconds += now - before
            if self.step - first in (10, 100) or self.step % 1000 == 0:
                pace = (now - began) / (self.step - first)
                left = (self.plan.steps - self.step) * pace / 60
                loss = f"{self.losses[-1][1]:.4f}" if self.losses else "…"
                print(f"{self.stage}: step {self.step}/{self.plan.steps}, loss {loss}, {pace:.3f} s/step, "
                      f"{left:.1f} min left", flush=True)  # fmt: skip
            if now - saved > save_every:
                self.save()
                saved = now
        self.finish()
        return True

    def _image_encoder(self, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """What tells the family's encoder, and what was trained with it, apart from others of their widths."""
        if self.stage == "encoder":
            return {"image_encoder": networks.encoder_name(tensors)}
        if self.stage == "identity":
            return {"image_encoder": networks.encoder_name(tensors, "faces")}
        if self.stage == "faceid":
            return {
                "image_encoder": networks.encoder_name(networks.load_state(self.bench.weights, "identity"), "faces")
            }
        if self.stage in (*networks.ADAPTERS, "words"):
            return {"image_encoder": networks.encoder_name(networks.load_state(self.bench.weights, "encoder"))}
        return {}

    def finish(self) -> None:
        facts = {"licence": "Apache-2.0", "stage": self.stage, "seed": self.bench.recipe.seed, **asdict(self.plan)}
        with torch.no_grad():
            tensors = self.job.result(self._named(self.average))
        facts |= self._image_encoder(tensors)
        path = networks.save(self.bench.weights, self.job.file, tensors, {k: str(v) for k, v in facts.items()})
        curves = self.bench.weights / "training.json"
        record = json.loads(curves.read_text()) if curves.exists() else {}
        device = torch.cuda.get_device_name() if self.bench.gpu else f"CPU, {torch.get_num_threads()} threads"
        record[self.stage] = {
            "recipe": self.bench.recipe.key(self.stage), "seconds": round(self.seconds, 1), "device": device,
            "torch": torch.__version__, "bytes": path.stat().st_size, "losses": self.losses,
        }  # fmt: skip
        curves.write_text(json.dumps(record))
        for leftover in self.bench.work.glob(f"{self.stage}.*"):
            leftover.unlink()
        print(f"{self.stage}: done in {self.seconds:.0f} s, {path} {path.stat().st_size / 1e6:.1f} MB", flush=True)


def plot(record: Mapping[str, dict], path: Path) -> None:
    """The loss curves as a picture."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("matplotlib is not installed: no picture of the losses", file=sys.stderr)
        return
    figure = Figure(figsize=(18, 6), layout="constrained")
    for axes, (stage, run) in zip(figure.subplots(2, 5).flat, record.items(), strict=False):
        steps, losses = zip(*run["losses"], strict=True)
        axes.plot(steps, losses, linewidth=0.8)
        axes.set(title=f"{stage} ({run['seconds'] / 60:.1f} min)", xlabel="step", ylabel="loss", yscale="log")
    figure.savefig(path, dpi=100)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default="all", help=f"all, or some of {','.join(STAGES)}")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after that long, saving the state")
    parser.add_argument("--recipe", choices=RECIPES, help="default: gpu where there is one, else cpu")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where finished files go")
    parser.add_argument("--work", type=Path, default=WORK, help="where the running state is kept")
    parser.add_argument("--device", help="default: cuda where there is one")
    parser.add_argument("--compile", action="store_true", help="torch.compile the UNet")
    parser.add_argument("--again", action="store_true", help="train stages whose file is there already")
    options = parser.parse_args(arguments)
    began, interrupted = time.monotonic(), []
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: interrupted.append(True))
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    recipe = RECIPES[options.recipe or ("gpu" if device.type == "cuda" else "cpu")]
    torch.set_float32_matmul_precision("high")
    bench = Bench(recipe, options.weights, options.work, device, options.compile)
    for stage in STAGES if options.stage == "all" else options.stage.split(","):
        file = next(name for name, made_by in networks.STAGE.items() if made_by == stage)
        if (options.weights / f"{file}.safetensors").exists() and not options.again:
            print(f"{stage}: {file}.safetensors is there", flush=True)
            continue
        if not Training(bench, stage).run(lambda: bool(interrupted) or time.monotonic() - began > 60 * options.minutes):
            return 3
    if (curves := options.weights / "training.json").exists():
        plot(json.loads(curves.read_text()), options.weights / "training.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
