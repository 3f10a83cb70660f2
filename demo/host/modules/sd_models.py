"""Checkpoints and the loaded model. A file names a kind and a seed, and ``demo.models`` builds the rest, or it holds
the weights and a .yaml beside it says what they are the weights of."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import torch

from demo import models as _factory
from modules import devices, hashes, lowvram, paths, script_callbacks, sd_hijack, shared

model_dir = "Stable-diffusion"
model_path = os.path.join(paths.models_path, model_dir)
checkpoints_list = {}
checkpoint_aliases = {}


class CheckpointInfo:
    """A checkpoint file, and the names it may be called by."""

    def __init__(self, filename):
        path = Path(filename)
        self.filename, self.name = str(path), path.relative_to(model_path).as_posix()
        self.name_for_extra = path.stem
        self.model_name = self.name.removesuffix(path.suffix).replace("/", "_")
        self.is_safetensors = path.suffix == ".safetensors"
        self.metadata = read_metadata_from_safetensors(self.filename)
        self.config = self.metadata.get("demo_kind") or str(path.with_suffix(".yaml"))
        self.sha256 = hashes.sha256(self.filename, f"checkpoint/{self.name}")
        self.hash = self.shorthash = self.sha256[:10]
        self.title, self.short_title = (f"{name} [{self.hash}]" for name in (self.name, self.name_for_extra))
        self.ids = [self.title, self.short_title, self.name, self.name_for_extra, self.model_name, self.hash,
                    self.sha256]  # fmt: skip

    def register(self):
        checkpoints_list[self.title] = self
        checkpoint_aliases.update(dict.fromkeys(self.ids, self))


def read_metadata_from_safetensors(filename):
    with open(filename, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header.get("__metadata__", {})


def list_models():
    """Look for the demo's checkpoints, and those with a .yaml; files of other origin are left out."""
    checkpoints_list.clear()
    checkpoint_aliases.clear()
    for file in sorted(Path(model_path).rglob("*.safetensors")):
        if file.with_suffix(".yaml").exists() or "demo_kind" in read_metadata_from_safetensors(file):
            CheckpointInfo(file).register()


def checkpoint_tiles(use_short=False):
    return [info.short_title if use_short else title for title, info in checkpoints_list.items()]


def get_closet_checkpoint_match(search_string):
    """The checkpoint called so; else the shortest title with the text in it, whatever hash follows the text."""
    if not search_string:
        return None
    text = search_string.partition(" [")[0]
    similar = [info for title, info in checkpoints_list.items() if text in title]
    return checkpoint_aliases.get(search_string) or min(similar, key=lambda info: len(info.title), default=None)


def select_checkpoint():
    """The checkpoint of the settings, or a fallback."""
    wanted = shared.opts.sd_model_checkpoint
    fallback = get_closet_checkpoint_match("demo-sd15") or next(iter(checkpoints_list.values()), None)
    info = checkpoint_aliases.get(wanted, fallback)
    if info is None:
        raise FileNotFoundError(f"no checkpoints in {model_path}")
    if wanted and wanted not in checkpoint_aliases:
        print(f"There is no checkpoint {wanted!r}; {info.title} takes its place", file=sys.stderr)
    return info


class SkipWritingToConfig:
    """Within this context a change of the checkpoint does not change the settings."""

    depth = 0

    def __enter__(self):
        SkipWritingToConfig.depth += 1

    def __exit__(self, *_exception):
        SkipWritingToConfig.depth -= 1


class SdModelData:
    """The models in memory, the current one first."""

    def __init__(self):
        self.loaded_sd_models = []
        self.sd_model = None
        self.was_loaded_at_least_once = False
        self.lock = threading.RLock()

    def get_sd_model(self):
        """The current model. The first to ask waits for it to be loaded."""
        if not self.was_loaded_at_least_once:
            with self.lock:
                if not self.was_loaded_at_least_once:
                    load_model()
        return self.sd_model

    def set_sd_model(self, v, already_loaded=False):
        self.sd_model = v
        others = [model for model in self.loaded_sd_models if model is not v]
        self.loaded_sd_models[:] = [] if v is None else [v, *others]


model_data = SdModelData()


def _build(info):
    tokenizer = Path(paths.data_path) / "tokenizer"
    if "demo_kind" in info.metadata:
        return _factory.build(info.config, int(info.metadata["demo_seed"]), tokenizer)
    return _factory.open_checkpoint(info.filename, info.config, tokenizer)


def _make_current(model, info, announce=True):
    model.sd_checkpoint_info, model.sd_model_checkpoint, model.sd_model_hash = info, info.filename, info.shorthash
    if not SkipWritingToConfig.depth:
        shared.opts.data |= {"sd_model_checkpoint": info.title, "sd_checkpoint_hash": info.sha256}
    model_data.set_sd_model(model)
    model_data.was_loaded_at_least_once = True
    if announce:
        sd_hijack.model_hijack.hijack(model)
        script_callbacks.model_loaded_callback(model)
    return model


def send_model_to_device(m):
    lowvram.apply(m)
    m.to(shared.device)
    m.model.to(devices.dtype_unet)


def send_model_to_trash(m):
    m.to(device="meta")
    devices.torch_gc()


def get_empty_cond(sd_model):
    with devices.autocast(), torch.no_grad():
        cond = sd_model.get_learned_conditioning([""])
    return cond["crossattn"] if isinstance(cond, dict) else cond


def load_model(checkpoint_info=None, already_loaded_state_dict=None):
    """Build a checkpoint's model, and make it the current one."""
    info = checkpoint_info or select_checkpoint()
    model = _build(info)
    send_model_to_device(model)
    model.cond_stage_model_empty_prompt = get_empty_cond(model)
    return _make_current(model, info)


def _still_current(info):
    current = model_data.sd_model
    return current if current is not None and current.sd_checkpoint_info.filename == info.filename else None


def _kept_in_memory(info):
    kept = [m for m in model_data.loaded_sd_models if m.sd_checkpoint_info.filename == info.filename]
    return _make_current(kept[0], info, announce=False) if kept else None


def _other_weights(info):
    """Make room for one more model. One of the same kind gives its object for the new weights."""
    loaded, room = model_data.loaded_sd_models, max(1, shared.opts.sd_checkpoints_limit)
    while len(loaded) >= room:
        model = loaded.pop()
        if len(loaded) == room - 1 and model.used_config == info.config:
            model.load_state_dict(_build(info).state_dict())
            model.cond_stage_model_empty_prompt = get_empty_cond(model)
            return _make_current(model, info)
        send_model_to_trash(model)
    return None


def reload_model_weights(sd_model=None, info=None, forced_reload=False):
    """Make the settings' checkpoint, or ``info``, the current model, in the cheapest way there is.

    What an extension holds on to may change: a model of the same kind keeps its object and gets other weights, one of
    another kind ends on the meta device.
    """
    info = info or select_checkpoint()
    for way in (_other_weights,) if forced_reload else (_still_current, _kept_in_memory, _other_weights):
        model = way(info)
        if model is not None:
            return model
    return load_model(info)


def _take_up(info=None):
    """Where a job wants a checkpoint: the settings', or ``info``."""
    reload_model_weights(info=info)


def apply_token_merging(sd_model, token_merging_ratio):
    sd_model.applied_token_merged_ratio = token_merging_ratio
