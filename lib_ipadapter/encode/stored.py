"""Embeddings in a file, in the place of the pictures that they were made of: a person, or a look, as a small file.

The file is a safetensors file. References are numbered from 0: ``0.face`` [1, 512] is what face recognition puts out,
of any length; ``0.pooled`` [V, E], ``0.penultimate`` and ``0.last`` [V, N, W] are the image encoder's, for V
views. Its metadata say what made them, because equal widths do not make two encoders one: ``face`` is the recogniser's
name, ``encoder`` the image encoder's kind.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from ..checkpoint.safetensors_files import library
from ..errors import PictureError
from .carriers import MAX_FILE, carried
from .crops import MAX_TILES

if TYPE_CHECKING:
    from torch import Tensor

    from .picture import Picture

FORMAT, VERSION = "ip-adapter", "embeddings 1"
DIMS = {"face": 2, "pooled": 2, "penultimate": 3, "last": 3}  # of each part's tensors
MAX_HEADER = 64 * 2**10
MAX_STORED = 64  # references
MAX_WEIGHT = 1000  # of a stored reference: products of what weights may be
MAX_PATCHES = 6000  # tokens of a view: a picture of 1024 pixels in patches of 14 has 5330
AGAIN = "get it from POST /ip-adapter/embeddings again"

Parts = Mapping[str, "Tensor"]  # a reference's embeddings by the names in DIMS


@dataclass(frozen=True)
class Stored:
    """A file's references with their weights, and by whom their parts were made, by the names in ``DIMS``."""

    content_hash: str
    references: tuple[Parts, ...] = field(compare=False)
    weights: tuple[float, ...] = ()
    made_by: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, picture: Picture) -> Stored | None:
        """The embeddings that a picture carries, None where it is a mere picture. Raises PictureError for a carrier
        whose file is damaged, or none of ours."""
        if not picture.carries_embeddings:
            return None
        return read(carried(picture.image))


def write(references: Sequence[Parts], weights: Sequence[float], made_by: Mapping[str, str]) -> bytes:
    """A file with these references' embeddings. Raises PictureError where it would be too large."""
    from safetensors.torch import save

    metadata = {FORMAT: VERSION, "weights": json.dumps([float(weight) for weight in weights])}
    metadata |= {"face" if part == "face" else "encoder": name for part, name in made_by.items()}
    tensors = {
        f"{i}.{part}": tensor.float().cpu().contiguous()
        for i, parts in enumerate(references)
        for part, tensor in parts.items()
    }
    file = _in_order(save(tensors, metadata))
    if len(file) > MAX_FILE:
        raise PictureError(
            f"The embeddings would take {len(file) >> 20} MB, more than the {MAX_FILE >> 20} that a file may have: "
            "give fewer references."
        )
    return file


def _in_order(file: bytes) -> bytes:
    """The file with its metadata in alphabetical order: the library's is another one each time, and equal embeddings
    shall be equal files."""
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + file[8 + length :]


def read(file: bytes) -> Stored:
    """The embeddings in a file. Raises PictureError for every other one."""
    damaged = PictureError(f"The embeddings are no file of this extension, or a damaged one: {AGAIN}.")
    length = int.from_bytes(file[:8], "little")
    if not 2 <= length <= min(MAX_HEADER, len(file) - 8):
        raise damaged
    try:
        header = json.loads(file[8 : 8 + length])
        metadata = dict(header.get("__metadata__") or {})
        names = [name for name in header if name != "__metadata__"]
        version, weights = metadata.get(FORMAT), json.loads(metadata.get("weights", "null"))
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise damaged from None
    if version != VERSION:
        if isinstance(version, str) and version.startswith("embeddings "):
            raise PictureError(
                f"The embeddings are of a newer version ({version[:40]}): update the extension, or {AGAIN}."
            )
        raise damaged
    references = _references(file, names, damaged)
    if weights is None:
        weights = [1.0] * len(references)
    if not _are_weights(weights, len(references)):
        raise damaged
    made_by = {part: str(metadata.get("face" if part == "face" else "encoder", ""))[:100] for part in references[0]}
    return Stored(hashlib.sha256(file).hexdigest(), references, tuple(map(float, weights)), made_by)


def _are_weights(weights: Any, count: int) -> bool:
    return (
        isinstance(weights, list)
        and len(weights) == count
        and all(isinstance(one, (int, float)) and not isinstance(one, bool) and isfinite(one) for one in weights)
        and all(abs(one) <= MAX_WEIGHT for one in weights)
    )


def _named(name: str) -> tuple[int | None, str]:
    """The reference's number and the part's name of a tensor; no number for a name that none has."""
    number, _, part = name.partition(".")
    known = part in DIMS and number.isdecimal() and number == str(int(number[:2] or 0))
    return (int(number) if known else None), part


def _references(file: bytes, names: Sequence[str], damaged: PictureError) -> tuple[Parts, ...]:
    import torch
    from safetensors.torch import load

    found: dict[int, dict[str, Tensor]] = {}
    for name in names:
        number, part = _named(name)
        if number is None or part in found.setdefault(number, {}):
            raise damaged
    if sorted(found) != list(range(len(found))) or not 1 <= len(found) <= MAX_STORED:
        raise damaged
    try:
        tensors = {name: tensor.float() for name, tensor in load(file).items() if tensor.dtype.is_floating_point}
    except (library().SafetensorError, ValueError, TypeError, RuntimeError, KeyError):
        raise damaged from None
    if set(tensors) != set(names):
        raise damaged
    for name, tensor in tensors.items():
        number, part = _named(name)
        if number is None or tensor.ndim != DIMS[part] or not tensor.numel():
            raise damaged
        if tensor.shape[0] > (1 if part == "face" else MAX_TILES) or tensor[0, ..., 0].numel() > MAX_PATCHES:
            raise damaged
        if not torch.isfinite(tensor).all():
            raise PictureError(f"The embeddings hold numbers that are not finite (NaN or infinity): {AGAIN}.")
        if part == "face" and not tensor.any():
            raise PictureError(f"The embeddings hold a face of zeros, which is nobody's: {AGAIN}.")
        found[number][part] = tensor
    kinds = {tuple((part, tensor.shape[-1]) for part, tensor in sorted(parts.items())) for parts in found.values()}
    if len(kinds) != 1:
        raise damaged
    return tuple(found[i] for i in range(len(found)))
