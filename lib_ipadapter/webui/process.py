"""What this process keeps from job to job: the catalogue and the caches, and the presets."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ..checkpoint.catalog import Catalog
from ..encode.faces import packages
from ..jobs.resources import Resources
from ..presets.store import Store
from . import options
from .host import folders

if TYPE_CHECKING:
    from ..encode.faces.finder import InsightFace


@functools.cache
def resources() -> Resources:
    """The catalogue and caches of this process."""
    catalog = Catalog(folders.adapter_folders(), folders.encoder_folders(), folders.catalog_memory())
    catalog.refresh()
    return Resources(catalog, options.cache_bytes(), faces())


@functools.cache
def faces() -> InsightFace:
    """Who finds faces for this process. Nothing is started before somebody asks."""
    from ..encode.faces.finder import InsightFace

    return InsightFace(folders.face_folders, packages.own_folder(), folders.face_archives())


@functools.cache
def store() -> Store:
    """The presets of this WebUI, in its data folder."""
    return Store(folders.presets(), options.history())
