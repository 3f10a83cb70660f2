"""Embeddings in a file, in the place of the pictures that they were made of: a person, or a look, as a small file.

The file is a safetensors file. References are numbered from 0: ``0.face`` [1, 512] is what face recognition puts out,
of any length; ``0.pooled`` [V, E], ``0.penultimate`` and ``0.last`` [V, N, W] are the image encoder's, for V views.
``uncond.face`` and so on, of one view, are what stands on the unconditional side in the place of what stands there
without a reference. Its metadata say what made them, because equal widths do not make two encoders one: ``face`` is the
recogniser's name, ``encoder`` the image encoder's kind. A look (look_files.py) has a name and a small picture there,
too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..checkpoint.safetensors_files import library
from ..errors import PictureError
from .carriers import MAX_FILE, carried
from .crops import MAX_TILES
from .look_files import AGAIN, FORMAT, UNCOND, VERSION, VERSION_2, Head, damaged, head_of, in_order

if TYPE_CHECKING:
    from torch import Tensor

    from .picture import Picture

DIMS = {"face": 2, "pooled": 2, "penultimate": 3, "last": 3}  # of each part's tensors
MAX_STORED = 64  # references
MAX_PATCHES = 6000  # tokens of a view: a picture of 1024 pixels in patches of 14 has 5330

Parts = Mapping[str, "Tensor"]  # a reference's embeddings by the names in DIMS


@dataclass(frozen=True)
class Stored:
    """A file's references with their weights, and by whom their parts were made, by the names in ``DIMS``.

    ``uncond`` is None where the unconditional side is as it is without a reference. ``look`` is a look's name, "" for
    other embeddings.
    """

    content_hash: str
    references: tuple[Parts, ...] = field(compare=False)
    weights: tuple[float, ...] = ()
    made_by: Mapping[str, str] = field(default_factory=dict, compare=False)
    uncond: Parts | None = field(default=None, compare=False)
    look: str = ""

    @classmethod
    def of(cls, picture: Picture) -> Stored | None:
        """The embeddings that a picture carries, None where it is a mere picture. Raises PictureError for a carrier
        whose file is damaged, or none of ours."""
        if not picture.carries_embeddings:
            return None
        return read(carried(picture.image))


def write(
    references: Sequence[Parts], weights: Sequence[float], made_by: Mapping[str, str], uncond: Parts | None = None
) -> bytes:
    """A file with these references' embeddings. Raises PictureError where it would be too large, or nothing that
    ``read`` takes."""
    from safetensors.torch import save

    if len(references) > MAX_STORED:
        raise PictureError(f"The embeddings are of {len(references)} references: give at most {MAX_STORED}.")
    if uncond is not None and any(len(part) != 1 for part in uncond.values()):
        raise PictureError("The embeddings have several unconditional sides: give references that have one together.")

    metadata = {FORMAT: VERSION if uncond is None else VERSION_2}
    metadata["weights"] = json.dumps([float(weight) for weight in weights])
    metadata |= {"face" if part == "face" else "encoder": name for part, name in made_by.items()}
    named = [*((str(i), parts) for i, parts in enumerate(references)), *([(UNCOND, uncond)] if uncond else [])]
    tensors = {
        f"{owner}.{part}": tensor.float().cpu().contiguous().clone()
        for owner, parts in named
        for part, tensor in parts.items()
    }
    file = in_order(save(tensors, metadata))
    if len(file) > MAX_FILE:
        raise PictureError(
            f"The embeddings would take {len(file) >> 20} MB, more than the {MAX_FILE >> 20} that a file may have: "
            "give fewer references."
        )
    return file


def read(file: bytes) -> Stored:
    """The embeddings in a file. Raises PictureError for every other one."""
    head = head_of(file)
    references, uncond = _references(file, head)
    weights = (1.0,) * len(references) if head.weights is None else head.weights
    if len(weights) != len(references):
        raise damaged()
    made_by = {part: head.face if part == "face" else head.encoder for part in references[0]}
    return Stored(hashlib.sha256(file).hexdigest(), references, weights, made_by, uncond, head.name)


def _named(name: str) -> tuple[int | None, str]:
    """The reference's number and the part's name of a tensor, -1 for the unconditional side's; no number for a name
    that none has."""
    owner, _, part = name.partition(".")
    if owner == UNCOND:
        return (-1 if part in DIMS else None), part
    known = part in DIMS and owner.isdecimal() and owner == str(int(owner[:2] or 0))
    return (int(owner) if known else None), part


def _references(file: bytes, head: Head) -> tuple[tuple[Parts, ...], Parts | None]:
    """The references' parts, and those of the unconditional side."""
    from safetensors.torch import load

    found: dict[int, dict[str, Tensor]] = {}
    for name in head.tensors:
        number, part = _named(name)
        if number is None or part in found.setdefault(number, {}):
            raise damaged()
    if (-1 in found) != (head.version == VERSION_2):
        raise damaged()
    count = len(found) - (-1 in found)
    if sorted(number for number in found if number >= 0) != list(range(count)) or not 1 <= count <= MAX_STORED:
        raise damaged()
    try:
        tensors = {name: tensor.float() for name, tensor in load(file).items() if tensor.dtype.is_floating_point}
    except (library().SafetensorError, ValueError, TypeError, RuntimeError, KeyError):
        raise damaged() from None
    if set(tensors) != set(head.tensors):
        raise damaged()
    for name, tensor in tensors.items():
        number, part = _named(name)
        assert number is not None
        _check(number, part, tensor)
        found[number][part] = tensor
    kinds = {tuple((part, tensor.shape[-1]) for part, tensor in sorted(parts.items())) for parts in found.values()}
    if len(kinds) != 1:
        raise damaged()
    return tuple(found[i] for i in range(count)), found.get(-1)


def _check(number: int, part: str, tensor: Tensor) -> None:
    """Raises PictureError for a tensor that no encoder makes."""
    import torch

    if tensor.ndim != DIMS[part] or not tensor.numel():
        raise damaged()
    views = 1 if part == "face" or number < 0 else MAX_TILES
    if tensor.shape[0] > views or tensor[0, ..., 0].numel() > MAX_PATCHES:
        raise damaged()
    if not torch.isfinite(tensor).all():
        raise PictureError(f"The embeddings hold numbers that are not finite (NaN or infinity): {AGAIN}.")
    if part == "face" and number >= 0 and not tensor.any():
        raise PictureError(f"The embeddings hold a face of zeros, which is nobody's: {AGAIN}.")
