"""What is sent for a position of the ledger, and where what comes goes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from .crew import ENCODE, MAKE, Outcome, Work
from .given import Sources
from .keep import Keep
from .ledger import REFERENCES, ROWS, Ledger, Made
from .problems import BrokenReference, RowError
from .request import FILE, REFERENCE, SCRIPT, sources_in

CHANGED = "has changed since the run was planned: put it back, or run into a new folder."
_UNIT = re.compile(r"IP-Adapter unit \d+")


class RowTasks:
    """Pictures of rows."""

    table = ROWS

    def __init__(self, ledger: Ledger, keep: Keep, sources: Sources) -> None:
        self._ledger, self._keep, self._sources = ledger, keep, sources
        self._numbers: dict[int, int] = {}  # of what is on its way

    def work(self, position: int) -> Work:
        number, seed, request = self._ledger.row(position)
        self._numbers[position] = number
        if (broken := self._ledger.broken_references(request["references"])) is not None:
            key, state, sentence = broken
            raise BrokenReference(_in_unit(sentence, _unit_with(key, request["body"])), state)
        body = {**request["body"], "seed": seed}
        files = {source: self._read(source, request["sha256"].get(source)) for source in sources_in(body)}
        return Work(
            MAKE, position, f"/sdapi/v1/{request['route']}", body, f"{number:09}", files, tuple(request["references"]),
            tuple(request["needs"]), request["checkpoint"],
        )  # fmt: skip

    def _read(self, source: str, sha256: str | None) -> bytes:
        data = self._sources.read(source)
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise RowError(f"the file {source} {CHANGED}")
        return data

    def keep(self, work: Work, outcome: Outcome) -> list[Made]:
        number = self._numbers[work.position]
        return [self._keep.picture(number, index, part) for index, part in enumerate(outcome.parts)]

    def number(self, position: int) -> int:
        known = self._numbers.pop(position, None)
        return self._ledger.row(position)[0] if known is None else known


class ReferenceTasks:
    """Embeddings of references, each once."""

    table = REFERENCES

    def __init__(self, ledger: Ledger, keep: Keep, sources: Sources) -> None:
        self._ledger, self._keep, self._sources = ledger, keep, sources

    def work(self, position: int) -> Work:
        key, asked = self._ledger.reference(position)
        for name, source in asked["sources"].items():
            if self._sources.sha256(source) != asked["sha256"][name]:
                raise RowError(f"the file {source} {CHANGED}")
        item = {name: {FILE: source} for name, source in asked["sources"].items()}
        body = {**asked["unit"], "images": [item]}
        files = {source: self._sources.read(source) for source in asked["sources"].values()}
        return Work(ENCODE, position, "/ip-adapter/embeddings", body, key, files, needs=(asked["unit"]["model"],))

    def keep(self, work: Work, outcome: Outcome) -> list[Made]:
        return [self._keep.reference(work.name, outcome.parts[0])]

    def number(self, position: int) -> int:
        return position


def _unit_with(key: str, body: Mapping[str, Any]) -> int:
    """The number of the first unit that has this reference."""
    units = body["alwayson_scripts"][SCRIPT]["args"]
    for number, unit in enumerate(units, 1):
        items = [*unit.get("images", []), *unit.get("negative_images", [])]
        if any(item.get("embeddings") == {REFERENCE: key} for item in items):
            return number
    return 1


def _in_unit(sentence: str, number: int) -> str:
    """A sentence on a reference that was encoded by itself, as one on a row's unit."""
    named, told = f"IP-Adapter unit {number}", _UNIT.sub(f"IP-Adapter unit {number}", sentence, count=1)
    return told if told.startswith(named) else f"{named}: {told}"
