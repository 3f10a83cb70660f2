"""Files -> tables of tensors. A header is read without its data, and no code in a file is ever run.

Three containers, told apart by their first bytes: safetensors, torch's zip format, and torch's format before 1.6.
Whichever it is, a file becomes a table {key: TensorEntry}, and an entry is enough to read its tensor.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import BinaryIO

from ..errors import CheckpointError
from .pickles import Stub, TensorsOnly, flat
from .tensor_table import AGAIN, DTYPES, TensorEntry, contiguous, is_sizes

HEADER_LIMIT = 100_000_000  # bytes; safetensors' own limit
PICKLE_LIMIT = 64_000_000  # bytes; a whole SDXL checkpoint's is below 1 MB

NOT_TORCH = (
    "This file is no safetensors file and no PyTorch file: get the adapter or encoder as .safetensors, or download "
    "it again."
)
# What downloads leave behind that are no models.
IMPOSTORS = {
    b"version https://git-lfs": "This file is only a Git LFS pointer, not the model itself: download the real file.",
    b"<": "This file is a web page, not a model: the download went wrong, so download it again.",
}


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """{key: shape} of every tensor in the file, nested dicts joined with dots. Reads headers only.

    Raises CheckpointError for a file that is damaged, cut short, unreadable, or holds more than tensors.
    """
    return {key: entry.shape for key, entry in read_entries(path).items()}


def read_entries(path: str | Path) -> dict[str, TensorEntry]:
    """{key: TensorEntry} of every tensor in the file. Raises like ``read_shapes``."""
    with opened(path) as file:
        return entries_in(file)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The texts in a safetensors file's header; none in other files. For files that ``read_entries`` has accepted."""
    with opened(path) as file:
        start = file.read(9)
        if start[8:] != b"{":
            return {}
        file.seek(8)
        metadata = json.loads(file.read(int.from_bytes(start[:8], "little"))).get("__metadata__")
    return {k: v for k, v in metadata.items() if isinstance(v, str)} if isinstance(metadata, dict) else {}


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


def entries_in(file: BinaryIO) -> dict[str, TensorEntry]:
    """{key: TensorEntry} of every tensor in an open file. Raises like ``read_shapes``."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(32)
    file.seek(0)
    if not size:
        raise CheckpointError("This file is empty (0 bytes): download it again.")
    # The first eight bytes of a safetensors file are a number and may look like anything; its ninth is no other's.
    read: _Reader = _safetensors
    if start[8:9] != b"{":
        for first_bytes, sentence in IMPOSTORS.items():
            if start.startswith(first_bytes):
                raise CheckpointError(sentence)
        of_torch = next((reader for first, reader in READERS.items() if start.startswith(first)), None)
        if of_torch is None:
            raise CheckpointError(NOT_TORCH)
        read = of_torch
    try:
        return read(file, size)
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # a damaged file can make the parsers below stumble in any way
        name = type(error).__name__
        raise CheckpointError(f"This file is damaged ({name} while reading its header). {AGAIN}") from error


def _safetensors(file: BinaryIO, size: int) -> dict[str, TensorEntry]:
    """Eight bytes with the header's length, the header as JSON, the tensors' bytes one after the other."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > HEADER_LIMIT or 8 + length > size:
        raise CheckpointError(
            f"This file's header claims {length:,} bytes, but the file has {size:,} and {HEADER_LIMIT:,} are allowed: "
            f"it is cut short or damaged. {AGAIN}"
        )
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    entries, end = {}, 0
    for key, entry in header.items():
        shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
        dtype, width = DTYPES.get(entry["dtype"], (str(entry["dtype"]), None))
        nbytes = last - first
        if not is_sizes(shape, first, nbytes) or (width is not None and prod(shape) * width != nbytes):
            raise CheckpointError(f"This file's header contradicts itself at {key[:80]}: it is damaged. {AGAIN}")
        entries[key] = TensorEntry(dtype, shape, contiguous(shape), 8 + length + first, nbytes)
        end = max(end, last)
    if 8 + length + end > size:
        raise CheckpointError(
            f"This file is cut short: it has {size:,} of {8 + length + end:,} bytes. Download it again to the end."
        )
    return entries


def _zipped(file: BinaryIO, size: int) -> dict[str, TensorEntry]:
    """torch.save since 1.6: a zip with ``data.pkl`` and one stored member ``data/<key>`` for each storage."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"This file is cut short or damaged (its zip directory is missing). {AGAIN}") from error
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            "This file is a TorchScript program, which is never run here: get the weights as .safetensors."
        )
    pickled = [name for name in names if name.split("/")[-1] == "data.pkl"]
    if len(pickled) != 1:
        raise CheckpointError(NOT_TORCH)
    folder = pickled[0].removesuffix("data.pkl")
    if archive.getinfo(pickled[0]).file_size > PICKLE_LIMIT:
        raise CheckpointError(f"This file's table of tensors is larger than any model's: it is damaged. {AGAIN}")
    if f"{folder}byteorder" in names and archive.open(f"{folder}byteorder").read(8) != b"little":
        raise CheckpointError("This file was saved on a big-endian machine: get it as .safetensors.")
    members = {info.filename: info for info in archive.infolist()}

    def place(key: str) -> tuple[int, int]:
        info = members[f"{folder}data/{key}"]
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError("This file has been packed again with compression: get the original file.")
        file.seek(info.header_offset)
        local = file.read(30)  # the local header's name and extra field may be longer than the directory's
        name, extra = struct.unpack("<HH", local[26:30])
        position = info.header_offset + 30 + name + extra
        return position, min(info.file_size, size - position)

    tensors = flat(TensorsOnly(io.BytesIO(archive.read(pickled[0]))).load())
    return _placed(tensors, place)


LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def _legacy(file: BinaryIO, size: int) -> dict[str, TensorEntry]:
    """torch.save before 1.6: five pickles (magic, version, system, the object, the storages' keys), then each
    storage as its count of numbers (8 bytes) and its bytes."""
    if TensorsOnly(file).load() != LEGACY_MAGIC:
        raise CheckpointError(NOT_TORCH)
    _version, system = TensorsOnly(file).load(), TensorsOnly(file).load()
    if not system.get("little_endian", True):
        raise CheckpointError("This file was saved on a big-endian machine: get it as .safetensors.")
    unpickler = TensorsOnly(file)
    tensors = flat(unpickler.load())
    places = {}
    keys = TensorsOnly(file).load()
    position = file.tell()
    for key in keys:
        file.seek(position)
        (count,) = struct.unpack("<q", file.read(8))
        if count != unpickler.storages[key].numbers:
            raise CheckpointError(f"This file's storages contradict its table of tensors: it is damaged. {AGAIN}")
        nbytes = count * unpickler.storages[key].width
        places[key] = position + 8, min(nbytes, size - position - 8)
        position += 8 + nbytes
    return _placed(tensors, places.__getitem__)


_Reader = Callable[[BinaryIO, int], dict[str, TensorEntry]]
READERS: dict[bytes, _Reader] = {b"PK\3\4": _zipped, b"\x80\x02": _legacy}


def _placed(tensors: Mapping[str, Stub], place: Callable[[str], tuple[int, int]]) -> dict[str, TensorEntry]:
    """Entries of these tensors. ``place``: a storage's key -> (its position in the file, its bytes there)."""
    places: dict[str, tuple[int, int]] = {}
    entries = {}
    for name, (storage, offset, shape, stride) in tensors.items():
        if len(shape) != len(stride) or not is_sizes(shape, offset, *stride):
            raise CheckpointError(f"This file's table of tensors contradicts itself at {name[:80]}. {AGAIN}")
        if storage.key not in places:
            places[storage.key] = place(storage.key)
        position, there = places[storage.key]
        if storage.numbers * storage.width > there:
            raise CheckpointError(f"This file is cut short: {name[:80]} is not there in full. {AGAIN}")
        count = prod(shape)
        span = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if count else 0
        # A tensor larger than what it spans (stride 0) could claim any size without a byte in the file.
        if offset + span > storage.numbers or count > span:
            raise CheckpointError(f"This file's {name[:80]} reaches beyond its data: it is damaged. {AGAIN}")
        entries[name] = TensorEntry(
            storage.dtype, shape, stride, position + offset * storage.width, span * storage.width
        )
    return entries
