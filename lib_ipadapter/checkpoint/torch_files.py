"""Files of torch.save: where in them each tensor lies. The pickles in them are read by ``pickles``.

Everything here is bounded: what is read of a file for its table, and what its tensors may claim.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from math import prod
from typing import BinaryIO, cast

from ..errors import CheckpointError
from .pickles import Stub, TensorsOnly, flat
from .tensor_table import AGAIN, TABLE_LIMIT, StoredTensor, is_sizes

PICKLE_LIMIT = 2_000_000  # bytes; a whole SDXL checkpoint's is below 1 MB
NOT_TORCH = (
    "This file is no safetensors file and no PyTorch file: get the adapter or encoder as .safetensors, or download "
    "it again."
)
PACKED = "This file has been packed again with compression: get the original file."
BIG_ENDIAN = "This file was saved on a big-endian machine: get it as .safetensors."
TOO_LONG = f"This file's table of tensors is larger than any model's: it is damaged. {AGAIN}"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
Place = tuple[int, int]  # a storage's position in the file, and the bytes there are


class Bounded(io.BufferedIOBase):
    """A file of which no more than ``allowed`` bytes are ever read, however its parsers are led on."""

    def __init__(self, file: BinaryIO, size: int, allowed: int) -> None:
        self._file, self._size, self._allowed = file, size, allowed

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, position: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(position, whence)

    def read(self, count: int | None = -1, /) -> bytes:
        left = max(0, self._size - self._file.tell())
        return self._counted(self._file.read(self._checked(left if count is None or count < 0 else min(count, left))))

    def readline(self, count: int | None = -1, /) -> bytes:
        line = self._file.readline(self._allowed + 1)
        self._checked(len(line))
        return self._counted(line)

    def _checked(self, count: int) -> int:
        if count > self._allowed:
            raise CheckpointError(TOO_LONG)
        return count

    def _counted(self, data: bytes) -> bytes:
        self._allowed -= len(data)
        return data


def zipped(file: BinaryIO) -> dict[str, StoredTensor]:
    """torch.save since 1.6: a zip with ``data.pkl`` and one stored member ``data/<key>`` for each storage."""
    size = file.seek(0, io.SEEK_END)
    try:
        archive = zipfile.ZipFile(cast(BinaryIO, Bounded(file, size, TABLE_LIMIT)))
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"This file is cut short or damaged (its zip directory is missing). {AGAIN}") from error
    members = {info.filename: info for info in archive.infolist()}
    if any(name.endswith("/constants.pkl") for name in members):
        raise CheckpointError(
            "This file is a TorchScript program, which is never run here: get the weights as .safetensors."
        )
    pickled = [name for name in members if name.split("/")[-1] == "data.pkl"]
    if len(pickled) != 1:
        raise CheckpointError(NOT_TORCH)
    folder = pickled[0].removesuffix("data.pkl")
    if members[pickled[0]].file_size > PICKLE_LIMIT:
        raise CheckpointError(TOO_LONG)
    byteorder = members.get(f"{folder}byteorder")
    # torch packs nothing. A packed member may unpack to a thousand times its size, so none is opened.
    if not all(_is_stored(info) for info in (members[pickled[0]], byteorder) if info is not None):
        raise CheckpointError(PACKED)
    if byteorder is not None and archive.open(byteorder).read(8) != b"little":
        raise CheckpointError(BIG_ENDIAN)

    def place(key: str) -> Place:
        info = members[f"{folder}data/{key}"]
        if not _is_stored(info):
            raise CheckpointError(PACKED)
        file.seek(info.header_offset)
        local = file.read(30)  # the local header's name and extra field may be longer than the directory's
        name, extra = struct.unpack("<HH", local[26:30])
        position = info.header_offset + 30 + name + extra
        return position, min(info.file_size, size - position)

    unpickler = TensorsOnly(io.BytesIO(archive.read(pickled[0])))
    return _placed(flat(unpickler.load()), place, size)


def _is_stored(info: zipfile.ZipInfo) -> bool:
    encrypted = info.flag_bits & 1
    return info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size and not encrypted


def legacy(file: BinaryIO) -> dict[str, StoredTensor]:
    """torch.save before 1.6: five pickles (magic, version, system, the object, the storages' keys), then each
    storage as its count of numbers (8 bytes) and its bytes."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    bounded = cast(BinaryIO, Bounded(file, size, PICKLE_LIMIT))
    if TensorsOnly(bounded).load() != LEGACY_MAGIC:
        raise CheckpointError(NOT_TORCH)
    _version, system = TensorsOnly(bounded).load(), TensorsOnly(bounded).load()
    if not system.get("little_endian", True):
        raise CheckpointError(BIG_ENDIAN)
    unpickler = TensorsOnly(bounded)
    tensors = flat(unpickler.load())
    keys = TensorsOnly(bounded).load()
    places: dict[str, Place] = {}
    position = file.tell()
    for key in keys:
        file.seek(position)
        (count,) = struct.unpack("<q", file.read(8))
        storage = unpickler.storages[key] if isinstance(key, str) else None
        if storage is None or count != storage.numbers or key in places:
            raise CheckpointError(f"This file's storages contradict its table of tensors: it is damaged. {AGAIN}")
        nbytes = count * storage.width
        places[key] = position + 8, min(nbytes, size - position - 8)
        position += 8 + nbytes
    return _placed(tensors, places.__getitem__, size)


def _placed(tensors: Mapping[str, Stub], place: Callable[[str], Place], size: int) -> dict[str, StoredTensor]:
    """Entries of these tensors in a file of ``size`` bytes, all of them checked against it."""
    places: dict[str, Place] = {}
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
        first = position + offset * storage.width
        entries[name] = StoredTensor(storage.dtype, shape, stride, first, span * storage.width)
    _check_claims(entries.values(), places.values(), size)
    return entries


def _check_claims(entries: Iterable[StoredTensor], places: Iterable[Place], size: int) -> None:
    """Raises CheckpointError for storages that overlap, and tensors that take more than the file has. A tensor under
    several names, as tied layers have it, counts once, and is read once."""
    ordered = sorted(places)
    if any(position + nbytes > after for (position, nbytes), (after, more) in pairwise(ordered) if more):
        raise CheckpointError(f"This file's storages overlap, so it is not clear what belongs to which. {AGAIN}")
    claimed = sum(entry.nbytes for entry in set(entries))
    if claimed > size:
        raise CheckpointError(
            f"This file's tensors claim {claimed:,} bytes, but the file has {size:,}: it is damaged. {AGAIN}"
        )
