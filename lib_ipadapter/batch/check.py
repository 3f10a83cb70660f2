"""What is wrong with a jobs file, all of it, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .crew import MAKE, Outcome, Work
from .jobs_file import Row
from .problems import BatchError, RowError, unreadable
from .request import FILE, REFERENCE, Reader, Request, sources_in

MAX_SENTENCES = 10_000  # different ones
MAX_PROBES = 200  # pairs of a checkpoint and adapters that are tried
SHOWN = 12  # numbers of rows before a sentence
SIDE = 64  # pixels of a picture that is made to see whether it can be
# What a trial leaves out of a row, because it costs time and says nothing of what fits.
LEFT_OUT = ("enable_hr", "n_iter", "batch_size", "hr_scale", "hr_resize_x", "hr_resize_y")

Try = Callable[[Work], Outcome]


class Complaints:
    """Sentences, each with the rows that it is about."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[int, list[int]]] = {}
        self.rows = 0  # that have one

    def add(self, numbers: Sequence[int], sentence: str, count: int = 1) -> None:
        """``numbers``: the first of ``count`` rows."""
        if sentence not in self._rows and len(self._rows) >= MAX_SENTENCES:
            sentence = "more is wrong than is told here: mend that first."
        known, rows = self._rows.get(sentence, (0, []))
        self._rows[sentence] = known + count, sorted([*rows, *numbers])[:SHOWN]

    def lines(self) -> list[str]:
        """A line for each sentence, by the first row."""
        found = sorted(self._rows.items(), key=lambda one: one[1][1])
        return [f"{_rows(count, numbers)}: {sentence}" for sentence, (count, numbers) in found]


def _rows(count: int, numbers: Sequence[int]) -> str:
    more = f" and {count - len(numbers):,} more" if count > len(numbers) else ""
    return f"row{'s' if count > 1 else ''} {', '.join(map(str, numbers))}{more}"


@dataclass
class Pair:
    """A checkpoint and adapters that ``count`` rows have; the first of them, of which one is tried."""

    count: int = 0
    first: list[tuple[int, Request]] = field(default_factory=list)

    def add(self, number: int, request: Request) -> None:
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append((number, request))


class Check:
    """Reads every row, and has one small picture made for each pair of a checkpoint and adapters: whether they fit, no
    other route of a WebUI tells."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.complaints = Complaints()
        self._pairs: dict[tuple[str, str, tuple[str, ...]], Pair] = {}
        self._untried: tuple[int, list[int]] = 0, []
        self.rows = 0

    def read(self, number: int, row: Row | str) -> None:
        self.rows += 1
        request, problems = (None, [row]) if isinstance(row, str) else self._request(row)
        if problems:
            self.complaints.rows += 1
        for sentence in problems:
            self.complaints.add([number], sentence)
        if request is not None and not problems:
            pair = request.route, request.checkpoint, request.models
            if pair in self._pairs or len(self._pairs) < MAX_PROBES:
                self._pairs.setdefault(pair, Pair()).add(number, request)
            else:
                count, numbers = self._untried
                self._untried = count + 1, [*numbers, number][:SHOWN]

    def _request(self, row: Row) -> tuple[Request | None, list[str]]:
        try:
            return self._reader.read(row)
        except BatchError:
            raise
        except Exception as error:  # all other rows are to be checked, too
            return None, [unreadable(error)]

    def probe(self, make: Try, read: Callable[[str], bytes]) -> None:
        """``make`` has a WebUI make a picture; ``read`` reads a source."""
        for pair in sorted(self._pairs, key=lambda pair: pair[1]):  # each checkpoint is loaded once
            self._try(self._pairs[pair], make, read)

    def _try(self, pair: Pair, make: Try, read: Callable[[str], bytes]) -> None:
        """The first row whose files can be read is tried for all others."""
        for place, (number, request) in enumerate(pair.first):
            try:
                work = _small(number, request, read)
            except RowError as error:
                self.complaints.add([number], error.detail)
                self.complaints.rows += 1
                continue
            outcome = make(work)
            if outcome.kind != "done":
                sentence = outcome.sentence or "the WebUI lacks the checkpoint or an adapter: put it there."
                count = pair.count - place
                self.complaints.add([one for one, _ in pair.first[place:]], sentence, count)
                self.complaints.rows += count
            return

    def lines(self) -> list[str]:
        """All that is wrong, what has not been tried, and a sum. None where nothing is wrong."""
        lines, (untried, numbers) = self.complaints.lines(), self._untried
        if untried:
            lines.append(
                f"{_rows(untried, numbers)}: other pairs of a checkpoint and adapters than the {MAX_PROBES} that are "
                "tried: whether they fit is not known."
            )
        wrong = self.complaints.rows
        verdict = f"{wrong:,} cannot be done as they are" if wrong else "nothing is wrong with what was tried"
        return [*lines, f"{self.rows:,} rows: {verdict}."] if lines else []


def _small(number: int, request: Request, read: Callable[[str], bytes]) -> Work:
    """The row's request with its references as pictures, for a picture that costs next to nothing."""
    body = {name: value for name, value in json.loads(json.dumps(request.body)).items() if name not in LEFT_OUT}
    body = {**_with_pictures(body, request), "width": SIDE, "height": SIDE, "steps": 1, "seed": 1}
    files = {source: read(source) for source in sources_in(body)}
    route = f"/sdapi/v1/{request.route}"
    return Work(MAKE, 0, route, body, f"trial-{number}", files, (), request.models, request.checkpoint)


def _with_pictures(value: Any, request: Request) -> Any:
    if isinstance(value, list):
        return [_with_pictures(one, request) for one in value]
    if not isinstance(value, dict):
        return value
    held = value.get("embeddings")
    if isinstance(held, dict) and REFERENCE in held:
        sources = request.references[held[REFERENCE]]["sources"]
        kept = {name: one for name, one in value.items() if name != "embeddings"}
        value = {**kept, **{name: {FILE: source} for name, source in sources.items()}}
    return {name: _with_pictures(one, request) for name, one in value.items()}
