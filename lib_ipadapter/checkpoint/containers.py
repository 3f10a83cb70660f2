"""Files -> tables of tensors. A header is read without its data, and no code in a file is ever run.

Three containers, told apart by their first bytes: safetensors, torch's zip format, and torch's format before 1.6.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from ..errors import CheckpointError
from . import safetensors_files, torch_files
from .tensor_table import AGAIN, StoredTensor, Table, TensorEntry

# What downloads leave behind that are no models.
IMPOSTORS = {
    b"version https://git-lfs": "This file is only a Git LFS pointer, not the model itself: download the real file.",
    b"<": "This file is a web page, not a model: the download went wrong, so download it again.",
}
_Reader = Callable[[BinaryIO], dict[str, StoredTensor]]
READERS: dict[bytes, _Reader] = {b"PK\3\4": torch_files.zipped, b"\x80\x02": torch_files.legacy}


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """{key: shape} of every tensor in the file, nested dicts joined with dots. Reads headers only.

    Raises CheckpointError for a file that is damaged, cut short, unreadable, or holds more than tensors.
    """
    return {key: entry.shape for key, entry in read_table(path).entries.items()}


def read_metadata(path: str | Path) -> Mapping[str, str]:
    """The texts in a safetensors file's header; none in other files. Raises like ``read_shapes``."""
    return read_table(path).metadata


def read_table(path: str | Path) -> Table:
    """The tensors and the texts in a file's header. Raises like ``read_shapes``."""
    with opened(path) as file, no_stumbling():
        reader = reader_of(file)
        return safetensors_files.table(path) if reader is None else Table(reader(file), {})


@contextmanager
def opened(path: str | Path) -> Iterator[BufferedReader]:
    """The file, open for reading; trouble with it becomes a CheckpointError."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise CheckpointError(
            f"This file cannot be read ({error.strerror or error}): check that it is there and that you may read it."
        ) from error


@contextmanager
def no_stumbling() -> Iterator[None]:
    """Whatever a damaged file makes a parser stumble over becomes a CheckpointError."""
    try:
        yield
    except (CheckpointError, OSError, MemoryError):
        raise
    except Exception as error:
        name = type(error).__name__
        raise CheckpointError(f"This file is damaged ({name} while reading its header). {AGAIN}") from error


def reader_of(file: BinaryIO) -> _Reader | None:
    """What reads an open file of torch's, None for a safetensors file, which its library reads. Raises CheckpointError
    for a file that is neither. The file is at its beginning then."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(32)
    file.seek(0)
    if not size:
        raise CheckpointError("This file is empty (0 bytes): download it again.")
    # The first eight bytes of a safetensors file are a number and may look like anything; its ninth is no other's.
    if start[8:9] == b"{":
        return None
    for first_bytes, sentence in IMPOSTORS.items():
        if start.startswith(first_bytes):
            raise CheckpointError(sentence)
    reader = next((reader for first, reader in READERS.items() if start.startswith(first)), None)
    if reader is None:
        raise CheckpointError(torch_files.NOT_TORCH)
    return reader


__all__ = ["TensorEntry", "opened", "read_metadata", "read_shapes", "read_table", "reader_of"]
