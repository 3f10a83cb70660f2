"""What the files in the folder of presets say of themselves, remembered while they stay as they are."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from . import atomic
from . import document as preset_format
from .document import PresetError, checked_document, checked_name, content_hashes_in, key, versions
from .pictures import files_in

_SETTLED = 3_000_000_000  # nanoseconds: a file changed later than this may change again without its time showing it


@dataclass(frozen=True)
class Entry:
    """What one file in the folder of presets says of itself. A ``name`` of None: nothing that could be listed."""

    name: str | None
    kept: int | None
    content_hashes: frozenset[str]


class Listing:
    """The presets in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[str, tuple[tuple[int, ...], Entry]] = {}

    def forget(self, path: Path) -> None:
        """The file has been changed by us, perhaps without its time showing it."""
        self._seen.pop(path.name, None)

    def entries(self, strict: bool = False) -> list[Entry]:
        """One entry for each file. Files that have not changed are not read again. ``strict``: raises OSError for a
        file that cannot be read, and may refer to anything, instead of leaving it out."""
        seen, now = {}, time.time_ns()
        for file, status in files_in(self.folder, ".json"):
            signature = (status.st_mtime_ns, status.st_size, status.st_ino)
            known = self._seen.get(file.name)
            if known is None or known[0] != signature:
                try:
                    entry = _entry(atomic.read(file.path), file.name[: -len(".json")])
                except FileNotFoundError:
                    continue
                except OSError:
                    if strict:
                        raise
                    continue
                known = (signature if now - status.st_mtime_ns > _SETTLED else (), entry)
            seen[file.name] = known
        self._seen = seen
        return [entry for _, entry in seen.values()]


def _entry(raw: bytes, stem: str) -> Entry:
    """What is listed of a file named ``stem``. One from the future is, so that loading can say why not."""
    name = kept = None
    try:
        document = json.loads(raw)
        version, needs = versions(document)
        if needs <= preset_format.VERSION:
            document = checked_document(document, "")
        elif version > 0:
            document["name"] = checked_name(document["name"])
        if key(document["name"]) == stem:
            name, kept = document["name"], document.get("kept")
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, PresetError):
        pass
    return Entry(name, kept if type(kept) is int else None, frozenset(content_hashes_in(raw)))
