"""What all tests share. Helpers are in ``tests/helpers``, the fixtures of one room in its own conftest.py."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

from demo.start import FACES, WEBUI
from tests.helpers.host import ORDER, Hosts
from tests.helpers.unets import sd_unet

LONGEST_ID = 60

settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no test has a clock
settings.load_profile("tests")
torch.set_num_threads(1)  # the tests' tensors are small: threads would only wait for each other


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "both_faces: the test runs on the WebUI's face of the miniature host and Forge's"
    )
    config.addinivalue_line("markers", f"host(setup): the host that a test wants, of {', '.join(ORDER)}")
    config.addinivalue_line("markers", "downloads: the test waits for what make faces or make batch fetches")


@pytest.hookimpl(optionalhook=True, hookwrapper=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> Generator[None, Any, None]:
    """``-n auto`` is two processes more than there are processors: tests that wait, for a browser or for processes of
    their own, leave some idle."""
    found = yield
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" not in os.environ:
        found.force_result(found.get_result() + 2)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("both_faces"):
        metafunc.parametrize("face", FACES)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each process begins with a stretch of the list, and takes half of another's rest when it has done its own: tests
    of one host stay together."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--once", action="store_true", help="each test with the first of its parameters alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of one host stand together, so that each process starts it once; of these, those that wait for a download
    are the last."""
    if config.getoption("once"):
        first: dict[str, pytest.Item] = {}
        for item in items:
            first.setdefault(item.nodeid.partition("[")[0], item)
        config.hook.pytest_deselected(items=[*{*items} - {*first.values()}])
        items[:] = first.values()
    items.sort(key=place_of)


def pytest_make_parametrize_id(val: object) -> str | None:
    """The beginning is name enough for a parameter that is a whole file: a test's name goes from process to process."""
    if not isinstance(val, str | bytes) or len(val) <= LONGEST_ID:
        return None
    start = val[:LONGEST_ID]
    return (start if isinstance(start, str) else start.decode("ascii", "backslashreplace")) + "..."


def place_of(item: pytest.Item) -> tuple[int, int, bool]:
    """Its host, none before the first, and whether it stands at the end of that host's tests."""
    host = (FACES.index(face_of(item)), ORDER.index(setup_of(item))) if "hosts" in item.fixturenames else (-1, -1)
    return *host, item.get_closest_marker("downloads") is not None


def setup_of(item: pytest.Item) -> str:
    marker = item.get_closest_marker("host")
    return marker.args[0] if marker else ORDER[0]


def face_of(item: pytest.Item) -> str:
    return item.callspec.params.get("face", WEBUI) if hasattr(item, "callspec") else WEBUI


@pytest.fixture(scope="session", autouse=True)
def own_data(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The miniature host keeps its data for this process alone: tests that run side by side from one checkout would
    find each other's presets and kept generations."""
    os.environ.setdefault("DEMO_HOST_DATA", str(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """The miniature WebUI of this process, in the setup that was asked for last."""
    made = Hosts(tmp_path_factory.mktemp("hosts"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def unet() -> nn.Module:
    return sd_unet()


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
