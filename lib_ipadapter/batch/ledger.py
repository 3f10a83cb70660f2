"""What a run knows for sure, in one SQLite file of its folder: the rows in the order in which they are made, the seed
of each before it is used, and what has become of it. A kill at any moment leaves all of it as one transaction left it.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

from .problems import BatchError, disk_error, is_of_the_disk, writing

VERSION = "2"
OPEN, DONE, REFUSED, FAILED = "open", "done", "refused", "failed"
FINAL = (DONE, REFUSED, FAILED)
ROWS, REFERENCES = "rows", "refs"
AT_A_TIME = 500
PATIENCE = {False: 30.0, True: 3.0}  # seconds for the ledger of a run that writes much at a time; for those who read

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    position INTEGER PRIMARY KEY, number INTEGER NOT NULL UNIQUE, id TEXT NOT NULL, checkpoint INTEGER NOT NULL,
    section INTEGER NOT NULL, request TEXT NOT NULL, seed INTEGER NOT NULL, state TEXT NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    endpoint TEXT NOT NULL DEFAULT '', sentence TEXT NOT NULL DEFAULT '', seconds REAL NOT NULL DEFAULT 0,
    finished REAL NOT NULL DEFAULT 0, pictures TEXT NOT NULL DEFAULT '[]', shard INTEGER);
CREATE INDEX IF NOT EXISTS finished ON rows (finished) WHERE finished > 0;
CREATE TABLE IF NOT EXISTS refs (
    position INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, checkpoint INTEGER NOT NULL DEFAULT 0,
    section INTEGER NOT NULL, asked TEXT NOT NULL, state TEXT NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0, endpoint TEXT NOT NULL DEFAULT '', sentence TEXT NOT NULL DEFAULT '',
    seconds REAL NOT NULL DEFAULT 0, finished REAL NOT NULL DEFAULT 0, pictures TEXT NOT NULL DEFAULT '[]');
CREATE TABLE IF NOT EXISTS shards (number INTEGER PRIMARY KEY, is_clean INTEGER NOT NULL);
"""

_COMING = {
    "coming": "number INTEGER PRIMARY KEY, id, checkpoint, grouped, request, seed, sentence, needs",
    "coming_refs": "key TEXT PRIMARY KEY, asked, needs",
}


@dataclass(frozen=True)
class Made:
    """One picture of a row: its file below the run's folder, and its parameters."""

    file: str
    sha256: str
    size: int
    infotext: str = ""


@dataclass(frozen=True)
class Result:
    """What has become of one position."""

    position: int
    state: str
    endpoint: str = ""
    tries: int = 1
    sentence: str = ""
    seconds: float = 0.0
    finished: float = 0.0  # seconds since 1970
    pictures: Sequence[Made] = field(default=())


@dataclass(frozen=True)
class Planned:
    """A row before it has a position. ``needs``: its adapters; ``sentence``: why it cannot be done."""

    number: int
    id: str
    checkpoint: str
    group: str
    request: str
    seed: int
    sentence: str = ""
    needs: str = ""


class Ledger:
    """The file ``path``; ``sure``: whether a commit waits for the disk (what the end of the power needs, and no kill).
    One process writes, others may read."""

    def __init__(self, path: Path, sure: bool = True, reads_only: bool = False) -> None:
        if reads_only and not path.is_file():
            raise BatchError(f"{path.parent} is the folder of no run: name one that run --out has made.")
        self._folder, self._reads_only = path.parent, reads_only
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._base = sqlite3.connect(path, timeout=PATIENCE[reads_only], isolation_level=None)
            if not reads_only:
                self._base.execute("PRAGMA journal_mode = TRUNCATE")
                self._base.execute(f"PRAGMA synchronous = {'FULL' if sure else 'OFF'}")
                self._base.executescript(_TABLES)
                self._base.execute("INSERT OR IGNORE INTO meta VALUES ('version', ?)", (VERSION,))
            self._base.execute("PRAGMA cache_size = -8000")  # kilobytes
            version = self.get("version")
        except sqlite3.Error as error:
            if is_of_the_disk(error):
                raise disk_error(self._folder, error) from None
            raise BatchError(f"{path} cannot be used ({error}): run into a new folder.") from None
        if version != VERSION:
            raise BatchError(f"{path} is of another version of this program: finish it with that, or use a new folder.")

    def close(self) -> None:
        if not self._reads_only:
            with contextlib.suppress(sqlite3.Error):  # others read it
                self._base.execute("PRAGMA journal_mode = DELETE")  # takes the empty journal away
        self._base.close()

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """One transaction. Raises DiskError, with nothing of it written."""
        try:
            self._base.execute("BEGIN IMMEDIATE")
            yield
            self._base.execute("COMMIT")
        except BaseException as error:
            if self._base.in_transaction:  # where the disk is full, SQLite may have ended it
                self._base.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise disk_error(self._folder, error) from None
            raise

    # what is true of the whole run

    def get(self, key: str) -> str | None:
        found = self._base.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def put(self, **values: str) -> None:
        with self._all_or_nothing():
            self._base.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))

    @property
    def is_planned(self) -> bool:
        return self.get("planned") is not None

    def plan(self, rows: Iterable[tuple[Planned, dict[str, Any]]]) -> None:
        """Write down all rows, with the references that each needs (key -> what is asked), in the order in which they
        will be made: by checkpoint, then adapters and references, then number. All of it or nothing."""
        with self._all_or_nothing():
            self._base.execute("DELETE FROM rows")
            self._base.execute("DELETE FROM refs")
            self._plan(rows, 0)

    def refused(self) -> set[int]:
        """The numbers of the rows that are."""
        return {number for (number,) in self._base.execute(f"SELECT number FROM rows WHERE state = '{REFUSED}'")}

    def plan_again(self, rows: Iterable[tuple[Planned, dict[str, Any]]], per_shard: int) -> None:
        """Put these in the place of what is known of them, at the end of the line and in shards of their own.
        References that were refused have a try again. All of it or nothing."""
        with self._all_or_nothing():
            (last,) = self._base.execute("SELECT max(position) FROM rows").fetchone()
            self._base.execute(f"UPDATE refs SET state = '{OPEN}', tries = 0 WHERE state = '{REFUSED}'")
            self._plan(rows, -(-last // per_shard) * per_shard if per_shard else last)

    def _plan(self, rows: Iterable[tuple[Planned, dict[str, Any]]], after: int) -> None:
        """The rows, from the position ``after`` on, and those of their references that are not known yet."""
        for table, columns in _COMING.items():
            self._base.execute(f"DROP TABLE IF EXISTS {table}")
            self._base.execute(f"CREATE TABLE {table} ({columns})")
        for row, references in rows:
            self._base.execute("INSERT INTO coming VALUES (?, ?, ?, ?, ?, ?, ?, ?)", astuple(row))
            asked = [(key, json.dumps(one), one["unit"]["model"]) for key, one in references.items()]
            self._base.executemany("INSERT OR IGNORE INTO coming_refs VALUES (?, ?, ?)", asked)
        last = "SELECT coalesce(max({}), 0) FROM {}"
        (section,) = self._base.execute(last.format("section", "rows")).fetchone()
        (checkpoint,) = self._base.execute(last.format("checkpoint", "rows")).fetchone()
        self._base.execute(
            "INSERT OR REPLACE INTO rows (position, number, id, checkpoint, section, request, seed, state, sentence) "
            "SELECT ? + row_number() OVER (ORDER BY checkpoint, needs, grouped, number), number, id, "
            "? + dense_rank() OVER (ORDER BY checkpoint), ? + dense_rank() OVER (ORDER BY checkpoint, needs), request, "
            f"seed, CASE sentence WHEN '' THEN '{OPEN}' ELSE '{REFUSED}' END, sentence FROM coming",
            (after, checkpoint, section),
        )
        (position,) = self._base.execute(last.format("position", "refs")).fetchone()
        (section,) = self._base.execute(last.format("section", "refs")).fetchone()
        self._base.execute(
            "INSERT INTO refs (position, key, section, asked, state) SELECT "
            "? + row_number() OVER (ORDER BY needs, key), key, ? + dense_rank() OVER (ORDER BY needs), asked, "
            f"'{OPEN}' FROM coming_refs "
            "WHERE key NOT IN (SELECT key FROM refs)",
            (position, section),
        )
        for table in _COMING:
            self._base.execute(f"DROP TABLE {table}")

    # positions, for the schedule

    def sections(self, table: str = ROWS) -> list[tuple[int, int, int, int]]:
        """First and last position of the rows that need the same checkpoint and adapters, how many of them are open,
        and the checkpoint's number."""
        what = f"min(position), max(position), sum(state = '{OPEN}'), min(checkpoint)"
        return list(self._base.execute(f"SELECT {what} FROM {table} GROUP BY section ORDER BY 1"))

    def open(self, table: str, after: int, last: int, count: int, state: str = OPEN) -> list[int]:
        """The next open positions, or those with another state."""
        query = f"SELECT position FROM {table} WHERE position > ? AND position <= ? AND state = '{state}' "
        found = self._base.execute(query + "ORDER BY position LIMIT ?", (after, last, count))
        return [position for (position,) in found]

    def counts(self, table: str = ROWS) -> dict[str, int]:
        return dict(self._base.execute(f"SELECT state, count(*) FROM {table} GROUP BY state"))

    def reopen(self) -> None:
        """What failed for no reason of its own has its tries again."""
        with self._all_or_nothing():
            for table in (REFERENCES, ROWS):
                self._base.execute(f"UPDATE {table} SET state = '{OPEN}', tries = 0 WHERE state = '{FAILED}'")

    def row(self, position: int) -> tuple[int, int, dict[str, Any]]:
        """Number, seed and request of a row."""
        query = "SELECT number, seed, request FROM rows WHERE position = ?"
        number, seed, request = self._base.execute(query, (position,)).fetchone()
        return number, seed, json.loads(request)

    def reference(self, position: int) -> tuple[str, dict[str, Any]]:
        key, asked = self._base.execute("SELECT key, asked FROM refs WHERE position = ?", (position,)).fetchone()
        return key, json.loads(asked)

    def references_in(self, state: str) -> Iterator[tuple[int, str]]:
        """Position and key of those with this state."""
        last = 0
        while True:
            query = "SELECT position, key FROM refs WHERE position > ? AND state = ? ORDER BY 1 LIMIT ?"
            found = self._base.execute(query, (last, state, AT_A_TIME)).fetchall()
            yield from found
            if not found:
                return
            last = found[-1][0]

    def reference_keys(self) -> Iterator[str]:
        for (key,) in self._base.execute("SELECT key FROM refs"):
            yield str(key)

    def single_files(self, first: int, last: int) -> set[str]:
        """The pictures of the rows with these numbers that lie in no tar file."""
        query = "SELECT pictures FROM rows WHERE number BETWEEN ? AND ? AND shard IS NULL"
        found = self._base.execute(query, (first, last))
        return {picture["file"] for (pictures,) in found for picture in json.loads(pictures)}

    def broken_references(self, keys: Sequence[str]) -> tuple[str, str, str] | None:
        """Key, state and sentence of the first of these references that could not be encoded."""
        for key in keys:
            found = self._base.execute("SELECT state, sentence FROM refs WHERE key = ?", (key,)).fetchone()
            if found is not None and found[0] in (REFUSED, FAILED):
                return key, found[0], found[1]
        return None

    def record(self, results: Sequence[Result], table: str = ROWS) -> None:
        """What has become of these positions. It is on the disk when this returns."""
        values = [
            (one.state, one.tries, one.endpoint, one.sentence, one.seconds, one.finished,
             json.dumps([asdict(picture) for picture in one.pictures]), one.position)
            for one in results
        ]  # fmt: skip
        with self._all_or_nothing():
            self._base.executemany(
                f"UPDATE {table} SET state = ?, tries = ?, endpoint = ?, sentence = ?, seconds = ?, finished = ?, "
                "pictures = ? WHERE position = ?",
                values,
            )

    # what others read

    def every_row(self) -> Iterator[dict[str, Any]]:
        """All rows as the manifest has them, by number, a few at a time."""
        names = "number, id, state, seed, tries, endpoint, sentence, seconds, finished, pictures, request, shard"
        last = -1
        while True:
            query = f"SELECT {names} FROM rows WHERE number > ? ORDER BY number LIMIT ?"
            found = self._base.execute(query, (last, AT_A_TIME)).fetchall()
            for values in found:
                yield dict(zip(names.split(", "), values, strict=True))
            if not found:
                return
            last = found[-1][0]

    def latest(self, count: int) -> list[dict[str, Any]]:
        """The rows whose pictures came last."""
        query = f"SELECT number, id, seed, pictures, shard FROM rows WHERE finished > 0 AND state = '{DONE}' "
        found = self._base.execute(query + "ORDER BY finished DESC LIMIT ?", (count,)).fetchall()
        return [dict(zip(("number", "id", "seed", "pictures", "shard"), values, strict=True)) for values in found]

    def finished(self, count: int) -> list[float]:
        """When the last rows ended, in seconds since 1970, the latest first."""
        query = "SELECT finished FROM rows WHERE finished > 0 ORDER BY finished DESC LIMIT ?"
        return [finished for (finished,) in self._base.execute(query, (count,))]

    def troubles(self, count: int) -> list[tuple[int, str, str]]:
        """Number, state and sentence of the first rows that are not done and will not be."""
        query = f"SELECT number, state, sentence FROM rows WHERE state IN ('{REFUSED}', '{FAILED}') ORDER BY number"
        return self._base.execute(query + " LIMIT ?", (count,)).fetchall()

    def by_endpoint(self) -> list[tuple[str, int, float]]:
        """How many rows each WebUI made, and in how many seconds."""
        query = f"SELECT endpoint, count(*), sum(seconds) FROM rows WHERE state = '{DONE}' GROUP BY endpoint"
        return self._base.execute(query).fetchall()

    # shards

    def of_shard(self, first: int, last: int) -> list[dict[str, Any]]:
        """The rows at these positions, with what a shard keeps of them."""
        names = ("position", "number", "id", "state", "seed", "pictures", "shard")
        query = f"SELECT {', '.join(names)} FROM rows WHERE position BETWEEN ? AND ? ORDER BY number"
        return [dict(zip(names, values, strict=True)) for values in self._base.execute(query, (first, last))]

    def shards(self) -> dict[int, bool]:
        """The shards that are written, and whether what they were made of has gone."""
        return {number: bool(clean) for number, clean in self._base.execute("SELECT number, is_clean FROM shards")}

    def add_shard(self, number: int, first: int, last: int) -> None:
        with self._all_or_nothing():
            self._base.execute("INSERT OR REPLACE INTO shards VALUES (?, 0)", (number,))
            self._base.execute(
                f"UPDATE rows SET shard = ? WHERE position BETWEEN ? AND ? AND state = '{DONE}'", (number, first, last)
            )

    def clean_shard(self, number: int) -> None:
        with self._all_or_nothing():
            self._base.execute("UPDATE shards SET is_clean = 1 WHERE number = ?", (number,))
