"""References of one unit that act in places of their own."""

from __future__ import annotations

import re

import pytest
import torch
from PIL import Image, ImageOps

from lib_ipadapter.attend.regions import Part
from lib_ipadapter.attend.rows import layout
from lib_ipadapter.errors import IPAdapterError
from lib_ipadapter.unit import Unit, parse_units
from tests.helpers.files import base64_of, half, picture
from tests.helpers.jobs import denoise, far, generation
from tests.helpers.tensors import close, draw

LEFT, RIGHT = (base64_of(half(side)) for side in ("left", "right"))
TOP = base64_of(half("left").transpose(Image.Transpose.ROTATE_270))
MIDDLE = base64_of(ImageOps.expand(Image.new("L", (30, 20), 255), 20, 0))  # of another form
WHITE, GREY, BLACK = (base64_of(Image.new("L", (8, 8), value)) for value in (255, 90, 0))


def item(seed: int, region: str | None = None, weight: float = 1.0) -> dict:
    given = {"image": base64_of(picture(seed)), "weight": weight}
    return given if region is None else {**given, "region": region}


def unit(*items: dict, model: str = "base", **settings) -> dict:
    return {"model": model, "images": list(items), **settings}


def apart(*items: dict, **settings) -> list[dict]:
    """A unit for each item, with its region as the unit's."""
    bare = [{name: value for name, value in one.items() if name != "region"} for one in items]
    return [
        unit(one, **({"region_mask": given["region"]} if "region" in given else {}), **settings)
        for one, given in zip(bare, items, strict=True)
    ]


SETTINGS = [
    {},
    {"model": "plus"},
    {"region_feather": 0.3},
    {"weight": [[0, 1.0], [1, 0.2]], "weight_type": "style transfer precise"},
    {"negative_images": [base64_of(picture(9))], "noise": 0.4, "embeds_scaling": "K+mean(V) w/ C penalty"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: " ".join(one))
def test_a_region_for_each_reference_is_a_unit_for_each(settings: dict, unet, resources) -> None:
    items = [item(0, LEFT), item(1, RIGHT, 0.6), item(2, MIDDLE, -0.5)]
    together = denoise(unet, generation(unet, resources, unit(*items, **settings)))
    assert close(together, denoise(unet, generation(unet, resources, *apart(*items, **settings))), 1e-6)
    everywhere = [{**one, "region": WHITE} for one in items]
    assert not close(together, denoise(unet, generation(unet, resources, unit(*everywhere, **settings))), 3e-2)


def test_references_without_a_region_act_together_everywhere(unet, resources) -> None:
    items = [item(0, LEFT), item(1), item(2, LEFT, 0.5), item(3)]
    together = denoise(unet, generation(unet, resources, unit(*items)))
    left = [{"image": items[0]["image"]}, {"image": items[2]["image"], "weight": 0.5}]
    groups = [unit(*left, region_mask=LEFT), unit(items[1], items[3])]
    assert close(together, denoise(unet, generation(unet, resources, *groups)), 1e-6)
    assert far(together, denoise(unet, generation(unet, resources, *apart(*items))))


@pytest.mark.parametrize("combine", ["concat", "average"])
def test_white_everywhere_is_none_and_one_place_for_all_is_the_units(combine: str, unet, resources) -> None:
    def made(*items: dict, **settings) -> torch.Tensor:
        return denoise(unet, generation(unet, resources, unit(*items, combine=combine, **settings)))

    bare = made(item(0), item(1))
    assert torch.equal(made(item(0, WHITE), item(1, WHITE)), bare)
    assert torch.equal(made(item(0, WHITE), item(1)), bare)
    assert torch.equal(made(item(0, LEFT), item(1, LEFT)), made(item(0), item(1), region_mask=LEFT))
    assert torch.equal(made(item(0, LEFT), batch="per image"), made(item(0), region_mask=LEFT))


def test_the_units_region_multiplies(unet, resources) -> None:
    items = [item(0, LEFT), item(1)]
    placed = denoise(unet, generation(unet, resources, unit(*items, region_mask=TOP)))
    both = Image.new("L", (64, 64))
    both.paste(255, (0, 0, 32, 32))
    units = [unit(item(0), region_mask=base64_of(both)), unit(item(1), region_mask=TOP)]
    assert close(placed, denoise(unet, generation(unet, resources, *units)), 1e-6)
    grey = unit(item(0, LEFT), region_mask=GREY)
    weaker = unit(item(0), region_mask=LEFT, weight=90 / 255)
    assert close(*(denoise(unet, generation(unet, resources, one)) for one in (grey, weaker)), 1e-5)


def test_halves_of_one_reference_are_the_reference(unet, resources) -> None:
    halves = unit(item(0, LEFT), item(0, RIGHT), region_feather=0.4)
    assert close(*(denoise(unet, generation(unet, resources, one)) for one in (halves, unit(item(0)))), 1e-5)


@pytest.mark.parametrize("box", [(0, 0, 32, 64), (16, 16, 24, 32)])
def test_a_part_of_the_picture_sees_its_part_of_each_region(box: tuple[int, int, int, int], unet, resources) -> None:
    items, part = [item(0, LEFT), item(1, RIGHT)], Part((64, 64), (box,))

    def made(*units: dict) -> torch.Tensor:
        job = generation(unet, resources, *units)
        job.attach(unet, part=part).begin(layout([1], 2), 0, 4)
        with job:
            return unet(draw(2, 4, 8, 8, seed=1), torch.full((2,), 500.0), context=draw(2, 77, 768, seed=2))

    assert close(made(unit(*items)), made(*apart(*items)), 1e-6)
    assert far(made(unit(*items)), denoise(unet, generation(unet, resources, unit(*items))))


def test_passes_batches_and_choices_see_the_unit_as_one(unet, resources) -> None:
    items = [item(0, LEFT), item(1, RIGHT)]
    job = generation(unet, resources, unit(*items, hires="hires"), unit(item(2)))
    assert [one.number for one in job.prompts] == [1, 1, 2]
    assert [plan.number for plan in job.plans] == [1, 2]
    assert len(job.only({1}).prompts) == 2 and len(job.inside().prompts) == 3
    others = generation(unet, resources, *apart(*items, hires="hires"), unit(item(2)))
    for given in ({"hires_pass": True}, {"hires_pass": False}, {"pictures": 3, "hires_pass": True}):
        assert close(denoise(unet, job, **given), denoise(unet, others, **given), 1e-6)


def test_a_unit_that_did_not_act_is_told_once(unet, resources) -> None:
    job = generation(unet, resources, unit(item(0, LEFT), item(1, RIGHT)), unit(item(2)))
    assert [(one.number, one.acted) for one in job.inactions()] == [(1, False), (2, False)]
    denoise(unet, job)
    assert job.inactions() == []


def test_its_influence_is_the_sum_of_its_places(unet, resources) -> None:
    items = [item(0, LEFT), item(1, RIGHT), item(2)]
    maps = {}
    for name, units in (("one", [unit(*items)]), ("several", apart(*items))):
        job = generation(unet, resources, *({**one, "influence_map": True} for one in units))
        denoise(unet, job, pictures=2)
        maps[name] = [job.influence(index) for index in range(2)]
    for one, several in zip(maps["one"], maps["several"], strict=True):
        assert list(one) == [1] and list(several) == [1, 2, 3]
        assert close(one[1], torch.stack([*several.values()]).sum(0), 1e-5)


def test_a_weight_of_0_in_a_place_is_nothing_there(unet, resources) -> None:
    silent = denoise(unet, generation(unet, resources, unit(item(0, LEFT), item(1, RIGHT, 0))))
    assert close(silent, denoise(unet, generation(unet, resources, unit(item(0), region_mask=LEFT))), 1e-6)


REFUSED = [
    (
        unit(item(0, LEFT), item(1), combine="average"),
        "images[0]: it has a region of its own, and combine is “average”, which makes one of all references: set "
        "combine to “concat”, or leave the region out.",
    ),
    (
        unit(item(0), item(1, LEFT), batch="per image"),
        "images[1]: it has a region of its own, and batch is “per image”, which gives each picture one of them: set "
        "batch to “same”, or leave the region out.",
    ),
    (
        unit(item(0), item(1, BLACK)),
        "images[1]: region: the mask is black all over, so the reference acts nowhere: paint white where it acts, or "
        "leave the region out.",
    ),
    (
        unit(item(0), item(1, RIGHT), region_mask=LEFT),
        "images[1]: its region lies outside of the unit's, so it acts nowhere: change one of them, or leave one out.",
    ),
    (unit(item(0), negative_images=[item(1), item(2, LEFT)]), "negative_images[1]: negative references act as far"),
    (unit(item(0, "no picture")), "the reference: region: "),
    (unit({"image": "x", "regions": LEFT}), "images[0]: unknown field 'regions': a reference has image"),
]


@pytest.mark.parametrize(("settings", "sentence"), REFUSED, ids=[sentence[:40] for _, sentence in REFUSED])
def test_what_cannot_be_is_refused(settings: dict, sentence: str, unet, resources) -> None:
    with pytest.raises(IPAdapterError, match=f"^IP-Adapter unit 1: {re.escape(sentence)}"):
        generation(unet, resources, settings)


@pytest.mark.parametrize(
    "given",
    [{"image": "abc"}, {"controlnet": 2}, {"look": "Oil"}, {"start_picture": True}, {"image": "abc", "mask": "d"}],
)
def test_any_reference_may_have_a_region(given: dict) -> None:
    settings = unit({**given, "region": "def"})
    (parsed,) = parse_units([settings])
    assert parsed.references[0].region == "def"
    assert Unit.parse(parsed.to_object()).references == parsed.references
