"""References that are encoded before anybody generates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.files import picture
from tests.helpers.page import Page

pytestmark = pytest.mark.host("page")


def test_a_reference_is_encoded_as_soon_as_it_is_dropped(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_ipadapter.encode.references import References
    from lib_ipadapter.webui import ahead

    page.small()
    page.generate()  # a checkpoint is loaded
    encoded: list[int] = []
    encode = References._encode

    def spy(references: References, unit: Any, missing: Any) -> None:
        encoded.append(len(missing))
        encode(references, unit, missing)

    monkeypatch.setattr(References, "_encode", spy)
    page.add(picture(871))
    page.wait(lambda: encoded)
    assert ahead.worker().wait(60)
    before = len(encoded)
    assert isinstance(page.generate(), np.ndarray)
    assert len(encoded) == before
