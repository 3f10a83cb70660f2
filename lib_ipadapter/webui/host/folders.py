"""The folders that files are looked for and kept in."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from modules import extensions, paths, shared

EXTENSION = Path(__file__).resolve().parents[3]


def adapter_folders() -> list[Path]:
    """Where adapters are looked for, ours first."""
    models = Path(paths.models_path)
    return _distinct([
        EXTENSION / "models",
        models / "ipadapter",
        models / "ControlNet",
        *(folder / "models" for folder in _controlnet_extensions()),
        *_option("control_net_models_path", "controlnet_dir", "ip_adapter_dir", "ip_adapter_models_path"),
    ])  # fmt: skip


def encoder_folders() -> list[Path]:
    """Where image encoders are looked for beyond the adapters' folders."""
    controlnet = _option("control_net_modules_path", "controlnet_annotator_models_path")
    controlnet += [folder / "annotator" / "downloads" for folder in _controlnet_extensions()]
    built_in = Path(paths.models_path) / "ControlNetPreprocessor"  # where Forge's keeps them
    return _distinct([
        Path(paths.models_path) / "clip_vision",
        *([built_in] if built_in.is_dir() else []),
        *_option("controlnet_preprocessor_models_dir"),
        *(folder / "clip_vision" for folder in controlnet),
        *_option("ip_adapter_encoder_dir"),
    ])  # fmt: skip


def downloads(*, encoders: bool) -> Path:
    """Where published adapters, or image encoders, are put."""
    return (Path(paths.models_path) / ("clip_vision" if encoders else "ipadapter")).absolute()


def make() -> None:
    """Make the folders for files, so that a person sees where these go. Where that cannot be, the search goes on."""
    for encoders in (False, True):
        with contextlib.suppress(OSError):
            downloads(encoders=encoders).mkdir(parents=True, exist_ok=True)


def face_folders() -> list[Path]:
    """Where face packs are looked for, in the shapes in which people have them."""
    models = Path(paths.models_path)
    controlnet = _option("control_net_modules_path", "controlnet_annotator_models_path")
    controlnet += [folder / "annotator" / "downloads" for folder in _controlnet_extensions()]
    return _distinct([
        models / "insightface",
        models,
        *_option("ip_adapter_faces_path"),
        *adapter_folders(),
        *(folder / "insightface" for folder in controlnet),
        Path(os.path.expanduser("~/.insightface")),  # insightface's own
    ])  # fmt: skip


def face_archives() -> Path:
    """The folder for what is taken out of face packs' archives."""
    return Path(paths.data_path) / "cache" / "ip-adapter-faces"


def catalog_memory() -> Path:
    """The file that remembers what the files in the folders are."""
    return Path(paths.data_path) / "cache" / "ip-adapter-catalog.json"


def presets() -> Path:
    """Where presets are kept."""
    return Path(paths.data_path) / "ip-adapter"


def looks() -> Path:
    """Where looks are kept, one file each."""
    return presets() / "looks"


def used_models() -> Path:
    """The file that remembers which adapters were used last."""
    return presets() / "used-models.json"


def purposes() -> Path:
    """The file that keeps the defaults that a person has given to purposes."""
    return presets() / "purposes.json"


def _option(*names: str) -> list[Path]:
    """Folders from settings and command-line flags, where they exist and are set; flags may hold lists."""
    folders: list[Path] = []
    for name in names:
        for source in (shared.opts, shared.cmd_opts):
            value = getattr(source, name, None)
            values = value if isinstance(value, (list, tuple)) else [value]
            folders += [Path(v) for v in values if isinstance(v, str) and v.strip()]
    return folders


def _controlnet_extensions() -> list[Path]:
    return [Path(e.path) for e in extensions.active() if (Path(e.path) / "scripts" / "controlnet.py").is_file()]


def _distinct(folders: list[Path]) -> list[Path]:
    return list(dict.fromkeys(folder.absolute() for folder in folders))
