"""What this process keeps from job to job: the catalogue and the caches, and the presets."""

from __future__ import annotations

import functools

from ..checkpoint.catalog import Catalog
from ..jobs.resources import Resources
from ..presets.store import Store
from . import options
from .host import folders


@functools.cache
def resources() -> Resources:
    """The catalogue and caches of this process."""
    catalog = Catalog(folders.adapter_folders(), folders.encoder_folders(), folders.catalog_memory())
    catalog.refresh()
    return Resources(catalog, options.cache_bytes())


@functools.cache
def store() -> Store:
    """The presets of this WebUI, in its data folder."""
    return Store(folders.presets(), options.history())
