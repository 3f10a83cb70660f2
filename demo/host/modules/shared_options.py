"""The host's own settings: those that generation and the page ask for."""

from modules.options import OptionInfo, options_section

# section: {key: default, or (default, its name in a picture's text)}
_SECTIONS = {
    "saving-images": {
        "samples_save": False, "grid_only_if_multiple": True, "enable_pnginfo": True, "outdir_samples": "",
        "outdir_txt2img_samples": "", "outdir_img2img_samples": "",
    },
    "sd": {
        "sd_model_checkpoint": (None, "Model hash"), "sd_checkpoint_hash": "", "sd_checkpoints_limit": 1,
        "CLIP_stop_at_last_layers": (1, "Clip skip"), "disable_weights_auto_swap": True,
    },
    "img2img": {
        "inpainting_mask_weight": 1.0, "initial_noise_multiplier": 1.0, "img2img_extra_noise": 0.0,
        "img2img_fix_steps": False, "img2img_background_color": "#ffffff", "return_mask": False,
        "overlay_inpaint": True,
    },
    "optimizations": {
        "s_min_uncond": (0.0, "NGMS"), "s_min_uncond_all": (False, "NGMS all steps"), "batch_cond_uncond": True,
        "pad_cond_uncond": (False, "Pad conds"), "pad_cond_uncond_v0": (False, "Pad conds v0"),
        "token_merging_ratio": (0.0, "Token merging ratio"), "token_merging_ratio_img2img": 0.0,
        "token_merging_ratio_hr": 0.0,
    },
    "compatibility": {"use_old_scheduling": False, "hires_fix_use_firstpass_conds": False},
    "sampler-params": {
        "eta_ddim": (0.0, "Eta DDIM"), "eta_ancestral": (1.0, "Eta"), "skip_early_cond": (0.0, "Skip Early CFG"),
        "s_churn": 0.0, "s_tmin": 0.0, "s_tmax": 0.0, "s_noise": 1.0,
    },
    "ui": {
        "return_grid": False, "infotext_skip_pasting": [], "live_previews_enable": True,
        "show_progress_every_n_steps": 1,
    },
    "system": {"disable_all_extensions": "none", "disabled_extensions": []},
}  # fmt: skip

_FOR_FILES_ONLY = {"disable_all_extensions", "disabled_extensions"}  # no client may change them


def _info(key, value):
    default, infotext = value if isinstance(value, tuple) else (value, None)
    return OptionInfo(default, key.replace("_", " "), infotext=infotext, restrict_api=key in _FOR_FILES_ONLY)


options_templates = {}
for _section, _settings in _SECTIONS.items():
    _infos = {key: _info(key, value) for key, value in _settings.items()}
    options_templates |= options_section((_section, _section), _infos)
