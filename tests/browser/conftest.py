"""Chromium on the page of the miniature WebUI."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from demo.start import Host
from tests.helpers.host import Hosts
from tests.helpers.page import Page
from tests.setup import browser as setup

FLAGS = [
    *"--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split(),
    *"--disable-component-update --disable-sync".split(),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nobody else is asked, and a host's page may want to
]
NONE = "no Chromium here: install it (on Debian: apt-get install chromium), and the browser tests run."


@pytest.fixture(scope="session")
def executable() -> str:
    found = setup.find()
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(NONE)
    return found


@pytest.fixture
def host(executable: str, hosts: Hosts) -> Host:
    return hosts.get("page")


@pytest.fixture
def browser(executable: str, host: Host, hosts: Hosts) -> Any:
    """One for each host. It is closed first: a server that is told to stop waits for connections that a browser keeps
    open."""
    if hosts.guest is None:
        from playwright.sync_api import sync_playwright

        playwright = sync_playwright().start()
        started = playwright.chromium.launch(executable_path=executable, args=FLAGS)

        def leave() -> None:
            started.close()
            playwright.stop()

        hosts.guest, hosts.leave = started, leave
    return hosts.guest


@pytest.fixture
def pages(browser: Any, host: Host) -> Iterator[Callable[..., Page]]:
    opened: list[Page] = []

    def new(**kwargs: Any) -> Page:
        opened.append(Page(browser, host, **kwargs))
        return opened[-1]

    yield new
    for page in opened:
        page.context.close()
    assert [page.errors for page in opened] == [[]] * len(opened)


@pytest.fixture
def page(pages: Callable[..., Page]) -> Page:
    made = pages()
    made.open()
    return made
