"""Forge's management of the device's memory, in name only: nothing is moved."""

from __future__ import annotations

from typing import Any

signal_empty_cache = False
free = 2**40  # bytes, on every device
asked: list[tuple[float, Any]] = []  # what room was asked for, in bytes, and on which device


def get_free_memory(dev: Any = None, torch_free_too: bool = False) -> int:
    return free


def free_memory(memory_required: float, device: Any, keep_loaded: Any = [], free_all: bool = False) -> None:  # noqa: B006
    asked.append((memory_required, device))


def soft_empty_cache(force: bool = False) -> None:
    pass


def unload_all_models() -> None:
    free_memory(1e30, None, free_all=True)
