"""What is printed: foreign texts without what steers a terminal, and no end of the run where nobody reads it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from typing import TextIO

from ..errors import printable

# Sequences that colour, move or name a terminal, whole; what is left of others is no character, and shown as "?".
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")


def plain(text: str) -> str:
    """A text of a WebUI, of Ray or out of a file, on one line, as it can be shown on a terminal or a page."""
    return printable(_ESCAPES.sub("", text))


def say(text: str, out: TextIO | None = None, end: str = "\n") -> None:
    """Print to ``out``, or else to where a run tells how it goes. Whoever reads it may have gone (``| head``), and the
    disk of a log may be full: neither is a reason to end."""
    out = sys.stderr if out is None else out
    with contextlib.suppress(ValueError):  # it is closed
        try:
            print(text, end=end, file=out, flush=True)
        except BrokenPipeError:
            with contextlib.suppress(OSError):  # what is left in it would be an error once more at the very end
                os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        except OSError:
            pass


def any_text() -> None:
    """A terminal that does not know a character shows another, whatever it is told."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
