"""The demo family's world: what is drawn, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from demo.family import networks, world


def test_the_same_seed_draws_the_same_world() -> None:
    one, other = (world.scenes(20, world.generator("a", 1)) for _ in range(2))
    assert one.words() == other.words()
    assert torch.equal(world.draw(one), world.draw(other))
    assert one.words() != world.scenes(20, world.generator("a", 2)).words()
    pictures = world.draw(one)
    assert pictures.shape == (20, 3, 64, 64)
    assert pictures.min() >= 0
    assert pictures.max() <= 1


def test_a_picture_does_not_depend_on_its_batch() -> None:
    scenes = world.scenes(12, world.generator(3))
    assert torch.equal(world.draw(scenes)[7:8], world.draw(scenes[7:8]))


def test_training_draws_nothing_held_out() -> None:
    seen, kept = (world.scenes(4000, world.generator(4), held_out=held) for held in (False, True))
    assert not world.is_held_out(seen).any()
    assert world.is_held_out(kept).all()
    assert not set(seen.words()) & set(kept.words())
    assert not world.is_held_out(world.move(seen, world.generator(5))).any()
    two = world.scenes(500, world.generator(6), held_out=True, things=2)
    swapped = replace(two, shape=two.shape.flip(1), colour=two.colour.flip(1), size=two.size.flip(1))
    assert world.is_held_out(swapped).all()
    mixed = torch.cat([world.is_held_out(world._draw_scenes(4000, world.generator(7), None))]).float().mean()
    assert 0.75 < mixed * world.HELD_OUT < 1.25


def test_every_attribute_comes_up_in_both_splits() -> None:
    for held_out in (False, True):
        scenes = world.scenes(3000, world.generator(8), held_out=held_out)
        assert len(scenes.shape.unique()) == len(world.SHAPES) + 1 >= 7
        assert len(scenes.colour.unique()) == len(world.COLOURS) + 1 == 9
        assert len(scenes.size.unique()) == len(world.SIZES) + 1
        assert len(scenes.ground.unique()) == 8
        assert len(scenes.texture.unique()) == len(world.TEXTURES) >= 5
        assert 0.4 < (scenes.shape[:, 1] == world.NO_SHAPE).float().mean() < 0.6


def test_objects_show_in_their_colour_and_lie_inside() -> None:
    scenes = world.scenes(300, world.generator(9))
    pictures, palette = world.draw(scenes), torch.tensor(list(world.COLOURS.values())) / 255
    assert (scenes.colour != scenes.ground[:, None]).all()
    for slot in range(2):
        there = (scenes.shape[:, slot] != world.NO_SHAPE) & (scenes.texture == 0)
        colours = palette[scenes.colour[there, slot]]
        same = (pictures[there] - colours[..., None, None]).abs().amax(1) < 1e-3
        assert (same.flatten(1).sum(1) > 40).all()
    x, y, radius, _ = scenes.place.unbind(2)
    there = scenes.shape != world.NO_SHAPE
    for centre in (x, y):
        assert (centre - radius)[there].min() >= 0
        assert (centre + radius)[there].max() <= 1
    both = there[:, 1]
    assert ((x + radius)[both, 0] <= (x - radius)[both, 1] + 0.06).all()


def test_grounds_without_their_objects() -> None:
    scenes = world.scenes(100, world.generator(14))
    pictures, empty = world.draw(scenes), world.draw(scenes.without_objects())
    changed = (pictures != empty).any(1).flatten(1).float().mean(1)
    assert 0.02 < changed.min() < changed.max() < 0.5
    corners = torch.stack([pictures[..., i, j] == empty[..., i, j] for i in (0, -1) for j in (0, -1)])
    assert corners.all()


def test_captions() -> None:
    scene = world.Scene((world.Thing("circle", "red"),), "blue", "stripes")
    assert scene.caption == "a red circle on blue stripes"
    pair = (world.Thing("star", "green", "small"), world.Thing("square", "orange"))
    assert world.Scene(pair, "red", "gradient").caption == "a small green star and an orange square on a red gradient"
    rng = world.generator(10)
    words = {
        word for s in world.scenes(500, rng).words() for text in (s.caption, world.vary_caption(s, rng))
        for word in text.split()
    }  # fmt: skip
    assert words == set(world.VOCABULARY) == set(networks.TOKENS)


@pytest.mark.parametrize(("text", "true", "false"), [
    ("red", ["a red star", "a star on plain red", "a star and a small red ring on blue dots"], ["a blue star"]),
    ("small", ["a small star on plain red", "a star and a small ring on blue dots"], ["a large star", "a star"]),
    ("star", ["a blue star", "a ring and a star"], ["a ring"]),
    ("a red star", ["a large red star on plain blue", "a ring and a red star"], ["a red ring and a blue star"]),
    ("dots", ["a star on red dots"], ["a star on red stripes", "a star on plain red"]),
    ("red dots", ["a star on red dots"], ["a red star on blue dots"]),
    ("on plain red", ["a star on plain red"], ["a star on red dots", "a red star on plain blue"]),
    ("plain", ["a star on plain red"], ["a star on red dots"]),
    ("a star and a ring", ["a ring and a red star", "a star and a ring"], ["a star", "a star and a star"]),
])  # fmt: skip
def test_what_words_are_true_of(text: str, true: list[str], false: list[str]) -> None:
    def shown(captions: list[str]) -> world.Scenes:
        """Scenes in which what a caption leaves out is green, of middle size and a gradient."""
        said = world.Meaning.of(captions)
        shape, colour, size = said.things.unbind(2)
        there = shape != world.UNSAID
        colour = colour.where(colour != world.UNSAID, torch.tensor(list(world.COLOURS).index("green")))
        size = size.where(size != world.UNSAID, torch.tensor(list(world.SIZES).index("")))
        ground = said.ground.where(said.ground != world.UNSAID, torch.tensor(list(world.COLOURS).index("green")))
        texture = said.texture.where(said.texture != world.UNSAID, torch.tensor(list(world.TEXTURES).index("gradient")))
        nothing = (world.NO_SHAPE, world.NO_COLOUR, world.NO_SIZE)
        objects = (x.where(there, torch.tensor(no)) for x, no in zip((shape, colour, size), nothing, strict=True))
        return world.Scenes(*objects, ground, texture, torch.empty(0), torch.empty(0))

    assert world.Meaning.of([text]).true_of(shown(true)).all()
    assert not world.Meaning.of([text]).true_of(shown(false)).any()


def test_captions_and_their_parts_are_true_of_their_scenes() -> None:
    scenes, rng = world.scenes(400, world.generator(15)), world.generator(16)
    for say in (lambda s, _: s.caption, world.vary_caption, world.part):
        texts = [say(scene, rng) for scene in scenes.words()]
        true = world.Meaning.of(texts).true_of(scenes)
        assert true.shape == (400, 400) and true.diagonal().all() and true.float().mean() < 0.25
    parts = {world.part(scene, rng) for scene in scenes.words()}
    assert {*world.SHAPES, *world.COLOURS, *world.TEXTURES, "small", "large"} <= parts
    assert {part.split()[0] for part in parts} >= {"a", "on", "plain"}
    with pytest.raises(ValueError, match="dog"):
        world.Meaning.of(["a dog"])
