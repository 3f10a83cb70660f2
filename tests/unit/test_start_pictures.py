"""References that only one picture of a job sees: the start pictures of a batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from lib_ipadapter import infotext
from lib_ipadapter.encode.references import EncoderInput, References, UnitInputs
from lib_ipadapter.errors import UnitError
from lib_ipadapter.jobs.generation import Generation, prepare_generation
from lib_ipadapter.reference import Reference
from lib_ipadapter.unit import Unit, parse_units
from tests.helpers.files import base64_of, picture
from tests.helpers.jobs import DEVICE, generation

STARTS = [picture(seed, (48, 48)) for seed in (4, 5, 6)]
OTHER = base64_of(picture(2))
ITSELF = {"start_picture": True}


def begun(unet, resources, starts: list[Image.Image], kind: str = "base", **settings) -> Generation:
    """A job whose pictures begin with ``starts``, beside a reference that all of them see."""
    (unit,) = parse_units([{"model": kind, "images": [ITSELF, OTHER], **settings}])
    word, other = unit.references
    own = [replace(word, image=one, picture=i, repeats=i > 0) for i, one in enumerate(starts)]
    return prepare_generation([replace(unit, references=(*own, other))], unet, resources, DEVICE)


@pytest.mark.parametrize("kind", ["base", "plus"])
@pytest.mark.parametrize("combine", ["concat", "average", "subtract"])
def test_each_picture_has_the_tokens_that_it_would_have_alone(combine: str, kind: str, unet, resources) -> None:
    kv = begun(unet, resources, STARTS, kind, combine=combine).prompts[0].prompt.kv
    assert kv.pictures == 3
    for i, one in enumerate(STARTS):
        alone = generation(unet, resources, {"model": kind, "images": [base64_of(one), OTHER], "combine": combine})
        own = alone.prompts[0].prompt.kv
        for tensors, expected in zip((*kv.keys, *kv.values), (*own.keys, *own.values), strict=True):
            for side in (0, 1):
                assert torch.allclose(tensors[3 * side + i], expected[side], atol=1e-5)
    assert not torch.equal(kv.keys[0][0], kv.keys[0][1])


@pytest.mark.parametrize("kind", ["base", "plus"])
@pytest.mark.parametrize("starts", [STARTS, [STARTS[0]] * 3])
def test_each_picture_has_the_noise_that_it_would_have_alone(starts: list, kind: str, unet, resources) -> None:
    kv = begun(unet, resources, starts, kind, noise=0.8).prompts[0].prompt.kv
    assert kv.pictures == 3
    for i, one in enumerate(starts):
        own = generation(unet, resources, {"model": kind, "images": [base64_of(one), OTHER], "noise": 0.8})
        for tensors, expected in zip(kv.keys, own.prompts[0].prompt.kv.keys, strict=True):
            assert torch.allclose(tensors[3 + i], expected[1], atol=1e-5)


def test_a_look_keeps_its_share_of_the_other_side(unet, resources) -> None:
    """However many pictures the batch begins with."""
    sides = [torch.full((1, 2), float(i)) for i in range(4)]
    inputs = UnitInputs(
        None, "pooled", 0, "center",
        tuple(
            EncoderInput(f"{i}", embedding=sides[i], uncond=sides[i]) for i in range(4)
        ),
        weights=(1.0,) * 4, seen=((0, 3), (1, 3), (2, 3)),
    )  # fmt: skip
    _, uncond = References([], resources, DEVICE, lambda text: None).embeddings(inputs)
    assert uncond.tolist() == [[1.5, 1.5], [2.0, 2.0], [2.5, 2.5]]


def test_more_than_ten_pictures_keep_their_order(unet, resources) -> None:
    starts = [Image.new("RGB", (48, 48), (20 * i, 255 - 20 * i, 90)) for i in range(12)]
    keys = begun(unet, resources, starts).prompts[0].prompt.kv.keys[0]
    alone = generation(unet, resources, {"model": "base", "images": [base64_of(starts[2]), OTHER]})
    assert torch.allclose(keys[2], alone.prompts[0].prompt.kv.keys[0][0], atol=1e-5)


def test_tokens_of_one_order_are_not_those_of_another(unet, resources) -> None:
    """They are remembered by which picture sees what."""
    first, second = (begun(unet, resources, starts).prompts[0].prompt.kv for starts in (STARTS, STARTS[::-1]))
    assert torch.allclose(first.keys[0][0], second.keys[0][2], atol=1e-5)
    assert not torch.allclose(first.keys[0][0], second.keys[0][0], atol=1e-3)


def test_start_pictures_of_different_forms_and_tiles(unet, resources) -> None:
    forms = [picture(4, (96, 48)), picture(5, (48, 48))]
    assert begun(unet, resources, forms, "base", crop="tile").prompts
    with pytest.raises(UnitError, match="unit 1: the job's start pictures have different forms, so they become"):
        begun(unet, resources, forms, "plus", crop="tile")


def test_parameters_say_the_word_once(unet, resources) -> None:
    job = begun(unet, resources, STARTS)
    (entry,) = infotext.parameters(job.plans).values()
    assert entry.count("start_picture") == 1 and len(entry.rpartition("references: ")[2].split()) == 2
    (read,) = infotext.read({"IP-Adapter 1": entry})
    assert read.references[0].content_hash == "start_picture" and not read.problems


def test_the_word_goes_there_and_back() -> None:
    unit = Unit.parse({"model": "any", "images": [{**ITSELF, "weight": 0.5}, "AAAA"]})
    assert unit.references[0] == Reference(None, 0.5, start_picture=True)
    assert Unit.parse(unit.to_object()).references == unit.references
    filled = replace(unit.references[0], image=STARTS[0], picture=0)
    repeated = replace(filled, image=STARTS[1], picture=1, repeats=True)
    begun_unit = replace(unit, references=(filled, repeated, unit.references[1]))
    assert begun_unit.to_object()["images"] == [{**ITSELF, "weight": 0.5}, "AAAA"]
