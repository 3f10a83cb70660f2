"""Classifier-free guidance as Forge does it: latents have one row for each picture, rows are told call by call.

The rows of one kind make groups: one group of unconditional rows, and one of conditional rows for each prompt that AND
joins, each with a row of every picture. Groups whose texts can be made equally long go into one call, the last group
first, so unconditional rows come before conditional ones.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import torch
from modules import prompt_parser, script_callbacks, scripts, sd_samplers_common, shared
from modules import sd_samplers_cfg_denoiser as webui
from torch import Tensor

from demo.forge.engine import KModel

COND, UNCOND = 0, 1
MOST_REPEATS = 4  # of a shorter text, so that it is as long as another one


@dataclass
class Group:
    """A row of every picture, all of one kind. ``told`` is what the UNet is told of them."""

    kind: int
    told: dict[str, Tensor]
    share: float = 1.0

    def fits(self, other: Group) -> bool:
        """Whether both can be in one call."""
        if self.told.keys() != other.told.keys():
            return False
        return all(_fit(name, self.told[name].shape, other.told[name].shape) for name in self.told)


def _fit(name: str, mine: torch.Size, theirs: torch.Size) -> bool:
    if name != "c_crossattn" or mine[0] != theirs[0] or mine[2] != theirs[2]:
        return mine == theirs
    return math.lcm(mine[1], theirs[1]) <= MOST_REPEATS * min(mine[1], theirs[1])


def group_of(text: Any, kind: int, share: float = 1.0, picture: Tensor | None = None) -> Group:
    told = {"c_crossattn": text["crossattn"], "y": text["vector"]} if isinstance(text, dict) else {"c_crossattn": text}
    if isinstance(text, dict) and "guidance" in text:
        told["guidance"] = text["guidance"]
    if picture is not None:
        told["c_concat"] = picture
    return Group(kind, told, share)


def together(some: list[Group]) -> dict[str, Tensor]:
    """One call's arguments: shorter texts are repeated."""
    told = {name: [group.told[name] for group in some] for name in some[0].told}
    longest = math.lcm(*(text.shape[1] for text in told["c_crossattn"]))
    told["c_crossattn"] = [text.repeat(1, longest // text.shape[1], 1) for text in told["c_crossattn"]]
    return {name: torch.cat(values) for name, values in told.items()}


def options_of(kinds: list[int], sigma: Tensor, given: dict[str, Any]) -> dict[str, Any]:
    """What each call tells the layers of its rows."""
    n = len(sigma)
    rows = {
        kind: [i * n + j for i, one in enumerate(kinds) if one == kind for j in range(n)] for kind in (COND, UNCOND)
    }
    mark = torch.tensor([float(kind) for kind in kinds for _ in range(n)]).to(sigma)
    return {
        **given, "cond_or_uncond": list(kinds), "sigmas": sigma, "cond_mark": mark, "cond_indices": rows[COND],
        "uncond_indices": rows[UNCOND],
    }  # fmt: skip


def ask(model: KModel, waiting: list[Group], x: Tensor, sigma: Tensor, model_options: dict[str, Any]) -> Any:
    """The model's answers for x, both kinds, None for one that is not there; conditional groups have shares."""
    memory = sys.modules["backend.memory_management"]
    sums: dict[int, Tensor] = {}
    shares = {kind: sum(group.share for group in waiting if group.kind == kind) for kind in (COND, UNCOND)}
    while waiting:
        fitting = [group for group in waiting if group.fits(waiting[0])][::-1]
        free, shape = memory.get_free_memory(x.device), list(x.shape[1:])
        sizes = (len(fitting) // i for i in range(1, len(fitting) + 1))
        some = fitting[: next((n for n in sizes if model.memory_required([n * len(x), *shape]) < free), 1)]
        waiting = [group for group in waiting if all(group is not one for one in some)]
        kinds = [group.kind for group in some]
        given = model_options.get("transformer_options", {})
        told = {**together(some), "transformer_options": options_of(kinds, sigma, given)}
        rows, levels = torch.cat([x] * len(some)), torch.cat([sigma] * len(some))
        wrapper = model_options.get("model_function_wrapper")
        if wrapper is None:
            answer = model.apply_model(rows, levels, **told)
        else:
            call = {"input": rows, "timestep": levels, "c": told, "cond_or_uncond": kinds}
            answer = wrapper(model.apply_model, call)
        for group, part in zip(some, answer.chunk(len(some)), strict=True):
            sums[group.kind] = sums.get(group.kind, 0) + part * group.share
    return tuple(sums[kind] / shares[kind] if kind in sums else torch.zeros_like(x) for kind in (COND, UNCOND))


class CFGDenoiser(webui.CFGDenoiser):
    """What samplers call. ``uncond`` is None at CFG 1."""

    def __init__(self, sampler: Any) -> None:
        super().__init__(sampler)
        self.mask_before_denoising = False
        self.classic_ddim_eps_estimation = False

    def forward(
        self, x: Tensor, sigma: Tensor, uncond: Any, cond: Any, cond_scale: float, s_min_uncond: float, image_cond: Any
    ) -> Tensor:
        state = shared.state
        if state.interrupted or state.skipped:
            raise sd_samplers_common.InterruptedException
        if self.classic_ddim_eps_estimation:  # x and a timestep to x and a noise level, both as the others have them
            a = self.inner_model.inner_model.alphas_cumprod[sigma.round().long()]
            sigma = (1 / a - 1).sqrt()
            x = x * (1 + sigma**2).sqrt()[:, None, None, None]
        if sd_samplers_common.apply_refiner(self, x):
            cond, uncond = (self.sampler.sampler_extra_args[side] for side in ("cond", "uncond"))
        parts, cond = prompt_parser.reconstruct_multicond_batch(cond, self.step)
        uncond = None if uncond is None else prompt_parser.reconstruct_cond_batch(uncond, self.step)
        if self.mask is not None:
            predictor = self.inner_model.inner_model.forge_objects.unet.model.predictor
            level = sigma[:, None, None, None]
            noisy = predictor.noise_scaling(level, torch.randn_like(self.init_latent), self.init_latent)
            x = x * self.nmask + noisy * self.mask
        params = script_callbacks.CFGDenoiserParams(
            x, image_cond, sigma, state.sampling_step, state.sampling_steps, cond, uncond, self
        )
        script_callbacks.cfg_denoiser_callback(params)
        denoised = self._guided(params, parts, self._scale(cond_scale, s_min_uncond, sigma))
        if self.mask is not None:
            denoised = self._put_back(denoised, sigma)
        self.sampler.last_latent = state.current_latent = denoised
        after = script_callbacks.AfterCFGCallbackParams(denoised, state.sampling_step, state.sampling_steps)
        script_callbacks.cfg_after_cfg_callback(after)
        self.step += 1
        return (x - after.x) / sigma[:, None, None, None] if self.classic_ddim_eps_estimation else after.x

    def _scale(self, cond_scale: float, s_min_uncond: float, sigma: Tensor) -> float:
        """Hires fix has a scale of its own; two settings leave the unconditional rows out."""
        without = self._goes_without_uncond(sigma, s_min_uncond)
        return 1.0 if without else self.p.hr_cfg if self.p.is_hr_pass else cond_scale

    def _guided(self, params: Any, parts: list, cond_scale: float) -> Tensor:
        patcher = self.inner_model.inner_model.forge_objects.unet
        seen = params.image_cond if params.image_cond.shape[2:] == params.x.shape[2:] else None
        waiting = []
        for column in zip(*parts, strict=False):  # as many parts as the shortest prompt has
            rows, share = [row for row, _ in column], column[-1][1]
            text = params.text_cond
            text = {k: v[rows] for k, v in text.items()} if isinstance(text, dict) else text[rows]
            waiting.append(group_of(text, COND, share, seen))
        strength = sum(group.share for group in waiting)
        if params.text_uncond is not None and not math.isclose(cond_scale, 1.0):
            waiting.append(group_of(params.text_uncond, UNCOND, picture=seen))
        prompts, nothing = ask(patcher.model, waiting, params.x, params.sigma, patcher.model_options)
        return nothing + (prompts - nothing) * cond_scale * strength

    def _put_back(self, latent: Tensor, sigma: Tensor) -> Tensor:
        blended = latent * self.nmask + self.init_latent * self.mask
        arguments = scripts.MaskBlendArgs(latent, self.nmask, self.init_latent, self.mask, blended, self, sigma)
        if self.p.scripts is not None:
            self.p.scripts.on_mask_blend(self.p, arguments)
        return arguments.blended_latent


def noised(sampler: Any, x: Tensor, noise: Tensor, schedule: Tensor, steps: int) -> tuple[Tensor, float, Tensor]:
    """A start picture's latents with the noise of the last ``steps`` of the schedule, as the model has it."""
    schedule = schedule[-(steps + 2) :]
    predictor = sampler.model_wrap_cfg.inner_model.inner_model.forge_objects.unet.model.predictor
    return predictor.noise_scaling(schedule[0], noise, x), 1.0, schedule


class ForgeScheduleLinker(torch.nn.Module):
    """What samplers on noise levels know of the model."""

    def __init__(self, predictor: Any) -> None:
        super().__init__()
        self.predictor = predictor

    @property
    def log_sigmas(self) -> Tensor:
        return self.predictor.log_sigmas

    def t_to_sigma(self, t: Tensor) -> Tensor:
        return self.predictor.sigma(t)


class CFGDenoiserKDiffusion(CFGDenoiser):
    def _wrap(self, model: Any) -> torch.nn.Module:
        wrap = ForgeScheduleLinker(model.forge_objects.unet.model.predictor)
        wrap.inner_model = model
        wrap.sigma = wrap.t_to_sigma  # as the demo's samplers call it
        return wrap


class CompVisTimestepsDenoiser(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner_model = model


class CFGDenoiserTimesteps(CFGDenoiser):
    def __init__(self, sampler: Any) -> None:
        super().__init__(sampler)
        self.classic_ddim_eps_estimation = True

    def _wrap(self, model: Any) -> torch.nn.Module:
        return CompVisTimestepsDenoiser(model)
