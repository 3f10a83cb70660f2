"""``python -m demo.family.card``: the model card, with the figures that training and measuring have left.

Reads ``weights/training.json`` and the ``quality.json`` of ``make bench-quality``; writes ``README.md`` here and copies
the plots to ``docs/``. Of what was not measured anew (``--only``), the figures stay as they stand in the card.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from demo.family import face_networks, networks, transfer, world
from demo.family.bench import RECIPES, WEIGHTS, WORK

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
SCALES = ("0.0", "0.25", "0.5", "0.75", "1.0")
FILES = {stage: file for file, stage in networks.STAGE.items()}


def _figure(measure: dict) -> str:
    return f"{measure['mean']:.2f} ± {measure['error']:.2f}"


def _share(measure: dict) -> str:
    return f"{100 * measure['mean']:.0f} % ± {100 * measure['error']:.0f}"


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _training(record: dict) -> Iterator[str]:
    rows = []
    for stage, run in record.items():
        plan = run["recipe"]
        rows.append([
            f"`{FILES[stage]}.safetensors`", f"{run['bytes'] / 1e6:.1f} MB", str(plan["steps"]), str(plan["batch"]),
            f"{plan['rate']:g}", f"{run['losses'][0][1]:.3f} → {run['losses'][-1][1]:.3f}",
            f"{run['seconds'] / 60:.0f} min",
        ])  # fmt: skip
    yield from _table(["file", "size", "steps", "batch", "AdamW's rate", "loss", "time"], rows)
    for run in record.values():
        if "note" in run:
            yield ""
            yield run["note"]


def _quality(report: dict) -> dict[str, list[str]]:
    """The lines of each part of ``quality.PARTS`` that was measured; the judge and the prompt are one."""
    parts = {}
    if {"judge", "prompt only"} <= set(report):
        parts["judge"] = [*_judge(report)]
    parts |= {name: [*_adapter(name, report[name])] for name in networks.ADAPTERS if name in report}
    parts |= {
        name: [*told(report[name])]
        for name, told in {"words": _words, "faces": _faces, "likeness": _likeness}.items()
        if name in report
    }
    return parts


HEADS = {
    "judge": "**The judge", "adapter": "**adapter.", "plus": "**plus.", "words": "9. The encoder", "faces": "10. ",
    "likeness": "11. ",
}  # fmt: skip
"""How the first line of each part begins."""
AFTER = "![Similarity"


def written(text: str) -> dict[str, list[str]]:
    """The parts of the figures in a card that is there, as lines."""
    parts: dict[str, list[str]] = {}
    part = ""
    for line in text.split("\n"):
        if line.startswith(AFTER):
            break
        part = next((name for name, head in HEADS.items() if line.startswith(head)), part)
        if part:
            parts.setdefault(part, []).append(line)
    return {name: "\n".join(lines).rstrip().split("\n") for name, lines in parts.items()}


def _judge(report: dict) -> Iterator[str]:
    judge, prompt = report["judge"], report["prompt only"]
    names = ("colour", "shape", "ground", "texture")
    yield "**The judge and the prompt.** Share of pictures that show what the caption says:"
    yield ""
    yield from _table(
        ["", "main object's colour", "its shape", "ground's colour", "texture"],
        [["drawings, through the autoencoder (what the judge can tell)", *(_share(judge[n]) for n in names)],
         ["1. prompt only", *(_share(prompt[n]) for n in names)]],
    )  # fmt: skip


def _adapter(adapter: str, results: dict) -> Iterator[str]:
    alone, both = results["reference only"], results.get("prompt and reference")
    yield f"**{adapter}.** Over the weight:"
    yield ""
    yield from _table(["", *map(float_text, SCALES)], [
        ["2. reference only: similarity", *(_figure(alone[w]["similarity"]) for w in SCALES)],
        ["… main object's colour is the reference's", *(_share(alone[w]["colour"]) for w in SCALES)],
        ["… its shape", *(_share(alone[w]["shape"]) for w in SCALES)],
        ["… the ground's colour", *(_share(alone[w]["ground"]) for w in SCALES)],
        *([
            ["3. with another prompt (“a star”): similarity", *(_figure(both[w]["similarity"]) for w in SCALES)],
            ["… the prompt's shape is there", *(_share(both[w]["prompt"]) for w in SCALES)],
        ] if both else []),
    ])  # fmt: skip
    rows, twin = results.get("rows ignored"), results.get("beside diffusers")
    if rows:
        yield ""
        yield from _table(["4. similarity at weight 1", "rows told apart", "rows ignored", "lost"], [
            [name, *(_figure(row[part]) for part in ("told apart", "ignored", "loss"))]
            for name, row in rows.items()
        ])  # fmt: skip
    if twin:
        yield ""
        yield (
            f"5. Beside diffusers, same weights, noise and steps: similarity {_figure(twin['similarity'])} here, "
            f"{_figure(twin['similarity, diffusers'])} there; pictures {_figure(twin['levels apart'])} levels of "
            "255 apart."
        )
    yield from _transfer(results)


def _transfer(results: dict) -> Iterator[str]:
    """What transfers, and where, as one line for each measurement."""
    for name in transfer.MEASUREMENTS:
        if name in results:
            yield ""
            parts = results[name] if "mean" not in next(iter(results[name].values())) else {"": results[name]}
            told = (
                f"{part}{': ' if part else ''}{', '.join(f'{what} {_figure(value)}' for what, value in values.items())}"
                for part, values in parts.items()
            )
            yield f"{name}: {'; '.join(told)}."


def _words(report: dict) -> Iterator[str]:
    found = report["retrieval"]
    caption, picture = found["caption finds picture"], found["picture finds caption"]
    yield (
        f"9. The encoder's words: a caption finds a picture that it is true of among {caption['n']} in "
        f"{_share(caption)}, a picture its caption in {_share(picture)}. A word taken out of the embeddings of "
        "pictures that it is true of (cosines):"
    )
    yield ""
    names = ("told apart", "the word", "after", "other true words", "their change")
    rows = [[group, *(_figure(part[name]) for name in names)] for group, part in report.items() if group != "retrieval"]
    yield from _table(["", *names], rows)


def _faces(report: dict) -> Iterator[str]:
    weights, strengths = report["weight"], report["lora_strength"]
    drawn, copied = report["another photo"]["drawn"], report["another photo"]["through the autoencoder"]
    n = drawn["own"]["n"]
    yield (
        f"10. **faceid.** A person whom no training has drawn, from one photo, on a ground that the prompt names; {n} "
        "persons. The cosines are those of a recognition trained apart (`witness.safetensors`); “nearest” is the share "
        f"of pictures that are nearer to the own photo than to each of the {n - 1} others'. Another drawn photo of the "
        f"person: nearest {_share(drawn['nearest'])}, own {_figure(drawn['own'])}; that photo through the "
        f"autoencoder, which is what a picture can reach: nearest {_share(copied['nearest'])}, own "
        f"{_figure(copied['own'])}."
    )
    yield ""
    lesser = [strength for strength in strengths if float(strength) < 1]
    columns = [*weights.values(), *(strengths[strength] for strength in lesser)]
    rows = {
        "nearest to the own photo": ("nearest", _share), "cosine with the own photo": ("own", _figure),
        "with the others'": ("others", _figure), "margin": ("margin", _figure),
        "the ground has the prompt's colour": ("ground", _share),
    }  # fmt: skip
    yield from _table(
        ["", *map(float_text, weights), *(f"weight 1, LoRA {float(strength):g}" for strength in lesser)],
        [[name, *(told(column[key]) for column in columns)] for name, (key, told) in rows.items()],
    )


def _span(figure: dict | None, digits: int = 2) -> str:
    """A mean with its interval, of ``demo.family.likeness``."""
    if figure is None:
        return "–"
    mean, *ends = (f"{figure[part]:.{digits}f}" for part in ("mean", "low", "high") if part in figure)
    return f"{mean} ({' to '.join(ends)})" if ends else mean


def _likeness(report: dict) -> Iterator[str]:
    runs = {name: run for name, run in report.items() if isinstance(run, dict)}
    columns = list(dict.fromkeys(column for run in runs.values() for column in run))
    n = report["references"]
    timed = [name for name, run in runs.items() if any("time" in found for found in run.values())]
    yield (
        "11. **Over the API**, with the command that measures in anyone's WebUI: `python -m demo.family.likeness` "
        "serves these files in the miniature WebUI and runs `python -m benchmarks.likeness` against it; "
        f"{n} references alone, two seeds each, {world.SIDE}x{world.SIDE}, DDIM, 25 steps, guidance 5, on "
        f"{report['machine']}; mean and 95 % bootstrap interval over the references. CLIP-I is the cosine of the "
        "embeddings of picture and reference, CLIP-T 2.5 · max(cos, 0) of those of picture and caption. No CLIP model "
        "but the family's own image encoder, with its words, knows this world; the adapters were trained on what it "
        "sees, so it flatters them where the judge above does not."
    ) + (
        " Times are whole requests over plain ones, medians; they are left out where pictures and plain ones are of "
        "different runs."
        if timed
        else ""
    )
    yield ""
    rows = {"CLIP-I": "clip_i", "CLIP-I with the other references": "others", "CLIP-T": "clip_t"}
    table = [
        [name if figure == "clip_i" else "…", told, *(_span(run.get(column, {}).get(figure)) for column in columns)]
        for name, run in runs.items()
        for told, figure in rows.items()
    ]
    table += [
        [name, "time / plain", *(_span(runs[name].get(column, {}).get("time")) for column in columns)] for name in timed
    ]
    heads = ["without" if column == "plain" else float_text(column.split()[-1]) for column in columns]
    yield from _table(["", "", *heads], table)


def float_text(weight: str) -> str:
    return f"weight {float(weight):g}"


def card(record: dict, figures: dict[str, list[str]]) -> str:
    """The card's text; ``figures`` are the lines of each part that was measured."""
    told = [line for part in HEADS if part in figures for line in (*figures[part], "")]
    devices = sorted({run["device"] for run in record.values()})
    minutes = sum(run["seconds"] for run in record.values()) / 60
    size = sum(run["bytes"] for run in record.values()) / 1e6
    recipe = RECIPES["cpu"]
    return "\n".join([
        "# The demo family",
        "",
        "Small models, trained from nothing by the code in this folder, so that anyone sees a reference image steer a "
        "picture without a GPU and without a download, and tests can ask what a picture shows. They know one small "
        "world and nothing else.",
        "",
        "![Pictures that the family makes](../../docs/contact-sheet.png)",
        "",
        "## What it is",
        "",
        f"- **The world** (`world.py`): {world.SIDE}x{world.SIDE} pictures of one or two objects "
        f"({len(world.SHAPES)} shapes, {len(world.COLOURS)} colours, {len(world.SIZES)} sizes) on a ground "
        f"({len(world.COLOURS)} colours, {len(world.TEXTURES)} textures), drawn by a seeded program, with captions "
        f"(“a red circle on blue stripes”). One in {world.HELD_OUT} combinations of attributes is held out of "
        "training; all figures below are on those.",
        "- **A Stable Diffusion 1.5 checkpoint in small**: UNet of SD1.5's topology with 32 model channels (16 "
        "cross-attention layers, context width 768), an AutoencoderKL of factor 8, and a text encoder of CLIP-L's "
        "shape whose weights are random, seeded, frozen, and generated on the spot.",
        "- **An image encoder** in the layout of CLIP's image tower (4 layers, width 128, pooled width 1024), trained "
        "contrastively against the attributes of the pictures, and beside it a text tower (3 layers, width 64) that "
        "knows the world's words.",
        "- **Two IP-Adapters**: base (4 tokens from the pooled embedding) and Plus (16 tokens, a resampler on the "
        "penultimate states), trained in the published way: all else frozen, 5 % without picture, 5 % without text, "
        "5 % without either.",
        f"- **Drawn faces** (`faces.py`): persons who keep colours, styles and proportions from photo to photo, on the "
        f"world's grounds, of which the captions tell (“a face on blue stripes”); held out as above. A recognition "
        f"(`identity.safetensors`: a small convolutional network, {face_networks.FACE} numbers for a photo, trained "
        f"with ArcFace's margin on {recipe.people} persons), a second one that measures, and a **FaceID adapter**: "
        f"{face_networks.TOKENS} tokens and a LoRA of rank {face_networks.RANK} on all attention, without which the "
        "denoiser has never seen a face; trained in the published way, but from another photo of the person than the "
        "one to be made.",
        "",
        "`python -m demo.family.compose MODELS` writes them as ordinary files into a WebUI's `models` folder: the "
        "checkpoint with its `.yaml`, the adapters, the encoder. Adapters and encoder carry the encoder's name in "
        "their metadata, so that no other encoder of the same width is taken for it. Make pictures of 64x64.",
        "",
        "## Training",
        "",
        f"`python -m demo.family.train` (again after a stop: it goes on where it was; needs torch, ldm, safetensors; "
        f"uses a GPU where there is one, with a longer recipe). Seed {recipe.seed}; {recipe.pictures} pictures under "
        f"{recipe.captions} captions for the denoiser, fresh pictures for all else; AdamW, half a cosine, averaged "
        "weights; min-SNR weights (5). These files: "
        f"{minutes / 60:.1f} hours in all on {', '.join(devices)}, {size:.1f} MB in fp16.",
        "",
        *_training(record),
        "",
        "![Loss curves](weights/training.png)",
        "",
        "## Figures",
        "",
        "`make bench-quality`: 64 references that training never drew, fixed seeds, 25 DDIM steps, guidance 5; mean ± "
        "standard error. What a picture shows is told by a classifier that was trained apart (`judge.safetensors`); "
        "similarity is the cosine in the image encoder's space.",
        "",
        *told,
        "![Similarity and adherence over the weight](../../docs/quality.png)",
        "",
        "## Limits",
        "",
        "Shapes, colours and textures of this one world, at 64x64. Nothing here says how good a published adapter is. "
        "The autoencoder blurs small shapes; what it loses, the pictures lack.",
        "",
        "Aimed at were 80 % for the prompt's colours and shapes, and for the reference's main colour. The prompt's "
        "colours reach it. Shapes do not: 6,000 steps on one core teach the denoiser where and in which colour, hardly "
        "which shape, and the image encoder tells shapes little better. The reference's colour does not either; "
        "leaving out the caption more often than published (see the recipes) brought the base adapter from 34 % to "
        "what stands above, Plus was trained as published. The recipe for a GPU has twelve times as many samples "
        "for the denoiser; it has not been run.",
        "",
        "Of a drawn face the pictures keep colours of skin and hair and roughly its outline, seldom the features: the "
        "adapter and its LoRA have seen 41,600 samples, and have taught faces to a denoiser that knew none. The ground "
        "that the prompt names gets lost with the weight.",
        "",
        "Licence: Apache-2.0, for code and weights. No data but the drawn.",
        "",
    ])  # fmt: skip


def main() -> int:
    quality = WORK / "quality"
    if not (quality / "quality.json").exists():
        print(f"{quality / 'quality.json'} is missing: run make bench-quality first", file=sys.stderr)
        return 1
    record = json.loads((WEIGHTS / "training.json").read_text())
    report = json.loads((quality / "quality.json").read_text())
    path = HERE / "README.md"
    figures = written(path.read_text(encoding="utf8")) | _quality(report)
    path.write_text(card(record, figures), encoding="utf8")
    if (quality / "quality.png").exists():
        shutil.copyfile(quality / "quality.png", DOCS / "quality.png")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
