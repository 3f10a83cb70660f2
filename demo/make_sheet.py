"""``python -m demo.make_sheet``: one page on which a reference is seen to steer pictures.

References are in rows, weights in columns. The pictures are made through the extension's own script in the miniature
WebUI, by the small trained family, so it needs no GPU and no download. Below them are persons, each from one photo in
several pictures. The program fails if the pictures do not come nearer to their references.
"""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from demo import host_start
from demo.family import compose, face_networks, face_quality, networks, quality, world
from demo.family.bench import WEIGHTS

if TYPE_CHECKING:
    from demo.start import Host

OUTPUT = Path(__file__).parent / "output" / "contact-sheet.png"
WEIGHT_COLUMNS = (0.0, 0.25, 0.5, 0.75, 1.0)
REQUEST = {"width": world.SIDE, "height": world.SIDE, "steps": 20, "cfg_scale": 5.0, "sampler_name": "Euler", "seed": 7}
TILE, GAP, LEFT, TOP = 144, 10, 196, 78
INK, PALE, PAPER = "#1d2430", "#6b7686", "#ffffff"
NEARER = 0.2
"""How much nearer, in the cosine of the encoder's space, the pictures of weight 1 must be than those of weight 0."""
KNOWN = 0.2
"""How like their photo the pictures of persons must be found, on the mean; to strangers it is about 0."""


@dataclass(frozen=True)
class Row:
    """A reference in words, and what is asked for beside it."""

    scene: world.Scene
    adapter: str
    prompt: str = ""
    note: str = ""


def _one(shape: str, colour: str, ground: str, texture: str, size: str = "large") -> world.Scene:
    return world.Scene((world.Thing(shape, colour, size),), ground, texture)


BASE, PLUS = "ip-adapter-demo_sd15", "ip-adapter-plus-demo_sd15"
ROWS = (
    Row(_one("circle", "red", "blue", "stripes"), BASE, note="the reference alone"),
    Row(_one("star", "yellow", "purple", "dots"), BASE, note="the reference alone"),
    Row(_one("circle", "black", "orange", "checks"), PLUS, note="the reference alone"),
    Row(_one("square", "white", "green", "stripes"), BASE, "a large ring", "its colour and stripes, another shape"),
    Row(_one("diamond", "orange", "black", "checks"), BASE, "a large circle", "prompt and reference"),
)


FACEID = Path(compose.COPIES["faceid"]).stem
PEOPLE = (2, 4, 9)
"""Which of the persons that are measured are shown: of different colours and hair."""
PLACES = ("on plain white", "on blue stripes", "on black dots", "on yellow checks", "on a green gradient")
Maker = Callable[[str, int, torch.Tensor], Image.Image]
"""(prompt, seed, embedding [512]) -> a picture of that person."""


def draw(scene: world.Scene, seed: int) -> Image.Image:
    """A picture of a scene that is given in words."""
    shapes, colours, sizes = list(world.SHAPES), list(world.COLOURS), list(world.SIZES)
    things = [*scene.things, None][:2]

    def index(values: list[str], none: int, part: str) -> list[int]:
        return [values.index(getattr(thing, part)) if thing else none for thing in things]

    wanted = world.Scenes(
        torch.tensor([index(shapes, world.NO_SHAPE, "shape")]),
        torch.tensor([index(colours, world.NO_COLOUR, "colour")]),
        torch.tensor([index(sizes, world.NO_SIZE, "size")]), torch.tensor([colours.index(scene.ground)]),
        torch.tensor([list(world.TEXTURES).index(scene.texture)]), torch.empty(0), torch.empty(0),
    )  # fmt: skip
    picture = world.draw(world.move(wanted, world.generator("contact sheet", seed)))[0]
    return as_image(picture)


def to_base64(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def likeness(encoder: torch.nn.Module, reference: Image.Image, pictures: list[Image.Image]) -> list[float]:
    """The cosine of each picture with the reference in the image encoder's space."""
    arrays = [np.asarray(image.convert("RGB"), dtype=np.float32) / 255 for image in (reference, *pictures)]
    pixels = networks.to_pixels(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2))
    with torch.no_grad():
        first, *others = encoder(pixels)[0]
    return [torch.cosine_similarity(first, other, dim=0).item() for other in others]


@dataclass(frozen=True)
class Person:
    """A photo, the pictures made of it, and the witness's cosine of each with the photo."""

    photo: Image.Image
    pictures: list[Image.Image]
    likenesses: list[float]


def as_image(picture: torch.Tensor) -> Image.Image:
    """[3, H, W] in 0…1 -> a picture."""
    return Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy())


def person_unit(embedding: torch.Tensor, encoder: str) -> dict:
    """The unit for a person that is given by an embedding [512] instead of a photo."""
    file = face_networks.embeddings_file(embedding[None], encoder)
    return {"model": FACEID, "images": [{"embeddings": base64.b64encode(file).decode()}]}


def by_host(host: Host) -> Maker:
    """Pictures of persons through the extension's own script."""
    encoder = networks.encoder_name(networks.load_state(WEIGHTS, "identity"), "faces")

    def make(prompt: str, seed: int, embedding: torch.Tensor) -> Image.Image:
        units = {"IP-Adapter": {"args": [person_unit(embedding, encoder)]}}
        return host.txt2img(**{**REQUEST, "seed": seed}, prompt=prompt, alwayson_scripts=units).images[0]

    return make


def people(measured: face_quality.Faces, make: Maker) -> list[Person]:
    """Each of PEOPLE in all PLACES, every picture from its own noise."""
    photos, _, _ = face_quality.references()
    found = []
    for number in PEOPLE:
        embedding = measured.recognise(photos[number][None])[0]
        pictures = [make(f"a face {place}", seed, embedding) for seed, place in enumerate(PLACES, 1)]
        arrays = torch.from_numpy(np.stack([np.asarray(p.convert("RGB"), dtype=np.float32) / 255 for p in pictures]))
        likeness = measured.likeness(arrays.permute(0, 3, 1, 2), photos[number][None])[:, 0]
        found.append(Person(as_image(photos[number]), pictures, likeness.tolist()))
    return found


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def sheet(rows: list[tuple[Row, Image.Image, list[Image.Image], list[float]]]) -> Image.Image:
    """The page: for each row its words, the reference, and the pictures with their likeness."""
    pitch = TILE + 26
    columns = len(WEIGHT_COLUMNS) + 1
    page = Image.new("RGB", (LEFT + columns * (TILE + GAP) + 2 * GAP, TOP + len(rows) * (pitch + GAP)), PAPER)
    pen, plain, bold, small = ImageDraw.Draw(page), _font(13), _font(14, True), _font(11)
    pen.text((GAP, 12), "IP-Adapter: a reference image as a second prompt", fill=INK, font=_font(18, True))
    x = [LEFT + GAP * (i > 0) + i * (TILE + GAP) for i in range(columns)]
    for i, title in enumerate(("reference", *(f"weight {weight:g}" for weight in WEIGHT_COLUMNS))):
        pen.text((x[i], TOP - 24), title, fill=INK, font=bold)
    for r, (row, reference, pictures, likenesses) in enumerate(rows):
        y = TOP + r * (pitch + GAP)
        words = f"“{row.prompt}”" if row.prompt else "no prompt"
        lines = [*((line, INK, bold) for line in _wrapped(words, bold, LEFT - 2 * GAP))]
        lines += [(line, INK, plain) for line in _wrapped(row.note, plain, LEFT - 2 * GAP)]
        lines += [(row.adapter, PALE, small)]
        for n, (line, ink, font) in enumerate(lines):
            pen.text((GAP, y + 4 + 20 * n), line, fill=ink, font=font)
        for i, image in enumerate((reference, *pictures)):
            page.paste(image.convert("RGB").resize((TILE, TILE), Image.Resampling.BICUBIC), (x[i], y))
        pen.text((x[0], y + TILE + 4), "what it shows", fill=PALE, font=small)
        for i, value in enumerate(likenesses, 1):
            pen.text((x[i], y + TILE + 4), f"likeness {value:.2f}", fill=PALE, font=small)
        pen.rectangle([x[0] - 2, y - 2, x[0] + TILE + 1, y + TILE + 1], outline=INK, width=2)
    return page


def people_sheet(found: list[Person]) -> Image.Image:
    """The page's second part: for each person the photo, and the pictures with their likeness."""
    pitch, head = TILE + 26, TOP - 34
    page = Image.new(
        "RGB", (LEFT + (len(PLACES) + 1) * (TILE + GAP) + 2 * GAP, head + len(found) * (pitch + GAP)), PAPER
    )
    pen, plain, bold, small = ImageDraw.Draw(page), _font(13), _font(14, True), _font(11)
    x = [LEFT + GAP * (i > 0) + i * (TILE + GAP) for i in range(len(PLACES) + 1)]
    for left, title in zip(x, ("photo", *PLACES), strict=True):
        pen.text((left, head - 24), title, fill=INK, font=bold)
    for r, person in enumerate(found):
        y = head + r * (pitch + GAP)
        pen.text((GAP, y + 4), "“a face …”", fill=INK, font=bold)
        for n, line in enumerate(_wrapped("the same person in each picture", plain, LEFT - 2 * GAP)):
            pen.text((GAP, y + 24 + 20 * n), line, fill=INK, font=plain)
        pen.text((GAP, y + 64), FACEID, fill=PALE, font=small)
        for i, image in enumerate((person.photo, *person.pictures)):
            page.paste(image.convert("RGB").resize((TILE, TILE), Image.Resampling.BICUBIC), (x[i], y))
        for i, value in enumerate(person.likenesses, 1):
            pen.text((x[i], y + TILE + 4), f"likeness {value:.2f}", fill=PALE, font=small)
        pen.rectangle([x[0] - 2, y - 2, x[0] + TILE + 1, y + TILE + 1], outline=INK, width=2)
    return page


def below(upper: Image.Image, lower: Image.Image) -> Image.Image:
    page = Image.new("RGB", (max(upper.width, lower.width), upper.height + lower.height), PAPER)
    page.paste(upper, (0, 0))
    page.paste(lower, (0, upper.height))
    return page


def main() -> int:
    print("starting the miniature WebUI and putting the family's files together …", flush=True)
    data = Path(__file__).parent / "data" / "demo"
    compose.compose(data / "models", WEIGHTS)
    host = host_start(options={"sd_model_checkpoint": "ip-adapter-demo"}, data_dir=data)
    if "ip-adapter" not in host.client.get("/sdapi/v1/scripts").json()["txt2img"]:
        print("The extension's script did not load; its error stands above.", file=sys.stderr)
        return 1
    encoder, rows = networks.load(WEIGHTS, "encoder"), []
    for number, row in enumerate(ROWS):
        reference = draw(row.scene, number)
        pictures = []
        for weight in WEIGHT_COLUMNS:
            unit = {"model": row.adapter, "images": [to_base64(reference)], "weight": weight}
            pictures += host.txt2img(
                **REQUEST, prompt=row.prompt, alwayson_scripts={"IP-Adapter": {"args": [unit]}}
            ).images[:1]
        found = likeness(encoder, reference, pictures)
        rows.append((row, reference, pictures, found))
        print(f"{number + 1} of {len(ROWS)}: {row.prompt or 'no prompt'}, {row.adapter}: likeness "
              + ", ".join(f"{value:.2f}" for value in found), flush=True)  # fmt: skip
    measured = face_quality.Faces(quality.Family())
    persons = people(measured, by_host(host))
    for number, person in enumerate(persons, 1):
        print(f"person {number} of {len(persons)}: likeness "
              + ", ".join(f"{value:.2f}" for value in person.likenesses), flush=True)  # fmt: skip
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    below(sheet(rows), people_sheet(persons)).save(OUTPUT)
    print(OUTPUT)
    nearer = sum(found[-1] - found[0] for *_, found in rows) / len(rows)
    known = [value for person in persons for value in person.likenesses]
    if sum(known) / len(known) < KNOWN:
        print(f"The persons are not known again: likeness {sum(known) / len(known):.2f} only.", file=sys.stderr)
        return 1
    if nearer < NEARER:
        print(f"The references had too little effect: likeness rose by {nearer:.2f} only.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
