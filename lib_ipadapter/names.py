"""Names that people give: what stands in one, and what comes in the place of another."""

from __future__ import annotations

import re
import unicodedata

MAX_NAME = 100  # characters
FORBIDDEN = re.compile("[/\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # controls, line ends, half characters


def tamed_name(name: str) -> str:
    """The nearest allowed name."""
    text = FORBIDDEN.sub("_", unicodedata.normalize("NFC", str(name))).strip()[:MAX_NAME].rstrip()
    return "_" if text in ("", ".", "..") else text
