"""The browser of these tests: a page that they open asks the host and nobody else."""

from __future__ import annotations

import pytest

from demo.start import Host
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")

ASKED = "url => fetch(url, {mode: 'no-cors'}).then(() => true, () => false)"


def test_a_page_reaches_its_host_alone(page: Page, host: Host) -> None:
    """Nobody on the network, by name or by number, nor this machine under another name."""
    failed: list[str | None] = []
    page.page.on("requestfailed", lambda request: failed.append(request.failure))
    port = host.address.rpartition(":")[2]
    elsewhere = ("http://example.org/", "http://192.0.2.1/", f"http://localhost:{port}/", f"http://127.0.0.2:{port}/")
    assert page.page.evaluate(ASKED, f"{host.address}/")
    for url in elsewhere:
        assert not page.page.evaluate(ASKED, url)
    page.wait(lambda: len(failed) == len(elsewhere))
    assert {*failed} == {"net::ERR_NAME_NOT_RESOLVED"}
