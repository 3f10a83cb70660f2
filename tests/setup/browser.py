"""Chromium for the tests."""

from __future__ import annotations

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find() -> str | None:
    """A Chromium of this computer."""
    return next(filter(None, map(shutil.which, NAMES)), None)
