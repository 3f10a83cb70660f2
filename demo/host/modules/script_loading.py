"""Runs files of extensions as modules."""

import types
from importlib.machinery import SourceFileLoader
from pathlib import Path

from modules import errors

loaded_scripts = {}


def load_module(path):
    """The module that the file at ``path`` makes. It is in ``loaded_scripts``, not importable by name."""
    loader = SourceFileLoader(Path(path).stem, str(path))
    module = types.ModuleType(loader.name)
    module.__file__, module.__loader__ = loader.path, loader
    loader.exec_module(module)
    loaded_scripts[path] = module
    return module


def preload(path, parser):
    """Let an extension's preload.py, if it has one, define its flags."""
    if not Path(path).is_file():
        return
    try:
        getattr(load_module(path), "preload", lambda parser: None)(parser)
    except Exception:
        errors.report(f"{path} failed", exc_info=True)
