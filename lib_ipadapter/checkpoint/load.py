"""The tensors of recognised files, on the CPU in the dtype of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import bases
from ..errors import CheckpointError
from .clip_keys import IMAGE_TOWER, TEXT_TOWER, Tower, image_tower
from .control import own_names
from .finite import is_finite
from .identify import identify
from .keys import PAIRS, PROJ, bearers
from .specs import AdapterSpec, KeypointsSpec
from .tensor_files import TensorFile, open_tensors

if TYPE_CHECKING:
    from torch import Tensor, dtype


CHANGED = "This file has changed since it was listed: refresh the list of models."


@dataclass(frozen=True)
class AdapterWeights:
    """An adapter's tensors on the CPU in the dtype of the file.

    ``image_proj`` has keys without their prefix; ``key`` and ``value`` are the pairs [C, D] in key order 1, 3, 5, …, or
    0, 1, 2, … of an adapter for FLUX; ``key_bias`` and ``value_bias`` [C] are there where these have some; ``lora`` has
    keys such as ``0.to_q_lora.down.weight``.
    """

    spec: AdapterSpec
    image_proj: dict[str, Tensor]
    key: list[Tensor]
    value: list[Tensor]
    lora: dict[str, Tensor]
    key_bias: list[Tensor] = field(default_factory=list)
    value_bias: list[Tensor] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes that the tensors take."""
        pairs = [*self.key, *self.value, *self.key_bias, *self.value_bias]
        tensors = [*self.image_proj.values(), *pairs, *self.lora.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def load_adapter(path: str | Path, spec: AdapterSpec) -> AdapterWeights:
    """The tensors of the adapter that was recognised as ``spec``, all checked for NaN and infinities.

    Raises CheckpointError for a file that is damaged, is not that adapter any more, or holds numbers that are not
    finite.
    """
    with open_tensors(path) as file:
        found = identify({key: entry.shape for key, entry in file.entries.items()})
        # The variant may be the user's choice, two are metadata; all else follows from the shapes.
        same = {name: getattr(spec, name) for name in ("variant", "alternatives", "image_encoder", "resolution")}
        if not isinstance(found, AdapterSpec) or replace(found, **same) != spec:
            raise CheckpointError(CHANGED)
        tensors = {}
        for name, (key, *others) in bearers(file.entries).items():
            if name.startswith((PROJ, PAIRS)):
                tensors[name] = file.read(key)
                _check_finite(name, tensors[name], "adapter")
                _check_twins(name, tensors[name], map(file.read, others))
    layers = len(spec.layer_widths)
    numbers = range(layers) if spec.base == bases.FLUX else range(1, 2 * layers, 2)

    def pairs(name: str) -> list[Tensor]:
        return [tensors[key] for n in numbers if (key := f"{PAIRS}{n}.{name}") in tensors]

    return AdapterWeights(
        spec=spec,
        image_proj={name.removeprefix(PROJ): tensor for name, tensor in tensors.items() if name.startswith(PROJ)},
        key=pairs("to_k_ip.weight"),
        value=pairs("to_v_ip.weight"),
        lora={name.removeprefix(PAIRS): tensor for name, tensor in tensors.items() if "_lora." in name},
        key_bias=pairs("to_k_ip.bias"),
        value_bias=pairs("to_v_ip.bias"),
    )


def load_keypoints_state(path: str | Path, spec: KeypointsSpec) -> dict[str, Tensor]:
    """The tensors of the ControlNet that was recognised as ``spec``, by ldm's names, all checked for NaN and
    infinities. Raises CheckpointError like ``load_adapter``."""
    with open_tensors(path) as file:
        if identify({key: entry.shape for key, entry in file.entries.items()}) != spec:
            raise CheckpointError(CHANGED)
        keys = {name: first for name, (first, *_) in bearers(file.entries).items()}
        state = {}
        for name, key in own_names(keys).items():
            state[name] = file.read(keys[key])
            _check_finite(key, state[name], "ControlNet model")
        return state


def load_encoder_state(path: str | Path, at_least: dtype | None = None) -> dict[str, Tensor]:
    """The tensors of the file's image tower, CLIP's or SigLIP's, named as in the file, less what stands before all of
    them; ``at_least``: see ``TensorFile.read``.

    Text tower and position ids stay unread. Raises CheckpointError for a file that is damaged or has no image tower.
    """
    return _tower_state(
        path, image_tower,
        "This file holds no image encoder: get models/image_encoder/model.safetensors from h94/IP-Adapter.", at_least,
    )  # fmt: skip


def load_text_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of the file's CLIP text tower, named as in the file, less what stands before all of them.

    Image tower and position ids stay unread. Raises CheckpointError for a file that is damaged or has no text tower.
    """
    return _tower_state(
        path, TEXT_TOWER.find,
        "This file holds no CLIP text encoder: get a whole CLIP model, image encoder and text encoder in one file.",
    )  # fmt: skip


def _tower_state(
    path: str | Path, find: Callable[[Iterable[str]], Tower | None], missing: str, at_least: dtype | None = None
) -> dict[str, Tensor]:
    with open_tensors(path) as file:
        tower = find(file.entries)
        if tower is None:
            raise CheckpointError(missing)
        state: dict[str, Tensor] = {}
        for keys in tower.together:
            state.update(zip(keys, _read([tower.prefix + key for key in keys], file, at_least), strict=True))
            for key in keys:
                _check_finite(key, state[key], tower.kind.file)
        return state


def _read(keys: Sequence[str], file: TensorFile, at_least: dtype | None) -> list[Tensor]:
    """These tensors, in memory as one where they can be: joining them later would cost that memory once more."""
    entries = [file.entries[key] for key in keys]
    alike = len({(entry.dtype, len(entry.shape), entry.shape[1:]) for entry in entries}) == 1 and entries[0].shape != ()
    if len(keys) > 1 and alike:
        return file.read_joined(keys, at_least)
    return [file.read(key, at_least) for key in keys]  # which reads what has several names once


def same_image_tower(path: str | Path, other: str | Path) -> bool:
    """Whether two files hold one image tower, whatever their layouts and dtypes: told by its class embedding.

    Sizes do not tell: towers of one architecture are trained again and again, and each training's space is its own.
    """
    one, two = (_class_embedding(file) for file in (path, other))
    return one.shape == two.shape and bool((one - two).norm() <= 0.05 * max(one.norm(), two.norm()))


def _class_embedding(path: str | Path) -> Tensor:
    with open_tensors(path) as file:
        tower = IMAGE_TOWER.find(file.entries)
        if tower is None:
            raise CheckpointError("This file holds no CLIP image encoder.")
        return file.read(tower.prefix + tower.key("class_embedding")).float()


def _check_twins(name: str, tensor: Tensor, others: Iterable[Tensor]) -> None:
    """Raises CheckpointError where a tensor stands in the file again, under another prefix, and differs."""
    import torch

    if not all(torch.equal(tensor, other.to(tensor.dtype)) for other in others):
        raise CheckpointError(
            f"This file holds {name[:80]} twice, under different prefixes and with different numbers, so it is not "
            "clear which one counts: download the original file again."
        )


def _check_finite(name: str, tensor: Tensor, kind: str) -> None:
    """Raises CheckpointError for a tensor with NaN or infinities. ``kind``: what the file is."""
    if not is_finite(tensor):
        raise CheckpointError(
            f"This {kind} holds numbers that are not finite (NaN or infinity) in {name[:80]}, which would spoil every "
            "picture: download the original file."
        )
