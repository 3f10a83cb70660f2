"""The exceptions that users see. Every message says what is wrong and what to do."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

SENTENCE_LIMIT = 2000  # characters
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    """A file's name, or a text out of a file, as it can be shown and sent: what is no character becomes "?"."""
    return _UNPRINTABLE.sub("?", text)


class IPAdapterError(Exception):
    """Something a user can put right; its text is one sentence or two that end with the remedy.

    The WebUI's API answers with the ``status_code`` and ``detail`` that it finds among an exception's own attributes
    (a class's do not count); its page shows ``str(exception)``.
    """

    http_status = 422

    def __init__(self, sentence: str) -> None:
        # Names of files and texts out of them may hold what cannot be sent, and be of any length.
        sentence = printable(sentence if len(sentence) <= SENTENCE_LIMIT else f"{sentence[: SENTENCE_LIMIT - 1]}…")
        super().__init__(sentence)
        self.status_code = self.http_status
        self.detail = sentence

    def in_unit(self, number: int) -> IPAdapterError:
        """The same error, told as unit ``number``'s (counted from 1). An error that names a unit keeps it."""
        if self.detail.startswith("IP-Adapter"):
            return self
        return type(self)(f"IP-Adapter unit {number}: {self.detail}")

    def to_keep(self) -> IPAdapterError:
        """The same error without where it was raised: a traceback keeps all that was at hand there, pictures too."""
        return type(self)(self.detail)


class UnitError(IPAdapterError):
    """A unit's settings are not what the API allows."""


class PictureError(IPAdapterError):
    """A reference or mask that is no usable picture."""


class BudgetError(PictureError):
    """Pictures that are usable one by one, and too large together."""


class CheckpointError(IPAdapterError):
    """A file that is missing, damaged, foreign, or of no use for this job."""


class MismatchError(IPAdapterError):
    """Two parts that do not fit each other: adapter and model, adapter and encoder."""


class DeviceMemoryError(IPAdapterError):
    """The device has no room for what a job needs there."""


NO_ROOM = (
    "out of memory", "out_of_memory", "out_of_device_memory", "alloc_failed", "not enough gpu video memory",
    # cuDNN, where none of its ways to convolve has room for what it works with
    "unable to find an engine", "unable to find a valid cudnn algorithm",
)  # fmt: skip


def is_device_full(error: BaseException) -> bool:
    """Whether ``error`` says that a device has no room. CUDA, ROCm and XPU have a type for it, MPS, DirectML and
    CUDA's libraries only words; that main memory is full is told in other ones."""
    if type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_ROOM)


def clear_frames(error: BaseException | None) -> None:
    """Empty the finished frames that an error, and those before it, came through: whoever keeps the error would keep
    all that was at hand there, pictures too."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@contextmanager
def errors_name_unit(number: int) -> Iterator[None]:
    """Errors of the floors below become unit ``number``'s."""
    try:
        yield
    except IPAdapterError as error:
        raise error.in_unit(number) from None  # the sentence says it all; the host prints every link of a chain
