"""Presets as tests compare them."""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

from lib_ipadapter.encode.picture import content_hash
from lib_ipadapter.presets.store import Store
from tests.helpers.files import picture


def with_pictures(*seeds: int, **settings) -> dict[str, Any]:
    return {"model": "base", "images": [picture(seed) for seed in seeds], **settings}


def shown(units: Any) -> Any:
    """Units in a form that can be compared: pictures by their content hashes."""
    if isinstance(units, Image.Image):
        assert units.mode == "RGB"
        return content_hash(units)
    if isinstance(units, dict):
        return {name: shown(value) for name, value in units.items()}
    return [shown(value) for value in units] if isinstance(units, (list, tuple)) else units


def stored(store: Store) -> set[str]:
    """The content hashes of the pictures in the store's folder."""
    return {path.stem for path in store.folder.glob("pictures/*.png")}


def mask(seed: int) -> Image.Image:
    return picture(seed).convert("L").convert("RGB")


def prints(*seeds: int) -> set[str]:
    return {content_hash(picture(seed)) for seed in seeds}


def files(store: Store) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}


def the_file(store: Store) -> Path:
    [path] = store.folder.glob("presets/*.json")
    return path


def age(store: Store, seconds: float) -> None:
    then = time.time() - seconds
    for path in store.folder.glob("*/*"):
        os.utime(path, (then, then))


def archive(documents: Any, pictures: dict[str, bytes] | None = None, pack: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", pack) as file:
        file.writestr("presets.json", json.dumps({"version": 1, "presets": documents}))
        for name, data in (pictures or {}).items():
            file.writestr(name, data)
    return buffer.getvalue()


def document(name: str = "a", *marks: str, **more) -> dict[str, Any]:
    return {"version": 1, "needs": 1, "name": name, "units": [{"images": [f"sha256:{m}" for m in marks]}], **more}
