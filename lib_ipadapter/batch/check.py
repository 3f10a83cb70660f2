"""What is wrong with a jobs file, all of it, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .crew import MAKE, Outcome, Work
from .jobs_file import Row
from .problems import BatchError, RowError, unreadable
from .request import FILE, REFERENCE, Reader, Request, sources_in

MAX_SENTENCES = 10_000  # different ones
MAX_PROBES = 200  # pairs of a checkpoint and adapters that are tried
SHOWN = 12  # numbers of rows after a sentence
SIDE = 64  # pixels of a picture that is made to see whether it can be
# What a trial leaves out of a row, because it costs time and says nothing of what fits.
LEFT_OUT = ("enable_hr", "n_iter", "batch_size", "hr_scale", "hr_resize_x", "hr_resize_y")

Try = Callable[[Work], Outcome]


class Complaints:
    """Sentences, each with the rows that it is about."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[int, list[int]]] = {}
        self.rows = 0  # that have one

    def add(self, number: int, sentence: str) -> None:
        if sentence not in self._rows and len(self._rows) >= MAX_SENTENCES:
            sentence = "more is wrong than is told here: mend that first."
        count, rows = self._rows.get(sentence, (0, []))
        if len(rows) < SHOWN:
            rows.append(number)
        self._rows[sentence] = count + 1, rows

    def lines(self) -> list[str]:
        """A line for each sentence, by the first row."""
        found = []
        for sentence, (count, rows) in sorted(self._rows.items(), key=lambda one: one[1][1]):
            more = f" and {count - len(rows):,} more" if count > len(rows) else ""
            found.append(f"row{'s' if count > 1 else ''} {', '.join(map(str, rows))}{more}: {sentence}")
        return found


class Check:
    """Reads every row, and has one small picture made for each pair of a checkpoint and adapters: whether they fit, no
    other route of a WebUI tells."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.complaints = Complaints()
        self._pairs: dict[tuple[str, str, tuple[str, ...]], tuple[int, Request]] = {}
        self._counts: dict[tuple[str, str, tuple[str, ...]], int] = {}
        self.rows = 0

    def read(self, number: int, row: Row | str) -> None:
        self.rows += 1
        request, problems = (None, [row]) if isinstance(row, str) else self._request(row)
        if problems:
            self.complaints.rows += 1
        for sentence in problems:
            self.complaints.add(number, sentence)
        if request is not None and not problems:
            pair = request.route, request.checkpoint, request.models
            if pair in self._pairs or len(self._pairs) < MAX_PROBES:
                self._pairs.setdefault(pair, (number, request))
                self._counts[pair] = self._counts.get(pair, 0) + 1

    def _request(self, row: Row) -> tuple[Request | None, list[str]]:
        try:
            return self._reader.read(row)
        except BatchError:
            raise
        except Exception as error:  # all other rows are to be checked, too
            return None, [unreadable(error)]

    def probe(self, make: Try, read: Callable[[str], bytes]) -> None:
        """``make`` has a WebUI make a picture; ``read`` reads a source."""
        for pair, (number, request) in self._pairs.items():
            try:
                outcome = make(_small(number, request, read))
            except RowError as error:
                self.complaints.add(number, error.detail)
                continue
            if outcome.kind != "done":
                others = self._counts[pair] - 1
                also = f" ({others:,} other rows have this checkpoint and these adapters)" if others else ""
                sentence = outcome.sentence or "the WebUI lacks the checkpoint or an adapter: put it there."
                self.complaints.add(number, f"{sentence}{also}")
                self.complaints.rows += 1


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
