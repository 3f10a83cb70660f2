"""Samplers on noise levels sigma (Karras et al. 2022): Euler, Euler a, Heun, DPM++ 2M."""

import functools
import itertools

import torch

from modules import sd_samplers_common
from modules.sd_samplers_cfg_denoiser import CFGDenoiser


def _sampler(advance):
    """A sampler from the formula of one step: ``advance(x, denoised, now, then, …)`` is the next x.

    ``now`` and ``then`` are the step's noise levels; ``memory`` is a dict that lives as long as the run.
    """

    @functools.wraps(advance)  # the signature tells whether it wants noise
    def sample(model, x, sigmas, extra_args, callback, **extras):
        def denoise(latent, sigma):
            return model(latent, sigma.expand(len(latent)).to(latent), **extra_args)

        memory = {}
        for i, (now, then) in enumerate(itertools.pairwise(sigmas)):
            denoised = denoise(x, now)
            callback({"x": x, "i": i, "sigma": now, "denoised": denoised})
            x = advance(x, denoised, now, then, denoise, memory, **extras)
        return x

    return sample


@_sampler
def sample_euler(x, denoised, now, then, denoise, memory):
    return x + (x - denoised) * (then / now - 1)


@_sampler
def sample_euler_ancestral(x, denoised, now, then, denoise, memory, noise, eta=1.0):
    variance = then**2 * (1 - then**2 / now**2)
    up = torch.minimum(then, eta * variance.sqrt())
    down = (then**2 - up**2).sqrt()
    x = x + (x - denoised) * (down / now - 1)
    return x + up * noise() if then > 0 else x


@_sampler
def sample_heun(x, denoised, now, then, denoise, memory):
    slope = (x - denoised) / now
    if then > 0:
        ahead = x + slope * (then - now)
        slope = (slope + (ahead - denoise(ahead, then)) / then) / 2
    return x + slope * (then - now)


@_sampler
def sample_dpmpp_2m(x, denoised, now, then, denoise, memory):
    """Lu et al. 2022, algorithm 2, in the logarithm of the noise level."""
    guess = denoised
    if memory and then > 0:
        ratio = (memory["sigma"] / now).log() / (now / then).log()
        guess = denoised + (denoised - memory["denoised"]) / (2 * ratio)
    memory.update(sigma=now, denoised=denoised)
    return torch.lerp(guess, x, then / now)


class _SigmaModel(torch.nn.Module):
    """The model as a function of the noise level: x with noise to x without (Karras et al. 2022, section 5)."""

    def __init__(self, model):
        super().__init__()
        self.inner_model = model
        self.log_sigmas = (1 / model.alphas_cumprod - 1).log() / 2

    def sigma(self, t):
        """Between whole timesteps the logarithm of sigma is linear."""
        return torch.lerp(self.log_sigmas[t.floor().long()], self.log_sigmas[t.ceil().long()], t.frac()).exp()

    def timestep(self, sigma):
        at = torch.searchsorted(self.log_sigmas, sigma.log()).clamp(1, len(self.log_sigmas) - 1)
        below, above = self.log_sigmas[at - 1], self.log_sigmas[at]
        return at - 1 + ((sigma.log() - below) / (above - below)).clamp(0, 1)

    def forward(self, x, sigma, **kwargs):
        level = sigma[:, None, None, None]
        return x - level * self.inner_model.apply_model(x / (1 + level**2).sqrt(), self.timestep(sigma), **kwargs)


class CFGDenoiserKDiffusion(CFGDenoiser):
    def _wrap(self, model):
        return _SigmaModel(model)


class KDiffusionSampler(sd_samplers_common.Sampler):
    denoiser = CFGDenoiserKDiffusion

    def schedule(self, p, steps):
        """``steps`` noise levels, falling, and zero."""
        model, name = self.model_wrap_cfg.inner_model, p.hr_scheduler if p.is_hr_pass else p.scheduler
        if name in (None, "Automatic"):
            name = self.config.options.get("scheduler", "Uniform")
        elif not p.is_hr_pass:
            p.extra_generation_params["Schedule type"] = name
        last = len(model.log_sigmas) - 1
        if name == "Karras":  # section 3.2: even steps in the seventh root
            ends = model.log_sigmas[[last, 0]].exp().pow(1 / 7).tolist()
            sigmas = torch.linspace(*ends, steps) ** 7
        else:
            sigmas = model.sigma(torch.linspace(last, 0, steps, device=model.log_sigmas.device)).cpu()
        return torch.cat([sigmas, torch.zeros(1)])

    def begin(self, p, noise, schedule):
        return noise * schedule[0]

    def noised(self, x, noise, schedule, steps):
        schedule = schedule[-(steps + 2) :]
        return x + noise * schedule[0], 1.0, schedule


def _data(name, func, aliases, **options):
    return sd_samplers_common.SamplerData(
        name, lambda model, config: KDiffusionSampler(func, config), aliases, options
    )  # fmt: skip


SAMPLERS = [
    _data("Euler", sample_euler, ["k_euler"]),
    _data("Euler a", sample_euler_ancestral, ["k_euler_a", "k_euler_ancestral"], uses_ensd=True),
    _data("Heun", sample_heun, ["k_heun"], second_order=True),
    _data("DPM++ 2M", sample_dpmpp_2m, ["k_dpmpp_2m"], scheduler="Karras"),
]
