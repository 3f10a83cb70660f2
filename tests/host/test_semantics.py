"""The shipped family: that a reference does what it should, in small. ``make bench-quality`` measures it at length.

The bounds leave room below what was measured (demo/family/README.md): they catch a family or an injection that does
not work, not one that works a little less.
"""

from __future__ import annotations

import functools

import pytest
import torch

from demo.family import networks, quality, transfer, world
from demo.family.bench import WEIGHTS
from lib_ipadapter.checkpoint.containers import read_metadata

N, STEPS = 20, 8
BASE = "adapter"


@pytest.fixture(scope="module")
def family() -> quality.Family:
    return quality.Family()


@pytest.fixture(scope="module")
def references() -> tuple[world.Scenes, torch.Tensor]:
    return quality.references(N)


@pytest.fixture(scope="module")
def made(family, references):
    """Pictures of the references alone by adapter and weight, each made once; without any the adapter is nothing."""

    @functools.cache
    def sample(adapter: str, weight: float, rows_ignored: bool = False) -> torch.Tensor:
        prompt = family.prompt(adapter, references[1], weight, rows_ignored=rows_ignored)
        return family.sample([""] * N, prompt, steps=STEPS)

    return lambda adapter, weight, **more: sample(adapter if weight else BASE, weight, **more)


@pytest.fixture(scope="module")
def units(family, tmp_path_factory) -> transfer.Units:
    return transfer.Units(family, WEIGHTS, tmp_path_factory.mktemp("models"))


def share(matches: torch.Tensor) -> float:
    return matches.float().mean().item()


def test_what_is_shipped_is_small_and_belongs_together() -> None:
    files = list(WEIGHTS.glob("*.safetensors"))
    assert {path.stem for path in files} == set(networks.STAGE)
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 48e6
    name = networks.encoder_name(networks.load_state(WEIGHTS, "encoder"))
    for file in ("encoder", *networks.ADAPTERS):
        assert read_metadata(WEIGHTS / f"{file}.safetensors")["image_encoder"] == name


def test_the_judge_can_be_trusted(family: quality.Family) -> None:
    scenes, pictures = quality.references(128)
    hits = family.matches(pictures, scenes)
    assert share(hits["colour"]) >= 0.95
    assert share(hits["shape"]) >= 0.8
    assert share(family.matches(pictures.roll(1, 0), scenes)["shape"]) < 0.4


def test_a_prompt_is_followed(family: quality.Family, references: tuple) -> None:
    scenes, _ = references
    pictures = family.sample([scene.caption for scene in scenes.words()], steps=STEPS)
    assert share(family.matches(pictures, scenes)["colour"]) >= 0.7
    turned = family.matches(pictures.roll(1, 0), scenes)  # another caption's pictures: the measure can fail
    assert share(turned["colour"]) < 0.5


@pytest.mark.parametrize("adapter", sorted(networks.ADAPTERS))
def test_likeness_rises_with_the_weight(adapter: str, made, family: quality.Family, references: tuple) -> None:
    _, pictures = references
    likeness = [family.similarity(made(adapter, weight), pictures).mean().item() for weight in (0.0, 0.5, 1.0)]
    assert likeness[0] + 0.1 < likeness[1]
    assert likeness[0] + 0.25 < likeness[2]
    other = family.similarity(made(adapter, 1.0), pictures.roll(1, 0)).mean().item()
    assert other + 0.2 < likeness[2]  # it is this reference, not any


def test_the_references_colours_return(made, family, references: tuple) -> None:
    scenes, _ = references
    without, with_it = (family.matches(made(BASE, weight), scenes) for weight in (0.0, 1.0))
    for what in ("colour", "ground", "texture"):
        assert share(with_it[what]) > share(without[what]) + 0.15
    assert share(with_it["colour"]) >= 0.45


def test_ignoring_the_unconditional_rows_is_worse(made, family: quality.Family, references: tuple) -> None:
    """The mistake of other implementations: without its own unconditional side, guidance does not push towards the
    reference."""
    _, pictures = references
    right, wrong = (family.similarity(made(BASE, 1.0, rows_ignored=wrong), pictures) for wrong in (False, True))
    assert (right - wrong).mean() > 0.03


def test_diffusers_makes_the_same_pictures(family: quality.Family) -> None:
    found = quality.beside_diffusers(family, BASE, 4)
    assert found["levels apart"].mean <= 2
    assert abs(found["similarity"].mean - found["similarity, diffusers"].mean) < 0.02


def test_regions_put_references_where_they_belong(units: transfer.Units, family: quality.Family) -> None:
    """Two references side by side: each half of the picture is more like its own reference than like the other's."""
    one, other = transfer.different_grounds(12, 2)
    drawn = [world.draw(scenes) for scenes in (one, other)]
    prompts = units.prompts(*(
        {"model": transfer.MODELS[BASE], "images": transfer.pil(pictures), "batch": "per image",
         "region_mask": transfer.side_mask(left)} for pictures, left in zip(drawn, (True, False), strict=True)
    ))  # fmt: skip
    made = family.sample([""] * 12, *prompts, steps=STEPS)

    def apart(half: torch.Tensor, own: torch.Tensor, foreign: torch.Tensor) -> float:
        """How much nearer in mean colour a half is to its own reference than to the other."""
        colours = [x.mean((2, 3)) for x in (half, own, foreign)]
        return ((colours[0] - colours[2]).norm(dim=1) - (colours[0] - colours[1]).norm(dim=1)).mean().item()

    left, right = made[..., :32], made[..., 32:]
    assert apart(left, *drawn) - apart(right, *drawn) > 0.05


def test_tiles_bring_what_the_centre_loses(units: transfer.Units) -> None:
    found = transfer.tiles(units, transfer.MODELS[BASE], 12, STEPS)
    assert found["tile"]["likeness to the ends"].mean > found["center"]["likeness to the ends"].mean + 0.05


def test_a_negative_reference_leads_away(units: transfer.Units) -> None:
    assert transfer.negative(units, transfer.MODELS[BASE], 6, STEPS)["lower by"].mean > 0.05
