"""The same folders under the name that most extensions import."""

from modules.paths_internal import (  # noqa: F401
    cwd,
    data_path,
    default_output_dir,
    extensions_dir,
    models_path,
    script_path,
)
