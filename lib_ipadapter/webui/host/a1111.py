"""What differs between hosts: where the UNet is, where rows come from, where files are looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modules import devices, extensions, lowvram, paths, script_callbacks, sd_models, sd_unet, shared
from torch import Tensor, nn

from ...attend.layers import Topology, cross_attention_layers
from ...attend.regions import Box, Size
from ...attend.rows import Rows, layout
from ...checkpoint.identify import UNetSpec, identify
from ...checkpoint.load import read_shapes
from ...errors import IPAdapterError, MismatchError
from ...generation import Device

EXTENSION = Path(__file__).resolve().parents[3]


def unet(model: Any) -> nn.Module:
    """The UNet of a loaded checkpoint. Raises MismatchError where the host would not call its modules."""
    bypass = sd_unet.get_unet_option()
    if bypass is not None:
        raise MismatchError(
            f'the SD Unet "{bypass.label}" replaces the model\'s layers: set "SD Unet" to None in Settings.'
        )
    found: nn.Module | None = getattr(getattr(model, "model", None), "diffusion_model", None)
    if found is None:
        raise MismatchError("no Stable Diffusion checkpoint is loaded: choose one first.")
    return found


def loaded_unets() -> Iterator[nn.Module]:
    """The UNets of all checkpoints that the host keeps in memory."""
    for model in [*sd_models.model_data.loaded_sd_models, sd_models.model_data.sd_model]:
        found = getattr(getattr(model, "model", None), "diffusion_model", None)
        if isinstance(found, nn.Module):
            yield found


def _make_room() -> None:
    """Before an image encoder moves to the device: under --lowvram/--medvram no part of the model stays there."""
    if lowvram.is_enabled(shared.sd_model):
        lowvram.send_everything_to_cpu()
    devices.torch_gc()


def device() -> Device:
    return Device(devices.device, devices.dtype, _make_room)


def hires_topology(p: Any) -> tuple[str, Topology] | None:
    """Name and topology of the other checkpoint that p's hires pass will load, None if there is none or it is no
    readable Stable Diffusion checkpoint (the host has its own word on that)."""
    name = getattr(p, "hr_checkpoint_name", None)
    if not getattr(p, "enable_hr", False) or not name or name == "Use same checkpoint":
        return None
    info = sd_models.get_closet_checkpoint_match(name)
    topology = None if info is None else _topology_in(Path(info.filename))
    return None if topology is None else (info.name_for_extra, topology)


def _topology_in(file: Path) -> Topology | None:
    """Of a checkpoint's file, without its weights; None if it is no readable Stable Diffusion checkpoint."""
    try:
        spec = identify(read_shapes(file))
    except (IPAdapterError, OSError):
        return None
    return Topology(spec.context_width, spec.layer_widths) if isinstance(spec, UNetSpec) else None


def present_topology() -> Topology | None:
    """Of the loaded checkpoint, or else of the one that would be loaded; None if it cannot be told. Loads nothing."""
    unet = getattr(getattr(sd_models.model_data.sd_model, "model", None), "diffusion_model", None)
    try:
        if isinstance(unet, nn.Module):
            return Topology.of(cross_attention_layers(unet))
        info = sd_models.get_closet_checkpoint_match(shared.opts.sd_model_checkpoint)
        return None if info is None else _topology_in(Path(info.filename))
    except Exception:  # an unusual model or host: the generation has the last word
        return None


def _text(condition: Any) -> Tensor | None:
    """The cross-attention part of what the host conditions on: a tensor, or SDXL's dict with one."""
    condition = condition.get("crossattn") if isinstance(condition, dict) else condition
    return condition if isinstance(condition, Tensor) else None


def denoising_step(params: script_callbacks.CFGDenoiserParams) -> dict[str, Any]:
    """What ``Injection.begin`` wants to know of one CFGDenoiser call.

    ``denoiser.step`` counts the calls, exactly; second-order samplers announce two calls for each step. The host's
    ``sampling_step`` is of no use here: it lags one step behind, because samplers report a step after its first call.
    """
    denoiser = params.denoiser
    text_cond, text_uncond = _text(params.text_cond), _text(params.text_uncond)
    steps = max(1, denoiser.steps or params.total_sampling_steps or 1)
    calls_per_step = max(1, (denoiser.total_steps or steps) // steps)
    sampler = getattr(getattr(denoiser.sampler, "config", None), "name", None)
    extra = 1 if sampler == "PLMS" else 0  # it calls twice in its first step
    return {
        "rows": _rows(denoiser, len(params.x), text_cond),
        "step": max(0, denoiser.step - extra) // calls_per_step,
        "steps": steps,
        "text_cond": text_cond,
        "text_uncond": text_uncond,
        "size": tuple(params.x.shape[-2:]),
        "latents": lambda: params.x,  # as the callbacks after ours leave it
        "sampler": denoiser.inner_model if isinstance(denoiser.inner_model, nn.Module) else None,
    }


def _rows(denoiser: Any, n_rows: int, text_cond: Tensor | None) -> Rows:
    """The rows of one denoising step. AND prompts have several cond rows for one picture."""
    prompts = getattr(denoiser.sampler, "sampler_extra_args", {}).get("cond")
    counts = [len(parts) for parts in getattr(prompts, "batch", [])]
    n_cond = n_rows // 2 if text_cond is None else len(text_cond)
    if sum(counts) != n_cond:  # another extension has changed the conditioning: one row for each picture
        counts = [1] * n_cond
    return layout(counts, n_rows)


def picture_form(p: Any) -> tuple[int, int]:
    """Width and height of the pictures that the job makes, or numbers of their ratio."""
    start = next(iter(getattr(p, "init_images", None) or ()), None)
    if start is not None and getattr(p, "inpaint_full_res", False) and getattr(p, "image_mask", None) is not None:
        return start.width, start.height
    return p.width, p.height


def sampled_part(p: Any) -> tuple[Box, Size] | None:
    """The box of img2img's picture that inpainting samples, and that picture's height and width; None for all of it."""
    box, start = getattr(p, "paste_to", None), next(iter(getattr(p, "init_images", None) or ()), None)
    return None if not box or start is None else (tuple(box), (start.height, start.width))


def sampled_box(p: Any) -> Box | None:
    """The part (left, top, width, height) of the finished picture that was sampled, None for all of it."""
    pasted = getattr(p, "paste_to", None) and getattr(p, "overlay_images", None) and shared.opts.overlay_inpaint
    return tuple(p.paste_to) if pasted else None


def script_chosen(p: Any) -> bool:
    """Whether one of the page's scripts (X/Y/Z plot, SD upscale, …) makes this job as one of several, or as a part."""
    arguments = getattr(p, "script_args", None)
    return bool(arguments and isinstance(arguments[0], int) and arguments[0] > 0)


class Interrupted(Exception):
    """The user has pressed Interrupt; the host stops by itself before it samples."""


@contextmanager
def progress_text() -> Iterator[Callable[[str], None]]:
    """A function that shows a text on the WebUI's progress bar; afterwards the bar is what it was.

    The function raises Interrupted where there is nothing to wait for any more.
    """
    before = shared.state.textinfo

    def show(text: str) -> None:
        if shared.state.interrupted:
            raise Interrupted
        shared.state.textinfo = f"IP-Adapter: {text}"

    try:
        yield show
    finally:
        shared.state.textinfo = before


def _option(*names: str) -> list[Path]:
    """Folders from settings and command-line flags, where they exist and are set; flags may hold lists."""
    folders: list[Path] = []
    for name in names:
        for source in (shared.opts, shared.cmd_opts):
            value = getattr(source, name, None)
            values = value if isinstance(value, (list, tuple)) else [value]
            folders += [Path(v) for v in values if isinstance(v, str) and v.strip()]
    return folders


def _controlnet_extensions() -> list[Path]:
    return [Path(e.path) for e in extensions.active() if (Path(e.path) / "scripts" / "controlnet.py").is_file()]


def adapter_folders() -> list[Path]:
    """Where adapters are looked for, ours first."""
    models = Path(paths.models_path)
    return _distinct([
        EXTENSION / "models",
        models / "ipadapter",
        models / "ControlNet",
        *(folder / "models" for folder in _controlnet_extensions()),
        *_option("control_net_models_path", "controlnet_dir", "ip_adapter_dir", "ip_adapter_models_path"),
    ])  # fmt: skip


def encoder_folders() -> list[Path]:
    """Where image encoders are looked for beyond the adapters' folders."""
    controlnet = _option("control_net_modules_path", "controlnet_annotator_models_path")
    controlnet += [folder / "annotator" / "downloads" for folder in _controlnet_extensions()]
    return _distinct([
        Path(paths.models_path) / "clip_vision",
        *(folder / "clip_vision" for folder in controlnet),
        *_option("ip_adapter_encoder_dir"),
    ])  # fmt: skip


def _distinct(folders: list[Path]) -> list[Path]:
    return list(dict.fromkeys(folder.absolute() for folder in folders))


def catalog_memory() -> Path:
    """The file that remembers what the files in the folders are."""
    return Path(paths.data_path) / "cache" / "ip-adapter-catalog.json"


def is_api(p: Any) -> bool:
    """Whether a request of the API has made the job, and no page."""
    return bool(getattr(p, "is_api", False))
