"""The page in Settings."""

from __future__ import annotations

from modules import shared

from ..generation import DEFAULT_CACHE_BYTES
from ..unit import MAX_UNITS

SECTION = ("ip_adapter", "IP-Adapter")
TABS, CACHE = "ip_adapter_unit_count", "ip_adapter_cache_mb"
KEEP, FOLDER = "ip_adapter_keep_encoder", "ip_adapter_models_path"


def register() -> None:
    """Add the settings (called by the host while it builds its settings)."""
    import gradio as gr

    counts = {"minimum": 1, "maximum": MAX_UNITS, "step": 1}
    shared.opts.add_option(
        TABS,
        shared.OptionInfo(3, "Number of units in the panel", gr.Slider, counts, section=SECTION).needs_reload_ui(),
    )
    shared.opts.add_option(
        CACHE,
        shared.OptionInfo(
            DEFAULT_CACHE_BYTES // 2**20,
            "Main memory for encoded references, in MB",
            gr.Slider,
            {"minimum": 0, "maximum": 8192, "step": 64},
            section=SECTION,
        ).info("a reference is encoded once for as long as it stays in here; 0 turns this off"),
    )
    shared.opts.add_option(
        KEEP,
        shared.OptionInfo(True, "Keep the image encoder in main memory", section=SECTION).info(
            "1.3 to 7 GB; without it, every new reference waits for the encoder to be read"
        ),
    )
    shared.opts.add_option(
        FOLDER,
        shared.OptionInfo("", "Further folder with adapters and image encoders", section=SECTION)
        .info("searched with its subfolders")
        .needs_reload_ui(),
    )


def unit_count() -> int:
    return max(1, min(MAX_UNITS, int(getattr(shared.opts, TABS, 3))))


def cache_bytes() -> int:
    return int(getattr(shared.opts, CACHE, DEFAULT_CACHE_BYTES // 2**20)) * 2**20


def keep_encoder() -> bool:
    return bool(getattr(shared.opts, KEEP, True))
