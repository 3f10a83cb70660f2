"""What every part of the host shares. ``sd_model`` is loaded when it is first asked for."""

import sys
import types

import torch

from modules import options, shared_cmd_options, shared_options
from modules.options import OptionInfo, options_section  # noqa: F401 (extensions look for them here)
from modules.paths_internal import data_path, models_path, script_path  # noqa: F401

cmd_opts, parser = shared_cmd_options.cmd_opts, shared_cmd_options.parser
config_filename = cmd_opts.ui_settings_file
demo = settings_components = None
device = torch.device("cpu")

options_templates = shared_options.options_templates
opts = options.Options(dict(options_templates), set())

latent_upscale_default_mode = "Latent"
latent_upscale_modes = {
    "Latent": {"mode": "bilinear", "antialias": False},
    "Latent (antialiased)": {"mode": "bilinear", "antialias": True},
    "Latent (bicubic)": {"mode": "bicubic", "antialias": False},
    "Latent (nearest)": {"mode": "nearest", "antialias": False},
}


class _Shared(types.ModuleType):
    """A module with a property."""

    @property
    def sd_model(self):
        from modules import sd_models

        return sd_models.model_data.get_sd_model()


sys.modules[__name__].__class__ = _Shared

from modules import shared_state  # noqa: E402 (it wants the settings)

state = shared_state.State()
