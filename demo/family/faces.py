"""A second world: drawn faces of persons, on the grounds of the first.

What makes a person is the same in all their photos: colours, styles, proportions. A photo adds where the face is, how
large and how tilted, the light, a smile, and the ground, which is all that its caption tells. As in ``world``, one in
``HELD_OUT`` combinations of styles and colours is kept from training; nobody whom training knows shares one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from demo.family import world

# Large areas in the first world's own colours: the autoencoder has learnt no others, and blurs what is small.
COLOURS = len(world.COLOURS)
STYLES = ("bald", "short", "long", "round", "crest", "parted", "bun", "tails")
BEARDS = ("none", "full")
HELD_OUT = world.HELD_OUT
KINDS = {"skin": COLOURS, "hair": COLOURS, "eyes": COLOURS, "mouth": COLOURS, "style": len(STYLES), "lenses": 3,
         "beard": 3}  # fmt: skip
"""How many values each kind of a person has. Hair, eyes and mouth never have the skin's colour. ``lenses`` 0 is dark
glasses, else none; ``beard`` 0 is a full beard, else none."""
PROPORTIONS = {
    "width": (0.78, 1.0), "height": (0.92, 1.12), "size": (0.19, 0.27), "apart": (0.36, 0.48), "level": (0.0, 0.2),
    "lips": (0.24, 0.48), "ears": (0.0, 0.26), "hairline": (0.4, 0.6),
}  # fmt: skip
"""What a person has as a number, in radii of the head, from the least to the most."""


@dataclass(frozen=True)
class People:
    """N persons: ``kinds`` [N, kinds] long, in the order of KINDS, and ``proportions`` [N, proportions] float."""

    kinds: Tensor
    proportions: Tensor

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, index: Tensor | slice | list[int]) -> People:
        return People(self.kinds[index], self.proportions[index])

    def to(self, device: torch.device | str) -> People:
        return People(self.kinds.to(device), self.proportions.to(device))

    def kind(self, name: str) -> Tensor:
        return self.kinds[:, list(KINDS).index(name)]

    def number(self, name: str) -> Tensor:
        """A proportion, [N, 1, 1]."""
        return self.proportions[:, list(PROPORTIONS).index(name), None, None]


@dataclass(frozen=True)
class Photos:
    """N photos. ``ground``, ``texture`` and ``pattern`` are ``world.Scenes``'s; ``pose`` [N, 5]: x, y, and half the
    head's height in shares of the side, tilt in radians, smile (-1 to 1)."""

    ground: Tensor
    texture: Tensor
    pattern: Tensor
    pose: Tensor

    def __len__(self) -> int:
        return len(self.ground)

    def __getitem__(self, index: Tensor | slice | list[int]) -> Photos:
        return Photos(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: torch.device | str) -> Photos:
        return Photos(*(getattr(self, field.name).to(device) for field in fields(self)))

    @staticmethod
    def join(parts: list[Photos]) -> Photos:
        return Photos(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Photos)))

    def captions(self) -> list[str]:
        return [caption(*pair) for pair in zip(self.ground.tolist(), self.texture.tolist(), strict=True)]


def caption(ground: int, texture: int) -> str:
    return f"a face {list(world.TEXTURES.values())[texture].format(list(world.COLOURS)[ground])}"


def is_held_out(people: People) -> Tensor:
    """Whether a person's kinds are kept from training, [N] bool."""
    code = torch.zeros_like(people.kinds[:, 0])
    for kind in people.kinds.clone().T:
        code = world.mixed(code * 31 + kind + 1)
    return code % HELD_OUT == 0


def people(n: int, rng: torch.Generator, *, held_out: bool = False) -> People:
    """``n`` persons of one split, the same for the same state of ``rng``."""
    low, high = torch.tensor(list(PROPORTIONS.values())).T
    found, parts = 0, []
    while found < n:
        count = n * (HELD_OUT + 2 if held_out else 1) + 16
        kinds = torch.stack([torch.randint(many, (count,), generator=rng) for many in KINDS.values()], 1)
        kinds[:, 1:4] = (kinds[:, :1] + 1 + kinds[:, 1:4] % (COLOURS - 1)) % COLOURS
        drawn = People(kinds, low + (high - low) * torch.rand(count, len(low), generator=rng))
        parts.append(drawn[is_held_out(drawn) == held_out])
        found += len(parts[-1])
    return People(*(torch.cat([getattr(part, name) for part in parts])[:n] for name in ("kinds", "proportions")))


POSES = ((0.45, 0.55), (0.5, 0.57), (0.34, 0.4), (-0.14, 0.14), (-1.0, 1.0))


def photos(who: People, rng: torch.Generator) -> Photos:
    """A photo of each, on a ground of neither skin's nor hair's colour."""
    low, high = torch.tensor(POSES).T
    n = len(who)
    free = torch.ones(n, COLOURS).scatter_(1, who.kinds[:, :2], 0)
    return Photos(
        torch.multinomial(free, 1, generator=rng)[:, 0], torch.randint(len(world.TEXTURES), (n,), generator=rng),
        torch.rand(n, 3, generator=rng), low + (high - low) * torch.rand(n, len(low), generator=rng),
    )  # fmt: skip


# --- drawing --------------------------------------------------------------------------------------------------------


def _ellipse(x: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    return (torch.hypot(x / a, y / b) - 1) * torch.minimum(*torch.broadcast_tensors(*map(torch.as_tensor, (a, b))))


def _box(x: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float, round_by: float = 0.0) -> Tensor:
    across, along = x.abs() - (a - round_by), y.abs() - (b - round_by)
    outside = torch.hypot(across.clamp(min=0), along.clamp(min=0))
    return outside + torch.maximum(across, along).clamp(max=0) - round_by


FAR = 9.0


class _Brush:
    """Paints shapes, given by signed distances in radii of the head, onto pictures of which each has one head."""

    def __init__(self, pictures: Tensor, radius: Tensor) -> None:
        self.pictures, self.pixels = pictures, radius * pictures.shape[-1]

    def __call__(self, distance: Tensor, colour: Tensor) -> None:
        """``colour`` is [N, 3] or one for each pixel [N, 3, H, W]."""
        cover = (0.5 - distance * self.pixels).clamp(0, 1)[:, None]
        paint = colour if colour.ndim == 4 else colour[..., None, None]
        self.pictures = self.pictures + (paint - self.pictures) * cover


def _hair(style: Tensor, x: Tensor, y: Tensor, who: People) -> tuple[Tensor, Tensor]:
    """Signed distances of the hair behind the head and of that on it."""
    a, b, line = who.number("width"), who.number("height"), who.number("hairline")
    x = x.expand_as(y) if x.shape != y.shape else x
    skull = _ellipse(x, y, a * 1.1, b * 1.1)
    cap = torch.maximum(skull, line * b - y)
    none = torch.full_like(x, FAR)
    tails = torch.minimum(_ellipse(x - a * 1.25, y + 0.1, 0.4, 0.62), _ellipse(x + a * 1.25, y + 0.1, 0.4, 0.62))
    crest = _box(x, y - b, 0.26, 0.52, 0.15)
    behind = (none, none, _box(x, y + 0.22 * b, a * 1.28, b * 1.12, 0.4), _ellipse(x, y - 0.38, a + 0.5, b + 0.2),
              none, none, _ellipse(x, y - b * 1.25, 0.5, 0.45), tails)  # fmt: skip
    front = (none, cap, cap, torch.maximum(skull, line * b + 0.1 - y), crest,
             torch.maximum(skull, (line - 0.12) * b + 0.55 * x - y), cap, cap)  # fmt: skip
    return tuple(
        torch.stack(shapes).gather(0, style[None, :, None, None].expand(1, *x.shape))[0] for shapes in (behind, front)
    )


def _features(brush: _Brush, x: Tensor, y: Tensor, who: People, smile: Tensor, palette: Tensor) -> None:
    """Beard, mouth, and eyes or dark glasses, onto a head that is there."""
    a, b, mouth = who.number("width"), who.number("height"), who.number("lips")
    none = torch.full_like(x, FAR)
    beard = torch.maximum(_ellipse(x, y, a, b) - 0.06, y - (-0.16 + 0.35 * (x / a) ** 2 * b))
    brush(torch.where(who.kind("beard")[:, None, None] == 0, beard, none), palette[who.kind("hair")])
    curve = -0.5 * b + smile * 0.3 * ((x / mouth) ** 2 - 0.5) * mouth
    brush(_box(x, y - curve, mouth, 0.13, 0.06), palette[who.kind("mouth")])
    size, sides = who.number("size"), (x.abs() - who.number("apart"), y - who.number("level"))
    lenses = torch.minimum(_box(*sides, size + 0.08, size, 0.1), _box(x, sides[1], a, 0.06))
    worn = who.kind("lenses")[:, None, None] == 0
    brush(torch.where(worn, lenses, _ellipse(*sides, size, size)), palette[who.kind("eyes")])


def draw(who: People, shown: Photos, side: int = world.SIDE) -> Tensor:
    """Photos ``shown`` of ``who`` (one each) as pictures [N, 3, side, side] in 0…1, on their device."""
    device = who.kinds.device
    palette = torch.tensor(list(world.COLOURS.values()), device=device) / 255
    line = (torch.arange(side, device=device) + 0.5) / side
    u, v = line[None, None, :], line[None, :, None]
    x0, y0, radius, tilt, smile = (part[:, None, None] for part in shown.pose.unbind(1))
    x, y = (u - x0) / radius, (y0 - v) / radius
    x, y = x * tilt.cos() - y * tilt.sin(), x * tilt.sin() + y * tilt.cos()
    brush = _Brush(world.grounds(shown, palette, u, v, side), radius)
    skin, hair, ears = palette[who.kind("skin")], palette[who.kind("hair")], who.number("ears") + 1e-3
    behind, front = _hair(who.kind("style"), x, y, who)
    brush(behind, hair)
    brush(_ellipse(x.abs() - who.number("width"), y, ears, ears * 1.2), skin)
    brush(_ellipse(x, y, who.number("width"), who.number("height")), skin)
    _features(brush, x, y, who, smile, palette)
    brush(front, hair)
    return brush.pictures
