"""Reading tensors: those of safetensors files through that library, those of torch's files from their places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import CheckpointError
from .containers import no_stumbling, opened, reader_of
from .safetensors_files import accepted, name_for_library, opened_by_library
from .tensor_table import AGAIN, StoredTensor, TensorEntry

if TYPE_CHECKING:
    from torch import Tensor, dtype


class TensorFile(Protocol):
    """An open file of tensors."""

    @property
    def entries(self) -> Mapping[str, TensorEntry]:
        """Its table."""

    def read(self, key: str, at_least: dtype | None = None) -> Tensor:
        """The tensor of that name, on the CPU in the dtype of the file, or in ``at_least`` where that has more bits.
        Raises CheckpointError for one of whole numbers, and for a file cut short."""

    def read_joined(self, keys: Sequence[str], at_least: dtype | None = None) -> list[Tensor]:
        """The tensors of these names as ``read`` gives them, one behind the other in the same memory, so that they are
        one tensor as well. They have one dtype, and one shape but for dim 0."""


@contextmanager
def open_tensors(path: str | Path) -> Iterator[TensorFile]:
    """The file, open for reading its tensors. Raises CheckpointError like ``read_table``."""
    with opened(path) as file:
        with no_stumbling():
            reader = reader_of(file)
            table = None if reader is None else reader(file)
        if table is not None:
            yield _OfTorch(file, table)
            return
        with ExitStack() as handles:
            yield _OfLibrary(path, name_for_library(path, file.fileno()), handles)


class _OfLibrary:
    """A safetensors file."""

    def __init__(self, path: str | Path, name: str, handles: ExitStack) -> None:
        with no_stumbling():  # the library accepts it, or nothing is read of it
            self._handle: Any = handles.enter_context(opened_by_library(name, "pt"))
            self.entries: Mapping[str, TensorEntry] = accepted(path).entries

    def read(self, key: str, at_least: dtype | None = None) -> Tensor:
        (tensor,) = self.read_joined([key], at_least)
        return tensor

    def read_joined(self, keys: Sequence[str], at_least: dtype | None = None) -> list[Tensor]:
        parts = _parts(keys, self.entries, at_least)
        for key, part in zip(keys, parts, strict=True):
            if part.numel():
                with no_stumbling():  # torch's tensors are the file itself, mapped: whoever writes it changes them
                    part.copy_(self._handle.get_tensor(key))
        return parts


class _OfTorch:
    """A file of torch.save's. A tensor that has several names is read once."""

    def __init__(self, file: BufferedReader, table: dict[str, StoredTensor]) -> None:
        self._file, self.entries = file, table
        self._read: dict[StoredTensor, Tensor] = {}

    def read(self, key: str, at_least: dtype | None = None) -> Tensor:
        entry = self.entries[key]
        if entry not in self._read:
            tensor = read_tensor(self._file, key, entry)
            self._read[entry] = tensor.to(_wide(tensor.dtype, at_least))
        return self._read[entry]

    def read_joined(self, keys: Sequence[str], at_least: dtype | None = None) -> list[Tensor]:
        parts = _parts(keys, self.entries, at_least)
        for key, part in zip(keys, parts, strict=True):
            part.copy_(read_tensor(self._file, key, self.entries[key]))
        return parts


def read_tensor(file: BufferedReader, key: str, entry: StoredTensor) -> Tensor:
    """The tensor ``key`` of an open file of torch's. Raises CheckpointError like ``TensorFile.read``."""
    import torch

    kind = _floating(key, entry)
    buffer = torch.empty(entry.nbytes, dtype=torch.uint8)
    file.seek(entry.position)
    if file.readinto(memoryview(buffer.numpy())) != entry.nbytes:
        raise CheckpointError(f"This file is cut short within {key[:80]}. {AGAIN}")
    return buffer.view(kind).as_strided(entry.shape, entry.stride)


def _parts(keys: Sequence[str], entries: Mapping[str, TensorEntry], at_least: dtype | None) -> list[Tensor]:
    """Memory for these tensors, that of one behind that of the other."""
    import torch

    shapes = [entries[key].shape for key in keys]
    kind = _wide(_floating(keys[0], entries[keys[0]]), at_least)
    if len(shapes) == 1:
        return [torch.empty(shapes[0], dtype=kind)]
    rows = [shape[0] for shape in shapes]
    return list(torch.empty((sum(rows), *shapes[0][1:]), dtype=kind).split(rows))


def _wide(kind: dtype, at_least: dtype | None) -> dtype:
    import torch

    return kind if at_least is None or torch.finfo(at_least).bits <= torch.finfo(kind).bits else at_least


def _floating(key: str, entry: TensorEntry) -> dtype:
    """torch's dtype of a tensor. Raises CheckpointError for one that cannot be computed with."""
    import torch

    kind = getattr(torch, entry.dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise CheckpointError(
            f"This file holds {key[:80]} as {entry.dtype[:40]}, which cannot be computed with here: get it in fp16 or "
            "fp32."
        )
    return kind
