"""What torch's compiler is to leave out of a model that it compiles, and whether it has compiled anything."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar, cast

F = TypeVar("F", bound=Callable[..., object])


def uncompiled(function: F) -> F:
    """``function`` left out by torch's compiler, where that is loaded: what it finds there when it compiles would be
    taken for what is there at every call."""
    compiler = sys.modules.get("torch._dynamo")
    return function if compiler is None else cast(F, compiler.disable(function))


def has_compiled() -> bool:
    """Whether the compiler has compiled anything in this process; True where it does not say."""
    compiler = sys.modules.get("torch._dynamo")
    if compiler is None:
        return False
    counters = getattr(getattr(compiler, "utils", None), "counters", None)
    return counters is None or bool(counters.get("frames"))
