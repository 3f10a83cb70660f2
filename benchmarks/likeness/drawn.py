"""The plot and the contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .figures import Row, Score
from .made import Kept, Settings
from .plan import Plan

TILE, GAP, LEFT, TOP = 144, 8, 220, 40
MOST = 12
"""Scenes on a contact sheet."""
INK, PALE, PAPER = "#1d2430", "#6b7686", "#ffffff"


def plot(rows: Sequence[Row], path: Path) -> None:
    """CLIP-I and CLIP-T over the weight with their intervals, the plain pictures' as a band, and one over the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.5), layout="constrained")
    first, second, third = figure.subplots(1, 3)
    plain = rows[0]
    for axes, name in ((first, "clip_i"), (second, "clip_t")):
        of_plain = getattr(plain, name)
        axes.axhline(of_plain.value, color=PALE, linestyle="--", label="without")
        axes.axhspan(of_plain.low, of_plain.high, color=PALE, alpha=0.15)
    third.plot([plain.clip_i.value], [plain.clip_t.value], marker="s", color=PALE, linestyle="", label="without")
    for method in dict.fromkeys(row.method for row in rows[1:]):
        some = [row for row in rows if row.method == method]
        weights = [row.weight for row in some]
        for axes, name in ((first, "clip_i"), (second, "clip_t")):
            found = [getattr(row, name) for row in some]
            spread = [[f.value - f.low for f in found], [f.high - f.value for f in found]]
            axes.errorbar(weights, [f.value for f in found], spread, marker="o", capsize=3, label=method)
        third.plot([r.clip_i.value for r in some], [r.clip_t.value for r in some], marker="o", label=method)
        for row in some:
            third.annotate(f"{row.weight:g}", (row.clip_i.value, row.clip_t.value))
    first.set(xlabel="weight", ylabel="CLIP-I, likeness to the reference")
    second.set(xlabel="weight", ylabel="CLIP-T, likeness to the prompt")
    third.set(xlabel="CLIP-I, likeness to the reference", ylabel="CLIP-T, likeness to the prompt")
    for axes in (first, second, third):
        axes.legend()
    figure.savefig(path, dpi=100)


def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines if len(lines) <= most else [*lines[: most - 1], "…"]


def _tile(image: Image.Image) -> Image.Image:
    """The picture within a square."""
    page = Image.new("RGB", (TILE, TILE), PAPER)
    scale = TILE / max(image.size)
    small = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
    page.paste(small, ((TILE - small.width) // 2, (TILE - small.height) // 2))
    return page


def sheet(plan: Plan, settings: Settings, kept: Kept, scores: Sequence[Score]) -> Image.Image:
    """References in rows, for each method one, weights in columns, all of the first seed, with both scores below."""
    scenes, seed = plan.scenes[:MOST], plan.seeds[0]
    found = {(score.pair, score.method, score.weight): score for score in scores}
    columns, pitch = len(plan.weights) + 2, TILE + 22 + GAP
    size = (LEFT + columns * (TILE + GAP), TOP + len(scenes) * len(plan.methods) * pitch)
    page = Image.new("RGB", size, PAPER)
    pen, plain, small = ImageDraw.Draw(page), _font(13), _font(10)
    x = [LEFT + i * (TILE + GAP) for i in range(columns)]
    for left, title in zip(x, ("reference", "without", *(f"weight {w:g}" for w in plan.weights)), strict=True):
        pen.text((left, TOP - 22), title, fill=INK, font=plain)
    y = TOP
    for scene in scenes:
        for method in plan.methods:
            lines = [*_wrapped(f"“{scene.caption}”", plain, LEFT - 2 * GAP, 4), scene.reference.name, method]
            for n, line in enumerate(lines):
                pen.text((GAP, y + 4 + 19 * n), line, fill=INK if n < len(lines) - 2 else PALE, font=plain)
            page.paste(_tile(scene.reference.image()), (x[0], y))
            cells = [plan.plain(scene, seed), *(plan.cell(scene, seed, method, weight) for weight in plan.weights)]
            for left, cell in zip(x[1:], cells, strict=True):
                page.paste(_tile(kept.image(settings.key(cell))), (left, y))
                score = found[(scene.reference.name, scene.caption, seed), cell.method, cell.weight]
                pen.text((left, y + TILE + 3), f"I {score.clip_i:.3f}   T {score.clip_t:.3f}", fill=PALE, font=small)
            y += pitch
    return page
