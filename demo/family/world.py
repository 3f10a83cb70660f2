"""The world that the family knows: one or two shapes on a ground, drawn from a seed, with captions.

What a caption can say is an attribute; where things lie exactly is geometry. Scenes are kept as arrays, so that a
batch is drawn at once, on any device, anti-aliased by signed distances. One in ``HELD_OUT`` combinations of attributes
is held out: ``scenes(..., held_out=False)``, which is all that training calls, never returns one of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

SIDE = 64
SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "ring", "cross")
COLOURS = {
    "red": (214, 40, 44), "orange": (246, 136, 30), "yellow": (250, 218, 54), "green": (44, 154, 72),
    "blue": (38, 86, 200), "purple": (134, 56, 168), "white": (246, 246, 244), "black": (24, 24, 28),
}  # fmt: skip
SIZES = {"small": (0.13, 0.16), "": (0.19, 0.22), "large": (0.28, 0.33)}
"""The word for a size, and its radii as shares of the picture's side. Large objects are always alone."""
TEXTURES = {
    "plain": "on plain {}", "stripes": "on {} stripes", "dots": "on {} dots", "checks": "on {} checks",
    "gradient": "on a {} gradient",
}  # fmt: skip
HELD_OUT = 16
NO_SHAPE, NO_COLOUR, NO_SIZE = len(SHAPES), len(COLOURS), len(SIZES)
"""What the second place of a scene with one object holds."""

_NAMES, _SIZE_WORDS, _TEXTURE_NAMES = tuple(COLOURS), tuple(SIZES), tuple(TEXTURES)
_MARGIN = 0.02


@dataclass(frozen=True)
class Thing:
    """One object in words."""

    shape: str
    colour: str
    size: str = ""

    def __str__(self) -> str:
        words = " ".join(word for word in (self.size, self.colour, self.shape) if word)
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@dataclass(frozen=True)
class Scene:
    """A scene's attributes in words; objects from left to right. Empty words are left out of the caption."""

    things: tuple[Thing, ...]
    ground: str
    texture: str

    @property
    def caption(self) -> str:
        ground = TEXTURES[self.texture].format(self.ground) if self.texture else ""
        return " ".join(part for part in (" and ".join(map(str, self.things)), ground) if part)


@dataclass(frozen=True)
class Scenes:
    """N scenes as arrays. Attributes are indices (long): those of the objects [N, 2], left object first, those of the
    ground [N]. Geometry is float: ``place`` [N, 2, 4] (x, y, radius, angle) in shares of the side and in radians,
    ``pattern`` [N, 3] (two phases in 0…1, and the direction: horizontal below 0.5)."""

    shape: Tensor
    colour: Tensor
    size: Tensor
    ground: Tensor
    texture: Tensor
    place: Tensor
    pattern: Tensor

    def __len__(self) -> int:
        return len(self.ground)

    def __getitem__(self, index: Tensor | slice | list[int]) -> Scenes:
        return Scenes(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: torch.device | str) -> Scenes:
        return Scenes(*(getattr(self, field.name).to(device) for field in fields(self)))

    def without_objects(self) -> Scenes:
        """The same grounds, empty."""
        return replace(self, shape=torch.full_like(self.shape, NO_SHAPE))

    @staticmethod
    def join(parts: list[Scenes]) -> Scenes:
        return Scenes(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Scenes)))

    def words(self) -> list[Scene]:
        """The attributes in words."""
        rows = zip(*(getattr(self, name).tolist() for name in ("shape", "colour", "size", "ground", "texture")),
                   strict=True)  # fmt: skip
        return [
            Scene(
                tuple(Thing(SHAPES[s], _NAMES[c], _SIZE_WORDS[z]) for s, c, z in zip(*row[:3], strict=True)
                      if s != NO_SHAPE),
                _NAMES[row[3]], _TEXTURE_NAMES[row[4]],
            )
            for row in rows
        ]  # fmt: skip


def generator(*seeds: int | str) -> torch.Generator:
    """A CPU generator for what ``seeds`` name: the same for the same names, unrelated for others."""
    digest = hashlib.sha256(repr(seeds).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def mixed(x: Tensor) -> Tensor:
    for factor in (0x2C1B3C6D, 0x297A2D39):
        x = ((x ^ (x >> 15)) * factor) & 0x7FFFFFFF
    return x ^ (x >> 15)


def is_held_out(scenes: Scenes) -> Tensor:
    """Whether a scene's attributes are kept from training, [N] bool. Both orders of two objects share their answer."""
    objects = mixed((scenes.shape * 16 + scenes.colour) * 16 + scenes.size + 1).sum(1)
    return mixed(objects + 977 * (scenes.ground * 8 + scenes.texture + 1)) % HELD_OUT == 0


def move(scenes: Scenes, rng: torch.Generator) -> Scenes:
    """The same attributes with other geometry: places, exact sizes, turns, patterns."""

    def spread(low: Tensor | float, high: Tensor | float) -> Tensor:
        return low + (high - low) * torch.rand(len(scenes), 2, generator=rng)

    alone = (scenes.shape[:, 1] == NO_SHAPE)[:, None]
    radii = torch.tensor([*SIZES.values(), (0.0, 0.0)])[scenes.size]
    radius = spread(radii[..., 0], radii[..., 1])
    edge = radius + _MARGIN
    x, halves = spread(edge, 1 - edge), spread(edge, torch.maximum(edge, 0.5 - radius))
    halves = torch.stack([halves[:, 0], 1 - halves[:, 1]], dim=1)
    place = torch.stack([torch.where(alone, x, halves), spread(edge, 1 - edge), radius, spread(-0.2, 0.2)], dim=2)
    return replace(scenes, place=place, pattern=torch.rand(len(scenes), 3, generator=rng))


def _draw_scenes(n: int, rng: torch.Generator, things: int | None) -> Scenes:
    def choose(high: int, *shape: int) -> Tensor:
        return torch.randint(high, (n, *shape), generator=rng)

    ground, texture, shape = choose(len(COLOURS)), choose(len(TEXTURES)), choose(len(SHAPES), 2)
    colour = (ground[:, None] + 1 + choose(len(COLOURS) - 1, 2)) % len(COLOURS)  # never the ground's
    alone = torch.rand(n, generator=rng) < 0.5 if things is None else torch.full((n,), things == 1)
    size = torch.where(alone[:, None], choose(3, 2), choose(2, 2))
    shape[alone, 1], colour[alone, 1], size[alone, 1] = NO_SHAPE, NO_COLOUR, NO_SIZE
    return move(Scenes(shape, colour, size, ground, texture, torch.empty(0), torch.empty(0)), rng)


def scenes(n: int, rng: torch.Generator, *, held_out: bool = False, things: int | None = None) -> Scenes:
    """``n`` scenes of one split, the same for the same state of ``rng``; ``things`` fixes the number of objects."""
    parts: list[Scenes] = []
    while sum(map(len, parts)) < n:
        drawn = _draw_scenes(n * (HELD_OUT + 2 if held_out else 1) + 16, rng, things)
        parts.append(drawn[is_held_out(drawn) == held_out])
    return Scenes.join(parts)[:n]


def vary_caption(scene: Scene, rng: torch.Generator) -> str:
    """A caption that may say less than the scene shows: people's prompts do not list everything."""
    dice = torch.rand(3, generator=rng).tolist()
    things, ground, texture = scene.things, scene.ground, scene.texture
    if dice[0] < 0.15:
        things = tuple(Thing(thing.shape, "", thing.size) for thing in things)
    if dice[1] < 0.3:
        things = tuple(Thing(thing.shape, thing.colour) for thing in things)
    if dice[2] < 0.25:
        ground = texture = ""
    return Scene(things, ground, texture).caption


# --- what words are true of -----------------------------------------------------------------------------------------


def part(scene: Scene, rng: torch.Generator) -> str:
    """A word, an object or a ground, true of the scene."""
    kind, which, *dice = torch.rand(4, generator=rng).tolist()
    if kind < 0.5:
        words = [word for thing in scene.things for word in (thing.shape, thing.colour, thing.size) if word]
        words += [scene.ground, scene.texture]
        return words[int(which * len(words))]
    if kind < 0.8:
        thing = scene.things[int(which * len(scene.things))]
        return str(Thing(thing.shape, thing.colour * (dice[0] < 0.7), thing.size * (dice[1] < 0.5)))
    ground = TEXTURES[scene.texture].format(scene.ground)
    return ground if which < 0.5 else ground.removeprefix("on ")


UNSAID = -1


@dataclass(frozen=True)
class Meaning:
    """What N texts in the world's words demand of a picture, as indices, UNSAID where they say nothing: of objects
    ``things`` [N, 2, 3] (shape, colour, size), of the ground ``ground`` and ``texture`` [N], and ``colour`` [N] of
    anything at all (a colour's name alone)."""

    things: Tensor
    ground: Tensor
    texture: Tensor
    colour: Tensor

    @staticmethod
    def of(texts: Sequence[str]) -> Meaning:
        things, others = zip(*map(_meaning, texts), strict=True)
        return Meaning(torch.tensor(things), *torch.tensor(others).unbind(1))

    def true_of(self, scenes: Scenes) -> Tensor:
        """[N, scenes] bool. Two objects may stand in either order: "and" does not say which is left."""

        def fits(said: Tensor, shown: Tensor) -> Tensor:
            return (said[:, None] == UNSAID) | (said[:, None] == shown[None])

        shown = torch.stack([scenes.shape, scenes.colour, scenes.size], dim=2)
        one, other = (
            [
                torch.stack([fits(self.things[:, said, i], shown[:, slot, i]) for i in range(3)]).all(0)
                & ((scenes.shape[:, slot] != NO_SHAPE) | (self.things[:, said] == UNSAID).all(1)[:, None])
                for slot in range(2)
            ]
            for said in range(2)
        )
        anything = torch.stack([fits(self.colour, c) for c in (scenes.ground, *scenes.colour.T)]).any(0)
        objects = (one[0] & other[1]) | (one[1] & other[0])
        return objects & fits(self.ground, scenes.ground) & fits(self.texture, scenes.texture) & anything


def _meaning(text: str) -> tuple[list[list[int]], list[int]]:
    """One text's ``things`` (always two), and its ground, texture and colour."""
    things, ground, texture = [], UNSAID, UNSAID
    colour = size = UNSAID
    for word in text.split():
        if word in COLOURS:
            colour = _NAMES.index(word)
        elif word in SIZES:
            size = _SIZE_WORDS.index(word)
        elif word in SHAPES:
            things.append([SHAPES.index(word), colour, size])
            colour = size = UNSAID
        elif word in TEXTURES:
            texture = _TEXTURE_NAMES.index(word)
            if word != "plain":
                ground, colour = colour, UNSAID
        elif word not in VOCABULARY:
            raise ValueError(f"“{word}” is not a word of this world")
    if texture == _TEXTURE_NAMES.index("plain"):
        ground, colour = colour, UNSAID
    if size != UNSAID:
        things.append([UNSAID, UNSAID, size])
    return [*things, *[[UNSAID] * 3] * (2 - len(things))], [ground, texture, colour]


# --- drawing --------------------------------------------------------------------------------------------------------
# Signed distances in radii for points x, y (y upwards), after iquilezles.org/articles/distfunctions2d (MIT).


def _star(x: Tensor, y: Tensor) -> Tensor:
    kx, ky, inner = 0.809016994, -0.587785252, 0.45
    x = x.abs()
    for sign in (1.0, -1.0):
        fold = 2 * (sign * kx * x + ky * y).clamp(min=0)
        x, y = x - fold * sign * kx, y - fold * ky
    x, y = x.abs(), y - 1.0
    bx, by = -ky * inner, kx * inner - 1.0
    h = ((x * bx + y * by) / (bx * bx + by * by)).clamp(0, 1)
    return torch.hypot(x - bx * h, y - by * h) * torch.sign(y * bx - x * by)


def _heart(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs() * 0.62, y * 0.62 + 0.56
    slope = (x + y).clamp(min=0) / 2
    low = torch.minimum(x**2 + (y - 1) ** 2, (x - slope) ** 2 + (y - slope) ** 2).sqrt() * torch.sign(x - y)
    return torch.where(x + y > 1, torch.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4, low) / 0.62


def _cross(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    return torch.minimum(torch.maximum(x - 0.3, y - 0.95), torch.maximum(y - 0.3, x - 0.95))


_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": lambda x, y: torch.hypot(x, y) - 0.95,
    "square": lambda x, y: torch.maximum(x.abs(), y.abs()) - 0.82,
    "triangle": lambda x, y: torch.maximum(-y - 0.2, 0.866 * x.abs() + 0.5 * y - 0.35) - 0.3,
    "diamond": lambda x, y: (x.abs() / 0.72 + y.abs() - 1.05) * 0.58,
    "star": _star,
    "heart": _heart,
    "ring": lambda x, y: (torch.hypot(x, y) - 0.7).abs() - 0.25,
    "cross": _cross,
}
_PERIOD = 16.0  # pixels


def _wave(position: Tensor) -> Tensor:
    """An anti-aliased square wave of period 1 in 0…1."""
    return (0.5 + ((position % 1 - 0.5).abs() - 0.25) * _PERIOD).clamp(0, 1)


def _shade(palette: Tensor) -> Tensor:
    """The second tone of a ground: lighter, except where it is light already."""
    light = palette.mean(1, keepdim=True) > 0.8
    return torch.where(light, palette * 0.66, palette + (1 - palette) * 0.45)


def _tone(texture: str, across: Tensor, along: Tensor, a: Tensor, b: Tensor, side: int) -> Tensor:
    """How much of the ground's second tone shows where, [N, side, side] or a shape that expands to it."""
    repeats = SIDE / _PERIOD
    if texture == "plain":
        return torch.zeros_like(across)
    if texture == "gradient":
        return torch.where(a < 0.5, across, 1 - across)
    across, along = across * repeats + a, along * repeats + b
    if texture == "dots":
        return (0.5 + (0.31 - torch.hypot(across % 1 - 0.5, along % 1 - 0.5)) * _PERIOD * side / SIDE).clamp(0, 1)
    one = _wave(across)
    if texture == "stripes":
        return one
    other = _wave(along)
    return one + other - 2 * one * other


def grounds(scenes: Scenes, palette: Tensor, u: Tensor, v: Tensor, side: int) -> Tensor:
    first, second = palette[scenes.ground], _shade(palette)[scenes.ground]
    tones = torch.zeros(len(scenes), side, side, device=u.device)
    for kind, name in enumerate(TEXTURES):
        index = (scenes.texture == kind).nonzero().flatten()
        a, b, turn = (scenes.pattern[index, i, None, None] for i in range(3))
        across, along = torch.where(turn < 0.5, u, v), torch.where(turn < 0.5, v, u)
        tones[index] = _tone(name, across, along, a, b, side).expand(-1, side, side)
    return torch.addcmul(first[..., None, None], (second - first)[..., None, None], tones[:, None])


def draw(scenes: Scenes, side: int = SIDE) -> Tensor:
    """Pictures [N, 3, side, side] in 0…1 on the scenes' device."""
    device = scenes.ground.device
    palette = torch.tensor(list(COLOURS.values()), device=device) / 255
    line = (torch.arange(side, device=device) + 0.5) / side
    u, v = line[None, None, :], line[None, :, None]
    pictures = grounds(scenes, palette, u, v, side)
    for slot in range(2):
        x0, y0, radius, angle = (scenes.place[:, slot, i, None, None] for i in range(4))
        for kind, name in enumerate(SHAPES):
            index = (scenes.shape[:, slot] == kind).nonzero().flatten()
            if not len(index):
                continue
            r, turn = radius[index], angle[index]
            x, y = (u - x0[index]) / r, (y0[index] - v) / r
            x, y = x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()
            cover = (0.5 - _DISTANCES[name](x, y) * r * side).clamp(0, 1)[:, None]
            paint = palette[scenes.colour[index, slot]][..., None, None]
            pictures[index] = pictures[index] + (paint - pictures[index]) * cover
    return pictures


def attributes(scenes: Scenes) -> Tensor:
    """All that there is to know about a picture as numbers, [N, ATTRIBUTES]: what the image encoder learns from."""

    def one_hot(index: Tensor, classes: int) -> Tensor:
        return torch.nn.functional.one_hot(index, classes).flatten(1).float()

    there = (scenes.shape != NO_SHAPE)[..., None]
    pattern = torch.cat([torch.sin(2 * math.pi * scenes.pattern[:, :2]), (scenes.pattern[:, 2:] < 0.5).float()], dim=1)
    return torch.cat([
        one_hot(scenes.shape, NO_SHAPE + 1), one_hot(scenes.colour, NO_COLOUR + 1), one_hot(scenes.size, NO_SIZE + 1),
        one_hot(scenes.ground, len(COLOURS)), one_hot(scenes.texture, len(TEXTURES)),
        (scenes.place[..., :3] * there).flatten(1) * 2, pattern * 0.5,
    ], dim=1)  # fmt: skip


ATTRIBUTES = 2 * (NO_SHAPE + NO_COLOUR + NO_SIZE + 3) + len(COLOURS) + len(TEXTURES) + 6 + 3
VOCABULARY = sorted(
    {"a", "an", "and", "on", *SHAPES, *COLOURS, *filter(None, SIZES), *TEXTURES}
)  # every word that captions use
