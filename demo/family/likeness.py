"""``python -m demo.family.likeness``: the family in the hands of ``benchmarks.likeness``, as people run that in theirs.

Scenes that training never drew are the references and their captions the prompts; the miniature WebUI serves the
family's files, and what is found goes into ``quality.json``, from which ``demo.family.card`` writes the card. The CLIP
model that measures is the family's own image encoder with its words: there is no other that knows this world.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import socket
import sys
from pathlib import Path
from typing import Any

from demo import host_start
from demo.family import compose, quality, world
from demo.family.bench import WORK, hash_of
from demo.make_sheet import as_image

BASE, PLUS = (Path(compose.COPIES[name]).stem for name in ("adapter", "plus"))
SETTINGS = ["--steps", "25", "--size", f"{world.SIDE}x{world.SIDE}", "--guidance", "5", "--seeds", "2"]
"""The family's: all else is as the command has it."""
RUNS = {"adapter": BASE, "plus": PLUS}
"""Each with the reference alone, as the paper measures; what a prompt beside it does is in ``quality.both``."""


def write_references(folder: Path, n: int) -> Path:
    """``n`` references, those of ``quality.reference_only``, and beside them the file of their captions, returned."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes, pictures = quality.references(n)
    lines = []
    for number, (scene, picture) in enumerate(zip(scenes.words(), pictures, strict=True)):
        name = f"scene-{number:02d}.png"
        as_image(picture).save(folder / name)
        lines.append(f"{name}\t{scene.caption}\n")
    captions = folder / "captions.txt"
    captions.write_text("".join(lines), encoding="utf8")
    return captions


def figures(path: Path) -> dict[str, dict[str, Any]]:
    """{"method weight": {figure: {"mean", "low", "high", "n"}}} of a likeness.csv; of one picture no low and high."""
    found: dict[str, dict[str, Any]] = {}
    with path.open(encoding="utf8", newline="") as file:
        for row in csv.DictReader(file):
            numbers = {"mean": row["value"], "low": row["low"], "high": row["high"], "n": row["pictures"]}
            column = found.setdefault(f"{row['method']} {row['weight']}".strip(), {})
            column[row["figure"]] = {name: float(value) for name, value in numbers.items() if value}
    return found


def folder(models: Path, name: str) -> str:
    """Where a run's pictures are kept: elsewhere when a file of the family is another, though its name is the same."""
    files = (compose.CHECKPOINT, compose.ENCODER, compose.COPIES[name])
    return "-".join([name, *(hash_of(models / file)[:8] for file in files)])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=16, help="references")
    parser.add_argument("--out", type=Path, default=WORK / "likeness")
    options = parser.parse_args()
    from benchmarks.likeness.__main__ import main as measure

    data, port = Path(__file__).parents[1] / "data" / "demo", free_port()
    captions = write_references(options.out / "references", options.n)
    compose.compose(data / "models")
    host = host_start(options={"sd_model_checkpoint": "ip-adapter-demo"}, data_dir=data, port=port)
    report: dict[str, Any] = {"references": options.n, "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    for name, adapter in RUNS.items():
        out = options.out / folder(data / "models", name)
        code = measure([
            "--webui", f"http://127.0.0.1:{port}", "--references", str(options.out / "references"), "--prompts",
            str(captions), "--image-alone", "--clip", str(data / "models" / compose.ENCODER), "--adapter", adapter,
            "--out", str(out), *SETTINGS,
        ])  # fmt: skip
        if code:
            return code
        report[name] = figures(out / "likeness.csv")
    path = WORK / "quality" / "quality.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(kept | {"likeness": report}, indent=1))
    host.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
