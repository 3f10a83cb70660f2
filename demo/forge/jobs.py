"""What is otherwise in the course of a job on Forge."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from modules import processing, shared


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """Around everything that is computed for a job."""
    with torch.inference_mode():
        yield


def sees_picture(sd_model: Any) -> bool:
    return sd_model.is_inpaint


class _Job:
    """Both kinds of jobs."""

    def _take(self, name: str) -> None:
        """What extensions have done to the UNet is gone: the objects are those from ``name`` again."""
        model = shared.sd_model
        model.forge_objects = getattr(model, name).shallow_copy()

    def parse_extra_network_prompts(self) -> None:
        self._take("forge_objects_original")
        super().parse_extra_network_prompts()

    def setup_conds(self) -> None:
        self._take("forge_objects_after_applying_lora")
        super().setup_conds()

    def get_conds_with_caching(
        self, function, required_prompts, steps, caches, extra_network_data, hires_steps=None, *args
    ) -> Any:
        scale = self.cfg_scale if hires_steps is None else self.hr_cfg
        if required_prompts.is_negative_prompt and scale == 1:
            return None
        return super().get_conds_with_caching(
            function, required_prompts, steps, caches, extra_network_data, hires_steps, *args
        )

    def _announce_sampling(self, x: Any, noise: Any, conds: Any) -> None:
        if self.is_hr_pass:  # it is announced twice
            super()._announce_sampling(x, noise, conds)
        self._take("forge_objects_after_applying_lora")
        super()._announce_sampling(x, noise, conds)


@dataclass(repr=False)
class StableDiffusionProcessingTxt2Img(_Job, processing.StableDiffusionProcessingTxt2Img):
    distilled_cfg_scale: float = 3.5
    hr_cfg: float = 1.0
    hr_distilled_cfg: float = 3.5
    hr_additional_modules: list = field(default=None)


@dataclass(repr=False)
class StableDiffusionProcessingImg2Img(_Job, processing.StableDiffusionProcessingImg2Img):
    distilled_cfg_scale: float = 3.5
    hr_distilled_cfg: float = 3.5
