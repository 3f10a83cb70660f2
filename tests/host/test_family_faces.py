"""The drawn faces' networks, and the shipped FaceID adapter: that a person comes back, by weight and by LoRA.

Bounds leave room below what was measured (demo/family/README.md): they catch an adapter or an injection that does not
work, not one that works a little less.
"""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load

from demo.family import face_networks, face_quality, networks, quality
from demo.family.bench import WEIGHTS
from lib_ipadapter.checkpoint.containers import read_metadata
from tests.helpers.tensors import draw, randomise

N, STEPS = 16, 8


def test_arcface_asks_for_an_angle_more() -> None:
    centres, who = torch.eye(3, 8), torch.tensor([0, 1, 2])
    angles = torch.tensor([0.2, 1.0, 3.1])  # to the own centre; the last is too far for the margin to be added
    embeddings = torch.zeros(3, 8)
    embeddings[torch.arange(3), who], embeddings[:, 7] = angles.cos(), angles.sin()
    found = face_networks.arcface(7 * embeddings, 5 * centres, who, 10.0, 0.3)
    harder = [math.cos(0.5), math.cos(1.3), math.cos(3.1) - 0.3 * math.sin(0.3)]
    wanted = [-10 * c + math.log(math.exp(10 * c) + 2) for c in harder]
    assert found.item() == pytest.approx(sum(wanted) / 3, abs=0.02)
    assert found > face_networks.arcface(embeddings, centres, who, 10.0, 0.0)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_the_trained_lora_is_that_of_merged_weights(strength: float) -> None:
    """The image attention takes the query with the LoRA in it, as published; afterwards the UNet is as it was."""
    unet = randomise(networks.build_unet(), 4).eval().requires_grad_(False)
    weights = face_networks.new_faceid(unet)
    for i, (key, value) in enumerate(weights.items()):
        if key.endswith("lora.up.weight"):
            weights[key] = 0.1 * draw(*value.shape, seed=i)
    merged = copy.deepcopy(unet)
    for number, attention in face_networks.attentions(merged):
        for name, linear in face_networks.linears(attention).items():
            down, up = (weights[f"ip_adapter.{number}.to_{name}_lora.{part}.weight"] for part in ("down", "up"))
            linear.weight += strength * up @ down
    for module in merged.modules():  # bound methods of the copied modules
        if hasattr(module, "to_q"):
            module.forward = networks._attend.__get__(module)
    x, t, text = draw(2, 4, 8, 8, seed=8), torch.tensor([10, 900]), draw(2, 77, 768, seed=9)
    tokens, plain = draw(2, 4, 768, seed=7), unet(x, t, context=text)

    def made(model: torch.nn.Module) -> torch.Tensor:
        injection = networks.TrainableInjection(model, weights)
        injection.tokens = tokens
        output = model(x, t, context=text)
        injection.detach()
        return output

    with face_networks.TrainableLora(unet, weights, strength):
        ours = made(unet)
    assert torch.allclose(ours, made(merged), atol=1e-4)
    assert torch.equal(plain, unet(x, t, context=text))
    assert (ours - made(unet)).abs().mean() > 1e-3 or strength == 0


def test_a_person_as_a_file() -> None:
    photos = draw(2, 512, seed=3)
    content = face_networks.embeddings_file(photos, "someone's")
    tensors = load(content)
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {"0.face": (1, 512), "1.face": (1, 512)}
    assert torch.equal(torch.cat([tensors["0.face"], tensors["1.face"]]), photos)


# --- what is shipped ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured() -> face_quality.Faces:
    return face_quality.Faces(quality.Family())


@pytest.fixture(scope="module")
def likeness(measured):
    """The witness's cosines [N, N] of pictures with photos, by weight and strength of the LoRA."""
    photos, _, shown = face_quality.references(N)

    @functools.cache
    def found(weight: float, strength: float) -> torch.Tensor:
        made = measured.sample(shown.captions(), measured.recognise(photos), weight, strength, steps=STEPS)
        return measured.likeness(made, photos)

    return found


def margin(likeness: torch.Tensor) -> float:
    return face_quality.summary(likeness)["margin"].mean


def test_the_adapter_says_which_recognition_it_was_trained_with() -> None:
    name = networks.encoder_name(networks.load_state(WEIGHTS, "identity"), "faces")
    for file in ("identity", "faceid"):
        assert read_metadata(WEIGHTS / f"{file}.safetensors")["image_encoder"] == name


@pytest.mark.parametrize("name", ["identity", "witness"])
def test_recognition_knows_persons_it_has_not_seen(name: str, measured: face_quality.Faces) -> None:
    one, other, _ = face_quality.references(64)
    tower = getattr(measured, name)
    first, second = (F.normalize(tower(pictures), dim=1) for pictures in (one, other))
    found = face_quality.summary(first @ second.T)
    assert found["nearest"].mean >= 0.9
    assert found["own"].mean > 0.6 and abs(found["others"].mean) < 0.1


def test_two_photos_of_a_person_give_nearer_tokens_than_two_persons(measured: face_quality.Faces) -> None:
    one, other, _ = face_quality.references(N)
    state = measured.family.adapters[face_quality.FACEID]
    first, second = (
        networks.image_tokens(state, F.normalize(measured.recognise(photos), dim=1)).flatten(1)
        for photos in (one, other)
    )
    apart = torch.cdist(first, second)
    assert (apart.argmin(1) == torch.arange(N)).float().mean() >= 0.9


def test_the_person_comes_back(likeness) -> None:
    found = face_quality.summary(likeness(1.0, 1.0))
    assert found["nearest"].mean >= NEAREST
    assert found["margin"].mean >= MARGIN
    turned = face_quality.summary(likeness(1.0, 1.0).roll(1, 0))  # other persons' pictures: the measure can fail
    assert turned["margin"].mean < MARGIN / 2 and turned["nearest"].mean < NEAREST / 2


def test_likeness_rises_with_the_weight(likeness) -> None:
    none, half, whole = (margin(likeness(weight, 1.0)) for weight in (0.0, 0.5, 1.0))
    assert abs(none) < MARGIN / 2
    assert none + MARGIN / 2 < half < whole


def test_likeness_rises_with_the_lora(likeness) -> None:
    none, half, whole = (margin(likeness(1.0, strength)) for strength in face_quality.STRENGTHS)
    assert none < half < whole
    assert none + LORA < whole


NEAREST, MARGIN, LORA = 0.3, 0.2, 0.06
