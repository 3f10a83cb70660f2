"""Writing a file so that nobody ever reads half of one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def replace_file(path: Path, content: str | bytes) -> None:
    """Write ``content`` beside ``path``, then put it there in one step; its folder is made. Who may read it is what the
    process's umask says, as for any new file. Raises OSError, with nothing left beside it."""
    with _beside(path, content) as beside:
        os.replace(beside, path)


def new_file(path: Path, content: str | bytes) -> None:
    """The same where no file is yet. Raises FileExistsError where one is, also where another process has just put it
    there, and OSError."""
    with _beside(path, content) as beside:
        try:
            os.link(beside, path)
        except FileExistsError:
            raise
        except OSError:  # a disk without hard links
            with path.open("xb") as placed:  # nobody else's from here on
                placed.close()
                os.replace(beside, path)


@contextmanager
def _beside(path: Path, content: str | bytes) -> Iterator[Path]:
    """A file with that content in the folder of ``path``, as long as the body runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with beside.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        yield beside
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
