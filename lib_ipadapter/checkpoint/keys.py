"""The names of an adapter's tensors, whatever container or training script they come from."""

from __future__ import annotations

import re
from collections.abc import Iterable

PROJ, PAIRS = "image_proj.", "ip_adapter."  # what published names begin with
_WRAPPERS = re.compile(r"^(?:state_dict\.|module\.)+")  # trainers' containers
_PREFIXES = {
    "image_proj_model.": PROJ,
    "adapter_modules.": PAIRS,
    "ip_adapter_proj_model.": PROJ,  # XLabs'
    "redux_up.": f"{PROJ}redux_up.",
    "redux_down.": f"{PROJ}redux_down.",
}
_XLABS = re.compile(r"double_blocks\.([0-9]{1,4})\.processor\.ip_adapter_double_stream_([kv])_proj\.(weight|bias)")
# A layer as diffusers' UNet calls it: what the published trainer saves through accelerate, beside the UNet's own
# weights, and what the usual conversion of that makes of it.
_STAGES = ("down_blocks.", "up_blocks.", "mid_block.")  # the order in which adapters number the layers
_LAYER = re.compile(
    r"(?:unet\.|ip_adapter\.)?(down_blocks\.|up_blocks\.|mid_block\.)([0-9]{1,4}\.)?attentions\.([0-9]{1,4})\."
    r"transformer_blocks\.([0-9]{1,4})\.attn([12])\.processor\.(to_[a-z_]+\.(?:down\.|up\.)?weight)"
)
_Place = tuple[int, ...]


def normalise_key(key: str) -> str:
    """The published name of an adapter's tensor, whatever its container calls it; a layer's name as diffusers has it
    stays, because its number is known among the others alone. Idempotent."""
    if key.startswith(("state_dict.", "module.")):
        key = _WRAPPERS.sub("", key)
    for theirs, published in _PREFIXES.items():
        if key.startswith(theirs):
            return published + key.removeprefix(theirs)
    if match := _XLABS.fullmatch(key):
        return f"{PAIRS}{match[1]}.to_{match[2]}_ip.{match[3]}"
    return key


def normalise_keys(keys: Iterable[str]) -> dict[str, str]:
    """{published name: name in the file}. Of several names for one tensor, the first in the file counts."""
    return {name: found[0] for name, found in bearers(keys).items()}


def bearers(keys: Iterable[str]) -> dict[str, list[str]]:
    """{published name: names in the file}; more than one for a tensor that is there under different prefixes."""
    names = {key: normalise_key(key) for key in keys}
    processors = ((key, name) for key, name in names.items() if ".processor.to_" in name)
    layers = {key: match for key, name in processors if (match := _LAYER.fullmatch(name))}
    if any(match[6] == "to_k_ip.weight" for match in layers.values()):  # else a LoRA, or a UNet with one
        numbers = {place: number for number, place in enumerate(sorted(set(map(_place, layers.values()))))}
        for key, match in layers.items():
            # Every block has two layers, attn1 and attn2, of which attn2 alone has pairs: those are 1, 3, 5, …
            names[key] = f"{PAIRS}{2 * numbers[_place(match)] + int(match[5]) - 1}.{match[6]}"
    found: dict[str, list[str]] = {}
    for key, name in names.items():
        found.setdefault(name, []).append(key)
    return found


def _place(layer: re.Match[str]) -> _Place:
    """Where in diffusers' UNet a layer's block stands, to be sorted by."""
    stage, block, attention, transformer = layer.group(1, 2, 3, 4)
    return (_STAGES.index(stage), int((block or "0.")[:-1]), int(attention), int(transformer))
