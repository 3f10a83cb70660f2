"""What transfers, and where, measured on the family: regions, tiles, negative references, words taken out.

The units are the extension's own, as a client would send them; only the sampling is ``quality``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from demo.family import compose, world
from demo.family.bench import WORK
from demo.family.quality import Family, Measure
from lib_ipadapter.attend.prompt import ImagePrompt
from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.encode.device import Device
from lib_ipadapter.jobs.generation import prepare_generation
from lib_ipadapter.jobs.resources import Resources
from lib_ipadapter.unit import parse_units

PALETTE = torch.tensor(list(world.COLOURS.values())) / 255
PAIRS = 32
MODELS = {name: Path(file).stem for name, file in compose.COPIES.items()}


class Units:
    """The extension's way from units to image prompts, on the family's files."""

    def __init__(self, family: Family, weights: Path, folder: Path = WORK / "models") -> None:
        self.family = family
        compose.compose_adapters(folder, weights)
        catalog = Catalog([folder], [])
        catalog.refresh()
        self.resources = Resources(catalog)
        self.device = Device(torch.device("cpu"), torch.float32)

    def prompts(self, *units: dict[str, Any]) -> list[ImagePrompt]:
        """API objects with PIL pictures -> what ``Family.sample`` takes."""
        made = prepare_generation(parse_units(list(units)), self.family.unet, self.resources, self.device)
        return [one.prompt for one in made.prompts]


def pil(pictures: Tensor) -> list[Image.Image]:
    """[B, 3, H, W] in 0…1 -> pictures."""
    return [Image.fromarray(one) for one in (pictures.movedim(1, -1) * 255).round().byte().cpu().numpy()]


def nearest_colours(pictures: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, H, W]: which of the world's colours each pixel is nearest to."""
    pixels = pictures.movedim(1, -1).flatten(1, 2).cpu()
    return torch.cdist(pixels, PALETTE[None]).argmin(-1).view(len(pictures), *pictures.shape[2:])


def share_of(colours: Tensor, wanted: Tensor) -> Tensor:
    """[B, H, W] colours, [B] one of them each -> [B]: the share of the pixels that have it."""
    return (colours == wanted[:, None, None]).float().mean((1, 2))


def different_grounds(n: int, k: int) -> list[world.Scenes]:
    """``k`` lists of ``n`` held-out scenes on plain grounds; those in one place have ``k`` different grounds."""
    pool = world.scenes(400 * n, world.generator("grounds"), held_out=True, things=1)
    pool = pool[(pool.texture == 0).nonzero().flatten()]
    free, chosen = list(range(len(pool))), []
    while len(chosen) < n:
        row: list[int] = []
        for i in list(free):
            if all(pool.ground[i] != pool.ground[j] for j in row):
                row.append(i)
                free.remove(i)
            if len(row) == k:
                break
        chosen.append(row)
    return [pool[torch.tensor([row[i] for row in chosen])] for i in range(k)]


def _each(model: str, scenes: world.Scenes, **settings: Any) -> dict[str, Any]:
    """A unit in which picture i of the batch sees scene i."""
    return {"model": model, "images": pil(world.draw(scenes)), "batch": "per image", **settings}


def side_mask(left: bool) -> Image.Image:
    """A region mask of the left or the right half."""
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0 if left else 32, 0, 32 if left else 64, 64))
    return mask


def left_and_right(units: Units, model: str, n: int = PAIRS, steps: int = 25) -> dict[str, Measure]:
    """Two references with complementary region masks: does each side have more of its own reference's ground colour
    than of the other's? Without masks, the same two at half weight."""
    one, other = different_grounds(n, 2)

    def sides_right(*both: dict) -> Tensor:
        seen = nearest_colours(units.family.sample([""] * n, *units.prompts(*both), steps=steps))
        pairs = ((seen[..., :32], one, other), (seen[..., 32:], other, one))
        return torch.stack([share_of(s, own.ground) > share_of(s, foreign.ground) for s, own, foreign in pairs])

    masked = sides_right(
        _each(model, one, region_mask=side_mask(True)), _each(model, other, region_mask=side_mask(False))
    ).float()  # fmt: skip
    mixed = sides_right(_each(model, one, weight=0.5), _each(model, other, weight=0.5)).float()
    return {
        "both sides": Measure.of(masked.prod(0)), "each side": Measure.of(masked),
        "both sides, without masks": Measure.of(mixed.prod(0)),
    }  # fmt: skip


def tiles(units: Units, model: str, n: int = PAIRS, steps: int = 25) -> dict[str, dict[str, Measure]]:
    """References of 3:1, three scenes side by side: likeness to the two at the ends, and how much of the picture has
    their grounds' colours."""
    parts = different_grounds(n, 3)
    drawn = [world.draw(scenes) for scenes in parts]
    long = pil(torch.cat(drawn, dim=3))
    report = {}
    for crop in ("center", "tile"):
        prompts = units.prompts({"model": model, "images": long, "batch": "per image", "crop": crop})
        made = units.family.sample([""] * n, *prompts, steps=steps)
        seen = nearest_colours(made)
        report[crop] = {
            "likeness to the ends": Measure.of(torch.stack([units.family.similarity(made, drawn[i]) for i in (0, 2)])),
            "pixels of the ends' grounds": Measure.of(sum(share_of(seen, parts[i].ground) for i in (0, 2))),
        }
    return report


def negative(units: Units, model: str, n: int = 16, steps: int = 25) -> dict[str, Measure]:
    """Two references averaged, and one of them as a negative reference too: likeness to that one, with and without."""
    one, other = different_grounds(n, 2)
    wanted, unwanted = world.draw(one), world.draw(other)
    pairs = list(zip(pil(wanted), pil(unwanted), strict=True))

    def made(with_negative: bool) -> Tensor:
        pictures = []
        for i, (good, bad) in enumerate(pairs):
            unit = {"model": model, "images": [good, bad], "combine": "average"}
            prompts = units.prompts({**unit, "negative_images": [bad]} if with_negative else unit)
            pictures.append(units.family.sample([""], *prompts, steps=steps, seed=i))
        return torch.cat(pictures)

    plain, away = made(False), made(True)
    before, after = (units.family.similarity(pictures, unwanted) for pictures in (plain, away))
    return {
        "likeness to the unwanted": Measure.of(before), "with it as negative": Measure.of(after),
        "lower by": Measure.of(before - after),
        "likeness to the wanted": Measure.of(units.family.similarity(plain, wanted)),
        "… with the negative": Measure.of(units.family.similarity(away, wanted)),
    }  # fmt: skip


MEASUREMENTS: dict[str, Callable[[Units, str], dict]] = {
    "6. left and right": left_and_right, "7. tiles of 3:1": tiles, "8. negative reference": negative,
}  # fmt: skip


def measurements(family: Family, weights: Path, adapter: str) -> Sequence[tuple[str, Callable[[], dict]]]:
    """What is measured of an adapter, by name."""
    units, model = Units(family, weights), MODELS[adapter]
    return [(name, lambda measured=measured: measured(units, model)) for name, measured in MEASUREMENTS.items()]
