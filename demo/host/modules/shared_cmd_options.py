"""Command-line flags. Unknown ones end the start unless an extension's preload.py defined them."""

import argparse
import os

from modules import script_loading
from modules.paths_internal import data_path, models_path

_SWITCHES = """api listen share lowvram medvram medvram-sdxl no-half no-half-vae no-prompt-history disable-nan-check
disable-all-extensions disable-extra-extensions""".split()
_TEXTS = {
    "api-auth": None, "gradio-auth": None, "server-name": None, "device-id": None, "loglevel": None,
    "cors-allow-origins": None, "cors-allow-origins-regex": None,
    "data-dir": data_path, "models-dir": models_path, "ui-settings-file": os.path.join(data_path, "config.json"),
}  # fmt: skip

parser: argparse.ArgumentParser
cmd_opts = argparse.Namespace()


def _parse(arguments, extension_dirs=()):
    """Fill ``cmd_opts`` in place from ``arguments``: other modules hold on to it."""
    global parser
    parser = argparse.ArgumentParser(prog="demo host")
    for name in _SWITCHES:
        parser.add_argument(f"--{name}", action="store_true")
    for name, default in _TEXTS.items():
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--port", type=int)
    parser.add_argument("--precision", choices=["full", "half", "autocast"], default="autocast")
    parser.add_argument("--use-cpu", nargs="+", default=[])
    parser.add_argument("--gradio-allowed-path", action="append", default=[data_path])
    for folder in sorted(extension_dirs, key=os.path.basename):
        script_loading.preload(os.path.join(folder, "preload.py"), parser)
    vars(cmd_opts).clear()
    parser.parse_args(list(arguments), namespace=cmd_opts)


_parse([])
