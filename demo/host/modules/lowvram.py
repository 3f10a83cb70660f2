"""The flags are obeyed in name only: nothing is moved."""

from modules import shared


def is_needed(sd_model):
    flags = shared.cmd_opts
    return flags.lowvram or flags.medvram or (flags.medvram_sdxl and sd_model.is_sdxl)


def apply(sd_model):
    sd_model.lowvram = is_needed(sd_model)


def is_enabled(sd_model):
    return sd_model.lowvram


def send_everything_to_cpu():
    pass
