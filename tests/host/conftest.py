"""The miniature WebUI, and what must be as it was after a test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.start import FORGE, WEBUI, Host
from tests.conftest import setup_of
from tests.helpers import controlnet
from tests.helpers.files import unit
from tests.helpers.host import FAR, Hosts, difference, hooks, loaded_unet, make


@pytest.fixture
def face() -> str:
    """Which host the miniature one behaves as: ``pytest.mark.both_faces`` makes a test of each."""
    return WEBUI


@pytest.fixture
def host(request: pytest.FixtureRequest, hosts: Hosts, face: str) -> Host:
    """The host in the setup of the test's mark: ``pytest.mark.host("controlnet")``."""
    return hosts.get(setup_of(request.node), face)


@pytest.fixture
def calls_apart(host: Host, face: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A context in which conditional and unconditional rows are in calls of their own: on the WebUI by a setting, on
    Forge for lack of memory."""
    from modules import shared

    @contextmanager
    def apart() -> Iterator[None]:
        with monkeypatch.context() as patch:
            if face == FORGE:
                patch.setattr(sys.modules["backend.memory_management"], "free", 0)
            else:
                patch.setitem(shared.opts.data, "batch_cond_uncond", False)
            yield

    return apart


@pytest.fixture
def make_apart(host: Host, calls_apart: Any) -> Any:
    """Makes a picture with such calls."""

    def made(*units: Any, **payload: Any) -> list[np.ndarray]:
        with calls_apart():
            return make(host, *units, **payload)

    return made


@pytest.fixture
def folder(hosts: Hosts) -> Path:
    return hosts.adapters()


@pytest.fixture
def plain(host: Host, hosts: Hosts) -> Iterator[list[np.ndarray]]:
    """The plain picture. The test must leave the host so that one of a single step comes out as it was, bit for bit."""
    before, short = hosts.reference(), hosts.reference(steps=1)
    yield before
    assert difference(make(host, steps=1), short) == 0
    assert hooks() == []
    from modules import shared

    assert shared.state.textinfo is None


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The host's presets are in a folder of the test's own."""
    from lib_ipadapter.presets.store import Store
    from lib_ipadapter.webui import process as kept
    from lib_ipadapter.webui import start

    made = Store(tmp_path / "ip-adapter")
    for module in (kept, start):
        monkeypatch.setattr(module, "store", lambda: made)
    return made


@pytest.fixture
def near(host: Host, hosts: Hosts) -> Iterator[Any]:
    """The stand-ins of other extensions. Afterwards a plain picture and one with a reference must be what they were,
    bit for bit: of a single step, and of two, as the second one is told what the first one was."""
    before = hosts.reference(steps=1), hosts.reference(unit(), steps=2)
    assert difference(*before) > FAR
    yield sys.modules["neighbours_stand_in"]
    assert difference(make(host, unit(), steps=2), before[1]) == 0
    assert difference(make(host, steps=1), before[0]) == 0
    assert hooks() == []


@pytest.fixture
def clean(host: Host, hosts: Hosts) -> Iterator[np.ndarray]:
    """The plain picture beside ControlNet. Afterwards one of a single step must come out as it was, with nothing moved
    on the shared runner."""
    from modules import scripts

    def places() -> list[tuple[str, int, int]]:
        return [(s.title(), s.args_from, s.args_to) for s in scripts.scripts_txt2img.alwayson_scripts]

    (before,), (short,), where = hosts.reference(steps=2), hosts.reference(steps=1), places()
    yield before
    assert difference(controlnet.make(host, steps=1), short) == 0
    assert places() == where
    assert controlnet.its_script().seen[-1] == []
    assert hooks() == []


@pytest.fixture
def log(host: Host) -> list[tuple]:
    """What the probe has noted."""
    host.probe.LOG.clear()
    return host.probe.LOG


@pytest.fixture
def rows(host: Host) -> Iterator[list[int]]:
    """Rows of each call of the UNet, as a forward pre-hook sees them."""
    seen: list[int] = []
    hook = loaded_unet().register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    yield seen
    hook.remove()
