"""Samplers on timesteps: DDIM (Song et al. 2021), PLMS (Liu et al. 2022) and UniPC (Zhao et al. 2023)."""

import torch

from modules import devices, sd_samplers_common, shared
from modules.sd_samplers_cfg_denoiser import CFGDenoiser


def _clean(x, eps, a):
    """The picture without the noise ``eps``, where its own share of the variance is ``a``."""
    return (x - (1 - a).sqrt() * eps) / a.sqrt()


def _down(x, timesteps):
    """For each step: its number, timestep and next timestep as rows of x, and the shares of both."""
    alphas = shared.sd_model.alphas_cumprod
    for i in range(len(timesteps) - 1):
        now, then = timesteps[-1 - i], timesteps[-2 - i]
        yield i, now.expand(len(x)), then.expand(len(x)), alphas[now], alphas[then]


def ddim(model, x, timesteps, extra_args, callback, noise, eta=0.0):
    for i, t, _, a, a_then in _down(x, timesteps):
        eps = model(x, t, **extra_args)
        x0 = _clean(x, eps, a)
        fresh = eta * ((1 - a_then) / (1 - a) * (1 - a / a_then)).sqrt()
        x = a_then.sqrt() * x0 + (1 - a_then - fresh**2).sqrt() * eps + fresh * noise()
        callback({"x": x, "i": i, "sigma": 0, "denoised": x0})
    return x


# Adams-Bashforth: the weights of the newest noise and the ones before it.
_WEIGHTS = [(1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24)]


def plms(model, x, timesteps, extra_args, callback):
    known = []
    for i, t, t_then, a, a_then in _down(x, timesteps):
        eps = model(x, t, **extra_args)
        if known:
            weights = _WEIGHTS[len(known) - 1]
            mixed = sum(w * e for w, e in zip(weights, [eps, *known], strict=True))
        else:  # nothing to look back at: look ahead
            ahead = a_then.sqrt() * _clean(x, eps, a) + (1 - a_then).sqrt() * eps
            mixed = (eps + model(ahead, t_then, **extra_args)) / 2
        known = [eps, *known][:3]
        x0 = _clean(x, mixed, a)
        x = a_then.sqrt() * x0 + (1 - a_then).sqrt() * mixed
        callback({"x": x, "i": i, "sigma": 0, "denoised": x0})
    return x


def _uni_weights(ratios, h, corrects):
    """What a step of length ``h`` in log-SNR weighs its differences with (equations 5 and 9, B(h) = h, data
    prediction); ``ratios`` are the steps' places in h, 1 for the one that is gone to."""
    orders = range(1, len(ratios) + 1)
    phi, factorial, sides = torch.expm1(-h) / -h - 1, 1.0, []
    for k in orders:
        sides.append(phi * factorial / -h)
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    matrix = torch.stack([ratios ** (k - 1) for k in orders])
    if corrects:
        return torch.linalg.solve(matrix, torch.stack(sides)) if len(ratios) > 1 else torch.tensor([0.5])
    if len(ratios) == 2:
        return torch.tensor([0.5])
    return torch.linalg.solve(matrix[:-1, :-1], torch.stack(sides[:-1]))


def unipc(model, x, timesteps, extra_args, callback, is_img2img=False):
    """Third order, even steps in time, as many as there are timesteps; the last one's end asks for no answer."""
    log_alphas = shared.sd_model.alphas_cumprod.cpu().double().log() / 2
    start, count = (float(timesteps[-1]) + 1 if is_img2img else 1000.0), len(timesteps)
    times = torch.linspace(start, 1.0, count + 1, dtype=torch.float64) - 1  # the model's

    def level(t):
        log_alpha = torch.lerp(log_alphas[int(t)], log_alphas[min(int(t) + 1, 999)], t.frac())
        sigma = (1 - (2 * log_alpha).exp()).sqrt()
        return log_alpha.exp(), sigma, log_alpha - sigma.log()

    def clean(latent, t):
        alpha, sigma, _ = level(t)
        eps = model(latent, t.float().to(latent).expand(len(latent)), **extra_args)
        return ((latent - sigma * eps) / alpha).to(latent)

    known = [(level(times[0])[2], clean(x, times[0]))]
    for i in range(1, count + 1):
        order = min(3, i, count + 1 - i)
        (_, sigma_now, here), (alpha, sigma, there) = level(times[i - 1]), level(times[i])
        h, newest = there - here, known[-1][1]
        older = [((at - here) / h, data) for at, data in known[-2 : -order - 1 : -1]]
        ratios = torch.stack([*(ratio for ratio, _ in older), torch.ones(())]).double()
        slopes = [(data - newest) / ratio for ratio, data in older]
        base = sigma / sigma_now * x - alpha * torch.expm1(-h) * newest

        def turned(weights, differences):
            mixed = sum(w * d for w, d in zip(weights, differences, strict=True))
            return (base + alpha * h * mixed).to(x)  # noqa: B023

        x = turned(_uni_weights(ratios, h, False), slopes) if slopes else base.to(x)
        data = newest
        if i < count:
            data = clean(x, times[i])
            x = turned(_uni_weights(ratios, h, True), [*slopes, data - newest])
        known = [*known, (there, data)][-3:]
        callback({"x": x, "i": i - 1, "sigma": 0, "denoised": data})
    return x


class _NoiseModel(torch.nn.Module):
    """The model as it is: x and a timestep to the noise in x."""

    def __init__(self, model):
        super().__init__()
        self.inner_model = model

    def forward(self, x, timesteps, **kwargs):
        return self.inner_model.apply_model(x, timesteps, **kwargs)


class CFGDenoiserTimesteps(CFGDenoiser):
    def __init__(self, sampler):
        super().__init__(sampler)
        self.mask_before_denoising = True  # what comes out is noise, in which no picture can be put back

    def _wrap(self, model):
        return _NoiseModel(model)

    def get_pred_x0(self, x_in, x_out, sigma):
        return _clean(x_in, x_out, shared.sd_model.alphas_cumprod[sigma.long()][:, None, None, None])


class CompVisSampler(sd_samplers_common.Sampler):
    eta_option, eta_name, eta_default = "eta_ddim", "Eta DDIM", 0.0
    denoiser = CFGDenoiserTimesteps

    def get_timesteps(self, p, steps):
        """Timesteps, rising, with a distance as if there were 1000."""
        return (torch.arange(0, 1000, 1000 // steps, device=devices.device) + 1).clamp(max=999)

    schedule = get_timesteps

    def begin(self, p, noise, schedule):
        return noise

    def noised(self, x, noise, schedule, steps):
        a = shared.sd_model.alphas_cumprod[schedule[steps]]
        return a.sqrt() * x + (1 - a).sqrt() * noise, a.sqrt(), schedule[:steps]


def _data(name, func, aliases):
    return sd_samplers_common.SamplerData(name, lambda model, config: CompVisSampler(func, config), aliases, {})


SAMPLERS = [_data("DDIM", ddim, ["ddim"]), _data("PLMS", plms, ["plms"]), _data("UniPC", unipc, ["unipc"])]
