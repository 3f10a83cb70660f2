"""What a person has to put right before a run can go on."""

from __future__ import annotations

from ..errors import IPAdapterError


class BatchError(IPAdapterError):
    """The run cannot begin or go on."""


class NoAnswer(BatchError):
    """A WebUI could not be asked: what it has is not known."""


class RowError(IPAdapterError):
    """One row cannot be done; the others can."""


class BrokenReference(RowError):
    """A row whose reference could not be encoded; ``state``: what has become of that."""

    def __init__(self, sentence: str, state: str) -> None:
        super().__init__(sentence)
        self.state = state
