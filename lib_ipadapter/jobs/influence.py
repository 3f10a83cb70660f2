"""The heat maps of a job: what its units' prompts have measured, by picture and unit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..attend.influence import Influence
from ..attend.prompt import ImagePrompt


class InfluenceMaps:
    """``units`` are the numbers of the units that are to have maps, ``prompts`` the prompts of those that act, each
    with its unit's number. What a unit with several prompts did is the sum of what they did."""

    def __init__(self, units: Sequence[int] = (), prompts: Sequence[tuple[int, ImagePrompt]] = ()) -> None:
        self.units = list(units)
        self._prompts: dict[int, list[ImagePrompt]] = {}
        self._maps: dict[tuple[int, int], Tensor] = {}  # by picture and unit
        for number, prompt in prompts:
            if number in self.units:
                self._prompts.setdefault(number, []).append(prompt)
                prompt.influence = Influence()

    def collect(self) -> None:
        """A sampling pass is over: its maps take the place of those of the pass before."""
        for number in self._prompts:
            measured = [influence.maps() for influence in self._influences(number)]
            for picture in {picture for maps in measured for picture in maps}:
                found = [maps[picture] for maps in measured if picture in maps]
                self._maps[picture, number] = torch.stack(found).sum(0)

    def _influences(self, number: int) -> list[Influence]:
        return [one.influence for one in self._prompts.get(number, ()) if one.influence is not None]

    def of(self, picture: int) -> dict[int, Tensor | None]:
        """The heat maps of a picture of the job by unit: [height, width] of the latent of the last pass that the unit
        took part in, in shares of the text's attention.

        One value, 0, for a unit without influence; None where another extension has taken the pictures apart, so that
        nothing tells where the influence was.
        """
        return {number: self._map(picture, number) for number in self.units}

    def _map(self, picture: int, number: int) -> Tensor | None:
        measured = self._maps.get((picture, number))
        if measured is not None:
            return measured
        incomplete = any(influence.incomplete for influence in self._influences(number))
        return None if incomplete else torch.zeros(1, 1)
