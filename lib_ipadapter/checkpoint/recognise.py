"""What a file on the disk is: by its content, and by hash, name and dtypes where that leaves two variants open."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from .. import bases
from ..errors import CheckpointError, printable
from .containers import read_table
from .identify import identify
from .keys import PAIRS, PROJ, normalise_keys
from .specs import AdapterSpec, EncoderSpec, KeypointsSpec, UNetSpec
from .tensor_table import NAME_LIMIT, Table, TensorEntry
from .ties import named_variant, tie_break, with_activation

PART = re.compile(r"-([0-9]{1,5})-of-([0-9]{1,5})$")  # how transformers and diffusers name the parts of a model
HASH_LIMIT = 4 * 2**30  # bytes; the largest file that a hash is known of has 1.5 GB
CHECKPOINT = (
    "This file is a {} checkpoint, not an adapter: put it into models/Stable-diffusion and choose it as "
    "the checkpoint."
)


def recognise(path: Path, table: Callable[[Path], Table] = read_table) -> AdapterSpec | EncoderSpec | KeypointsSpec:
    """The adapter, image encoder or ControlNet for keypoints that a file holds, from its header. Raises CheckpointError
    for all others.

    ``table`` reads the header."""
    entries, metadata = table(path)
    if (part := PART.search(path.stem)) and int(part[2]) > 1:
        raise CheckpointError(
            f"This file is part {int(part[1])} of {int(part[2])} of a model that was saved in parts: get the model in "
            "one file, or join its parts into one .safetensors file."
        )
    spec = identify({key: entry.shape for key, entry in entries.items()})
    if isinstance(spec, UNetSpec):
        raise CheckpointError(CHECKPOINT.format(spec.base if spec.base == bases.FLUX else "Stable Diffusion"))
    if isinstance(spec, KeypointsSpec):
        return spec
    spec = replace(spec, image_encoder=_name_in(metadata, "image_encoder"))
    if isinstance(spec, EncoderSpec):
        return with_activation(spec, path.stem, metadata.get("activation"))
    spec = replace(spec, resolution=_resolution(metadata))
    return _untied(path, spec, entries) if spec.alternatives else spec


def _resolution(metadata: Mapping[str, str]) -> int | None:
    """The side of the encoder's input that an adapter's metadata names, as "448". What is no such number, such as
    the "1024x1024" of the pictures that a model makes, speaks of something else."""
    text = metadata.get("resolution", "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else None


def _name_in(metadata: Mapping[str, str], key: str) -> str | None:
    """A name in a header, as it can be shown and sent."""
    return printable(metadata[key][:NAME_LIMIT]) if key in metadata else None


def _untied(path: Path, spec: AdapterSpec, entries: Mapping[str, TensorEntry]) -> AdapterSpec:
    """``spec`` with its tie broken by the file's name, dtypes, or hash."""
    names = normalise_keys(entries)
    dtypes = [{entries[key].dtype for name, key in names.items() if name.startswith(half)} for half in (PROJ, PAIRS)]
    # Only a FaceID-Plus whose name says nothing is read whole, once: dtypes tell the other tie's published files apart.
    silent = spec.projection == "FaceIDPlus" and named_variant(spec, path.stem) is None
    silent = silent and path.stat().st_size <= HASH_LIMIT
    return tie_break(spec, path.stem, sha256(path) if silent else None, mixed_dtypes=dtypes[0] != dtypes[1])


def sha256(path: Path) -> str | None:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:  # a hash is a hint: do without
        return None
    return digest.hexdigest()
