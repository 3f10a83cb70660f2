"""Folders of the miniature host. ``DEMO_HOST_DATA`` names the data folder; it is fixed once this module is imported."""

import os
from pathlib import Path

_HOST = Path(__file__).resolve().parents[1]
cwd = os.getcwd()
script_path, modules_path = str(_HOST), str(_HOST / "modules")
data_path = os.path.abspath(os.environ.get("DEMO_HOST_DATA") or _HOST.parent / "data")
models_path, extensions_dir, default_output_dir = (
    os.path.join(data_path, name) for name in ("models", "extensions", "outputs")
)
