"""From pictures to figures: scores of each picture, and their means with intervals, paired by seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib_ipadapter.encode.picture import content_hash

from .made import Kept, Settings
from .plan import PLAIN, Cell, Plan, Scene, plain_words
from .scores import BATCH, Clip, clip_i, clip_t

DRAWS = 2000
AT_ONCE = 1_000_000
"""Values that are drawn together: more would take gigabytes."""
Array = NDArray[Any]


@dataclass(frozen=True)
class Score:
    """One picture in the eyes of one scene; ``others`` is its mean CLIP-I with the other references, None without.

    ``ratio`` is its time over the plain picture's of the same prompt and seed, None if they are of two runs.
    """

    reference: str
    prompt: str
    seed: int
    method: str
    weight: float | None
    clip_i: float
    clip_t: float
    others: float | None
    seconds: float
    session: str  # the run that it was made in
    ratio: float | None
    is_plain: bool  # whether its pixels are the plain picture's

    @property
    def pair(self) -> tuple[str, str, int]:
        return self.reference, self.prompt, self.seed


@dataclass(frozen=True)
class Figure:
    """A mean (or median) with its 95 % interval, over ``n`` pictures of ``groups`` references. NaN of none, and of one
    picture the interval."""

    value: float
    low: float
    high: float
    n: int
    groups: int

    def told(self, sign: str = "", digits: int = 3) -> str:
        if not self.n:
            return "–"
        if self.n == 1:
            return f"{self.value:{sign}.{digits}f} (–)"
        return f"{self.value:{sign}.{digits}f} ({self.low:{sign}.{digits}f} to {self.high:{sign}.{digits}f})"


def mean(groups: Sequence[Array], drawn: Array) -> Array:
    """Means of draws [D, G] of groups, every value of a group counting each time that it is drawn -> [D]."""
    sums, counts = (np.array([part(g) for g in groups], dtype=np.float64) for part in (np.sum, len))
    found: Array = sums[drawn].sum(1) / counts[drawn].sum(1)
    return found


def median(groups: Sequence[Array], drawn: Array) -> Array:
    """As ``mean``."""
    if len({len(group) for group in groups}) == 1:
        found: Array = np.median(np.stack(groups)[drawn].reshape(len(drawn), -1), axis=1)
        return found
    return np.array([np.median(np.concatenate([groups[i] for i in row])) for row in drawn])


def figure(
    values: Iterable[tuple[str, float]],
    statistic: Callable[[Sequence[Array], Array], Array] = mean,
    draws: int = DRAWS,
) -> Figure:
    """The statistic of (group, value) pairs, with its percentile bootstrap over groups; over values where there is one
    group. The draws are the same for equal numbers of groups, so a figure comes out the same each time."""
    by_group: dict[str, list[float]] = defaultdict(list)
    for group, value in values:
        by_group[group].append(value)
    groups = [np.asarray(found, dtype=np.float64) for found in by_group.values()]
    n = sum(map(len, groups))
    if not n:
        return Figure(np.nan, np.nan, np.nan, 0, 0)
    units = groups if len(groups) > 1 else [*groups[0][:, None]]
    value = statistic(units, np.arange(len(units))[None])[0]
    if n == 1:
        return Figure(float(value), np.nan, np.nan, 1, 1)
    rng, step = np.random.default_rng(0), max(1, AT_ONCE // n)
    parts = [min(step, draws - start) for start in range(0, draws, step)]
    found = [statistic(units, rng.integers(0, len(units), (part, len(units)))) for part in parts]
    low, high = np.quantile(np.concatenate(found), (0.025, 0.975))
    return Figure(float(value), float(low), float(high), n, len(groups))


@dataclass(frozen=True)
class Row:
    """One method at one weight; ``over_…`` are differences from the plain pictures of the same seeds."""

    method: str
    weight: float | None
    clip_i: Figure
    over_clip_i: Figure
    clip_t: Figure
    over_clip_t: Figure
    others: Figure
    time: Figure
    same: int  # pictures that are the plain one, pixel for pixel


def rows(plan: Plan, scores: Sequence[Score]) -> list[Row]:
    plain = {score.pair: score for score in scores if score.method == PLAIN}
    made = [_row(PLAIN, None, [*plain.values()], plain)]
    for method in plan.methods:
        for weight in plan.weights:
            some = [score for score in scores if score.method == method and score.weight == weight]
            made.append(_row(method, weight, some, plain))
    return made


def _row(method: str, weight: float | None, some: Sequence[Score], plain: dict[tuple[str, str, int], Score]) -> Row:
    pairs = [] if method == PLAIN else [(score, plain[score.pair]) for score in some]
    return Row(
        method, weight,
        figure((s.reference, s.clip_i) for s in some),
        figure((s.reference, s.clip_i - p.clip_i) for s, p in pairs),
        figure((s.reference, s.clip_t) for s in some),
        figure((s.reference, s.clip_t - p.clip_t) for s, p in pairs),
        figure((s.reference, s.others) for s in some if s.others is not None),
        figure(((s.reference, s.ratio) for s, _ in pairs if s.ratio is not None), median),
        sum(s.is_plain for s in some),
    )  # fmt: skip


@dataclass(frozen=True)
class Against:
    """The first method less the second at one weight, same references, prompts and seeds; time as their ratio."""

    weight: float
    clip_i: Figure
    clip_t: Figure
    time: Figure


def against(plan: Plan, scores: Sequence[Score], one: str, other: str) -> list[Against]:
    found = {(score.method, score.weight, score.pair): score for score in scores}
    made = []
    for weight in plan.weights:
        keys = [key[2] for key in found if key[:2] == (one, weight)]
        pairs = [(found[one, weight, key], found[other, weight, key]) for key in keys]
        timed = [(a.reference, a.seconds / b.seconds) for a, b in pairs if a.session == b.session]
        made.append(Against(
            weight,
            figure((a.reference, a.clip_i - b.clip_i) for a, b in pairs),
            figure((a.reference, a.clip_t - b.clip_t) for a, b in pairs),
            figure(timed, median),
        ))  # fmt: skip
    return made


class Measuring:
    """Scores of all pictures of a plan, embedded once each."""

    def __init__(self, plan: Plan, settings: Settings, kept: Kept, clip: Clip) -> None:
        self.plan, self.settings, self.kept, self.clip = plan, settings, kept, clip
        self.shortened: list[str] = []
        self.wordless: list[str] = []
        known = list(dict.fromkeys(scene.reference for scene in plan.scenes))
        parts = [known[start : start + BATCH] for start in range(0, len(known), BATCH)]
        embedded = torch.cat([clip.images([one.image() for one in part]) for part in parts])
        self._references = dict(zip(known, embedded, strict=True))
        self._sum = embedded.double().sum(0)
        self._captions: dict[str, Tensor] = {}
        for caption in dict.fromkeys(scene.caption for scene in plan.scenes):
            words = plain_words(caption)
            fitting = clip.fitting(words)
            if not fitting:
                self.wordless.append(caption)
            elif fitting != words:
                self.shortened.append(caption)
            self._captions[caption] = clip.texts([fitting])[0]

    def scores(self, tell: Callable[[str], None] = lambda text: None) -> list[Score]:
        cells = [*self.plan.cells()]
        seen: dict[Cell, tuple[Tensor, str]] = {}
        known: dict[str, Tensor] = {}  # equal pictures are embedded once, so that they are equal to the last bit
        for start in range(0, len(cells), BATCH):
            part = {cell: self.kept.image(self.settings.key(cell)) for cell in cells[start : start + BATCH]}
            digests = {cell: content_hash(image) for cell, image in part.items()}
            new = {digest: part[cell] for cell, digest in digests.items() if digest not in known}
            if new:
                known.update(zip(new, self.clip.images([*new.values()]), strict=True))
            seen.update({cell: (known[digest], digest) for cell, digest in digests.items()})
            tell(f"{min(start + BATCH, len(cells))} of {len(cells)} pictures seen by CLIP")
        return [score for scene in self.plan.scenes for score in self._of(scene, seen)]

    def _of(self, scene: Scene, seen: dict[Cell, tuple[Tensor, str]]) -> list[Score]:
        made = []
        own, n = self._references[scene.reference], len(self._references)
        others = (self._sum - own).float() / (n - 1) if n > 1 else None  # a mean of cosines is that with the mean
        for seed in self.plan.seeds:
            plain = self.plan.plain(scene, seed)
            some = [self.plan.cell(scene, seed, m, w) for m in self.plan.methods for w in self.plan.weights]
            for cell in (plain, *some):
                embedding, digest = seen[cell]
                note, beside = (self.kept.notes[self.settings.key(one)] for one in (cell, plain))
                paired = note["session"] == beside["session"]
                made.append(Score(
                    scene.reference.name, scene.caption, seed, cell.method, cell.weight,
                    clip_i(embedding, own).item(),
                    clip_t(embedding, self._captions[scene.caption]).item(),
                    None if others is None else clip_i(embedding, others).item(),
                    note["seconds"], note["session"], note["seconds"] / beside["seconds"] if paired else None,
                    digest == seen[plain][1],
                ))  # fmt: skip
        return made
