"""The page in Settings: each setting is declared once, with its default, its label and its limits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules import shared

from ..encode.faces.packages import BUTTON
from ..fields import choices_of, settings_of
from ..jobs.resources import DEFAULT_ADAPTER_BYTES, DEFAULT_CACHE_BYTES
from ..unit import MAX_UNITS, Unit

SECTION = ("ip_adapter", "IP-Adapter")
# Where ControlNet has an IP-Adapter unit of the same adapter and picture; the first is the default.
SAME_CHOICES = ("add", "skip ours", "take over")
# Who may download published adapters and image encoders; the first is the default.
DOWNLOAD_CHOICES = (
    "in the panel, unless others can reach this WebUI",
    "in the panel",
    "in the panel and through the API",
    "nowhere",
)
INSTANTID_CHOICES = ("by itself", "in ControlNet's units")
MB = 2**20
CROP = "ip_adapter_default_crop"


@dataclass(frozen=True)
class Option:
    """One setting. ``component`` is the name of gradio's component where the type of ``default`` does not say it, and
    ``limits`` are its settings; ``info`` stands behind the label."""

    name: str
    default: Any
    label: str
    info: str = ""
    component: str = ""
    limits: Mapping[str, Any] | None = None
    reloads: bool = False
    button: tuple[str, str] | None = None  # its text, and the page's function
    infotext: str | None = None
    in_page_only: bool = False  # whether no client of the API may set it

    @property
    def value(self) -> Any:
        """As it is set; the default for a text that is no choice (any more)."""
        value = getattr(shared.opts, self.name, self.default)
        choices = (self.limits or {}).get("choices")
        return value if choices is None or value in choices else self.default

    def add(self) -> None:
        """Put it on the host's page."""
        import gradio as gr

        component = getattr(gr, self.component) if self.component else None
        limits = dict(self.limits) if self.limits else None
        option = shared.OptionInfo(
            self.default, self.label, component, limits, section=SECTION, infotext=self.infotext
        )  # fmt: skip
        option.restrict_api = self.in_page_only
        if self.info:
            option = option.info(self.info)
        if self.button:
            option = option.js(*self.button)
        if self.reloads:
            option = option.needs_reload_ui()
        shared.opts.add_option(self.name, option)


def _slider(low: int, high: int, step: int = 1) -> dict[str, int]:
    return {"minimum": low, "maximum": high, "step": step}


UNITS = Option(
    "ip_adapter_unit_count", 3, "Number of units in the panel",
    component="Slider", limits=_slider(1, MAX_UNITS), reloads=True,
)  # fmt: skip
CACHE = Option(
    "ip_adapter_cache_mb", DEFAULT_CACHE_BYTES // MB, "Main memory for encoded references, in MB",
    "a reference is encoded once for as long as it stays in here; 0 turns this off",
    "Slider", _slider(0, 8192, 64),
)  # fmt: skip
ADAPTERS = Option(
    "ip_adapter_adapters_mb", DEFAULT_ADAPTER_BYTES // MB, "Main memory for adapters, in MB",
    "the one used last always stays", "Slider", _slider(0, 8192, 64),
)  # fmt: skip
KEEP_ENCODER = Option(
    "ip_adapter_keep_encoder", True, "Keep the image encoder in main memory",
    "1.3 to 7 GB, and InstantID's network, 2.5 to 5 GB; without it, every new reference waits for them to be read",
    button=("unload everything now", "ipAdapter.unload"),
)  # fmt: skip
DEFAULT_CROP = Option(
    CROP, settings_of(Unit)["crop"].default, "Crop of new units",
    "how a reference that is not square meets the square image encoder",
    "Dropdown", {"choices": list(choices_of(Unit, "crop"))}, reloads=True,
)  # fmt: skip
FOLDER = Option(
    "ip_adapter_models_path", "", "Further folder with adapters and image encoders", "searched with its subfolders",
    reloads=True,
)  # fmt: skip
DOWNLOADS = Option(
    "ip_adapter_downloads", DOWNLOAD_CHOICES[0], "Adapters and image encoders can be downloaded",
    "published files only, with a press of a button; others can reach a WebUI with --listen, --share or --server-name",
    "Dropdown", {"choices": list(DOWNLOAD_CHOICES)},
)  # fmt: skip
FACES = Option(
    "ip_adapter_faces_path", "", "Further folder with face packs (buffalo_l, antelopev2)",
    "models/insightface is one; FaceID and InstantID need a pack, and face analysis: 170 MB to download, into a folder "
    "of its own",
    button=(BUTTON, "ipAdapter.installFaces"),
)  # fmt: skip
SAVE = Option(
    "ip_adapter_save_generations", True, "Save with every generation",
    "its units go to the end of the list of presets, named after the first picture; pasted parameters need this to "
    "find their references",
)  # fmt: skip
HISTORY = Option(
    "ip_adapter_history", 100, "Number of generations that are kept in the list of presets",
    "the oldest goes first", "Slider", _slider(1, 1000),
)  # fmt: skip
SAME = Option(
    "ip_adapter_controlnet_same", SAME_CHOICES[0], "When a ControlNet unit has the same adapter and picture",
    "add: both act, and their effects add up; take over: ControlNet's unit is off for the run, and the unit here works "
    "with its own settings",
    "Radio", {"choices": list(SAME_CHOICES)},
)  # fmt: skip
INSTANTID = Option(
    "ip_adapter_instantid", INSTANTID_CHOICES[0], "InstantID runs",
    "by itself it needs no other extension; two units of ControlNet's do the same with one photo, without regions",
    "Dropdown", {"choices": list(INSTANTID_CHOICES)},
)  # fmt: skip
INNER_PASSES = Option(
    "ip_adapter_adetailer", False, "Units act in ADetailer's passes, too, where they do not say where they act",
    "for units whose “Acts in” is “as set”: otherwise they stay out of what it paints again; ADetailer's own list of "
    "scripts can say the same, with ip_adapter",
    infotext="IP-Adapter in ADetailer",
)  # fmt: skip
REFERENCE_FOLDERS = Option(
    "ip_adapter_reference_folders", "", "Folders for references",
    "one in each line, with its whole path; units read pictures in these and below them, and nowhere else; the API "
    "cannot change this",
    "Textbox", {"lines": 2}, in_page_only=True,
)  # fmt: skip
GRID_PICTURES = Option(
    "ip_adapter_grid_pictures", True, "Small pictures in the grids of X/Y/Z plots",
    "of the references, looks and presets on an axis, in a corner of the first row or column; the cells' own pictures "
    "stay without",
)  # fmt: skip
LOAD_AT_START = Option(
    "ip_adapter_load_at_start", False, "Load the adapter that was used last when the WebUI has started",
    "with its image encoder, in the background; the first picture with a reference does not wait for them then",
)  # fmt: skip
ENCODE_AHEAD = Option(
    "ip_adapter_encode_ahead", True, "Encode references as soon as they are dropped into the panel",
    "never while a picture is made, and only where the image encoder is kept in main memory",
)  # fmt: skip
SHARES = Option(
    "ip_adapter_shares", True, "After each picture, say how much each unit did",
    "in the panel, and in the answers of the API",
)  # fmt: skip
OPTIONS = (
    UNITS,
    CACHE,
    ADAPTERS,
    KEEP_ENCODER,
    LOAD_AT_START,
    ENCODE_AHEAD,
    DEFAULT_CROP,
    FOLDER,
    DOWNLOADS,
    FACES,
    SAVE,
    HISTORY,
    SAME,
    INSTANTID,
    INNER_PASSES,
    REFERENCE_FOLDERS,
    GRID_PICTURES,
    SHARES,
)


def register() -> None:
    """Add the settings (called by the host while it builds its settings)."""
    for option in OPTIONS:
        option.add()


def default_crop() -> str:
    return str(DEFAULT_CROP.value)


def unit_count() -> int:
    return max(1, min(MAX_UNITS, int(UNITS.value)))


def cache_bytes() -> int:
    return int(CACHE.value) * MB


def adapter_bytes() -> int:
    return int(ADAPTERS.value) * MB


def keep_encoder() -> bool:
    return bool(KEEP_ENCODER.value)


def load_at_start() -> bool:
    return bool(LOAD_AT_START.value)


def encode_ahead() -> bool:
    return bool(ENCODE_AHEAD.value)


def save_generations() -> bool:
    return bool(SAVE.value)


def history() -> int:
    return max(1, int(HISTORY.value))


def controlnet_same() -> str:
    return str(SAME.value)


def downloads() -> str:
    """One of ``DOWNLOAD_CHOICES``."""
    return str(DOWNLOADS.value)


def inner_passes() -> bool:
    return bool(INNER_PASSES.value)


def reference_folders() -> list[Path]:
    """The folders below which units may read references."""
    return [Path(os.path.normpath(path)) for path in _reference_lines() if Path(path).is_absolute()]


def no_whole_paths() -> list[int]:
    """The lines of that setting, counted from 1, that lead nowhere: where a WebUI was started says nothing."""
    return [number for number, path in enumerate(_reference_lines(), 1) if path and not Path(path).is_absolute()]


def _reference_lines() -> list[str]:
    return [os.path.expanduser(line.strip()) for line in str(REFERENCE_FOLDERS.value or "").splitlines()]


def grid_pictures() -> bool:
    """Whether the grids of X/Y/Z plots have small pictures at their axes."""
    return bool(GRID_PICTURES.value)


def tells_shares() -> bool:
    """Whether it is measured, and told, how much each unit did."""
    return bool(SHARES.value)


def instantid_in_controlnet() -> bool:
    """Whether InstantID is left to ControlNet's units."""
    return bool(INSTANTID.value == INSTANTID_CHOICES[1])
