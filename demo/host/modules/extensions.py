"""Extensions, and what their metadata.ini says about the order of their scripts."""

import configparser
import os
import re
from pathlib import Path

from modules import shared

extensions = []


class Extension:
    """A folder with an extension in it."""

    def __init__(self, name, path, enabled=True, is_builtin=False):
        self.name, self.path, self.enabled, self.is_builtin = name, path, enabled, is_builtin
        self.metadata = configparser.ConfigParser()
        self.metadata.read(os.path.join(path, "metadata.ini"))
        self.canonical_name = self.metadata.get("Extension", "Name", fallback=name).strip().lower()

    def files(self, folder, ending):
        """Paths of the files directly in one of its folders, in the order of their names."""
        return sorted(str(path) for path in Path(self.path, folder).glob(f"*{ending}") if path.is_file())

    def order(self, field, folder, filename):
        """Names in ``Before`` or ``After``, for all scripts of a folder or for this one."""
        texts = [self.metadata.get(section, field, fallback="") for section in (folder, f"{folder}/{filename}")]
        return re.findall(r"[^\s,]+", " ".join(texts).lower())


def active():
    switched_off = {shared.opts.disable_all_extensions}
    switched_off |= {"all"} if shared.cmd_opts.disable_all_extensions else set()
    switched_off |= {"extra"} if shared.cmd_opts.disable_extra_extensions else set()
    if switched_off & {"all", "extra"}:  # the demo has no built-in ones
        return []
    return [extension for extension in extensions if extension.enabled]


def list_extensions(_folders=()):
    """Register the extensions in ``_folders`` in the order of their names, as if they were in one folder."""
    named = sorted((os.path.basename(folder), str(folder)) for folder in map(os.path.abspath, _folders))
    extensions[:] = [Extension(name, path, name not in shared.opts.disabled_extensions) for name, path in named]


def find_extension(filename):
    file = Path(filename).resolve()
    return next((x for x in extensions if file.is_relative_to(Path(x.path).resolve())), None)
