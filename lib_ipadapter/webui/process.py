"""What this process keeps from job to job: the catalogue and the caches, and the presets."""

from __future__ import annotations

import functools
from pathlib import Path

from modules import paths

from ..checkpoint.catalog import Catalog
from ..generation import Resources
from ..presets.store import Store
from . import options
from .host import a1111 as host


@functools.cache
def resources() -> Resources:
    """The catalogue and caches of this process."""
    catalog = Catalog(host.adapter_folders(), host.encoder_folders(), host.catalog_memory())
    catalog.refresh()
    return Resources(catalog, options.cache_bytes())


@functools.cache
def store() -> Store:
    """The presets of this WebUI, in its data folder."""
    return Store(Path(paths.data_path) / "ip-adapter", options.history())
