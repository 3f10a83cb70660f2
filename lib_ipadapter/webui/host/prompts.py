"""Which LoRAs a job's prompts name, on hosts that take ``<lora:name:strength>`` out of prompts; and those loaded."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from modules import shared

NETWORK = re.compile(r"<(?:lora|lyco):([^>]+)>")  # "lyco" is the host's older word


def loras(p: Any) -> list[str]:
    """The LoRAs that p's prompts name, each by the name in the prompt and then by those of its file, where the host
    has found one; those at strength 0 are left out. Negative prompts have none: hosts look for none there."""
    if getattr(p, "disable_extra_networks", False):
        return []
    named = [name for text in _texts(p) for words in NETWORK.findall(text) if (name := _acting(words))]
    of_all = getattr(shared.opts, "sd_lora", "None")  # put into every prompt by a setting
    if of_all in getattr(_networks(), "available_networks", ()):
        named.append(of_all)
    return [*dict.fromkeys(name for one in named for name in (one, *_of_file(one)))]


def _texts(p: Any) -> Iterator[str]:
    """The prompts of all passes, as they were asked for and, where the job has come that far, as scripts have made
    them."""
    asked = [getattr(p, "prompt", "")]
    made = [*(getattr(p, "all_prompts", None) or ())]
    if getattr(p, "enable_hr", False):
        asked.append(getattr(p, "hr_prompt", ""))
        made += getattr(p, "all_hr_prompts", None) or ()
    styles = getattr(shared, "prompt_styles", None)
    for given in asked:
        for text in given if isinstance(given, list) else [given]:
            yield text if styles is None else styles.apply_styles_to_prompt(text, getattr(p, "styles", None) or [])
    yield from made


def _acting(words: str) -> str | None:
    """The name in what stands between ``<lora:`` and ``>``; None where it is asked for at strength 0 in the UNet."""
    name, *rest = words.split(":")
    told = dict(word.split("=", 1) for word in rest if "=" in word)
    numbers = [word for word in rest if "=" not in word]
    strength = told.get("unet", (numbers[1:2] or [told.get("te", (numbers or ["1"])[0])])[0])
    try:
        return name if float(strength) else None
    except ValueError:
        return name


def _networks() -> Any:
    """The module in which the host's own LoRA extension keeps what it has found; None where it is not loaded."""
    module = sys.modules.get("networks")
    return module if hasattr(module, "available_network_aliases") else None


def networks() -> tuple[tuple[Any, ...], ...]:
    """Of the LoRAs that are loaded, all that the host compares to see whether it has to write to a layer's weights."""
    told = ("name", "te_multiplier", "unet_multiplier", "dyn_dim")
    loaded = getattr(_networks(), "loaded_networks", ())
    return tuple(tuple(getattr(one, field, None) for field in told) for one in loaded)


def _of_file(name: str) -> Iterator[str]:
    """The file's name and the one in its metadata, either of which a prompt may say."""
    networks = _networks()
    if networks is None:
        return
    doubtful = name.lower() in networks.forbidden_network_aliases
    found = (networks.available_networks if doubtful else networks.available_network_aliases).get(name)
    for attribute in ("name", "alias"):
        if text := getattr(found, attribute, None):
            yield text
