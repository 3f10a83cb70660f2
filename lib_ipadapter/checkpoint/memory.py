"""What files were recognised as, kept in a JSON file across restarts."""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, printable
from ..replace_file import replace_file
from .entries import AdapterEntry, EncoderEntry, Entry, KeypointsEntry, UnusableEntry
from .folders import FoundFile
from .reading import Reading
from .recognise import recognise
from .refusals import RefusedAdapter
from .specs import AdapterSpec, EncoderSpec, KeypointsSpec, TextSpec

log = logging.getLogger("ip-adapter")

LIBRARY = Path(__file__).parents[1]
RULES = ("bases.py", "checkpoint/*.py", "projections/*.py")  # the files that decide what a file is recognised as
KINDS = {AdapterSpec: "adapter", EncoderSpec: "encoder", KeypointsSpec: "keypoints"}

_Record = dict[str, Any]  # what is kept of a file, as it stands in the JSON file


class Memory:
    """(path, size, time) -> what a file was recognised as, in a JSON file where ``path`` is given.

    The rules' own source is part of the key: what an older version recognised is looked at again.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known = self._read()
        self.used: dict[str, Any] = {}

    def recall(self, found: FoundFile) -> Entry | None:
        """The entry of a file that has not changed, or is plainly of no use, without a look into it; None of others.
        Its name is yet to come."""
        if found.problem is not None:
            return UnusableEntry("", found.path, found.folder, found.size, found.problem)
        key = str(found.path)
        try:
            size, mtime_ns, record = self.known[key]
            if (size, mtime_ns) != (found.size, found.mtime_ns):
                return None
            entry = _from_record(found, record)
        except (TypeError, ValueError, KeyError, AttributeError):  # not there, or written by somebody else
            return None
        self.used[key] = self.known[key]
        return entry

    def recognise(self, found: FoundFile, reading: Reading) -> Entry:
        """The entry of a file, from its header. Its name is yet to come."""
        key = str(found.path)
        try:
            spec = recognise(found.path, reading.table)
            record: _Record = {"kind": KINDS[type(spec)], "spec": _facts(spec)}
        except CheckpointError as error:
            record = {"problem": error.detail, "refused": isinstance(error, RefusedAdapter)}
            # Permissions and packages can change without a trace in size or time.
            if isinstance(error.__cause__, (OSError, ImportError)):
                return _from_record(found, record)
        except Exception as error:  # one strange file is no reason to list none
            log.exception("IP-Adapter: %s cannot be recognised", printable(str(found.path)))
            name = type(error).__name__
            record = {"problem": f"This file cannot be recognised ({name}): download it again.", "refused": False}
        self.used[key] = [found.size, found.mtime_ns, record]
        return _from_record(found, record)

    def save(self) -> None:
        """Keep what was used since the last time, and drop the rest. A disk that cannot be written is no trouble."""
        changed = self.used != self.known
        self.known, self.used = self.used, {}
        if self.path is None or not changed:
            return
        with suppress(OSError):
            replace_file(self.path, json.dumps({"rules": rules(), "files": self.known}, separators=(",", ":")))

    def _read(self) -> dict[str, Any]:
        try:
            memory = json.loads(self.path.read_bytes()) if self.path is not None else {}
            return dict(memory["files"]) if memory.get("rules") == rules() else {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}


@lru_cache(maxsize=1)
def rules() -> str:
    """Stands for the code that recognises files."""
    digest = hashlib.sha256()
    for pattern in RULES:
        for file in sorted(LIBRARY.glob(pattern)):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _facts(spec: AdapterSpec | EncoderSpec | KeypointsSpec) -> _Record:
    """A spec's fields by name; its own tuples stay, where ``asdict`` would copy each number."""
    values = {one.name: getattr(spec, one.name) for one in fields(spec)}
    return {name: asdict(value) if isinstance(value, TextSpec) else value for name, value in values.items()}


def _from_record(found: FoundFile, record: _Record) -> Entry:
    """The entry of a file. Raises TypeError, ValueError, KeyError or AttributeError for what is no record."""
    place = ("", found.path, found.folder, found.size)
    if "problem" in record:
        return UnusableEntry(*place, str(record["problem"]), bool(record["refused"]))
    kind = record["kind"]
    facts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record["spec"].items()
    }
    if kind == "adapter":
        return AdapterEntry(*place, AdapterSpec(**facts))
    if kind == "keypoints":
        return KeypointsEntry(*place, KeypointsSpec(**facts))
    if kind != "encoder":
        raise KeyError(kind)
    if facts.get("text") is not None:
        facts["text"] = TextSpec(**facts["text"])
    return EncoderEntry(*place, EncoderSpec(**facts))
