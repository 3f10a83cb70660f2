"""Presets that several threads and processes change at once, or that are killed while they do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from lib_ipadapter.presets import atomic
from lib_ipadapter.presets.store import PresetExists, StorageError, Store
from tests.helpers.files import picture
from tests.helpers.paths import ROOT
from tests.helpers.presets import age, prints, shown, stored, with_pictures


def test_threads_do_not_lose_each_others_changes(tmp_path: Path, no_fsync) -> None:
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
    assert not list(tmp_path.rglob("*.part"))


def test_only_one_of_those_who_take_a_name_gets_it(tmp_path: Path, no_fsync) -> None:
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
    age(store, 60)
    assert other.names() == ["a"]  # from memory, from now on
    store.save("A", [with_pictures(1)], overwrite=True)
    assert other.names() == ["A"]
    other.delete("a")
    assert store.names() == []


def test_where_locks_are_unknown_a_new_name_is_still_taken_once(store: Store, monkeypatch) -> None:
    def unknown(file) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(atomic, "_try_lock", unknown)
    store.save("a", [with_pictures(0)])
    monkeypatch.setattr(Path, "exists", lambda path: False)  # the other one comes between looking and writing
    with pytest.raises(PresetExists):
        store.save("a", [with_pictures(1)])
    monkeypatch.undo()
    monkeypatch.setattr(atomic, "_try_lock", unknown)
    assert shown(store.load("a")) == shown([with_pictures(0)])
    store.delete("a")
    assert stored(store) == prints(0, 1)  # nobody can tell whether another process is about to use them
    age(store, 25 * 3600)
    Store(store.folder).save("b", [])
    assert stored(store) == set()


def test_where_there_are_no_hard_links(store: Store, monkeypatch) -> None:
    def refused(*_args) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    store.save("a", [with_pictures(0)])
    with pytest.raises(PresetExists):
        store.save("a", [with_pictures(1)])
    assert shown(store.load("a")) == shown([with_pictures(0)])
    assert not list(store.folder.rglob("*.part"))


def test_a_writer_that_waits_for_ever_is_told_why(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(atomic, "PATIENCE", 0.05)
    with atomic.one_writer(store.folder / "lock"), pytest.raises(StorageError, match="Another program .* close other"):
        store.save("a", [])
    store.save("a", [])
    with open(store.folder / "lock", "ab") as file:  # another process
        atomic._try_lock(file)
        with pytest.raises(StorageError, match="Another program"):
            store.delete("a")
    store.delete("a")


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "ip-adapter")
    assert store.names() == []
    for action in (lambda: store.save("a", []), lambda: store.keep("a", []), lambda: store.put_picture(picture())):
        with pytest.raises(StorageError, match="cannot be written .* try again"):
            action()


def test_a_picture_swept_while_it_was_saved_is_written_again(store: Store, monkeypatch) -> None:
    """Another process deletes the last preset with that picture between our look at it and our turn."""
    store.save("a", [with_pictures(0)])
    alone = store._alone

    def late() -> Any:
        monkeypatch.setattr(store, "_alone", alone)
        Store(store.folder).delete("a")
        assert stored(store) == set()
        return alone()

    monkeypatch.setattr(store, "_alone", late)
    store.save("b", [with_pictures(0)])
    assert shown(store.load("b")) == shown([with_pictures(0)])


def test_a_preset_overwritten_while_it_is_loaded_is_loaded_whole(store: Store, monkeypatch) -> None:
    store.save("a", [with_pictures(0, 1)])
    found = Store._picture_file

    def late(self, name):
        monkeypatch.setattr(Store, "_picture_file", found)
        Store(store.folder).save("a", [with_pictures(2)], overwrite=True)
        return found(self, name)

    monkeypatch.setattr(Store, "_picture_file", late)
    assert shown(store.load("a")) == shown([with_pictures(2)])


@pytest.mark.parametrize("at", range(12))
def test_killed_between_two_steps_everything_is_old_or_new(at: int, store: Store, monkeypatch) -> None:
    """Every single step of a writer at which it can die; what it would have tidied up stays."""

    class Killed(BaseException):
        pass

    store.save("a", [with_pictures(0, 1)])
    store.save("b", [with_pictures(2)])
    steps = []

    def step(name: str):
        done = getattr(os, name)

        def dying(*args, **kwargs):
            if len(steps) >= at:
                raise Killed
            steps.append(name)
            return done(*args, **kwargs)

        monkeypatch.setattr(os, name, dying)

    for name in ("fsync", "replace", "link", "unlink", "utime"):
        step(name)
    died = False
    try:
        store.save("a", [with_pictures(1, 3)], overwrite=True)
        store.rename("b", "c")
    except Killed:
        died = True
    monkeypatch.undo()
    fresh = Store(store.folder)
    assert shown(fresh.load("a")) in (shown([with_pictures(0, 1)]), shown([with_pictures(1, 3)]))
    assert fresh.names() in (["a", "b"], ["a", "c"], ["a", "b", "c"])
    assert all(shown(fresh.load(name)) == shown([with_pictures(2)]) for name in fresh.names()[1:])
    if not died:
        assert fresh.names() == ["a", "c"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children start too slowly without fork")
def test_real_processes_at_once_and_killed() -> None:
    """The benchmark with few rounds: it exits with 1 where anything is lost."""
    command = [sys.executable, "-m", "benchmarks.presets", "--presets", "0", "--writers", "3", "--kills", "12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills: 12 at random moments" in done.stdout
