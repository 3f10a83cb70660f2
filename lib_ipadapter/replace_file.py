"""Writing a small file so that nobody ever reads half of one."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Write ``text`` beside ``path``, then put it there in one step; its folder is made. Who may read it is what the
    process's umask says, as for any new file. Raises OSError, with nothing left beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with beside.open("x", encoding="utf-8") as file:
            file.write(text)
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise
