"""What a person has to put right before a run can go on."""

from __future__ import annotations

from ..errors import IPAdapterError, printable


class BatchError(IPAdapterError):
    """The run cannot begin or go on."""


class NoAnswer(BatchError):
    """A WebUI could not be asked: what it has is not known."""


class RowError(IPAdapterError):
    """One row cannot be done; the others can."""


class PassingFault(BatchError):
    """A disk did not give something that is there: the same may go well later."""


def unreadable(error: Exception) -> str:
    """The sentence on a row that nothing foresees."""
    return printable(f"it cannot be read ({type(error).__name__}: {str(error)[:200]}): correct it.")


class BrokenReference(RowError):
    """A row whose reference could not be encoded; ``state``: what has become of that."""

    def __init__(self, sentence: str, state: str) -> None:
        super().__init__(sentence)
        self.state = state
