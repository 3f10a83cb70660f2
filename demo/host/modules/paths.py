"""The same folders under the name that most extensions import."""

from modules.paths_internal import cwd, data_path, extensions_dir, models_path, script_path  # noqa: F401
