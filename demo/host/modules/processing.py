"""From a request to pictures, with the host's order of calls."""

from __future__ import annotations

import contextlib
import json
import operator
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch.nn.functional import interpolate, pad

from modules import (
    devices,
    errors,
    extra_networks,
    images,
    infotext_utils,
    masking,
    paths,
    prompt_parser,
    rng,
    scripts,
    sd_hijack,
    sd_models,
    sd_samplers,
    shared,
)
from modules.sd_samplers_common import decode_first_stage, images_tensor_to_samples
from modules.shared import cmd_opts, opts, state

opt_C = 4  # channels of a latent
opt_f = 8  # pixels for each of its points
SEES_PICTURE = ("hybrid", "concat")  # conditioning keys of UNets that take a picture beside the latent


# --- pictures, masks, latents ---------------------------------------------------------------------------------------


def _tensor(pictures):
    """PIL pictures -> (B, 3, H, W) in 0...1."""
    arrays = np.stack([np.asarray(picture.convert("RGB"), dtype=np.float32) for picture in pictures])
    return torch.from_numpy(arrays / 255.0).movedim(3, 1)


def _picture(tensor):
    """(3, H, W) in 0...1 -> PIL picture."""
    return Image.fromarray((tensor.cpu().numpy() * 255.0).transpose(1, 2, 0).astype(np.uint8))


def create_binary_mask(image, round=True):
    """A mask from a picture: its alpha channel if that says anything, else its brightness."""
    channel = image.getchannel("A") if "A" in image.getbands() else None
    if channel is None or channel.getextrema() == (255, 255):
        return image.convert("L")
    return channel.point([255 * (level > 128) for level in range(256)]) if round else channel


def apply_overlay(image, paste_loc, overlay):
    """Put the untouched surroundings back. Returns the result and what was generated, both at full size."""
    if overlay is None:
        return image, image.copy()
    generated = image
    if paste_loc is not None:
        x, y, *size = paste_loc
        generated = Image.new("RGB", overlay.size)
        generated.paste(images.resize_image(1, image, *size), (x, y))
    return Image.alpha_composite(generated.convert("RGBA"), overlay).convert("RGB"), generated.copy()


def decode_latent_batch(model, batch, target_device=None, check_for_nans=False):
    """Latents to pictures (3, H, W) in -1...1, one by one to save memory."""
    decoded = _Decoded(decode_first_stage(model, latent)[0].to(target_device) for latent in batch.split(1))
    if check_for_nans:
        devices.test_for_nans(batch, "unet")
        for picture in decoded:
            devices.test_for_nans(picture, "vae")
    return decoded


class _Decoded(list):
    """Tells pictures from latents where ``sample`` may return either."""


def _sees_picture(sd_model):
    """Whether its UNet takes a picture beside the latent."""
    return sd_model.model.conditioning_key in SEES_PICTURE


def _edits(sd_model):
    """Whether it is an instruct-pix2pix model."""
    return getattr(sd_model, "cond_stage_key", None) == "edit"


def txt2img_image_conditioning(sd_model, x, width, height):
    """For UNets that take a picture: nothing but grey, all of it masked. Others ignore it."""
    if not _sees_picture(sd_model):
        return x.new_zeros(len(x), 5, 1, 1)
    grey = images_tensor_to_samples(x.new_full((len(x), 3, height, width), 0.5), model=sd_model)
    return pad(grey, (0, 0, 0, 0, 1, 0), value=1.0).to(x.dtype)


def create_random_tensors(
    shape, seeds, subseeds=None, subseed_strength=0.0, seed_resize_from_h=0, seed_resize_from_w=0, p=None
):
    return rng.ImageRNG(shape, seeds, subseeds, subseed_strength).next()


# --- what is to be made ---------------------------------------------------------------------------------------------


def _state(names, **defaults):
    """Gives a class that becomes a dataclass what a job remembers while it runs: no arguments, None unless said."""

    def add(cls):
        for name, default in (dict.fromkeys(names.split()) | defaults).items():
            cls.__annotations__[name] = Any
            setattr(cls, name, field(default=default, init=False))
        return cls

    return add


@dataclass(repr=False)
@_state(
    """
    scripts_value script_args_value user all_prompts all_negative_prompts all_seeds all_subseeds main_prompt
    main_negative_prompt sd_model_name sd_model_hash sd_vae_name sd_vae_hash color_corrections paste_to prompts
    negative_prompts seeds subseeds extra_network_data c uc rng sampler
    """,
    scripts_setup_complete=False, is_api=False, iteration=0, step_multiplier=1, is_hr_pass=False,
    is_using_inpainting_conditioning=False,
)  # fmt: skip
class StableDiffusionProcessing:
    """One job, and its state while it runs. Extensions read and change all of it."""

    prompt: str = ""
    negative_prompt: str = ""
    prompt_for_display: str = None
    styles: list[str] = None
    width: int = 512
    height: int = 512
    batch_size: int = 1
    n_iter: int = 1
    firstpass_image: Image = None

    seed: int = -1
    subseed: int = -1
    subseed_strength: float = 0
    seed_enable_extras: bool = True
    seed_resize_from_h: int = -1
    seed_resize_from_w: int = -1

    sd_model: object = None
    sampler_name: str = None
    sampler_index: int = None
    scheduler: str = None
    steps: int = 50
    cfg_scale: float = 7.0
    denoising_strength: float = None
    eta: float = None
    ddim_discretize: str = None
    s_min_uncond: float = None
    s_churn: float = None
    s_tmin: float = None
    s_tmax: float = None
    s_noise: float = None
    refiner_checkpoint: str = None
    refiner_switch_at: float = None
    token_merging_ratio = 0
    token_merging_ratio_hr = 0

    restore_faces: bool = None
    tiling: bool = None
    disable_extra_networks: bool = False
    do_not_reload_embeddings: bool = False
    overlay_images: list = None
    outpath_samples: str = None
    outpath_grids: str = None
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    override_settings: dict[str, Any] = None
    override_settings_restore_afterwards: bool = True
    extra_generation_params: dict[str, Any] = None
    comments: dict = None

    # [what it was made for, the conditioning]: shared by all jobs, so that the same prompt is encoded once
    cached_c = [None, None]  # noqa: RUF012
    cached_uc = [None, None]  # noqa: RUF012

    def __post_init__(self):
        for name, kind in {"comments": dict, "styles": list, "extra_generation_params": dict,
                           "override_settings": dict}.items():  # fmt: skip
            if getattr(self, name) is None:
                setattr(self, name, kind())
        self.refiner_checkpoint_info = None

    def fill_fields_from_opts(self):
        for name in ("s_min_uncond", "s_churn", "s_tmin", "s_tmax", "s_noise"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(opts, name))

    def setup_scripts(self):
        self.scripts_setup_complete = True
        self.scripts.setup_scrips(self, is_ui=not self.is_api)

    def comment(self, text):
        self.comments[text] = True

    # the picture that some UNets want to see

    def txt2img_image_conditioning(self, x, width=None, height=None):
        self.is_using_inpainting_conditioning = _sees_picture(shared.sd_model)
        return txt2img_image_conditioning(shared.sd_model, x, width or self.width, height or self.height)

    def edit_image_conditioning(self, source_image):
        return shared.sd_model.encode_first_stage(source_image).mode()

    def inpainting_image_conditioning(self, source_image, latent_image, image_mask=None, round_image_mask=True):
        """The mask (1 is to be painted), and what is not masked of the picture."""
        self.is_using_inpainting_conditioning = True
        mask = source_image.new_ones(1, 1, *source_image.shape[2:])
        if image_mask is not None:
            mask = _tensor([image_mask])[:, :1].to(source_image)
            mask = mask.round() if round_image_mask else mask
        shown = source_image * (1 - mask * opts.inpainting_mask_weight)
        latent = shared.sd_model.get_first_stage_encoding(shared.sd_model.encode_first_stage(shown))
        small = interpolate(mask, size=latent_image.shape[2:])
        return torch.cat([small.expand(len(latent), -1, -1, -1), latent], dim=1)

    def img2img_image_conditioning(self, source_image, latent_image, image_mask=None, round_image_mask=True):
        if _edits(shared.sd_model):
            return self.edit_image_conditioning(source_image)
        if _sees_picture(shared.sd_model):
            return self.inpainting_image_conditioning(source_image, latent_image, image_mask, round_image_mask)
        return latent_image.new_zeros(len(latent_image), 5, 1, 1)

    # steps of a job, for subclasses to override

    def init(self, all_prompts, all_seeds, all_subseeds):
        """Once for each job, after the scripts' ``process``; nobody swallows exceptions here."""

    def sample(self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts):
        raise NotImplementedError

    def close(self):
        self.sampler = self.c = self.uc = None

    def setup_prompts(self):
        """Prompts for all pictures of the job; a list of prompts decides how many there are."""
        given = [self.prompt, self.negative_prompt]
        counts = {len(text) for text in given if isinstance(text, list)} or {self.batch_size * self.n_iter}
        if len(counts) > 1:
            raise RuntimeError(f"prompts and negative prompts differ in number: {sorted(counts)}")
        (count,) = counts
        self.all_prompts, self.all_negative_prompts = (_listed(text, count) for text in given)
        self.main_prompt, self.main_negative_prompt = self.all_prompts[0], self.all_negative_prompts[0]

    def parse_extra_network_prompts(self):
        self.prompts, self.extra_network_data = extra_networks.parse_prompts(self.prompts)

    def setup_conds(self):
        calls = sd_samplers.total_steps(self.sampler_name, self.steps)
        self.step_multiplier, self.firstpass_steps = calls // self.steps, calls
        self.c, self.uc = self._encode(
            self.prompts, self.negative_prompts, (self.width, self.height), [self.cached_c], [self.cached_uc],
            self.extra_network_data, None,
        )  # fmt: skip

    def _encode(self, prompts, negative, size, caches, negative_caches, networks, hires_steps):
        """Both sides' conditionings, for pictures of this size."""
        size = dict(zip(("width", "height"), size, strict=True))
        steps = self.firstpass_steps
        uc = self.get_conds_with_caching(
            prompt_parser.get_learned_conditioning,
            prompt_parser.SdConditioning(negative, is_negative_prompt=True, **size),
            steps, negative_caches, networks, hires_steps,
        )  # fmt: skip
        c = self.get_conds_with_caching(
            prompt_parser.get_multicond_learned_conditioning, prompt_parser.SdConditioning(prompts, **size),
            steps, caches, networks, hires_steps,
        )  # fmt: skip
        return c, uc

    def cached_params(self, required_prompts, steps, extra_network_data, hires_steps=None, use_old_scheduling=False):
        """What a remembered conditioning depends on."""
        size = (required_prompts.width, required_prompts.height)
        return (list(required_prompts), size, steps, hires_steps, use_old_scheduling, opts.CLIP_stop_at_last_layers,
                shared.sd_model.sd_checkpoint_info)  # fmt: skip

    def get_conds_with_caching(self, function, required_prompts, steps, caches, extra_network_data, hires_steps=None):
        """``function``'s conditioning, from the first cache that has it; a new one goes into ``caches[0]``."""
        old_way = opts.use_old_scheduling
        key = self.cached_params(required_prompts, steps, extra_network_data, hires_steps, old_way)
        found = next((cache for cache in caches if cache[0] == key), None)
        if found is None:
            with devices.autocast():
                conds = function(shared.sd_model, required_prompts, steps, hires_steps, old_way)
            found = caches[0]
            found[:] = key, conds
        return found[1]

    def get_conds(self):
        return self.c, self.uc

    def get_token_merging_ratio(self, for_hr=False):
        of_hires = (self.token_merging_ratio_hr or opts.token_merging_ratio_hr) if for_hr else 0
        return of_hires or self.token_merging_ratio or opts.token_merging_ratio

    def save_samples(self):
        return opts.samples_save and not self.do_not_save_samples

    def _noise_source(self, shape):
        return rng.ImageRNG(shape, self.seeds, self.subseeds, self.subseed_strength)

    def _announce_sampling(self, x, noise, conds):
        _tell(self, "process_before_every_sampling", x=x, noise=noise, c=conds[0], uc=conds[1])


def _listed(value, count):
    return value if isinstance(value, list) else [value] * count


def _script_setting(name):
    """A property kept in the attribute ``name``; scripts are set up as soon as they and their arguments are known."""

    def assign(p, value):
        setattr(p, name, value)
        if p.scripts_value and p.script_args_value and not p.scripts_setup_complete:
            p.setup_scripts()

    return property(operator.attrgetter(name), assign)


# Added here, since dataclass would take a property in the class for a default.
StableDiffusionProcessing.scripts = _script_setting("scripts_value")
StableDiffusionProcessing.script_args = _script_setting("script_args_value")
StableDiffusionProcessing.sd_model = property(lambda p: shared.sd_model, lambda p, model: None)


# --- what has been made ---------------------------------------------------------------------------------------------

# Attributes of the job that its result has too; the API tells the first line of them.
_TOLD = """width height sampler_name cfg_scale steps batch_size restore_faces styles denoising_strength
subseed_strength seed_resize_from_w seed_resize_from_h extra_generation_params is_using_inpainting_conditioning
sd_model_name sd_model_hash sd_vae_name sd_vae_hash""".split()
_KEPT = """image_cfg_scale eta ddim_discretize s_churn s_tmin s_tmax s_noise s_min_uncond token_merging_ratio
token_merging_ratio_hr""".split()
_OF_RESULT = """prompt negative_prompt all_prompts all_negative_prompts seed subseed all_seeds all_subseeds infotexts
index_of_first_image job_timestamp clip_skip version""".split()


class Processed:
    def __init__(
        self,
        p,
        images_list,
        seed=-1,
        info="",
        subseed=None,
        all_prompts=None,
        all_negative_prompts=None,
        all_seeds=None,
        all_subseeds=None,
        index_of_first_image=0,
        infotexts=None,
        comments="",
    ):
        for name in _TOLD + _KEPT:
            setattr(self, name, getattr(p, name, None))
        self.images, self.info, self.infotexts = images_list, info, infotexts or [info] * len(images_list)
        self.index_of_first_image = index_of_first_image
        self.comments = "\n".join([*p.comments, *filter(None, [comments])])
        self.all_prompts = all_prompts or p.all_prompts
        self.all_negative_prompts = all_negative_prompts or p.all_negative_prompts
        self.all_seeds, self.all_subseeds = all_seeds or p.all_seeds, all_subseeds or p.all_subseeds
        self.prompt, self.negative_prompt = self.all_prompts[0], self.all_negative_prompts[0]
        self.seed, self.subseed = int(self.all_seeds[0]), int(self.all_subseeds[0])
        self.job_timestamp, self.clip_skip = state.job_timestamp, opts.CLIP_stop_at_last_layers
        self.version = program_version()

    def js(self):
        """What the API calls ``info``. Parameters that are functions have no place there."""
        return json.dumps({name: getattr(self, name) for name in _OF_RESULT + _TOLD}, default=lambda _: None)


def get_fixed_seed(seed):
    """The seed, or a random one for -1 and for what is none."""
    with contextlib.suppress(TypeError, ValueError):
        if int(seed) != -1:
            return int(seed)
    return random.randrange(2**32 - 2)


def fix_seed(p):
    p.seed, p.subseed = get_fixed_seed(p.seed), get_fixed_seed(p.subseed)


def program_version():
    return "v1.10.1"  # of the host that this one stands for


def create_infotext(
    p,
    all_prompts,
    all_seeds,
    all_subseeds,
    comments=None,
    iteration=0,
    position_in_batch=0,
    use_main_prompt=False,
    index=None,
    all_negative_prompts=None,
):
    """The text under a picture.

    Values in ``p.extra_generation_params`` may be lists, with one for each picture, or functions of keyword arguments:
    p, index, prompt_text, negative_prompt.
    """
    if index is None:
        index = 0 if use_main_prompt else iteration * p.batch_size + position_in_batch
    context = {
        "p": p, "index": index, "prompt_text": p.main_prompt if use_main_prompt else all_prompts[index],
        "negative_prompt": p.main_negative_prompt if use_main_prompt
        else (all_negative_prompts or p.all_negative_prompts)[index],
    }  # fmt: skip

    def resolve(name, value):
        try:
            if callable(value):
                return value(**context)
            return value[index] if isinstance(value, list) else value
        except Exception:
            errors.report(f"The parameter {name} has no value for the picture", exc_info=True)
            return None

    params = {
        "Steps": p.steps, "Sampler": p.sampler_name, "Schedule type": p.scheduler, "CFG scale": p.cfg_scale,
        "Image CFG scale": getattr(p, "image_cfg_scale", None), "Seed": all_seeds[index],
        "Size": f"{p.width}x{p.height}", "Model hash": p.sd_model_hash, "Model": p.sd_model_name,
        **p.extra_generation_params, "Version": program_version(),
    }  # fmt: skip
    if p.subseed_strength:
        params |= {"Variation seed": all_subseeds[index], "Variation seed strength": p.subseed_strength}
    if opts.CLIP_stop_at_last_layers > 1:
        params["Clip skip"] = opts.CLIP_stop_at_last_layers
    resolved = {name: resolve(name, value) for name, value in params.items()}
    listed = ", ".join(f"{k}: {infotext_utils.quote(v)}" for k, v in resolved.items() if v is not None)
    negative = f"Negative prompt: {context['negative_prompt']}" if context["negative_prompt"] else None
    return "\n".join(line for line in (context["prompt_text"], negative, listed) if line)


# --- one job --------------------------------------------------------------------------------------------------------


def process_images(p: StableDiffusionProcessing) -> Processed:
    """The whole job. Overridden settings are in force from the scripts' ``process`` on, not yet before."""
    _tell(p, "before_process")
    with _overridden_settings(p):
        sd_samplers.fix_p_invalid_sampler_and_scheduler(p)
        return process_images_inner(p)


@contextlib.contextmanager
def _overridden_settings(p):
    checkpoint = p.override_settings.get("sd_model_checkpoint")
    wanted = {
        key: value for key, value in p.override_settings.items()
        if key != "sd_model_checkpoint" or checkpoint in sd_models.checkpoint_aliases
    }  # fmt: skip
    # A quirk of the real host: a setting that its file does not have stays overridden for good.
    before = {key: opts.data[key] for key in wanted if key in opts.data}
    try:
        for key, value in wanted.items():
            opts.set(key, value, is_api=True, run_callbacks=False)
        sd_models._take_up()
        sd_models.apply_token_merging(shared.sd_model, p.get_token_merging_ratio())
        yield
    finally:
        sd_models.apply_token_merging(shared.sd_model, 0)
        if p.override_settings_restore_afterwards:
            opts.data.update(before)


@contextlib.contextmanager
def _computing():
    """Around everything that is computed for a job."""
    with torch.no_grad(), shared.sd_model.ema_scope():
        yield


def process_images_inner(p: StableDiffusionProcessing) -> Processed:
    _begin(p)
    _tell(p, "process")
    pictures, texts = [], []
    with _computing():
        with devices.autocast():
            p.init(p.all_prompts, p.all_seeds, p.all_subseeds)
        if state.job_count == -1:
            state.job_count = p.n_iter
        for n in range(p.n_iter):
            state.skipped = False
            if state.interrupted or state.stopping_generation or not _take_batch(p, n):
                break
            _prepare_batch(p, n)
            for i, picture in enumerate(_generate_batch(p, n)):
                made, text = _finish_picture(p, i, picture)
                pictures += made
                texts.append(text)
    devices.torch_gc()
    return _result(p, pictures, texts)


def _tell(p, moment, *values, **kwargs):
    if p.scripts is not None:
        getattr(p.scripts, moment)(p, *values, **kwargs)


def _begin(p):
    """Everything about the job that can be known before a picture is begun."""
    sd_hijack.model_hijack.clear_comments()
    p.fill_fields_from_opts()
    p.setup_prompts()
    if p.refiner_checkpoint not in (None, "", "None"):
        p.refiner_checkpoint_info = _checkpoint(p.refiner_checkpoint)
    info = shared.sd_model.sd_checkpoint_info
    p.sd_model_name, p.sd_model_hash = info.name_for_extra, info.shorthash
    # With a variation only the variation's seed goes up from picture to picture.
    p.all_seeds = _numbered(p.seed, len(p.all_prompts), step=0 if p.subseed_strength else 1)
    p.all_subseeds = _numbered(p.subseed, len(p.all_prompts))


def _numbered(seed, count, step=1):
    if isinstance(seed, list):
        return seed
    first = get_fixed_seed(seed)
    return [first + step * i for i in range(count)]


def _checkpoint(name):
    info = sd_models.get_closet_checkpoint_match(name)
    if info is None:
        raise Exception(f"there is no checkpoint {name!r}")
    return info


def _take_batch(p, n):
    """Let the job's lists for one batch begin with batch ``n``; False when no prompt is left for it."""
    p.iteration = n
    sd_models._take_up()  # hires fix and refiner may have left another one
    _own_prompts(p)
    p.seeds, p.subseeds = p.all_seeds[_mine(p)], p.all_subseeds[_mine(p)]
    p.rng = p._noise_source((opt_C, p.height // opt_f, p.width // opt_f))
    return bool(p.prompts)


def _mine(p):
    return slice(p.iteration * p.batch_size, (p.iteration + 1) * p.batch_size)


def _own_prompts(p):
    p.prompts, p.negative_prompts = p.all_prompts[_mine(p)], p.all_negative_prompts[_mine(p)]


def _prepare_batch(p, n):
    def tell(moment):
        _tell(p, moment, batch_number=n, prompts=p.prompts, seeds=p.seeds, subseeds=p.subseeds)

    tell("before_process_batch")
    p.parse_extra_network_prompts()
    if not p.disable_extra_networks:
        with devices.autocast():
            extra_networks.activate(p, p.extra_network_data)
    tell("process_batch")
    p.setup_conds()
    if n == 0 and not cmd_opts.no_prompt_history:
        text = create_infotext(p, p.all_prompts, p.all_seeds, p.all_subseeds, use_main_prompt=True)
        Path(paths.data_path, "params.txt").write_text(text, encoding="utf8")
    if p.n_iter > 1:
        state.job = f"Batch {n + 1} of {p.n_iter}"


def _generate_batch(p, n):
    """Pictures (3, H, W) in 0...1."""
    with devices.autocast():
        samples = p.sample(p.c, p.uc, p.seeds, p.subseeds, p.subseed_strength, p.prompts)
    arguments = scripts.PostSampleArgs(samples)
    _tell(p, "post_sample", arguments)
    decoded = arguments.samples
    if not isinstance(decoded, _Decoded):
        decoded = decode_latent_batch(shared.sd_model, decoded, devices.cpu, check_for_nans=True)
    pictures = torch.stack(decoded).float().add(1).div(2).clamp(0, 1)
    state.nextjob()
    _tell(p, "postprocess_batch", images=pictures, batch_number=n)
    _own_prompts(p)
    arguments = scripts.PostprocessBatchListArgs(list(pictures))
    _tell(p, "postprocess_batch_list", arguments, batch_number=n)
    return arguments.images


def _finish_picture(p, i, tensor):
    """Overlay, the scripts' last word, and saving. Returns the picture, with its mask where that is asked for, and its
    text."""
    p.batch_index = i
    shown = scripts.PostprocessImageArgs(_picture(tensor))
    _tell(p, "postprocess_image", shown)
    overlays = p.overlay_images if opts.overlay_inpaint else None
    around = scripts.PostProcessMaskOverlayArgs(
        i, getattr(p, "mask_for_overlay", None), overlays[i] if overlays and i < len(overlays) else None
    )  # fmt: skip
    _tell(p, "postprocess_maskoverlay", around)
    shown = scripts.PostprocessImageArgs(apply_overlay(shown.image, p.paste_to, around.overlay_image)[0])
    _tell(p, "postprocess_image_after_composite", shown)
    image = shown.image
    text = create_infotext(p, p.prompts, p.seeds, p.subseeds, index=i, all_negative_prompts=p.negative_prompts)
    if p.save_samples():
        folder = p.outpath_samples or paths.default_output_dir
        images.save_image(image, folder, "", p.seeds[i], p.prompts[i], info=text, p=p)
    if opts.enable_pnginfo:
        image.info["parameters"] = text
    mask = [around.mask_for_overlay.convert("RGB")] if opts.return_mask and around.mask_for_overlay else []
    return [image, *mask], text


def _result(p, pictures, texts):
    """The job's result, with a grid in front if that is wanted."""
    texts = texts or [create_infotext(p, p.all_prompts, p.all_seeds, p.all_subseeds, use_main_prompt=True)]
    grid = opts.return_grid and not p.do_not_save_grid and len(pictures) > opts.grid_only_if_multiple
    if grid:
        pictures, texts = [images.image_grid(pictures, p.batch_size), *pictures], [texts[0], *texts]
        pictures[0].info["parameters"] = texts[0]
    result = Processed(p, pictures, info=texts[0], infotexts=texts, index_of_first_image=int(grid))
    _tell(p, "postprocess", result)
    return result


# --- txt2img --------------------------------------------------------------------------------------------------------


@dataclass(repr=False)
@_state(
    """
    hr_checkpoint_info applied_old_hires_behavior_to latent_scale_mode all_hr_prompts all_hr_negative_prompts
    hr_prompts hr_negative_prompts hr_extra_network_data hr_c hr_uc
    """,
    hr_upscale_to_x=0, hr_upscale_to_y=0, truncate_x=0, truncate_y=0,
)  # fmt: skip
class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    enable_hr: bool = False
    hr_scale: float = 2.0
    hr_resize_x: int = 0
    hr_resize_y: int = 0
    firstphase_width: int = 0
    firstphase_height: int = 0
    hr_upscaler: str = None
    hr_second_pass_steps: int = 0
    hr_checkpoint_name: str = None
    hr_sampler_name: str = None
    hr_scheduler: str = None
    hr_prompt: str = ""
    hr_negative_prompt: str = ""
    denoising_strength: float = 0.75
    force_task_id: str = None

    cached_hr_c = [None, None]  # noqa: RUF012
    cached_hr_uc = [None, None]  # noqa: RUF012

    def __post_init__(self):
        super().__post_init__()
        if self.firstphase_width and self.firstphase_height:  # the size was meant for the second pass
            self.hr_resize_x, self.hr_resize_y = self.width, self.height
            self.width, self.height = self.firstphase_width, self.firstphase_height

    def calculate_target_resolution(self):
        """Size of the second pass. Two given sides are covered, and what is too much is cut off the latents."""
        asked = self.hr_resize_x, self.hr_resize_y
        if not any(asked):
            self.extra_generation_params["Hires upscale"] = scale = self.hr_scale
        else:
            self.extra_generation_params["Hires resize"] = "{}x{}".format(*asked)
            scale = max(asked[0] / self.width, asked[1] / self.height)
        self.hr_upscale_to_x, self.hr_upscale_to_y = int(self.width * scale), int(self.height * scale)
        if all(asked):
            self.truncate_x = (self.hr_upscale_to_x - asked[0]) // opt_f
            self.truncate_y = (self.hr_upscale_to_y - asked[1]) // opt_f

    def init(self, all_prompts, all_seeds, all_subseeds):
        if not self.enable_hr:
            return
        upscaler = self.hr_upscaler or shared.latent_upscale_default_mode
        self.latent_scale_mode = shared.latent_upscale_modes.get(upscaler)
        if self.latent_scale_mode is None and upscaler != "Lanczos":
            raise Exception(f"there is no upscaler {upscaler!r}")
        if self.hr_checkpoint_name not in (None, "", "Use same checkpoint"):
            self.hr_checkpoint_info = _checkpoint(self.hr_checkpoint_name)
        self.hr_scheduler = self.hr_scheduler or self.scheduler
        self.calculate_target_resolution()
        self.extra_generation_params.update(self._hires_infotext())
        if not state.processing_has_refined_job_count:  # each batch has two passes
            state.processing_has_refined_job_count = True
            state.job_count = 2 * (self.n_iter if state.job_count == -1 else state.job_count)

    def _hires_infotext(self):
        def unlike(prompts, name):
            """The second pass's prompt where it is another."""
            return lambda index, **context: prompts[index] if prompts[index] != context[name] else None

        other = self.hr_checkpoint_info
        return {
            "Denoising strength": self.denoising_strength,
            "Hires upscaler": self.hr_upscaler,
            "Hires steps": self.hr_second_pass_steps or None,
            "Hires checkpoint": other.short_title if other else None,
            "Hires sampler": self.hr_sampler_name if self.hr_sampler_name != self.sampler_name else None,
            "Hires prompt": unlike(self.all_hr_prompts, "prompt_text"),
            "Hires negative prompt": unlike(self.all_hr_negative_prompts, "negative_prompt"),
        }

    def sample(self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts):
        samples = self._first_pass((conditioning, unconditional_conditioning))
        if not self.enable_hr:
            return samples
        decoded = None
        if self.latent_scale_mode is None:
            decoded = torch.stack(decode_latent_batch(shared.sd_model, samples, devices.cpu, check_for_nans=True))
        with sd_models.SkipWritingToConfig():
            sd_models._take_up(self.hr_checkpoint_info)
        return self.sample_hr_pass(samples, decoded, seeds, subseeds, subseed_strength, prompts)

    def _first_pass(self, conds):
        self.sampler = sd_samplers.create_sampler(self.sampler_name, shared.sd_model)
        if self.enable_hr and self.firstpass_image is not None:
            return images_tensor_to_samples(_tensor([self.firstpass_image]))
        noise = self.rng.next()
        self._announce_sampling(noise, noise, conds)
        return self.sampler.sample(self, noise, *conds, image_conditioning=self.txt2img_image_conditioning(noise))

    def sample_hr_pass(self, samples, decoded_samples, seeds, subseeds, subseed_strength, prompts):
        if state.interrupted:
            return samples
        self.is_hr_pass = True
        self.sampler = sd_samplers.create_sampler(self.hr_sampler_name or self.sampler_name, shared.sd_model)
        start, image_conditioning = self._enlarge(samples, decoded_samples)
        state.nextjob()
        self.rng = self._noise_source(start.shape[1:])
        noise = self.rng.next()
        with devices.autocast():
            if not self.disable_extra_networks:
                extra_networks.activate(self, self.hr_extra_network_data)
            self.calculate_hr_conds()
        sd_models.apply_token_merging(shared.sd_model, self.get_token_merging_ratio(for_hr=True))
        _tell(self, "before_hr")
        conds = self.get_conds()
        self._announce_sampling(start, noise, conds)
        samples = self.sampler.sample_img2img(
            self, start, noise, *conds, steps=self.hr_second_pass_steps or self.steps,
            image_conditioning=image_conditioning,
        )  # fmt: skip
        sd_models.apply_token_merging(shared.sd_model, self.get_token_merging_ratio())
        pictures = decode_latent_batch(shared.sd_model, samples, devices.cpu, check_for_nans=True)
        self.is_hr_pass = False
        return pictures

    def _enlarge(self, samples, pictures):
        """Start latents of the second pass, and what an inpainting model wants to see beside them."""
        width, height = self.hr_upscale_to_x, self.hr_upscale_to_y
        if pictures is None:
            larger = interpolate(samples, size=(height // opt_f, width // opt_f), **self.latent_scale_mode)
            conditioning = self.txt2img_image_conditioning(larger, width, height)
        else:
            small = pictures.float().add(1).div(2).clamp(0, 1)
            sharp = _tensor([images.resize_image(0, _picture(x), width, height) for x in small]).to(shared.device)
            larger = images_tensor_to_samples(sharp)
            conditioning = self.img2img_image_conditioning(sharp * 2 - 1, larger)
        for dimension, cut in ((2, self.truncate_y), (3, self.truncate_x)):
            larger = larger.narrow(dimension, cut // 2, larger.shape[dimension] - cut)
        return larger, conditioning

    def close(self):
        super().close()
        self.hr_c = self.hr_uc = None

    def setup_prompts(self):
        super().setup_prompts()
        if self.enable_hr:
            count = len(self.all_prompts)
            self.all_hr_prompts = _listed(self.hr_prompt or self.prompt, count)
            self.all_hr_negative_prompts = _listed(self.hr_negative_prompt or self.negative_prompt, count)

    def parse_extra_network_prompts(self):
        super().parse_extra_network_prompts()
        if self.enable_hr:
            self.hr_negative_prompts = self.all_hr_negative_prompts[_mine(self)]
            mine = self.all_hr_prompts[_mine(self)]
            self.hr_prompts, self.hr_extra_network_data = extra_networks.parse_prompts(mine)

    def setup_conds(self):
        if self.is_hr_pass:  # the refiner has changed the checkpoint
            self.hr_c = None
            self.calculate_hr_conds()
            return
        super().setup_conds()
        self.hr_c = self.hr_uc = None
        if self.enable_hr and self.hr_checkpoint_info is None and opts.hires_fix_use_firstpass_conds:
            self.calculate_hr_conds()

    def calculate_hr_conds(self):
        if self.hr_c is None:
            steps = self.hr_second_pass_steps or self.steps
            self.hr_c, self.hr_uc = self._encode(
                self.hr_prompts, self.hr_negative_prompts, (self.hr_upscale_to_x, self.hr_upscale_to_y),
                [self.cached_hr_c, self.cached_c], [self.cached_hr_uc, self.cached_uc], self.hr_extra_network_data,
                sd_samplers.total_steps(self.hr_sampler_name or self.sampler_name, steps),
            )  # fmt: skip

    def get_conds(self):
        return (self.hr_c, self.hr_uc) if self.is_hr_pass else super().get_conds()


# --- img2img --------------------------------------------------------------------------------------------------------


@dataclass(repr=False)
@_state(
    """
    init_latent image_conditioning image_mask mask_for_overlay nmask init_img_hash
    """,
)  # fmt: skip
class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    init_images: list = None
    resize_mode: int = 0
    denoising_strength: float = 0.75
    image_cfg_scale: float = None
    initial_noise_multiplier: float = None
    mask: Any = None
    latent_mask: Image = None
    mask_blur_x: int = 4
    mask_blur_y: int = 4
    mask_blur: int = None  # set last: it stands for both
    mask_round: bool = True
    inpainting_fill: int = 0
    inpainting_mask_invert: int = 0
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = 0
    force_task_id: str = None

    def __post_init__(self):
        super().__post_init__()
        self.image_mask, self.mask = self.mask, None  # from here on ``mask`` is a tensor
        if self.initial_noise_multiplier is None:
            self.initial_noise_multiplier = opts.initial_noise_multiplier

    def init(self, all_prompts, all_seeds, all_subseeds):
        self.extra_generation_params["Denoising strength"] = self.denoising_strength
        if not _edits(shared.sd_model):
            self.image_cfg_scale = None
        self.sampler = sd_samplers.create_sampler(self.sampler_name, shared.sd_model)
        mask = self._mask()
        part = self._part(mask) if mask is not None else None
        small_mask = mask
        if mask is not None:
            small_mask = images.resize_image(2, mask.crop(part), self.width, self.height) if part else mask
            self.overlay_images = []
        pictures = [self._start(picture, small_mask, part) for picture in self.init_images]
        if len(pictures) > max(1, self.batch_size):
            raise RuntimeError(f"{len(pictures)} start pictures for a batch of {self.batch_size}")
        if len(pictures) == 1:
            pictures *= self.batch_size
            self.overlay_images = self.overlay_images and self.overlay_images * self.batch_size
        self.batch_size = len(pictures)
        pixels = _tensor(pictures).to(shared.device, dtype=devices.dtype_vae)
        latent = images_tensor_to_samples(pixels, model=shared.sd_model)
        if self.resize_mode == 3:
            latent = interpolate(latent, size=(self.height // opt_f, self.width // opt_f), mode="bilinear")
        self.init_latent = latent
        if mask is not None:
            self._mask_latents(self.latent_mask or small_mask, all_seeds)
        self.image_conditioning = self.img2img_image_conditioning(
            pixels * 2 - 1, self.init_latent, small_mask, self.mask_round
        )  # fmt: skip

    def _mask(self):
        """The mask as a grey picture (white is repainted); at the job's size unless only a part is worked on."""
        if self.image_mask is None:
            return None
        mask = create_binary_mask(self.image_mask, round=self.mask_round)
        if self.inpainting_mask_invert:
            self.extra_generation_params["Mask mode"] = "Inpaint not masked"
            mask = ImageOps.invert(mask)
        radius = (self.mask_blur_x + self.mask_blur_y) / 2
        if radius > 0:
            self.extra_generation_params["Mask blur"] = self.mask_blur
            mask = mask.filter(ImageFilter.GaussianBlur(radius))
        if self.inpaint_full_res and mask.getbbox() is None:
            sd_hijack.model_hijack.comments.append("The mask is empty: the whole picture is repainted.")
            self.inpaint_full_res = False
            return None
        if self.inpaint_full_res:
            self.mask_for_overlay = mask
            return mask
        mask = images.resize_image(self.resize_mode, mask, self.width, self.height)
        self.mask_for_overlay = mask.point(lambda level: level * 2)  # no half-transparent rim over new pixels
        return mask

    def _part(self, mask):
        """The box of the start picture that alone is worked on, None for all of it."""
        if not self.inpaint_full_res:
            return None
        box = masking.region(mask, self.inpaint_full_res_padding, (self.width, self.height))
        self.paste_to = (box[0], box[1], box[2] - box[0], box[3] - box[1])
        told = {"Inpaint area": "Only masked", "Masked area padding": self.inpaint_full_res_padding}
        self.extra_generation_params.update(told)
        return box

    def _start(self, picture, mask, part):
        """One start picture as the encoder gets it. Keeps what is to be put back around the result."""
        picture = images.flatten(picture, opts.img2img_background_color)
        if part is None and self.resize_mode != 3:
            picture = images.resize_image(self.resize_mode, picture, self.width, self.height)
        if mask is None:
            return picture
        if self.mask_for_overlay.size != picture.size:
            self.mask_for_overlay = images.resize_image(self.resize_mode, self.mask_for_overlay, *picture.size)
        kept = picture.convert("RGBA")
        kept.putalpha(ImageOps.invert(self.mask_for_overlay))
        self.overlay_images.append(kept)
        if part is not None:
            picture = images.resize_image(2, picture.crop(part), self.width, self.height)
        return picture if self.inpainting_fill == 1 else masking.fill(picture, self.latent_mask or mask)

    def _mask_latents(self, mask, all_seeds):
        """``nmask`` is 1 where there is something to paint, ``mask`` is the rest."""
        latent = self.init_latent
        share = _tensor([mask.resize((latent.shape[3], latent.shape[2]))])[0, :1].to(latent)
        self.nmask = (share.round() if self.mask_round else share).expand(latent.shape[1], -1, -1)
        self.mask = 1 - self.nmask
        name = {0: "fill", 2: "latent noise", 3: "latent nothing"}.get(self.inpainting_fill)
        self.extra_generation_params["Masked content"] = name
        if self.inpainting_fill in (2, 3):
            noise = create_random_tensors(latent.shape[1:], all_seeds[: len(latent)])
            self.init_latent = latent * self.mask + noise * self.nmask * (self.inpainting_fill == 2)

    def sample(self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts):
        conds, noise = (conditioning, unconditional_conditioning), self.rng.next()
        if self.initial_noise_multiplier != 1.0:
            self.extra_generation_params["Noise multiplier"] = self.initial_noise_multiplier
            noise = noise * self.initial_noise_multiplier
        self._announce_sampling(self.init_latent, noise, conds)
        samples = self.sampler.sample_img2img(
            self, self.init_latent, noise, *conds, image_conditioning=self.image_conditioning
        )  # fmt: skip
        if self.mask is None:
            return samples
        blended = samples * self.nmask + self.init_latent * self.mask
        arguments = scripts.MaskBlendArgs(samples, self.nmask, self.init_latent, self.mask, blended)
        _tell(self, "on_mask_blend", arguments)
        return arguments.blended_latent

    def get_token_merging_ratio(self, for_hr=False):
        return self.token_merging_ratio or opts.token_merging_ratio_img2img or opts.token_merging_ratio


def _set_both_blurs(p, value):
    if value is not None:
        p.mask_blur_x = p.mask_blur_y = value


StableDiffusionProcessingImg2Img.mask_blur = property(operator.attrgetter("mask_blur_x"), _set_both_blurs)
