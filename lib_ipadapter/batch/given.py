"""Pictures that came as text, in a row or a preset, kept once each by their content in the run's folder; and one way to
read them and the jobs file's own files."""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path

from ..replace_file import replace_file
from .paths import MAX_FILE, Files, fault
from .problems import RowError, writing

GIVEN = "given:"


class Sources:
    """What a request's pictures are read from: paths of ``files``, or ``given:`` and a hash in ``folder``."""

    def __init__(self, files: Files, folder: Path) -> None:
        self.files, self._folder = files, folder

    def keep(self, text: str, what: str) -> str:
        """A picture or file of embeddings in base64, with or without ``data:…;base64,``, as a source.
        Raises RowError, and DiskError."""
        text = text.partition("base64,")[2] if text.startswith("data:") else text
        if len(text) > MAX_FILE * 4 // 3 + 4:
            raise RowError(f"{what} is larger than {MAX_FILE >> 20} MiB: make it smaller.")
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise RowError(f"{what} is no base64: give a path, or the whole file as data:…;base64,….") from None
        name = hashlib.sha256(data).hexdigest()
        if not (path := self._path(name)).is_file():
            with writing(self._folder):
                replace_file(path, data)
        return GIVEN + name

    def sha256(self, source: str) -> str:
        return source[len(GIVEN) :] if source.startswith(GIVEN) else self.files.sha256(source)

    def read(self, source: str) -> bytes:
        """Raises RowError."""
        if not source.startswith(GIVEN):
            return self.files.read(source)
        try:
            return self._path(source[len(GIVEN) :]).read_bytes()
        except OSError as error:
            raise fault("a picture that the run has kept", error, "run into a new folder") from None

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name
