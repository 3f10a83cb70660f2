"""Where and in which precision the model computes: 32 bits on the CPU, 16 bits with autocast on a GPU."""

import contextlib

import torch

cpu = device = torch.device("cpu")
dtype = dtype_vae = dtype_unet = dtype_inference = torch.float32
unet_needs_upcast = False


def _use(name):
    """Compute on device ``name`` from now on."""
    global device, dtype, dtype_unet, dtype_inference
    from modules import shared

    device = shared.device = torch.device(name)
    whole = device == cpu or shared.cmd_opts.no_half
    dtype = dtype_unet = dtype_inference = torch.float32 if whole else torch.float16


def get_optimal_device():
    return device


def get_device_for(task):
    from modules import shared

    return device if {"all", task}.isdisjoint(shared.cmd_opts.use_cpu) else cpu


def torch_gc():
    if device.type == "cuda":
        torch.cuda.empty_cache()


def cond_cast_float(input):
    return input.float()


def autocast(disable=False):
    return torch.autocast(device.type, dtype=torch.float16, enabled=not disable) if dtype == torch.float16 else _plain()


def without_autocast(disable=False):
    return _plain() if disable or dtype == torch.float32 else torch.autocast(device.type, enabled=False)


_plain = contextlib.nullcontext


class NansException(Exception):
    pass


def test_for_nans(x, where):
    from modules import shared

    if not shared.cmd_opts.disable_nan_check and torch.isnan(x).any():
        raise NansException(f"The {where} produced numbers that are none (NaN).")
