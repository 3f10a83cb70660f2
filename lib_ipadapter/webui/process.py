"""What this process keeps from job to job: the catalogue and the caches, and the presets."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING

from ..checkpoint.catalog import Catalog
from ..encode.faces import packages
from ..encode.folders import KnownFiles
from ..jobs.resources import Resources
from ..presets.looks import Looks
from ..presets.purpose_defaults import PurposeDefaults
from ..presets.store import Store
from ..presets.used_models import UsedModels
from . import host, options
from .host import folders

if TYPE_CHECKING:
    from collections.abc import Hashable
    from contextlib import AbstractContextManager

    from PIL import Image

    from ..encode.faces.face import Found
    from ..encode.faces.finder import InsightFace


@functools.cache
def resources() -> Resources:
    """The catalogue and caches of this process."""
    folders.make()
    files = folders.adapter_folders(), folders.encoder_folders(), folders.catalog_memory()
    catalog = Catalog(*files, runs_flux=lambda: host.current().runs_flux())
    catalog.refresh()
    return Resources(catalog, options.cache_bytes(), faces())


def keep_to_settings(kept: Resources) -> None:
    """As much stays in memory as the settings say now."""
    kept.cache.limit, kept.adapter_bytes = options.cache_bytes(), options.adapter_bytes()


class Faces:
    """A ``FaceFinder`` whose code is loaded when somebody first asks: the WebUI's start does not wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._finder: InsightFace | None = None

    def find(self, image: Image.Image, pack: str) -> Found:
        return self._made().find(image, pack)

    def identity(self, pack: str) -> Hashable:
        return self._made().identity(pack)

    def ended(self) -> AbstractContextManager[None]:
        """There is no process, and none is started, until the block ends."""
        return self._made().ended()

    def _made(self) -> InsightFace:
        from ..encode.faces.finder import InsightFace

        with self._lock:
            if self._finder is None:
                self._finder = InsightFace(folders.face_folders, packages.own_folder(), folders.face_archives())
            return self._finder

    def end(self) -> None:
        """Let go of its process, if there is one."""
        if self._finder is not None:
            self._finder.end()


@functools.cache
def faces() -> Faces:
    """Who finds faces for this process."""
    return Faces()


@functools.cache
def store() -> Store:
    """The presets of this WebUI, in its data folder."""
    return Store(folders.presets(), options.history())


@functools.cache
def looks() -> Looks:
    """The looks of this WebUI, in its data folder."""
    return Looks(folders.looks())


@functools.cache
def known_files() -> KnownFiles:
    """What the files in folders of references were found to be."""
    return KnownFiles()


@functools.cache
def used_models() -> UsedModels:
    """The adapters that were used last, in its data folder."""
    return UsedModels(folders.used_models())


@functools.cache
def purposes() -> PurposeDefaults:
    """The defaults of units' purposes, in the data folder of this WebUI."""
    return PurposeDefaults(folders.purposes())
