"""The database of kept settings: its file, its tables, its transactions, and its errors as sentences.

    presets     a preset or kept generation: its name as it is looked for, its name as it is shown, a kept generation's
                running number, its document
    pictures    a reference or mask by its content hash, as a PNG file, however many presets use it
    uses        which preset uses which picture
    unused      pictures that no preset uses: since when (in seconds; 0: they go at once)

    preset_thumbnails, picture_thumbnails    small pictures (thumbnails.py), which go with what they are of

The tables of thumbnails were added later. An older database gets them when something is next written, and an older
version of the extension goes on working with a database that has them: they change nothing in the others.

It lies on network drives, too, so it has a rollback journal and no shared memory. Every transaction has a connection
of its own, so that none is used by two threads or carried over into a child process, and a database that is put back
from a backup is seen at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from .document import PresetError, StorageError

FILE = "presets.sqlite3"
SCHEMA_VERSION = 1
PATIENCE = 30.0  # seconds that one transaction waits for another one
_GIVE_BACK = 8  # a database of which more than an eighth is free space is made smaller

_SCHEMA = (
    "CREATE TABLE presets (key TEXT PRIMARY KEY, name TEXT NOT NULL, kept INTEGER UNIQUE, document BLOB NOT NULL)",
    "CREATE TABLE pictures (content_hash TEXT PRIMARY KEY, file_hash BLOB NOT NULL, png BLOB NOT NULL)",
    """CREATE TABLE uses (
        preset TEXT NOT NULL REFERENCES presets ON DELETE CASCADE ON UPDATE CASCADE,
        content_hash TEXT NOT NULL REFERENCES pictures,
        PRIMARY KEY (preset, content_hash)) WITHOUT ROWID""",
    "CREATE INDEX users ON uses (content_hash)",
    """CREATE TABLE unused (
        content_hash TEXT PRIMARY KEY REFERENCES pictures ON DELETE CASCADE, since REAL NOT NULL) WITHOUT ROWID""",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_ADDED = (
    """CREATE TABLE IF NOT EXISTS preset_thumbnails (
        preset TEXT PRIMARY KEY REFERENCES presets ON DELETE CASCADE ON UPDATE CASCADE, jpeg BLOB NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS picture_thumbnails (
        content_hash TEXT PRIMARY KEY REFERENCES pictures ON DELETE CASCADE, jpeg BLOB NOT NULL)""",
)

# What SQLite says, whichever function it says it of -> what is wrong, and what to do.
_SENTENCES = {
    ("database is locked", "database table is locked"): (
        "Another program has been holding {path} for {patience:.0f} seconds, or its drive allows no locks: close other "
        "WebUIs that use this folder, or start the WebUI with a --data-dir on a local disk."
    ),
    ("disk is full",): "There is no room left for {path}: make room on the disk, and try again.",
    ("readonly", "read-only", "unable to open", "access permission denied", "authorization denied"): (
        "{path} cannot be {done} ({error}): check the permissions of the file and its folder, and try again."
    ),
    ("malformed", "not a database", "corrupt", "unsupported file format"): (
        "{path} is damaged ({error}): put it back from a backup, or give it another name to begin without presets."
    ),
    ("disk I/O error", "locking protocol"): (
        "The drive with {path} answers with an error ({error}): check it; if it is a network drive, start the WebUI "
        "with a --data-dir on a local disk."
    ),
}
_OTHERWISE = "{path} cannot be {done} ({error}): check the disk and the permissions of the folder, and try again."


class Database:
    """The database in ``folder``. Creates nothing before something is written."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.patience = PATIENCE

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """A transaction that sees one state of everything, and keeps writers waiting for its time; None where nothing
        has been written yet. Raises StorageError, and PresetError for a database from the future."""
        with self._errors("read", self.patience):
            if not self.path.exists():
                yield None
                return
            with closing(self._connection(self.patience)) as connection:
                connection.execute("BEGIN")
                yield connection if self._version(connection) else None

    @contextmanager
    def writing(self, patience: float | None = None) -> Iterator[sqlite3.Connection]:
        """A transaction that is alone; what it wrote is there when it ends, and none of it if it raises. Raises like
        ``reading``. ``patience``: seconds to wait for others, if not as long as usual."""
        patience = self.patience if patience is None else patience
        with self._errors("written", patience):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connection(patience)) as connection:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # heard only before the first table is made
                connection.execute("BEGIN IMMEDIATE")
                try:
                    for statement in () if self._version(connection) else _SCHEMA:
                        connection.execute(statement)
                    for statement in _ADDED:
                        connection.execute(statement)
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
                _give_back(connection)

    def _connection(self, patience: float) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=patience, isolation_level=None)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            # A journal that came back after a power failure would undo what has been told as done.
            connection.execute("PRAGMA synchronous = EXTRA")
        except BaseException:
            connection.close()
            raise
        return connection

    def _version(self, connection: sqlite3.Connection) -> int:
        """The version of the tables, 0 where there are none yet. Raises PresetError for one that is not ours."""
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise PresetError(
                f"{self.path} was written by a newer version of the extension (format {version}, this one reads up to "
                f"{SCHEMA_VERSION}): update the extension."
            )
        if version < 1 and connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise StorageError(f"{self.path} is another program's database: give it another name, and try again.")
        return int(version)

    @contextmanager
    def _errors(self, done: str, patience: float) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            sentence = next(
                (sentence for words, sentence in _SENTENCES.items() if any(word in reason for word in words)),
                _OTHERWISE,
            )
            raise StorageError(sentence.format(path=self.path, done=done, error=reason, patience=patience)) from error


def _give_back(connection: sqlite3.Connection) -> None:
    """Make the file smaller where much of it is free space; little is left for what is written next."""
    try:
        [free], [pages] = (
            connection.execute(f"PRAGMA {count}").fetchone() for count in ("freelist_count", "page_count")
        )
        if free * _GIVE_BACK > pages:
            connection.executescript("PRAGMA incremental_vacuum")  # ``execute`` would stop after its first page
    except sqlite3.Error:  # what has been written is there; the next one gives back
        pass
