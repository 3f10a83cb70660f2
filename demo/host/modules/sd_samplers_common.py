"""What all samplers share, and the way between pictures and latents."""

import contextlib
import inspect
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from modules import devices, script_callbacks, shared
from modules.shared import opts, state


class SamplerData(NamedTuple):
    name: str
    constructor: Any
    aliases: list
    options: dict

    def total_steps(self, steps):
        return 2 * steps if self.options.get("second_order") else steps


class InterruptedException(BaseException):
    """Leaves a sampler in the middle; no Exception, so that nobody swallows it."""


# pictures and latents


def _autoencoder(model):
    return model.first_stage_model


def _conditioning_key():
    """What the loaded UNet is conditioned on."""
    return shared.sd_model.model.conditioning_key


def decode_first_stage(model, x):
    with devices.without_autocast():
        return model.decode_first_stage(x.to(devices.dtype_vae))


def images_tensor_to_samples(image, approximation=None, model=None):
    """Pictures in 0...1 to latents, one by one: the encoder draws from torch's global generator for each."""
    model = model or shared.sd_model
    pictures = image.to(shared.device, devices.dtype_vae).mul(2).sub(1).split(1)
    return torch.cat([model.get_first_stage_encoding(model.encode_first_stage(picture)) for picture in pictures])


def preview(latent):
    """A cheap picture of one latent (4, h, w): the linear part of the demo's autoencoder."""
    colours = _autoencoder(shared.sd_model).colours.float()
    rgb = torch.tensordot(latent.float(), colours, dims=([0], [1])).clamp(-1, 1).add(1).mul(127.5)
    picture = Image.fromarray(rgb.cpu().numpy().astype(np.uint8))
    return picture.resize((8 * picture.width, 8 * picture.height))


def apply_refiner(cfg_denoiser, sigma=None):
    """Go over to the refiner's checkpoint when its share of the steps begins; whether that has just happened."""
    p = cfg_denoiser.p
    info, begins = p.refiner_checkpoint_info, p.refiner_switch_at or 0.0
    if info in (None, shared.sd_model.sd_checkpoint_info) or cfg_denoiser.step < begins * cfg_denoiser.total_steps:
        return False
    from modules import sd_models

    p.extra_generation_params |= {"Refiner": info.short_title, "Refiner switch at": p.refiner_switch_at}
    with sd_models.SkipWritingToConfig():
        sd_models._take_up(info)
    p.setup_conds()
    cfg_denoiser.update_inner_model()
    return True


class Sampler:
    """One pass of sampling. A subclass says what its schedule is made of, how to begin, and which denoiser it asks.

    ``func(denoiser, x, schedule, extra_args, callback)`` does the steps; it may also take ``noise`` and ``eta``.
    """

    eta_option, eta_name, eta_default = "eta_ancestral", "Eta", 1.0
    denoiser: type

    def __init__(self, func, config):
        self.func, self.config = func, config
        self.conditioning_key = _conditioning_key()
        self.model_wrap_cfg = self.denoiser(self)
        self.p = self.last_latent = self.sampler_extra_args = None

    def schedule(self, p, steps):
        """The noise levels or timesteps of a whole run."""
        raise NotImplementedError

    def begin(self, p, noise, schedule):
        """What txt2img starts from."""
        raise NotImplementedError

    def noised(self, x, noise, schedule, steps):
        """A start picture's latents with the noise that the last ``steps`` of the schedule take away again, the
        scale of that noise's picture, and these steps."""
        raise NotImplementedError

    def sample(self, p, x, conditioning, unconditional_conditioning, steps=None, image_conditioning=None):
        steps = steps or p.steps
        schedule = self.schedule(p, steps)
        x = self.begin(p, x, schedule)
        return self._run(p, steps, x, x, schedule, conditioning, unconditional_conditioning, image_conditioning)

    def sample_img2img(
        self, p, x, noise, conditioning, unconditional_conditioning, steps=None, image_conditioning=None
    ):
        """``p.denoising_strength`` is how far back in the schedule the picture is taken; with ``steps`` given, so many
        are done, however far that is."""
        strength = min(p.denoising_strength, 0.999)
        if steps or opts.img2img_fix_steps:
            done = (steps or p.steps) - 1
            steps = int((done + 1) / strength) if strength > 0 else 0
        else:
            steps, done = p.steps, int(strength * p.steps)
        start, scale, schedule = self.noised(x, noise, self.schedule(p, steps), done)
        if opts.img2img_extra_noise > 0:
            p.extra_generation_params["Extra noise"] = opts.img2img_extra_noise
            params = script_callbacks.ExtraNoiseParams(noise, x, start)
            script_callbacks.extra_noise_callback(params)
            start = start + params.noise * opts.img2img_extra_noise * scale
        self.model_wrap_cfg.init_latent = x
        return self._run(p, done + 1, x, start, schedule, conditioning, unconditional_conditioning, image_conditioning)

    def _run(self, p, steps, first_latent, x, schedule, cond, uncond, image_cond):
        self.p, self.last_latent = p, first_latent
        self.model_wrap_cfg._start(p, steps, self.config.total_steps(steps))
        self.sampler_extra_args = {
            "cond": cond, "uncond": uncond, "image_cond": image_cond, "cond_scale": p.cfg_scale,
            "s_min_uncond": p.s_min_uncond or 0.0,
        }  # fmt: skip
        wishes = inspect.signature(self.func).parameters
        extras = {"noise": p.rng.next, "eta": self._eta(p)} if "eta" in wishes else {}
        if "is_img2img" in wishes:
            extras["is_img2img"] = self.model_wrap_cfg.init_latent is not None
        state.sampling_steps, state.sampling_step = steps, 0
        with contextlib.suppress(InterruptedException):
            self.last_latent = self.func(self.model_wrap_cfg, x, schedule, extra_args=self.sampler_extra_args,
                                         callback=self.callback_state, **extras)  # fmt: skip
        p.extra_generation_params.update(self.model_wrap_cfg.infotext)
        return self.last_latent

    def _eta(self, p):
        eta = getattr(opts, self.eta_option) if p.eta is None else p.eta
        if eta != self.eta_default:
            p.extra_generation_params[self.eta_name] = eta
        return eta

    def callback_state(self, d):
        """Called by ``func`` for each step; most samplers do it after the step's first call of the model."""
        state.sampling_step = d["i"]
