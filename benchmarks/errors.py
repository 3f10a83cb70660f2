"""What ends a run: one sentence that says what is wrong and what to do."""

from __future__ import annotations


class Trouble(Exception):
    """A sentence for the person at the terminal."""
