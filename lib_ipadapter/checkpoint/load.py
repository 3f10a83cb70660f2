"""Files -> tables of tensors -> tensors. A header is read without its data, and no code in a file is ever run.

Three containers, told apart by their first bytes: safetensors, torch's zip format, and torch's format before 1.6.
Whichever it is, a file becomes a table {key: Slot}, and a Slot is enough to read its tensor. torch.load stays out of
it: the WebUI replaces it, and before torch 2.6 its ``weights_only`` still hands TorchScript archives to the JIT.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, NamedTuple

from ..errors import CheckpointError
from .identify import PAIRS, PROJ, AdapterSpec, Tower, identify, normalise_keys, text_tower, vision_tower

if TYPE_CHECKING:
    from torch import Tensor

HEADER_LIMIT = 100_000_000  # bytes; safetensors' own limit
PICKLE_LIMIT = 64_000_000  # bytes; a whole SDXL checkpoint's is below 1 MB
NAMES_LIMIT = 100_000  # entries of all dicts in a pickle
KEY_LIMIT = 500  # characters
DEPTH_LIMIT = 8  # dicts within dicts

AGAIN = "Download it again."
NOT_TORCH = (
    "This file is no safetensors file and no PyTorch file: get the adapter or encoder as .safetensors, or download "
    "it again."
)
# What downloads leave behind that are no models.
IMPOSTORS = {
    b"version https://git-lfs": "This file is only a Git LFS pointer, not the model itself: download the real file.",
    b"<": "This file is a web page, not a model: the download went wrong, so download it again.",
}
# safetensors' names of the types, torch's names, and bytes per number.
DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies in its file: ``nbytes`` from ``position``, in them ``shape`` by ``stride`` (in numbers)."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    position: int
    nbytes: int


@dataclass(frozen=True)
class AdapterWeights:
    """An adapter's tensors on the CPU in the dtype of the file.

    ``image_proj`` has keys without their prefix; ``key`` and ``value`` are the pairs [C, D] in key order 1, 3, 5, …;
    ``lora`` has keys such as ``0.to_q_lora.down.weight``.
    """

    spec: AdapterSpec
    image_proj: dict[str, Tensor]
    key: list[Tensor]
    value: list[Tensor]
    lora: dict[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes that the tensors take."""
        tensors = [*self.image_proj.values(), *self.key, *self.value, *self.lora.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """{key: shape} of every tensor in the file, nested dicts joined with dots. Reads headers only.

    Raises CheckpointError for a file that is damaged, cut short, unreadable, or holds more than tensors.
    """
    return {key: slot.shape for key, slot in read_slots(path).items()}


def read_slots(path: str | Path) -> dict[str, Slot]:
    """{key: Slot} of every tensor in the file. Raises like ``read_shapes``."""
    with _opened(path) as file:
        return _slots(file)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The texts in a safetensors file's header; none in other files. For files that ``read_slots`` has accepted."""
    with _opened(path) as file:
        start = file.read(9)
        if start[8:] != b"{":
            return {}
        file.seek(8)
        metadata = json.loads(file.read(int.from_bytes(start[:8], "little"))).get("__metadata__")
    return {k: v for k, v in metadata.items() if isinstance(v, str)} if isinstance(metadata, dict) else {}


def load_adapter(path: str | Path, spec: AdapterSpec, *, check_finite: bool = True) -> AdapterWeights:
    """The tensors of the adapter that was recognised as ``spec``, with ``check_finite`` all checked for NaN and Inf.

    Raises CheckpointError for a file that is damaged, is not that adapter any more, or holds numbers that are not
    finite.
    """
    with _opened(path) as file:
        slots = _slots(file)
        found = identify({key: slot.shape for key, slot in slots.items()})
        # The variant may be the user's choice, the encoder's name is metadata; all else follows from the shapes.
        same = {name: getattr(spec, name) for name in ("variant", "alternatives", "image_encoder")}
        if not isinstance(found, AdapterSpec) or replace(found, **same) != spec:
            raise CheckpointError("This file has changed since it was listed: refresh the list of models.")
        tensors = {}
        for name, key in normalise_keys(slots).items():
            if name.startswith((PROJ, PAIRS)):
                tensors[name] = _tensor(file, key, slots[key])
                if check_finite:
                    _check_finite(name, tensors[name])
    numbers = range(1, 2 * len(spec.layer_widths), 2)
    return AdapterWeights(
        spec=spec,
        image_proj={name.removeprefix(PROJ): tensor for name, tensor in tensors.items() if name.startswith(PROJ)},
        key=[tensors[f"{PAIRS}{n}.to_k_ip.weight"] for n in numbers],
        value=[tensors[f"{PAIRS}{n}.to_v_ip.weight"] for n in numbers],
        lora={name.removeprefix(PAIRS): tensor for name, tensor in tensors.items() if "_lora." in name},
    )


def load_encoder_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of the file's CLIP image tower, named as in the file, less what stands before all of them.

    Text tower and position ids stay unread. Raises CheckpointError for a file that is damaged or has no image tower.
    """
    with _opened(path) as file:
        return _tower_state(
            file, vision_tower,
            "This file holds no CLIP image encoder: get models/image_encoder/model.safetensors from h94/IP-Adapter.",
        )  # fmt: skip


def load_text_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of the file's CLIP text tower, named as in the file, less what stands before all of them.

    Image tower and position ids stay unread. Raises CheckpointError for a file that is damaged or has no text tower.
    """
    with _opened(path) as file:
        return _tower_state(
            file, text_tower,
            "This file holds no CLIP text encoder: get a whole CLIP model, image encoder and text encoder in one file.",
        )  # fmt: skip


def _tower_state(
    file: BufferedReader, find: Callable[[Mapping[str, Slot]], Tower | None], none: str
) -> dict[str, Tensor]:
    slots = _slots(file)
    tower = find(slots)
    if tower is None:
        raise CheckpointError(none)
    return {key: _tensor(file, key, slots[tower.prefix + key]) for key in tower.keys}


def same_image_tower(path: str | Path, other: str | Path) -> bool:
    """Whether two files hold one image tower, whatever their layouts and dtypes: told by its class embedding.

    Sizes do not tell: towers of one architecture are trained again and again, and each training's space is its own.
    """
    one, two = (_class_embedding(file) for file in (path, other))
    return one.shape == two.shape and bool((one - two).norm() <= 0.05 * max(one.norm(), two.norm()))


def _class_embedding(path: str | Path) -> Tensor:
    with _opened(path) as file:
        return _tower_state(file, _only_class_embedding, "This file holds no CLIP image encoder.").popitem()[1].float()


def _only_class_embedding(keys: Mapping[str, Slot]) -> Tower | None:
    tower = vision_tower(keys)
    return tower and tower._replace(keys=tuple(key for key in tower.keys if key.endswith("class_embedding")))


# --- one tensor -----------------------------------------------------------------------------------------------------


def _tensor(file: BufferedReader, key: str, slot: Slot) -> Tensor:
    import torch

    dtype = getattr(torch, slot.dtype, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise CheckpointError(
            f"This file holds {key} as {slot.dtype}, which cannot be computed with here: get it in fp16 or fp32."
        )
    buffer = torch.empty(slot.nbytes, dtype=torch.uint8)
    file.seek(slot.position)
    if file.readinto(memoryview(buffer.numpy())) != slot.nbytes:
        raise CheckpointError(f"This file is cut short within {key}. {AGAIN}")
    return buffer.view(dtype).as_strided(slot.shape, slot.stride)


def _check_finite(name: str, tensor: Tensor) -> None:
    import torch

    # NaN and infinities reach the extremes, which are found several times faster than every number is asked, and for
    # 8-bit floats too. fp32 holds all of the smaller types.
    extremes = torch.stack(torch.aminmax(tensor if tensor.dtype == torch.float64 else tensor.float()))
    if not torch.isfinite(extremes).all():
        raise CheckpointError(
            f"This adapter holds numbers that are not finite (NaN or infinity) in {name}, which would spoil every "
            "picture: download the original file."
        )


# --- containers -----------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: str | Path) -> Iterator[BufferedReader]:
    """The file, open for reading; trouble with it becomes a CheckpointError."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise CheckpointError(
            f"This file cannot be read ({error.strerror or error}): check that it is there and that you may read it."
        ) from error


def _slots(file: BinaryIO) -> dict[str, Slot]:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(32)
    file.seek(0)
    if not size:
        raise CheckpointError("This file is empty (0 bytes): download it again.")
    # The first eight bytes of a safetensors file are a number and may look like anything; its ninth is no other's.
    read: _Reader = _safetensors
    if start[8:9] != b"{":
        for mark, sentence in IMPOSTORS.items():
            if start.startswith(mark):
                raise CheckpointError(sentence)
        of_torch = next((reader for mark, reader in READERS.items() if start.startswith(mark)), None)
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


def _safetensors(file: BinaryIO, size: int) -> dict[str, Slot]:
    """Eight bytes with the header's length, the header as JSON, the tensors' bytes one after the other."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > HEADER_LIMIT or 8 + length > size:
        raise CheckpointError(
            f"This file's header claims {length:,} bytes, but the file has {size:,} and {HEADER_LIMIT:,} are allowed: "
            f"it is cut short or damaged. {AGAIN}"
        )
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    slots, end = {}, 0
    for key, entry in header.items():
        shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
        dtype, width = DTYPES.get(entry["dtype"], (str(entry["dtype"]), None))
        nbytes = last - first
        if not _sizes(shape, first, nbytes) or (width is not None and prod(shape) * width != nbytes):
            raise CheckpointError(f"This file's header contradicts itself at {key[:80]}: it is damaged. {AGAIN}")
        slots[key] = Slot(dtype, shape, _contiguous(shape), 8 + length + first, nbytes)
        end = max(end, last)
    if 8 + length + end > size:
        raise CheckpointError(
            f"This file is cut short: it has {size:,} of {8 + length + end:,} bytes. Download it again to the end."
        )
    return slots


def _sizes(shape: Iterable[object], *more: object) -> bool:
    """Whether all of these are whole numbers from zero up (JSON's true is none)."""
    return all(type(n) is int and n >= 0 for n in (*shape, *more))


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def _zipped(file: BinaryIO, size: int) -> dict[str, Slot]:
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

    tensors = _flat(_TensorsOnly(io.BytesIO(archive.read(pickled[0]))).load())
    return _placed(tensors, place)


LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def _legacy(file: BinaryIO, size: int) -> dict[str, Slot]:
    """torch.save before 1.6: five pickles (magic, version, system, the object, the storages' keys), then each
    storage as its count of numbers (8 bytes) and its bytes."""
    if _TensorsOnly(file).load() != LEGACY_MAGIC:
        raise CheckpointError(NOT_TORCH)
    _version, system = _TensorsOnly(file).load(), _TensorsOnly(file).load()
    if not system.get("little_endian", True):
        raise CheckpointError("This file was saved on a big-endian machine: get it as .safetensors.")
    unpickler = _TensorsOnly(file)
    tensors = _flat(unpickler.load())
    places = {}
    keys = _TensorsOnly(file).load()
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


_Reader = Callable[[BinaryIO, int], dict[str, Slot]]
READERS: dict[bytes, _Reader] = {b"PK\3\4": _zipped, b"\x80\x02": _legacy}


# --- pickles --------------------------------------------------------------------------------------------------------


class _Storage(NamedTuple):
    key: str
    dtype: str
    width: int  # bytes per number
    numbers: int


class _Stub(NamedTuple):
    """A tensor as a pickle tells it: numbers of ``storage`` from ``offset`` on."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild_tensor(storage: object, offset: int, shape: Iterable[int], stride: Iterable[int], *_: object) -> _Stub:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return _Stub(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(data: _Stub, *_: object) -> _Stub:
    return data


# Everything that a pickle may name. None of it does more than keep its arguments.
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


class _TensorsOnly(pickle._Unpickler):
    """Unpickles dicts, lists, numbers, strings and stubs of tensors, and refuses the rest.

    On the pure-Python unpickler, because the C one allocates whatever memo size a pickle asks for.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]  # the unpickler's own

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise CheckpointError(
                f"This file holds more than tensors ({module}.{name}"[:200] + "), which is never loaded here because "
                "it could run code: get the file as .safetensors."
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, count, *view = pid
        if kind != "storage" or not _sizes((), count) or (view and view[0] is not None):
            raise pickle.UnpicklingError("an unknown kind of storage")
        name, width = DTYPES[dtype]
        return self.storages.setdefault(str(key), _Storage(str(key), name, width, count))

    def _ignore_state(self) -> None:
        """BUILD sets attributes (a state dict's ``_metadata``); nothing here has a use for them."""
        self.stack.pop()

    dispatch[pickle.BUILD[0]] = _ignore_state


def _flat(value: Any) -> dict[str, _Stub]:
    """The tensors of nested dicts, names joined with dots.

    Bounded, because a few bytes of pickle can say a dict whose dicts are all one dict, without end.
    """
    found: dict[str, _Stub] = {}
    waiting, seen = [("", value, 0)], 0
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, _Stub):
            found[name] = value
        elif isinstance(value, dict) and depth < DEPTH_LIMIT:
            seen += len(value)
            keys = [key for key in value if isinstance(key, (str, int))]
            if seen > NAMES_LIMIT or any(len(str(key)) > KEY_LIMIT for key in keys):
                raise CheckpointError(f"This file claims more tensors than any model has: it is damaged. {AGAIN}")
            waiting += [(f"{name}.{key}" if name else str(key), value[key], depth + 1) for key in reversed(keys)]
    return found


def _placed(tensors: Mapping[str, _Stub], place: Callable[[str], tuple[int, int]]) -> dict[str, Slot]:
    """Slots of these tensors. ``place``: a storage's key -> (its position in the file, its bytes there)."""
    places: dict[str, tuple[int, int]] = {}
    slots = {}
    for name, (storage, offset, shape, stride) in tensors.items():
        if len(shape) != len(stride) or not _sizes(shape, offset, *stride):
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
        slots[name] = Slot(storage.dtype, shape, stride, position + offset * storage.width, span * storage.width)
    return slots
