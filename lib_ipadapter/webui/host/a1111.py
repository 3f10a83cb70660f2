"""The AUTOMATIC1111 WebUI, v1.10. What not all hosts have is imported where it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from modules import devices, sd_models, shared
from torch import Tensor, nn

from ... import bases
from ...attend.layers import Topology
from ...attend.models import topology_of
from ...attend.regions import Box, Part
from ...attend.rows import Rows, layout
from ...attend.step import Step
from ...checkpoint.containers import read_shapes
from ...checkpoint.identify import identify
from ...checkpoint.specs import UNetSpec
from ...encode.device import Device
from ...errors import IPAdapterError, MismatchError
from . import controlnets, films, prompts, tiles
from .controlnet import ControlNet
from .interface import Host, Interrupted, SamplingPass
from .replaced import Before
from .webui_controlnet import WebUIControlNet

# Methods of a processing object. ``setup_prompts`` is called once for each job, when its checkpoint and options are in
# force, and before any script's ``process``: a job that is refused there leaves other extensions alone (ControlNet,
# which hooks the model in its ``process``, takes harm from jobs that end later). ``close`` is the last one.
START, LATENTS, END = "setup_prompts", "init", "close"


class A1111(Host):
    def loaded_model(self) -> Any | None:
        return sd_models.model_data.sd_model

    def is_loading(self) -> bool:
        lock = getattr(sd_models.model_data, "lock", None)
        if lock is None or not lock.acquire(blocking=False):
            return lock is not None
        lock.release()
        return False

    def recognises(self, model: Any) -> bool:
        return True

    # The model

    def unet_of(self, model: Any) -> nn.Module | None:
        """The UNet of a loaded checkpoint, None where there is none."""
        unet: nn.Module | None = getattr(getattr(model, "model", None), "diffusion_model", None)
        return unet

    def usable_unet(self) -> nn.Module:
        bypass = _bypass()
        if bypass is not None:
            raise MismatchError(
                f'the SD Unet "{bypass.label}" replaces the model\'s layers: set "SD Unet" to None in Settings.'
            )
        unet = self.sampled_unet()
        if unet is None:
            raise MismatchError("no Stable Diffusion checkpoint is loaded: choose one first.")
        return unet

    def sampled_unet(self) -> nn.Module | None:
        return self.unet_of(shared.sd_model)

    def loaded_unets(self) -> Iterator[nn.Module]:
        kept = getattr(sd_models.model_data, "loaded_sd_models", ())  # not all hosts keep several
        for model in [*kept, sd_models.model_data.sd_model]:
            unet = self.unet_of(model)
            if isinstance(unet, nn.Module):
                yield unet

    def is_loaded(self, chosen: Any) -> bool:
        """Whether what is loaded is the checkpoint that the settings name (``chosen``: its record, None where there is
        none). On the WebUI, a choice loads it."""
        return True

    def present_topology(self) -> Topology | None:
        unet = self.unet_of(sd_models.model_data.sd_model)
        try:
            info = sd_models.get_closet_checkpoint_match(shared.opts.sd_model_checkpoint)
            if isinstance(unet, nn.Module) and self.is_loaded(info):
                return topology_of(unet)
            return None if info is None else _topology_in(Path(info.filename))
        except Exception:  # an unusual model or host: the generation has the last word
            return None

    def hires_topology(self, p: Any) -> tuple[str, Topology] | None:
        name = getattr(p, "hr_checkpoint_name", None)
        if not getattr(p, "enable_hr", False) or not name or name == "Use same checkpoint":
            return None
        info = sd_models.get_closet_checkpoint_match(name)
        topology = None if info is None else _topology_in(Path(info.filename))
        return None if topology is None else (info.name_for_extra, topology)

    def named_checkpoint(self, name: str) -> tuple[str, Topology | None] | None:
        info = sd_models.checkpoint_aliases.get(name)
        return None if info is None else (info.name_for_extra, _topology_in(Path(info.filename)))

    def device(self) -> Device:
        return Device(devices.device, devices.dtype, _make_room)

    # A job's course

    def before_prompts(self, p: Any, act: Callable[[], None]) -> None:
        Before(p, START, act)

    def passed_over_before_prompts(self, p: Any) -> bool:
        if Before.on(p, START) is None:
            return False
        Before.take_off(p, START)
        return True

    def before_latents(self, p: Any, act: Callable[[], None]) -> None:
        Before(p, LATENTS, act)

    def at_the_end(self, p: Any, act: Callable[[], None], failure: Callable[[], Exception | None]) -> None:
        Before(p, END, act, failure, in_job=False)

    def leave_the_end_alone(self, p: Any, *, copied: bool = False) -> None:
        before = Before.on(p, END)
        if before is not None and (before.p is not p or not copied):
            Before.take_off(p, END)

    def has_an_end(self, p: Any) -> bool:
        before = Before.on(p, END)
        return before is not None and before.p is p

    def sample_nothing(self, p: Any) -> None:
        def sample(*_args: Any, **_kwargs: Any) -> Tensor:
            width, height = _final_size(p)
            return torch.zeros(len(p.prompts), self._latent_channels(), height // 8, width // 8, device=devices.device)

        p.sample = sample

    def _latent_channels(self) -> int:
        """Of what the host decodes into pictures."""
        channels: int = getattr(shared.sd_model, "latent_channels", 4)
        return channels

    def sampling_pass(self, p: Any) -> SamplingPass:
        return SamplingPass(p.iteration * p.batch_size, bool(p.is_hr_pass), _sampled_part(p))

    def pass_inside(self, p: Any, outer: Any) -> SamplingPass:
        whole = tiles.part(outer)
        part = _sampled_part(p, None if whole is None else Part(whole.picture, (whole.of(outer.batch_index),)))
        return SamplingPass(self.finished_picture(outer), self.has_second_pass(outer), part)

    def denoised_job(self, params: Any) -> Any | None:
        return getattr(params.denoiser, "p", None)

    def denoising_step(self, params: Any) -> Step:
        """``denoiser.step`` counts the calls, exactly; second-order samplers announce two calls for each step. The
        host's ``sampling_step`` is of no use here: it lags one step behind, because samplers report a step after its
        first call."""
        denoiser = params.denoiser
        announced = max(1, denoiser.steps or params.total_sampling_steps or 1)
        calls_per_step = max(1, (denoiser.total_steps or announced) // announced)
        extra = 1 if _formula(denoiser) == "plms" else 0  # it calls twice in its first step
        return Step(
            rows=_rows(denoiser, len(params.x), _text(params.text_cond)),
            step=max(0, denoiser.step - extra) // calls_per_step,
            steps=_steps_made(denoiser, announced),
            size=tuple(params.x.shape[-2:]),
            texts=lambda: (_text(params.text_cond), _text(params.text_uncond)),  # as the callbacks after ours leave it
            latents=lambda: params.x,
            sampler=denoiser.inner_model if isinstance(denoiser.inner_model, nn.Module) else None,
            host_weights=prompts.networks,
        )

    def cut_short(self) -> bool:
        return bool(shared.state.interrupted or shared.state.skipped)

    def is_stopping(self) -> bool:
        return bool(shared.state.stopping_generation)

    def has_second_pass(self, p: Any) -> bool:
        return bool(getattr(p, "enable_hr", False))

    def starts_with_second_pass(self, p: Any) -> bool:
        return getattr(p, "firstpass_image", None) is not None

    def changes_checkpoint_midway(self, p: Any) -> bool:
        return getattr(p, "refiner_checkpoint", None) is not None

    # Its pictures

    def frames(self, p: Any) -> int | None:
        return films.frames(p, self.script(p, films.FILM))

    def file_of_batch(self, p: Any) -> tuple[int, int]:
        return (0, 1) if self.script_chosen(p) else films.file_of_batch(p)  # scripts have such texts of their own

    def seems_of_batch(self, p: Any) -> bool:
        return films.is_file_of_batch(p)

    def finished_picture(self, p: Any) -> int:
        index: int = p.iteration * p.batch_size + p.batch_index
        return index

    def picture_form(self, p: Any) -> tuple[int, int]:
        start, part = self.start_picture(p), tiles.part(p)
        if part is not None:
            return part.picture[1], part.picture[0]
        if start is not None and getattr(p, "inpaint_full_res", False) and getattr(p, "image_mask", None) is not None:
            return start.width, start.height
        return p.width, p.height

    def sampled_box(self, p: Any) -> Box | None:
        pasted = getattr(p, "paste_to", None) and getattr(p, "overlay_images", None) and shared.opts.overlay_inpaint
        return tuple(p.paste_to) if pasted else None

    def start_picture(self, p: Any) -> Any | None:
        return next(iter(getattr(p, "init_images", None) or ()), None)

    def start_pictures(self, p: Any) -> list[Any]:
        return tiles.sampled(p)

    def samples_tiles(self, p: Any) -> str | None:
        for title in tiles.INSIDE:
            script = self.script(p, title)
            if script is not None and [*p.script_args[script.args_from : script.args_to]][:1] == [True]:
                return title
        return None

    # Its prompts

    def prompt_loras(self, p: Any) -> list[str]:
        return prompts.loras(p)

    # Who asks

    def is_api(self, p: Any) -> bool:
        return bool(getattr(p, "is_api", False))

    def script_chosen(self, p: Any) -> bool:
        arguments = getattr(p, "script_args", None)
        return bool(arguments and isinstance(arguments[0], int) and arguments[0] > 0)

    def chosen_script(self, p: Any) -> Any | None:
        choosable = getattr(getattr(p, "scripts", None), "selectable_scripts", None) or ()
        number = p.script_args[0] if self.script_chosen(p) else 0
        return choosable[number - 1] if 0 < number <= len(choosable) else None

    def watch_parts(self, p: Any) -> None:
        if self.script_chosen(p):
            tiles.watch(p)

    def unwatch_parts(self) -> None:
        tiles.unwatch()

    def lost_part(self, p: Any, elsewhere: bool) -> str | None:
        script = self.chosen_script(p)
        if script is None:
            return None
        title: str = script.title()
        return title if tiles.is_lost(p, title, elsewhere) else None

    def script(self, p: Any, title: str) -> Any | None:
        scripts = getattr(getattr(p, "scripts", None), "alwayson_scripts", None) or ()
        return next((script for script in scripts if script.title() == title), None)

    @contextmanager
    def progress_text(self) -> Iterator[Callable[[str], None]]:
        before = shared.state.textinfo

        def show(text: str) -> None:
            if shared.state.interrupted:
                raise Interrupted
            shared.state.textinfo = f"IP-Adapter: {text}"

        try:
            yield show
        finally:
            shared.state.textinfo = before

    @contextmanager
    def alone(self) -> Iterator[None]:
        from modules.call_queue import queue_lock

        with queue_lock:
            yield

    def controlnet(self) -> ControlNet | None:
        return controlnets.loaded()

    def expected_controlnet(self) -> type[ControlNet]:
        return WebUIControlNet


def _bypass() -> Any | None:
    """What the setting *SD Unet* puts in the place of the model's layers."""
    try:
        from modules import sd_unet
    except ImportError:  # not all of the kin have that setting
        return None
    return sd_unet.get_unet_option()


def _make_room(_nbytes: int) -> None:
    """Before an image encoder moves to the device: under --lowvram/--medvram no part of the model stays there."""
    from modules import lowvram

    if lowvram.is_enabled(shared.sd_model):
        lowvram.send_everything_to_cpu()
    devices.torch_gc()


def _topology_in(file: Path) -> Topology | None:
    """Of a checkpoint's file, without its weights; None if it is no readable Stable Diffusion checkpoint."""
    try:
        stat = file.stat()
        return _read_topology(file, stat.st_size, stat.st_mtime_ns)
    except (IPAdapterError, OSError):
        return None


@lru_cache(maxsize=8)
def _read_topology(file: Path, _size: int, _mtime_ns: int) -> Topology | None:
    """The header of an SDXL checkpoint takes 20 ms, and the page asks several times. What cannot be read is looked at
    again: it may be on a disk that was away. Raises CheckpointError or OSError."""
    spec = identify(read_shapes(file))
    if not isinstance(spec, UNetSpec):
        return None
    model = spec.base if spec.base == bases.FLUX else ""
    return Topology(spec.context_width, spec.layer_widths, spec.blocks, model)


def _text(condition: Any) -> Tensor | None:
    """The cross-attention part of what the host conditions on: a tensor, or SDXL's dict with one."""
    condition = condition.get("crossattn") if isinstance(condition, dict) else condition
    return condition if isinstance(condition, Tensor) else None


# The formulas of samplers on timesteps, and how many fewer steps than their schedule has entries they make.
SHORTER = {"ddim": 1, "ddim_cfgpp": 1, "plms": 1, "unipc": 0}


def _formula(denoiser: Any) -> str | None:
    """The name of the function that samples; a sampler's own name may be another extension's."""
    return getattr(getattr(denoiser.sampler, "func", None), "__name__", None)


def _steps_made(denoiser: Any, announced: int) -> int:
    """How many steps the pass makes. Samplers on timesteps make others than the host announces: their schedule has as
    many entries as the distance between them allows, and starting from a picture they are announced with one more."""
    fewer = SHORTER.get(_formula(denoiser) or "")
    if fewer is None:
        return announced
    from_picture = getattr(denoiser, "init_latent", None) is not None
    entries = announced - 1 if from_picture else len(denoiser.sampler.get_timesteps(denoiser.p, announced))
    return max(1, entries - fewer)


def _rows(denoiser: Any, n_rows: int, text_cond: Tensor | None) -> Rows:
    """The rows of one denoising step. AND prompts have several cond rows for one picture."""
    prompts = getattr(denoiser.sampler, "sampler_extra_args", {}).get("cond")
    counts = [len(parts) for parts in getattr(prompts, "batch", [])]
    n_cond = n_rows // 2 if text_cond is None else len(text_cond)
    if sum(counts) != n_cond:  # another extension has changed the conditioning: one row for each picture
        counts = [1] * n_cond
    return layout(counts, n_rows)


def _sampled_part(p: Any, within: Part | None = None) -> Part | None:
    """What inpainting samples of img2img's picture, or all of it where that is a part of a larger one; None for all of
    a whole. ``within`` says that the picture is that part of another one."""
    box, start = getattr(p, "paste_to", None), next(iter(getattr(p, "init_images", None) or ()), None)
    within = within or tiles.part(p)
    if not box or start is None:
        return within
    if within is None:
        return Part((start.height, start.width), (tuple(box),))
    left, top, width, height = box
    return Part(within.picture, tuple((x + left, y + top, width, height) for x, y, *_ in within.boxes))


def _final_size(p: Any) -> tuple[int, int]:
    """Width and height of the pictures that the job would have made."""
    if not getattr(p, "enable_hr", False):
        return p.width, p.height
    return p.hr_upscale_to_x - 8 * p.truncate_x, p.hr_upscale_to_y - 8 * p.truncate_y
