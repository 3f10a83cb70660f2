"""A cache of values whose sizes are known, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

KEY_BYTES = 1024  # about what a key of settings, files and pictures' hashes takes
TENSOR_BYTES = 576  # what torch and Python keep for a tensor beside its numbers


def remembered_bytes(tensors: Iterable[Tensor]) -> int:
    """What it takes to remember these under one key: all of the memory that they are views of, each piece once, and
    what stands around them, which is most of it where embeddings are small."""
    tensors = tuple(tensors)
    pieces = {storage.data_ptr(): storage.nbytes() for storage in (one.untyped_storage() for one in tensors)}
    return KEY_BYTES + TENSOR_BYTES * len(tensors) + sum(pieces.values())


class ByteCache:
    """Keeps the values used last while their sizes add up to at most ``limit`` bytes.

    The size of a value is what the caller says it is. A value larger than the limit is not kept; limit 0 keeps
    nothing. Every method may be called from any thread.
    """

    def __init__(self, limit: int) -> None:
        self._lock = Lock()
        self._items: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._nbytes = 0
        self._limit = max(0, int(limit))
        self.clearings = 0  # how often everything was forgotten

    @property
    def limit(self) -> int:
        """Bytes that the values may take together. Setting it lower drops what was not used for longest."""
        return self._limit

    @limit.setter
    def limit(self, nbytes: int) -> None:
        with self._lock:
            self._limit = max(0, int(nbytes))
            self._shrink()

    @property
    def nbytes(self) -> int:
        """Bytes that the kept values take together."""
        return self._nbytes

    def get(self, key: Hashable, default: Any = None) -> Any:
        """The value kept under ``key``, which becomes the one used last, or ``default``."""
        with self._lock:
            if key not in self._items:
                return default
            self._items.move_to_end(key)
            return self._items[key][0]

    def put(self, key: Hashable, value: Any, nbytes: int) -> None:
        """Keep ``value``, which takes ``nbytes`` bytes, under ``key``, in place of what was there."""
        if nbytes < 0:
            raise ValueError(f"a value cannot take {nbytes} bytes")
        with self._lock:
            self._drop(key)
            if nbytes > self._limit or self._limit == 0:
                return
            self._items[key] = (value, nbytes)
            self._nbytes += nbytes
            self._shrink()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._items.clear()
            self._nbytes = 0
            self.clearings += 1

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._items

    def _drop(self, key: Hashable) -> None:
        _, nbytes = self._items.pop(key, (None, 0))
        self._nbytes -= nbytes

    def _shrink(self) -> None:
        if self._limit == 0:
            self._items.clear()
            self._nbytes = 0
        while self._nbytes > self._limit:
            self._drop(next(iter(self._items)))
