"""Pickles of tensors, read without running anything in them.

torch.load stays out of it: the WebUI replaces it, and before torch 2.6 its ``weights_only`` still hands TorchScript
archives to the JIT. Nothing that a pickle holds is hashed, compared or counted before it is known to be small.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import FunctionType
from typing import Any, BinaryIO, ClassVar, NamedTuple

from ..errors import CheckpointError
from .tensor_table import DTYPES, KEY_LIMIT, NAMES_LIMIT, SIZE_LIMIT, TOO_MANY, is_sizes

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
SCALARS = (str, int, float, bool, bytes, type(None))  # what a dict's key may be: hashed in no time


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


def _size(*sizes: Any) -> tuple[int, ...]:
    """torch.Size."""
    (values,) = sizes or ((),)
    if not is_sizes(values):
        raise pickle.UnpicklingError("no sizes of a tensor")
    return tuple(values)


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    """collections.OrderedDict; Python 2 gave it its items, as pairs in a list."""
    made: dict[Any, Any] = {}
    for pair in items if isinstance(items, (list, tuple)) else [items]:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise pickle.UnpicklingError("no items of a dict")
        _put(made, *pair)
    return made


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: object) -> Stub:
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    # What is no small list of numbers becomes one that contradicts itself, and is told as such with the tensor's name.
    if not is_sizes(shape, offset) or not is_sizes(stride):
        return Stub(storage, 0, (1,), ())
    return Stub(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(data: Any, *_: object) -> Any:
    return data


# Everything that a pickle may name. None of it does more than keep its arguments.
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}
# What torch.save writes. Not among it is what builds sets, and what calls classes in other ways.
OPCODES = (
    "PROTO FRAME MARK STOP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT "
    "BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES BINSTRING SHORT_BINSTRING "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST EMPTY_DICT "
    "BINPUT LONG_BINPUT BINGET LONG_BINGET MEMOIZE BINPERSID GLOBAL STACK_GLOBAL"
).split()


class _Dispatch(dict[int, Callable[[Any], None]]):
    def __missing__(self, opcode: int) -> Callable[[Any], None]:
        raise pickle.UnpicklingError("an instruction that tensors have no use for")


def _put(target: dict[Any, Any], key: Any, value: Any) -> None:
    """An item of a dict, unless its key could take for ever to hash."""
    if not isinstance(key, SCALARS) or (isinstance(key, int) and abs(key) >= SIZE_LIMIT):
        raise pickle.UnpicklingError("a dict with a key that is no name")
    target[key] = value


class TensorsOnly(pickle._Unpickler):
    """Unpickles dicts, lists, numbers, strings and stubs of tensors, and refuses the rest.

    On the pure-Python unpickler, because the C one allocates whatever memo size a pickle asks for.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = _Dispatch(
        {code: pickle._Unpickler.dispatch[code] for code in (getattr(pickle, name)[0] for name in OPCODES)}
    )
    stack: list[Any]  # this and the next are the unpickler's own
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise CheckpointError(
                f"This file holds more than tensors ({module[:90]}.{name[:90]}), which is never loaded here because "
                "it could run code: get the file as .safetensors."
            ) from None

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or not 5 <= len(pid) <= 6:
            raise pickle.UnpicklingError("an unknown kind of storage")
        kind, dtype, key, _location, count, *view = pid
        known = isinstance(key, (str, int)) and isinstance(dtype, str) and dtype in DTYPES
        if kind != "storage" or not known or not is_sizes((), count) or (view and view[0] is not None):
            raise pickle.UnpicklingError("an unknown kind of storage")
        name, width = DTYPES[dtype]
        return self.storages.setdefault(str(key), Storage(str(key), name, width, count))

    def _build(self) -> None:
        """Sets attributes (a state dict's ``_metadata``); nothing here has a use for them."""
        self.stack.pop()

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, FunctionType) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("a call of something that cannot be called")
        self.stack[-1] = function(*arguments)

    def _set_items(self) -> None:
        self._fill(self.pop_mark())

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise pickle.UnpicklingError("items of something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            _put(target, key, value)

    def _extend(self) -> None:
        self._add(self.pop_mark())

    def _append(self) -> None:
        self._add([self.stack.pop()])

    def _add(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise pickle.UnpicklingError("members of something that is no list")
        self.stack[-1].extend(values)

    dispatch |= {
        pickle.BUILD[0]: _build,
        pickle.REDUCE[0]: _reduce,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.APPEND[0]: _append,
        pickle.APPENDS[0]: _extend,
    }


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
            if seen > NAMES_LIMIT or any(len(name) + len(str(key)) > KEY_LIMIT for key in keys):
                raise CheckpointError(TOO_MANY)
            waiting += [(f"{name}.{key}" if name else str(key), value[key], depth + 1) for key in reversed(keys)]
    return found
