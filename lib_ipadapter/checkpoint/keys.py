"""The names of an adapter's tensors, whatever container or training script they come from."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .refusals import RefusedAdapter

PROJ, PAIRS = "image_proj.", "ip_adapter."  # what published names begin with
_WRAPPERS = re.compile(r"^(?:state_dict\.|module\.)+")  # trainers' containers
_PREFIXES = {"image_proj_model.": PROJ, "adapter_modules.": PAIRS}


def normalise_key(key: str) -> str:
    """The published name of an adapter's tensor, whatever its container calls it. Idempotent."""
    key = _WRAPPERS.sub("", key)
    for theirs, published in _PREFIXES.items():
        if key.startswith(theirs):
            return published + key.removeprefix(theirs)
    return key


def normalise_keys(keys: Iterable[str]) -> dict[str, str]:
    """{published name: name in the file}. CheckpointError if two tensors of a file end up with one name."""
    names: dict[str, str] = {}
    for key in keys:
        if names.setdefault(normalise_key(key), key) != key:
            raise RefusedAdapter(
                f"This file holds {normalise_key(key)} twice, under different prefixes, so it is not clear which one "
                "counts: download the original file again."
            )
    return names
