"""How a unit's weight spreads over the UNet's transformer blocks, and over the steps. Pure functions and tables.

Blocks are counted in forward order, input -> middle -> output, by the index t; ``bases`` knows what each of them
carries. The types and their formulas are those of ComfyUI_IPAdapter_plus; the ones marked InstantStyle are those of
its authors, which on SD1.x and SD2.x mean other blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from . import bases
from .bases import Base
from .errors import UnitError

Curve = tuple[tuple[float, float], ...]
"""Points (share of the steps, weight), by share; straight lines between them."""
LayerWeights = tuple[float, ...] | Mapping[int, float]
"""A factor for each block, or for some: the others get nothing then."""


@dataclass(frozen=True)
class Spread:
    """A unit's strength in each block: ``weight * factors[t] + extra[t]``; blocks in neither get nothing.

    ``inverted``: blocks in which the reference counts against the picture: the unconditional rows get the reference's
    tokens there and the conditional ones none, so that guidance leads away from it.
    """

    factors: Mapping[int, float] = field(default_factory=dict)
    extra: Mapping[int, float] = field(default_factory=dict)
    inverted: frozenset[int] = frozenset()

    def at(self, block: int, weight: float) -> float:
        return weight * self.factors.get(block, 0.0) + self.extra.get(block, 0.0)

    @property
    def silent(self) -> bool:
        """Whether no block gets anything, whatever the weight."""
        return not any(self.factors.values()) and not self.constant

    @property
    def constant(self) -> bool:
        """Whether any block gets something that does not hang on the weight."""
        return any(self.extra.values())


def _everywhere(blocks: int, factor: Callable[[int], float]) -> Spread:
    return Spread({t: factor(t) for t in range(blocks)})


def _sections(b: Base, inputs: float, middle: float, outputs: float) -> Spread:
    factors = {"input": inputs, "middle": middle, "output": outputs}
    return _everywhere(b.blocks, lambda t: factors[b.section(t)])


def _slope(t: int, count: int) -> float:
    """How near the middle block t of ``count`` is: 0 at the first, 1 in the middle."""
    return 1 - abs(t - count / 2) / (count / 2)


def _eased(share: float) -> float:
    """What is left at the weak end is a twentieth."""
    return 0.05 + 0.95 * share


# Types that any number of blocks can have.
_ANY: dict[str, Callable[[int], Spread]] = {
    "linear": lambda n: _everywhere(n, lambda t: 1.0),
    "ease in": lambda n: _everywhere(n, lambda t: _eased(1 - t / n)),
    "ease out": lambda n: _everywhere(n, lambda t: _eased(t / n)),
    "ease in-out": lambda n: _everywhere(n, lambda t: _eased(_slope(t, n))),
    "reverse in-out": lambda n: _everywhere(n, lambda t: _eased(1 - _slope(t, n))),
}


def _precise(straight: Mapping[int, float], turned: Mapping[int, float], boost: float | None) -> Spread:
    """The reference in ``straight``, and against the picture in ``turned``: there by ``boost``, None for the weight."""
    if boost is None:
        return Spread({**straight, **turned}, inverted=frozenset(turned))
    return Spread(straight, {t: share * boost for t, share in turned.items()}, frozenset(turned))


# Types that must know what a block carries; the numbers are the composition weight and the boost.
_KNOWN: dict[str, Callable[[Base, float, float | None], Spread]] = {
    "weak input": lambda b, *_: _sections(b, 0.2, 1.0, 1.0),
    "weak middle": lambda b, *_: _sections(b, 1.0, 0.2, 1.0),
    "weak output": lambda b, *_: _sections(b, 1.0, 1.0, 0.2),
    "strong middle": lambda b, *_: _sections(b, 0.2, 1.0, 0.2),
    "style transfer": lambda b, *_: Spread(dict.fromkeys(b.style_blocks, 1.0)),
    "composition": lambda b, *_: Spread(b.composition_blocks),
    "strong style transfer": lambda b, *_: Spread(dict.fromkeys(set(b.all_blocks) - set(b.composition_blocks), 1.0)),
    "style and composition": lambda b, second, _: Spread(
        dict.fromkeys(b.style_blocks, 1.0), {t: share * second for t, share in b.composition_blocks.items()}
    ),
    "strong style and composition": lambda b, second, _: Spread(
        dict.fromkeys(set(b.all_blocks) - set(b.composition_blocks), 1.0), dict.fromkeys(b.composition_blocks, second)
    ),
    "style transfer precise": lambda b, _, boost: _precise(
        dict.fromkeys(b.style_blocks, 1.0), b.composition_blocks, boost
    ),
    "composition precise": lambda b, _, boost: _precise(b.composition_blocks, b.precise_rest, boost),
    "style transfer (InstantStyle)": lambda b, *_: Spread(dict.fromkeys(b.instant_style_blocks, 1.0)),
    "composition (InstantStyle)": lambda b, *_: Spread(dict.fromkeys(b.instant_composition_blocks, 1.0)),
    "style and composition (InstantStyle)": lambda b, second, _: Spread(
        dict.fromkeys(b.instant_style_blocks, 1.0), dict.fromkeys(b.instant_composition_blocks, second)
    ),
}  # fmt: skip
WEIGHT_TYPES = (*_ANY, *_KNOWN)
INVERTING = ("style transfer precise", "composition precise")  # these have a boost
# These have a strength of their own at the composition's blocks.
COMPOSING = ("style and composition", "strong style and composition", "style and composition (InstantStyle)")


def spread(
    weight_type: str,
    blocks: int,
    composition_weight: float = 1.0,
    boost: float | None = None,
    layer_weights: LayerWeights | None = None,
    called: Callable[[str], str] = str,
) -> Spread:
    """What a unit's settings mean for a UNet of ``blocks`` transformer blocks.

    ``composition_weight`` is the strength at the composition's blocks for the types "… style and composition";
    ``boost`` that of what the "precise" types turn against. None is the weight, as in the formulas' source where a type
    is chosen in its Advanced node; its nodes for one type each have 1 for style and 0 for composition.
    ``layer_weights`` stand in the place of the type's factors; what a "precise" type turns around stays so.

    Raises UnitError for weights of more or fewer blocks than there are, and for a type that this UNet has no table of;
    ``called`` says what a sentence calls a field.
    """
    if layer_weights is not None:
        return Spread(_factors(layer_weights, blocks, called), inverted=_inverted(weight_type, blocks, called))
    if weight_type in _ANY:
        return _ANY[weight_type](blocks)
    return _KNOWN[weight_type](_base(weight_type, blocks, called), composition_weight, boost)


def _base(weight_type: str, blocks: int, called: Callable[[str], str]) -> Base:
    base = bases.with_blocks(blocks)
    if base is None:
        raise UnitError(
            f"{called('weight_type')} “{weight_type}” is made for SD1.5, SD2.x and SDXL, and this model has {blocks} "
            f"transformer blocks: choose one of {', '.join(_ANY)}, or give {called('layer_weights')}."
        )
    return base


def _inverted(weight_type: str, blocks: int, called: Callable[[str], str]) -> frozenset[int]:
    if weight_type not in INVERTING:
        return frozenset()
    return _KNOWN[weight_type](_base(weight_type, blocks, called), 1.0, None).inverted


def _factors(layer_weights: LayerWeights, blocks: int, called: Callable[[str], str]) -> dict[int, float]:
    if isinstance(layer_weights, Mapping):
        beyond = [t for t in layer_weights if not 0 <= t < blocks]
        if beyond:
            raise UnitError(
                f"{called('layer_weights')} names block {beyond[0]}, but this model has {blocks} transformer blocks: "
                f"give blocks from 0 to {blocks - 1}."
            )
        return dict(layer_weights)
    if len(layer_weights) != blocks:
        raise UnitError(
            f"{called('layer_weights')} holds {len(layer_weights)} numbers, but this model has {blocks} transformer "
            f"blocks: give {blocks} numbers."
        )
    return dict(enumerate(layer_weights))


# More of one thing that a reference brings, and less of the other

LEANINGS = ("style", "subject")
FACTOR_LIMITS = (-5.0, 5.0)  # what a block's factor may be
MORE, LESS, BEGINNING = 1.25, 0.8, 0.25  # factors; what a block without any gets is a share of the strongest


def leaned(strengths: Spread, weight: float, base: Base, towards: str) -> LayerWeights:
    """Layer weights with more of what ``towards`` says, of LEANINGS, and less of the other, for a unit that has
    ``strengths`` with ``weight``. The style's blocks are those that carry it, the subject's all others; of these, those
    that carry the composition begin where they had nothing. Blocks in which the reference counts against the picture
    stay as they are. In hundredths, as a person would write them."""
    factors = {t: strengths.at(t, weight) / weight if weight else strengths.at(t, 1.0) for t in base.all_blocks}
    strongest = max((abs(factors[t]) for t in base.all_blocks if t not in strengths.inverted), default=0.0)
    begins = base.style_blocks if towards == "style" else {*base.composition_blocks}
    for t in {*base.all_blocks} - strengths.inverted:
        if (t in base.style_blocks) != (towards == "style"):
            factors[t] *= LESS
        elif factors[t]:
            factors[t] *= MORE
        elif t in begins:
            factors[t] = BEGINNING * strongest
    low, high = FACTOR_LIMITS
    return tuple(round(min(high, max(low, factors[t])), 2) for t in base.all_blocks)


def weight_at(weight: float | Curve, step: int, steps: int) -> float:
    """The weight in step ``step`` of ``steps``: a curve's at the middle of the step, where windows are measured, too.

    Before a curve's first point its weight is the first one's, after the last the last one's; of two points with one
    share, the later counts from there on.
    """
    if not isinstance(weight, tuple):
        return weight
    share = (min(step, steps - 1) + 0.5) / steps
    before = [point for point in weight if point[0] <= share]
    after = [point for point in weight if point[0] > share]
    if not before or not after:
        return (before or after[:1])[-1][1]
    (x0, y0), (x1, y1) = before[-1], after[0]
    return y0 + (y1 - y0) * (share - x0) / (x1 - x0)


def peak(weight: float | Curve) -> float:
    """The weight farthest from 0."""
    return max((value for _, value in weight), key=abs) if isinstance(weight, tuple) else weight


# Embedding scaling

SCALINGS = ("V only", "K+V", "K+V w/ C penalty", "K+mean(V) w/ C penalty")
FULL_WIDTH = 1280  # the width of layer at which the penalty for narrow ones is none


def scaled_sides(scaling: str, weight: float, width: int) -> tuple[float, float, bool]:
    """What a layer of ``width`` channels multiplies K and V with, and whether V's factor is for its mean alone.

    With W = weight * width / 1280:

    ========================  ==================  ===========================================
    V only                    K                   weight V
    K+V                       weight K            weight V
    K+V w/ C penalty          W K                 W V
    K+mean(V) w/ C penalty    W K                 V - mean(V) + W mean(V), mean over tokens
    ========================  ==================  ===========================================
    """
    if scaling == "V only":
        return 1.0, weight, False
    if scaling != "K+V":
        weight = weight * width / FULL_WIDTH
    return weight, weight, scaling == "K+mean(V) w/ C penalty"


def as_text(value: float | Curve | LayerWeights) -> str:
    """A weight, its curve, or layer weights as a line that ``parse_pairs`` and ``parse_numbers`` read: "0.8",
    "0:1 0.6:0.2", "5:0.4 6:1"."""
    if isinstance(value, Mapping):
        return " ".join(f"{t}:{factor:g}" for t, factor in value.items())
    if isinstance(value, tuple):
        return " ".join(f"{one[0]:g}:{one[1]:g}" if isinstance(one, tuple) else f"{one:g}" for one in value)
    return f"{value:g}"
