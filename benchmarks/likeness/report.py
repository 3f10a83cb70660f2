"""The table for people, and the same figures for programs."""

from __future__ import annotations

import csv
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from datetime import date
from pathlib import Path

from lib_ipadapter import __version__

from .figures import Against, Figure, Row, Score
from .made import Settings
from .plan import PLAIN, Plan

FEW = 10
"""References below which an interval says little."""


def table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| | weight | CLIP-I | … over plain | CLIP-T | … over plain | CLIP-I with the other references "
        "| time / plain | pictures |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        weight = "" if row.weight is None else f"{row.weight:g}"
        lines.append(_line(
            "without" if row.method == PLAIN else row.method, weight, row.clip_i.told(), row.over_clip_i.told("+"),
            row.clip_t.told(), row.over_clip_t.told("+"), row.others.told(), row.time.told(digits=2),
            str(row.clip_i.n),
        ))  # fmt: skip
    return lines


def against_table(found: Sequence[Against], one: str, other: str) -> list[str]:
    lines = [f"| weight | CLIP-I, {one} less {other} | CLIP-T | time, {one} / {other} |", "|---|---|---|---|"]
    lines += [
        _line(f"{row.weight:g}", row.clip_i.told("+"), row.clip_t.told("+"), row.time.told(digits=2)) for row in found
    ]
    return lines


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def document(
    plan: Plan, settings: Settings, rows: Sequence[Row], compared: Sequence[Against], *, clip: str, version: str,
    image_alone: bool, shortened: int, wordless: Sequence[str] = (), command: str = "",
) -> str:  # fmt: skip
    """The Markdown text: what was measured, on what, and the tables."""
    names = {scene.reference.name for scene in plan.scenes}
    adapter, drawn = settings.adapter, "references" if len(names) > 1 else "pictures"
    beside = f"; ControlNet's {' with '.join(settings.controlnet)}" if settings.controlnet else ""
    alone = "; made with an empty prompt" if image_alone else ""
    negative = f", negative prompt “{settings.negative}”" if settings.negative else ""
    first, last = plan.seeds[0], plan.seeds[-1]
    seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
    told = [
        "# Likeness",
        "",
        f"{date.today().isoformat()}, sd-webui-ipadapter {__version__}, WebUI {version or 'of unknown version'}; the "
        f"client: Python {platform.python_version()}, {platform.system()}, {platform.machine()}.",
        "",
        f"Checkpoint {settings.checkpoint}; adapter {adapter['name']} ({adapter.get('variant')}, "
        f"{adapter.get('base')}){beside}; {settings.width}x{settings.height}, {settings.sampler}, {settings.steps} "
        f"steps, guidance {settings.guidance:g}{negative}; {len(names)} references, {len(plan.scenes)} pairs of "
        f"reference and prompt, {seeds}{alone}.",
        "",
        *(["```bash", command, "```", ""] if command else []),
        "CLIP-I is the cosine of the image embeddings of picture and reference, CLIP-T is 2.5 · max(cos, 0) of those "
        f"of picture and {'caption' if image_alone else 'prompt'}, both by the CLIP model {clip}. In brackets 95 % "
        f"bootstrap intervals, {drawn} drawn with replacement. Time is the whole request over the plain one "
        "beside it, as a median.",
        "",
        *table(rows),
    ]
    if compared:
        told += ["", "The same references, prompts and seeds, one less the other:", ""]
        told += against_table(compared, *plan.methods)
    told += ["", *notes(plan, rows, len(names), shortened, wordless), ""]
    return "\n".join(told)


def notes(
    plan: Plan, rows: Sequence[Row], references: int, shortened: int = 0, wordless: Sequence[str] = ()
) -> Iterable[str]:  # fmt: skip
    """What a reader should know of these figures."""
    for row in rows[1:]:
        if row.weight == 0:
            yield f"- {row.method} at weight 0: {row.same} of {row.clip_i.n} are the plain picture, pixel for pixel."
        elif row.same:
            yield (
                f"- {row.method} at weight {row.weight:g}: {row.same} of {row.clip_i.n} are the plain picture, "
                "pixel for pixel, so it has not acted there; the WebUI's console may say why."
            )
    if 1 < references < FEW:
        yield f"- {references} references are few: the intervals are rough, and more likely too narrow than too wide."
    if references == 1:
        yield "- One reference: the intervals say nothing of other references."
    if shortened:
        yield f"- {shortened} prompts are longer than CLIP's text tower takes; CLIP-T counts their beginning."
    if wordless:
        are = "1 prompt is" if len(wordless) == 1 else f"{len(wordless)} prompts are"
        yield f"- {are} without words for CLIP ({wordless[0] or 'empty'}): CLIP-T of the pictures says nothing there."
    if any(row.time.n < row.clip_i.n for row in rows[1:]):
        yield "- Times are compared within one run; pictures whose plain one is of another run are left out of them."


def write_csv(path: Path, rows: Sequence[Row], compared: Sequence[Against], methods: Sequence[str]) -> None:
    """One line for each figure."""
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["method", "weight", "figure", "value", "low", "high", "pictures", "references"])
        for row in rows:
            for field in fields(row):
                if isinstance(found := getattr(row, field.name), Figure) and found.n:
                    weight = "" if row.weight is None else row.weight
                    out.writerow([row.method, weight, field.name, *_numbers(found)])
        for one in compared:
            for name in ("clip_i", "clip_t", "time"):
                found = getattr(one, name)
                if found.n:
                    kind = "ratio" if name == "time" else "difference"
                    out.writerow([" / ".join(methods), one.weight, f"{name} {kind}", *_numbers(found)])


def _numbers(found: Figure) -> list[float | str]:
    return ["" if value != value else value for value in asdict(found).values()]


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """One line for each picture and scene."""
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, [field.name for field in fields(Score)])
        out.writeheader()
        out.writerows(asdict(score) for score in scores)
