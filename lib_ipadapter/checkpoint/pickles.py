"""Pickles of tensors, read without running anything in them.

torch.load stays out of it: the WebUI replaces it, and before torch 2.6 its ``weights_only`` still hands TorchScript
archives to the JIT.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, ClassVar, NamedTuple

from ..errors import CheckpointError
from .tensor_table import AGAIN, DTYPES, is_sizes

NAMES_LIMIT = 100_000  # entries of all dicts in a pickle
KEY_LIMIT = 500  # characters
DEPTH_LIMIT = 8  # dicts within dicts

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


class Storage(NamedTuple):
    """A block of numbers in the file, of which tensors are parts."""

    key: str
    dtype: str
    width: int  # bytes per number
    numbers: int


class Stub(NamedTuple):
    """A tensor as a pickle tells it: numbers of ``storage`` from ``offset`` on."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild_tensor(storage: object, offset: int, shape: Iterable[int], stride: Iterable[int], *_: object) -> Stub:
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return Stub(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(data: Stub, *_: object) -> Stub:
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


class TensorsOnly(pickle._Unpickler):
    """Unpickles dicts, lists, numbers, strings and stubs of tensors, and refuses the rest.

    On the pure-Python unpickler, because the C one allocates whatever memo size a pickle asks for.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]  # the unpickler's own

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise CheckpointError(
                f"This file holds more than tensors ({module}.{name}"[:200] + "), which is never loaded here because "
                "it could run code: get the file as .safetensors."
            ) from None

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _location, count, *view = pid
        if kind != "storage" or not is_sizes((), count) or (view and view[0] is not None):
            raise pickle.UnpicklingError("an unknown kind of storage")
        name, width = DTYPES[dtype]
        return self.storages.setdefault(str(key), Storage(str(key), name, width, count))

    def _ignore_state(self) -> None:
        """BUILD sets attributes (a state dict's ``_metadata``); nothing here has a use for them."""
        self.stack.pop()

    dispatch[pickle.BUILD[0]] = _ignore_state


def flat(value: Any) -> dict[str, Stub]:
    """The tensors of nested dicts, names joined with dots.

    Bounded, because a few bytes of pickle can say a dict whose dicts are all one dict, without end.
    """
    found: dict[str, Stub] = {}
    waiting, seen = [("", value, 0)], 0
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, Stub):
            found[name] = value
        elif isinstance(value, dict) and depth < DEPTH_LIMIT:
            seen += len(value)
            keys = [key for key in value if isinstance(key, (str, int))]
            if seen > NAMES_LIMIT or any(len(str(key)) > KEY_LIMIT for key in keys):
                raise CheckpointError(f"This file claims more tensors than any model has: it is damaged. {AGAIN}")
            waiting += [(f"{name}.{key}" if name else str(key), value[key], depth + 1) for key in reversed(keys)]
    return found
