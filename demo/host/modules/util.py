"""Small helpers."""

import dataclasses
import os

from PIL import PngImagePlugin

from modules.paths_internal import cwd


def truncate_path(target_path, base_path=cwd):
    """Relative to ``base_path`` if it is in there, else absolute."""
    relative = os.path.relpath(target_path, base_path)
    return os.path.abspath(target_path) if relative.startswith("..") else relative


def record(name, fields, /, **defaults):
    """A class of values that callbacks may change: the names in ``fields``, then those with defaults."""
    required = [(field, object) for field in fields.split()]
    optional = [(field, object, dataclasses.field(default=value)) for field, value in defaults.items()]
    return dataclasses.make_dataclass(name, required + optional, eq=False, repr=False)  # tensors have no plain ==


def convert(value, kind):
    """A text's value as a component's or the API's type; None if it is no such thing."""
    try:
        if value is None or isinstance(value, kind):
            return value
        return str(value) == "True" if kind is bool else kind(value)
    except (TypeError, ValueError):
        return None


def png_info(texts):
    """Texts to be saved in a PNG file; what is no text is left out."""
    info = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        if isinstance(key, str) and isinstance(value, str):
            info.add_text(key, value)
    return info
