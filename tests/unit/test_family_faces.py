"""The drawn faces: what a person keeps from photo to photo, and what only a photo has."""

from __future__ import annotations

from dataclasses import replace

import torch

from demo.family import faces, networks, world


def test_the_same_seed_draws_the_same_faces() -> None:
    def drawn(seed: int) -> torch.Tensor:
        rng = world.generator("faces", seed)
        who = faces.people(10, rng)
        return faces.draw(who, faces.photos(who, rng))

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert drawn(1).shape == (10, 3, 64, 64) and drawn(1).min() >= 0 and drawn(1).max() <= 1


def test_a_photo_does_not_depend_on_its_batch() -> None:
    rng = world.generator(1)
    who = faces.people(20, rng)
    shown = faces.photos(who, rng)
    assert torch.equal(faces.draw(who, shown)[7:8], faces.draw(who[7:8], shown[7:8]))


def test_training_draws_nobody_held_out() -> None:
    seen, kept = (faces.people(4000, world.generator(2), held_out=held) for held in (False, True))
    assert not faces.is_held_out(seen).any() and faces.is_held_out(kept).all()
    assert not {*map(tuple, seen.kinds.tolist())} & {*map(tuple, kept.kinds.tolist())}
    for who in (seen, kept):
        assert all(len(column.unique()) == many for column, many in zip(who.kinds.T, faces.KINDS.values(), strict=True))


def test_what_is_on_a_face_has_another_colour() -> None:
    who = faces.people(2000, world.generator(3))
    assert all((who.kind(part) != who.kind("skin")).all() for part in ("hair", "eyes", "mouth"))
    shown = faces.photos(who, world.generator(4))
    assert (shown.ground != who.kind("skin")).all() and (shown.ground != who.kind("hair")).all()
    assert len(shown.ground.unique()) == len(world.COLOURS)


def test_a_face_shows_in_its_colours() -> None:
    """Skin in the middle of the face, hair above it, on a ground whose colour is in the corners."""
    who = faces.people(200, world.generator(5))
    shown = faces.photos(who, world.generator(6))
    shown = replace(
        shown, texture=torch.zeros_like(shown.texture), pose=torch.tensor([[0.5, 0.5, 0.36, 0.0, 0.0]] * 200)
    )
    pictures, palette = faces.draw(who, shown), torch.tensor(list(world.COLOURS.values())) / 255

    def has(x: int, y: int, colour: torch.Tensor) -> torch.Tensor:
        return (pictures[:, :, y, x] - palette[colour]).abs().amax(1) < 1e-3

    assert has(0, 0, shown.ground).all()
    cheek = has(32, 36, who.kind("skin"))
    assert cheek[(who.kind("beard") > 0)].float().mean() > 0.95
    top = has(32, 12, who.kind("hair"))
    haired = who.kind("style") > 0
    assert top[haired].float().mean() > 0.7 and not top[~haired].any()


def test_captions_tell_the_ground_alone() -> None:
    who = faces.people(50, world.generator(7))
    shown = faces.photos(who, world.generator(8))
    for caption, ground, texture in zip(shown.captions(), shown.ground, shown.texture, strict=True):
        assert caption.startswith("a face on ")
        assert list(world.COLOURS)[ground] in caption and list(world.TEXTURES)[texture] in caption
        assert networks.token_ids(caption)[2] == networks.FACE_TOKENS["face"]
