"""Presets that several threads and processes change at once, or that are killed while they do."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib_ipadapter.presets import database, pictures
from lib_ipadapter.presets import store as presets
from lib_ipadapter.presets.store import PresetError, PresetExists, StorageError, Store
from tests.helpers.presets import age, prints, rows, shown, stored, tables, with_pictures


def test_threads_do_not_lose_each_others_changes(tmp_path: Path) -> None:
    """Two tabs and the API in one process: stores of their own, or one."""
    shared, failures = Store(tmp_path), []

    def work(number: int) -> None:
        store = shared if number % 2 else Store(tmp_path)
        try:
            for i in range(6):
                store.save(f"{number} {i}", [with_pictures(number, i)])
                store.save("all", [with_pictures(number + 10)], overwrite=True)
                store.keep("generation", [with_pictures(number)])
                assert len(store.load("all")) == 1
                store.rename(f"{number} {i}", f"{number} renamed {i}")
                if i % 2:
                    store.delete(f"{number} renamed {i}")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert shared.names() == [*(f"{n} renamed {i}" for n in range(4) for i in (0, 2, 4)), "all"]
    assert all(
        shown(shared.load(f"{n} renamed {i}")) == shown([with_pictures(n, i)]) for n in range(4) for i in (0, 2, 4)
    )
    assert len(shared.recent()) == 24


def test_only_one_of_those_who_take_a_name_gets_it(tmp_path: Path) -> None:
    won: list[int] = []

    def take(number: int) -> None:
        try:
            Store(tmp_path).save("mine", [with_pictures(number)])
            won.append(number)
        except PresetExists:
            pass

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = won
    assert shown(Store(tmp_path).load("mine")) == shown([with_pictures(winner)])


def test_other_stores_see_changes_at_once(store: Store) -> None:
    other = Store(store.folder)
    store.save("a", [with_pictures(0)])
    assert other.names() == ["a"]
    store.save("A", [with_pictures(1)], overwrite=True)
    assert other.names() == ["A"]
    other.delete("a")
    assert store.names() == []


def test_a_database_that_is_put_back_is_seen_at_once(store: Store) -> None:
    store.save("a", [with_pictures(0)])
    backup = store.database.path.read_bytes()
    store.save("b", [])
    other = store.database.path.with_suffix(".backup")
    other.write_bytes(backup)
    os.replace(other, store.database.path)
    assert store.names() == ["a"]
    assert shown(store.load("a")) == shown([with_pictures(0)])


# What goes wrong around it


def writers(store: Store) -> list[Callable[[], Any]]:
    return [
        lambda: store.save("new", [with_pictures(5)]), lambda: store.keep("new", []), lambda: store.rename("a", "new"),
        lambda: store.delete("a"), lambda: store.import_(exported(store)),
    ]  # fmt: skip


def exported(store: Store) -> bytes:
    other = Store(store.folder.parent / "other")
    other.save("new", [with_pictures(6)], overwrite=True)
    return other.export()


def refused(store: Store, sentence: str, reading: bool = False) -> None:
    """Whatever writes says so and changes nothing."""
    before = None if reading else rows(store)
    readers = [store.names, store.recent, lambda: store.load("a"), store.export, lambda: store.picture("0" * 64)]
    for action in [*writers(store), *(readers if reading else [])]:
        with pytest.raises(StorageError, match=sentence) as caught:
            action()
        assert caught.value.status_code == 500
    assert reading or rows(store) == before


def test_a_writer_that_waits_for_ever_is_told_why(store: Store, monkeypatch) -> None:
    store.save("a", [with_pictures(0)])
    store.database.patience = 0.05
    monkeypatch.setattr(presets, "KEEP_PATIENCE", 0.05)
    with tables(store) as connection:  # as another process does it
        connection.execute("BEGIN IMMEDIATE")
        refused(store, "Another program has been holding .*presets.sqlite3 .* close other WebUIs")
        assert store.names() == ["a"]  # readers do not wait for it
    store.save("b", [])


def test_a_generation_does_not_wait_long(store: Store, monkeypatch) -> None:
    store.save("a", [])
    monkeypatch.setattr(presets, "KEEP_PATIENCE", 0.2)
    with tables(store) as connection:
        connection.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(StorageError, match="holding"):
            store.keep("generation", [with_pictures(0)])
        assert time.monotonic() - started < 5


def test_a_full_disk_is_told(store: Store, monkeypatch) -> None:
    store.save("a", [with_pictures(0)])
    connected = database.Database._connection

    def full(self: Any, patience: float) -> sqlite3.Connection:
        connection = connected(self, patience)
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    monkeypatch.setattr(database.Database, "_connection", full)
    before = rows(store)
    for action in (lambda: store.save("b", [with_pictures(1)]), lambda: store.import_(exported(store))):
        with pytest.raises(StorageError, match="no room left for .*: make room on the disk"):
            action()
    assert rows(store) == before
    assert shown(store.load("a")) == shown([with_pictures(0)])


def test_a_read_only_database_is_told(store: Store, monkeypatch) -> None:
    """Whoever runs the tests may write everywhere; SQLite is asked to refuse."""
    store.save("a", [with_pictures(0)])
    connected = database.Database._connection

    def read_only(self: Any, patience: float) -> sqlite3.Connection:
        connection = connected(self, patience)
        connection.execute("PRAGMA query_only = ON")
        return connection

    monkeypatch.setattr(database.Database, "_connection", read_only)
    refused(store, "presets.sqlite3 cannot be written .*permissions")
    assert shown(store.load("a")) == shown([with_pictures(0)])


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"no database at all" * 100, "is damaged .*put it back from a backup"),
        (None, "is damaged .*put it back from a backup"),  # the tables' pages are overwritten
    ],
)
def test_a_damaged_database_is_told(data: bytes | None, sentence: str, store: Store) -> None:
    store.save("a", [with_pictures(0)])
    whole = store.database.path.read_bytes()
    store.database.path.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100) if data is None else data)
    refused(store, sentence, reading=True)
    store.database.path.rename(store.folder / "damaged")
    store.save("a", [])
    assert store.names() == ["a"]


def test_a_database_of_others_is_left_alone(store: Store) -> None:
    store.folder.mkdir(parents=True)
    with tables(store) as connection:
        connection.execute("CREATE TABLE songs (title)")
    before = store.database.path.read_bytes()
    refused(store, "another program's database: give it another name", reading=True)
    assert store.database.path.read_bytes() == before


def test_a_database_from_the_future_is_told(store: Store) -> None:
    store.save("a", [])
    with tables(store) as connection:
        connection.execute("PRAGMA user_version = 7")
    for action in [*writers(store), store.names, lambda: store.load("a")]:
        with pytest.raises(PresetError, match=r"newer version .*\(format 7, this one reads up to 1\): update"):
            action()


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "ip-adapter")
    assert store.names() == []
    for action in (lambda: store.save("a", []), lambda: store.keep("a", [])):
        with pytest.raises(StorageError, match="cannot be written .* try again"):
            action()


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("disk I/O error", "drive .* local disk"), ("locking protocol", "drive .* local disk"),
        ("unable to open database file", "presets.sqlite3 cannot be read .*permissions of the file and its folder"),
        ("something new", "cannot be read .*something new.*: check the disk"),
    ],
)  # fmt: skip
def test_what_sqlite_says_becomes_a_sentence(reason: str, sentence: str, store: Store, monkeypatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError(reason)

    store.save("a", [])
    monkeypatch.setattr(sqlite3, "connect", fails)
    with pytest.raises(StorageError, match=sentence):
        store.names()


# Others in between


def test_a_picture_swept_while_it_was_saved_is_written_again(store: Store, monkeypatch) -> None:
    """Another process deletes the last preset with that picture between our look at it and our turn."""
    store.save("a", [with_pictures(0)])
    change = store._change

    def late(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(store, "_change", change)
        Store(store.folder).delete("a")
        assert stored(store) == set()
        return change(*args, **kwargs)

    monkeypatch.setattr(store, "_change", late)
    store.save("b", [with_pictures(0)])
    assert shown(store.load("b")) == shown([with_pictures(0)])


def test_a_preset_overwritten_while_it_is_loaded_is_loaded_whole(store: Store, monkeypatch) -> None:
    store.save("a", [with_pictures(0, 1)])
    read, late = pictures.read, []

    def overwritten(connection: sqlite3.Connection, name: str) -> bytes | None:
        if not late:
            thread = threading.Thread(
                target=Store(store.folder).save, args=("a", [with_pictures(2)]), kwargs={"overwrite": True}
            )
            late.append(thread)
            thread.start()
            time.sleep(0.2)  # it waits for us
        return read(connection, name)

    monkeypatch.setattr(pictures, "read", overwritten)
    assert shown(store.load("a")) == shown([with_pictures(0, 1)])
    late[0].join()
    assert shown(store.load("a")) == shown([with_pictures(2)])


def test_what_fails_takes_its_pictures_back(store: Store) -> None:
    store.save("a", [with_pictures(0)])
    with tables(store) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON presets BEGIN SELECT raise(ABORT, 'disk I/O error'); END"
        )
    with pytest.raises(StorageError):
        store.save("b", [with_pictures(0, 1)])
    assert stored(store) == prints(0)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", range(30))
def test_killed_between_two_steps_everything_is_old_or_new(at: int, store: Store, monkeypatch) -> None:
    """Every single statement of a writer at which it can die, with nothing tidied up."""
    store.save("a", [with_pictures(0, 1)])
    store.save("b", [with_pictures(2)])
    steps = []

    class Dying(sqlite3.Connection):
        def execute(self, statement: str, *args: Any) -> sqlite3.Cursor:
            steps.append(statement)
            if len(steps) > at:
                raise Killed
            return super().execute(statement, *args)

        def executemany(self, statement: str, *args: Any) -> sqlite3.Cursor:
            steps.append(statement)
            if len(steps) > at:
                raise Killed
            return super().executemany(statement, *args)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, factory=Dying, **kwargs))
    with pytest.raises(Killed):
        store.save("a", [with_pictures(1, 3)], overwrite=True)
        store.rename("b", "c")
        assert len(steps) < 30  # then some steps are not tried
        raise Killed
    monkeypatch.undo()
    fresh = Store(store.folder)
    assert shown(fresh.load("a")) in (shown([with_pictures(0, 1)]), shown([with_pictures(1, 3)]))
    assert fresh.names() in (["a", "b"], ["a", "c"])
    assert shown(fresh.load(fresh.names()[1])) == shown([with_pictures(2)])
    age(fresh, 25 * 3600)
    fresh.save("d", [])
    assert stored(fresh) == prints(2) | (prints(0, 1) if len(fresh.load("a")[0]["images"]) == 0 else set()) | {
        one for unit in fresh.load("a") for one in shown(unit["images"])
    }
