"""What tests without a host share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from demo.start import HOST
from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.jobs.resources import Resources
from lib_ipadapter.presets.store import Store
from tests.helpers.files import write_adapter, write_encoder

NUMBERS = (
    "block_strengths", "face_jobs", "folder_walks", "generation", "influence", "inject", "instantid_by_hand",
    "keyframes", "keypoints", "lora", "projections", "regions", "rows", "shares", "sides", "weight_types",
)  # fmt: skip
"""Files that compare what steps of a UNet give: half of the room's time, and torch's work, not Python's."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "numbers: compares what torch computes, the same on every Python")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem.removeprefix("test_") in NUMBERS and item.path.parent == Path(__file__).parent:
            item.add_marker("numbers")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, unet) -> Path:
    """A folder with an adapter of each kind, and their encoder."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("base", "plus", "full-face", "faceid"):
        write_adapter(folder / f"{kind}.safetensors", unet, kind)
    write_adapter(folder / "other.safetensors", unet, "base", seed=6)
    write_encoder(folder / "encoder.safetensors")
    return folder


@pytest.fixture(scope="session")
def catalog(folder: Path) -> Catalog:
    """Of that folder, which no test changes: looking into it starts a process."""
    made = Catalog([folder], [])
    made.refresh()
    return made


@pytest.fixture(scope="session")
def resources(catalog: Catalog) -> Resources:
    return Resources(catalog)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data" / "ip-adapter")


@pytest.fixture
def modules(own_data) -> None:
    """The miniature host's modules can be imported; none is started."""
    if str(HOST) not in sys.path:
        sys.path.insert(0, str(HOST))
