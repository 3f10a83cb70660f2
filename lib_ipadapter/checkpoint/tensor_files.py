"""Reading tensors: those of safetensors files through that library, those of torch's files from their places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        self._name, self._open = name, handles
        self._handles: dict[str, Any] = {}
        with no_stumbling():
            self._handle("numpy")  # the library accepts it, or nothing is read of it
            self.entries: Mapping[str, TensorEntry] = accepted(path).entries

    def read(self, key: str, at_least: dtype | None = None) -> Tensor:
        import torch

        entry = self.entries[key]
        kind = _floating(key, entry)
        wanted = _wide(kind, at_least)
        if 0 in entry.shape:
            return torch.empty(entry.shape, dtype=wanted)
        # torch's tensors are the file itself, mapped: whoever writes it later would change them, and a copy of them
        # takes several times as long as numpy's arrays, which are copies. But numpy knows these three alone.
        with no_stumbling():
            if wanted != kind:
                widened: Tensor = self._handle("pt").get_tensor(key).to(wanted)
                return widened
            if kind in (torch.float16, torch.float32, torch.float64):
                return torch.from_numpy(self._handle("numpy").get_tensor(key))
            tensor: Tensor = self._handle("pt").get_tensor(key).clone()
            return tensor

    def _handle(self, framework: str) -> Any:
        """The library's handle of the file for "numpy" or for torch, "pt"."""
        if framework not in self._handles:
            self._handles[framework] = self._open.enter_context(opened_by_library(self._name, framework))
        return self._handles[framework]


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


def read_tensor(file: BufferedReader, key: str, entry: StoredTensor) -> Tensor:
    """The tensor ``key`` of an open file of torch's. Raises CheckpointError like ``TensorFile.read``."""
    import torch

    kind = _floating(key, entry)
    buffer = torch.empty(entry.nbytes, dtype=torch.uint8)
    file.seek(entry.position)
    if file.readinto(memoryview(buffer.numpy())) != entry.nbytes:
        raise CheckpointError(f"This file is cut short within {key[:80]}. {AGAIN}")
    return buffer.view(kind).as_strided(entry.shape, entry.stride)


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
