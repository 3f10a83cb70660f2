"""The page in Settings."""

from __future__ import annotations

from modules import shared

from ..fields import choices_of, settings_of
from ..jobs.resources import DEFAULT_ADAPTER_BYTES, DEFAULT_CACHE_BYTES
from ..unit import MAX_UNITS, Unit

SECTION = ("ip_adapter", "IP-Adapter")
TABS, CACHE, ADAPTERS = "ip_adapter_unit_count", "ip_adapter_cache_mb", "ip_adapter_adapters_mb"
KEEP, FOLDER = "ip_adapter_keep_encoder", "ip_adapter_models_path"
SAVE, HISTORY = "ip_adapter_save_generations", "ip_adapter_history"
SAME = "ip_adapter_controlnet_same"
CROP = "ip_adapter_default_crop"
CROPS, DEFAULT_CROP = choices_of(Unit, "crop"), settings_of(Unit)["crop"].default
# Where ControlNet has an IP-Adapter unit of the same adapter and picture; the first is the default.
SAME_CHOICES = ("add", "skip ours", "take over")
INNER = "ip_adapter_adetailer"
DEFAULT_HISTORY = 100


def register() -> None:
    """Add the settings (called by the host while it builds its settings)."""
    import gradio as gr

    counts = {"minimum": 1, "maximum": MAX_UNITS, "step": 1}
    shared.opts.add_option(
        TABS,
        shared.OptionInfo(3, "Number of units in the panel", gr.Slider, counts, section=SECTION).needs_reload_ui(),
    )
    _add_memory(
        CACHE, DEFAULT_CACHE_BYTES, "Main memory for encoded references, in MB",
        "a reference is encoded once for as long as it stays in here; 0 turns this off",
    )  # fmt: skip
    _add_memory(ADAPTERS, DEFAULT_ADAPTER_BYTES, "Main memory for adapters, in MB", "the one used last always stays")
    shared.opts.add_option(
        KEEP,
        shared.OptionInfo(True, "Keep the image encoder in main memory", section=SECTION)
        .info("1.3 to 7 GB; without it, every new reference waits for the encoder to be read")
        .js("unload everything now", "ipAdapter.unload"),
    )
    shared.opts.add_option(
        CROP,
        shared.OptionInfo(DEFAULT_CROP, "Crop of new units", gr.Dropdown, {"choices": list(CROPS)}, section=SECTION)
        .info("how a reference that is not square meets the square image encoder")
        .needs_reload_ui(),
    )
    shared.opts.add_option(
        FOLDER,
        shared.OptionInfo("", "Further folder with adapters and image encoders", section=SECTION)
        .info("searched with its subfolders")
        .needs_reload_ui(),
    )
    shared.opts.add_option(
        SAVE,
        shared.OptionInfo(True, "Save with every generation", section=SECTION).info(
            "its units go to the end of the list of presets, named after the first picture; pasted parameters need "
            "this to find their references"
        ),
    )
    shared.opts.add_option(
        HISTORY,
        shared.OptionInfo(
            DEFAULT_HISTORY,
            "Number of generations that are kept in the list of presets",
            gr.Slider,
            {"minimum": 1, "maximum": 1000, "step": 1},
            section=SECTION,
        ).info("the oldest goes first"),
    )
    shared.opts.add_option(
        SAME,
        shared.OptionInfo(
            SAME_CHOICES[0],
            "When a ControlNet unit has the same adapter and picture",
            gr.Radio,
            {"choices": list(SAME_CHOICES)},
            section=SECTION,
        ).info(
            "add: both act, and their effects add up; take over: ControlNet's unit is off for the run, and the unit "
            "here works with its own settings"
        ),
    )
    shared.opts.add_option(
        INNER,
        shared.OptionInfo(
            False, "Use the references in ADetailer's passes, too", section=SECTION, infotext="IP-Adapter in ADetailer"
        ).info(
            "otherwise the references stay out of what it paints again; ADetailer's own list of scripts can say the "
            "same, with ip_adapter"
        ),
    )


def _add_memory(name: str, default: int, label: str, info: str) -> None:
    """A slider in MB; ``default`` in bytes."""
    import gradio as gr

    size = {"minimum": 0, "maximum": 8192, "step": 64}
    shared.opts.add_option(
        name, shared.OptionInfo(default // 2**20, label, gr.Slider, size, section=SECTION).info(info)
    )


def _bytes(name: str, default: int) -> int:
    return int(getattr(shared.opts, name, default // 2**20)) * 2**20


def default_crop() -> str:
    chosen = getattr(shared.opts, CROP, DEFAULT_CROP)
    return str(chosen) if chosen in CROPS else str(DEFAULT_CROP)


def unit_count() -> int:
    return max(1, min(MAX_UNITS, int(getattr(shared.opts, TABS, 3))))


def cache_bytes() -> int:
    return _bytes(CACHE, DEFAULT_CACHE_BYTES)


def adapter_bytes() -> int:
    return _bytes(ADAPTERS, DEFAULT_ADAPTER_BYTES)


def keep_encoder() -> bool:
    return bool(getattr(shared.opts, KEEP, True))


def save_generations() -> bool:
    return bool(getattr(shared.opts, SAVE, True))


def history() -> int:
    return max(1, int(getattr(shared.opts, HISTORY, DEFAULT_HISTORY)))


def controlnet_same() -> str:
    chosen = getattr(shared.opts, SAME, SAME_CHOICES[0])
    return chosen if chosen in SAME_CHOICES else SAME_CHOICES[0]


def inner_passes() -> bool:
    return bool(getattr(shared.opts, INNER, False))
