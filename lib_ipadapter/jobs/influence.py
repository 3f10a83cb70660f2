"""The heat maps of a job: what its units' prompts have measured, by picture and unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..attend.influence import Influence
from ..attend.prompt import ImagePrompt


class InfluenceMaps:
    """``units`` are the numbers of the units that are to have maps, ``prompts`` the prompts of those that act."""

    def __init__(self, units: Sequence[int] = (), prompts: Mapping[int, ImagePrompt] | None = None) -> None:
        self.units = list(units)
        self._prompts = {number: prompt for number, prompt in (prompts or {}).items() if number in self.units}
        self._maps: dict[tuple[int, int], Tensor] = {}  # by picture and unit
        for prompt in self._prompts.values():
            prompt.influence = Influence()

    def collect(self) -> None:
        """A sampling pass is over: its maps take the place of those of the pass before."""
        for number, prompt in self._prompts.items():
            if prompt.influence is not None:
                self._maps.update({(picture, number): m for picture, m in prompt.influence.maps().items()})

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
        prompt = self._prompts.get(number)
        influence = None if prompt is None else prompt.influence
        return None if influence is not None and influence.incomplete else torch.zeros(1, 1)
