"""One contact sheet: reference, prompt only, and the same prompt with the reference at two weights."""

from __future__ import annotations

import base64
import io
import itertools
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from demo import files, host_start

OUTPUT = Path(__file__).parent / "output" / "contact-sheet.png"
SIZE, CAPTION = 256, 28


def draw_reference(size: int = SIZE) -> Image.Image:
    """A sunset, drawn: something that looks like a picture and needs no file."""
    y = np.linspace(0, 1, size)[:, None, None]
    sky = np.array([40, 30, 110]) * (1 - y) + np.array([255, 140, 60]) * y
    image = Image.fromarray(np.broadcast_to(sky, (size, size, 3)).astype(np.uint8))
    pen, s = ImageDraw.Draw(image), size / 256
    pen.ellipse([88 * s, 70 * s, 168 * s, 150 * s], fill=(255, 225, 120))
    pen.polygon([(0, 190 * s), (70 * s, 110 * s), (150 * s, 200 * s), (0, 200 * s)], fill=(70, 40, 90))
    pen.polygon([(90 * s, 200 * s), (200 * s, 130 * s), (256 * s, 200 * s)], fill=(50, 25, 75))
    pen.rectangle([0, 196 * s, 256 * s, 256 * s], fill=(25, 60, 90))
    return image


def to_base64(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def sheet(panels: list[tuple[str, Image.Image]]) -> Image.Image:
    page = Image.new("RGB", (len(panels) * (SIZE + 8) + 8, SIZE + CAPTION + 8), "white")
    pen = ImageDraw.Draw(page)
    for i, (caption, image) in enumerate(panels):
        left = 8 + i * (SIZE + 8)
        page.paste(image.convert("RGB").resize((SIZE, SIZE)), (left, 8))
        pen.text((left + 2, SIZE + 14), caption, fill="black")
    return page


def difference(a: Image.Image, b: Image.Image) -> float:
    """Mean difference in levels of 255."""
    return float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean())


def main() -> int:
    host = host_start()
    from modules import paths

    adapter = files.write_files(Path(paths.models_path))
    if "ip-adapter" not in host.client.get("/sdapi/v1/scripts").json()["txt2img"]:
        print("The extension's script did not load; its error stands above.", file=sys.stderr)
        return 1
    reference = draw_reference()
    request = {"prompt": "a house by the sea", "steps": 8, "width": SIZE, "height": SIZE}
    panels = [("reference", reference), ("prompt only", host.txt2img(**request).images[0])]
    for weight in (0.5, 1.0):
        unit = {"model": adapter, "images": [to_base64(reference)], "weight": weight}
        answer = host.txt2img(**request, alwayson_scripts={"IP-Adapter": {"args": [unit]}})
        panels.append((f"prompt + reference, weight {weight}", answer.images[0]))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    sheet(panels).save(OUTPUT)
    print(OUTPUT)
    for (name, a), (other, b) in itertools.combinations(panels[1:], 2):
        apart = difference(a, b)
        print(f"{name} | {other}: {apart:.1f} levels apart")
        if apart < 2.0:
            print("These two pictures are the same: the reference had no effect.", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
