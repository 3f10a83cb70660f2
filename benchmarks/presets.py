"""The store of presets: how long lists take, and what a kill loses.

    .venv/bin/python -m benchmarks.presets [--presets 1000] [--writers 4] [--kills 200] [--seed 0] [--folder …]

Lists: presets of two references each are written, then listed by a store that has never seen them and again by the
same store.

Writers: processes save, rename, delete and overwrite presets in one folder at once, while another one loads the preset
that all of them overwrite; at the end everything has to be there, and every load has to have been a whole preset.

Kills: a child process saves, overwrites, renames, deletes, keeps and imports presets without pause, telling before and
after each change what it does; at a random moment it is killed (SIGKILL). Then every preset and every kept generation
whose change was told as done has to load as it was, pixel for pixel, and what was under way has to be whole: as
before or as after. The next child goes on in the same folder. Only kills that hit a change are counted.

Exits with 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import itertools
import multiprocessing
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib_ipadapter.encode.picture import content_hash
from lib_ipadapter.errors import IPAdapterError
from lib_ipadapter.presets.store import Store

POOL, SIDE, HISTORY, MOST = 24, 160, 8, 14
Change = tuple[str, Any]
State = dict[str, int]  # name -> seed of its units


@functools.cache
def picture(number: int) -> Image.Image:
    """One picture of the pool; noise, so that its file is not small."""
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


@functools.cache
def pool() -> dict[str, int]:
    return {content_hash(picture(number)): number for number in range(POOL)}


def units(seed: int, references: int = 2) -> list[dict[str, Any]]:
    pictures = random.Random(seed).sample(range(POOL), references)
    first, *others = [picture(number) for number in pictures]
    return [{"model": f"adapter {seed}", "weight": seed / 10**6, "images": [*others, {"image": first, "weight": 0.5}]}]


def told(units: list[dict[str, Any]]) -> Any:
    """Units in a form that can be compared, pictures by their numbers."""

    def shown(value: Any) -> Any:
        if isinstance(value, Image.Image):
            return pool()[content_hash(value)]
        if isinstance(value, dict):
            return {key: shown(part) for key, part in value.items()}
        return [shown(part) for part in value] if isinstance(value, list) else value

    return shown(units)


# The changes, and what each may leave


def choose(state: State, recent: State, rng: random.Random, fresh: Iterator[int]) -> Change:
    """The next change: its name, and what it changes."""
    seed, name = rng.randrange(10**6), f"preset {next(fresh)} ü"
    if not state:
        return "save", (name, seed)
    some = rng.choice(sorted(state))
    kinds = ["save", "overwrite", "overwrite", "rename", "keep", "import", "delete"]
    if len(state) > MOST:
        kinds = ["overwrite", "rename", "delete", "delete"]
    kind = rng.choice(kinds)
    if kind == "import":
        return kind, [(f"{name} {i}", seed + i) for i in range(2)]
    if kind == "rename":
        return kind, (some, name)
    return kind, {"save": (name, seed), "overwrite": (some, seed), "keep": (name, seed), "delete": some}[kind]


def apply(store: Store, change: Change) -> None:
    kind, what = change
    if kind == "import":
        store.import_(exported(tuple(what)))
    elif kind == "rename":
        store.rename(*what)
    elif kind == "delete":
        store.delete(what)
    elif kind == "keep":
        store.keep(what[0], units(what[1]))
    else:
        store.save(what[0], units(what[1]), overwrite=kind == "overwrite")


@functools.lru_cache(4)
def exported(named: tuple[tuple[str, int], ...]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        other = Store(Path(folder))
        for name, seed in named:
            other.save(name, units(seed))
        return other.export()


def after(change: Change, state: State, recent: State) -> tuple[State, State]:
    """What is there when ``change`` is done. ``recent``: newest first."""
    (kind, what), state, recent = change, dict(state), dict(recent)
    if kind == "import":
        state |= dict(what)
    elif kind == "rename":
        state[what[1]] = state.pop(what[0])
    elif kind == "delete":
        del state[what]
    elif kind == "keep":
        recent = dict([what, *recent.items()][:HISTORY])
    else:
        state[what[0]] = what[1]
    return state, recent


def outcomes(change: Change, state: State, recent: State) -> list[tuple[State, State]]:
    """What may be there when ``change`` was under way: nothing lost, nothing half."""
    return [(state, recent), after(change, state, recent)]


def read(store: Store) -> tuple[dict[str, Any], dict[str, Any]]:
    return tuple({name: told(store.load(name)) for name in names} for names in (store.names(), store.recent()))


def seen(states: tuple[State, State]) -> tuple[dict[str, Any], dict[str, Any]]:
    return tuple({name: told(units(seed)) for name, seed in state.items()} for state in states)


def same(found: tuple[dict, dict], wanted: tuple[dict, dict]) -> bool:
    return found == wanted and list(found[1]) == list(wanted[1])


# Writing at once


def writer(folder: Path, number: int, rounds: int) -> None:
    store = Store(folder)
    for i in range(rounds):
        store.save(f"writer {number} preset {i}", units(1000 * number + i))
        store.save("everybody's", units(7000 + number), overwrite=True)
        store.rename(f"writer {number} preset {i}", f"renamed {number} {i}")
        if i % 3 == 2:
            store.delete(f"renamed {number} {i - 1}")


def reader(folder: Path, stop: Any, pipe: Connection) -> None:
    """Load what everybody overwrites until ``stop``; tells how often, and what went wrong."""
    store, loads, wrong = Store(folder), 0, []
    allowed = [told(units(7000 + number)) for number in range(100)]
    while not stop.is_set():
        try:
            if told(store.load("everybody's")) not in allowed:
                wrong.append("neither one nor the other")
        except IPAdapterError as error:
            wrong.append(str(error))
        loads += 1
    pipe.send((loads, wrong))


def write_at_once(folder: Path, writers: int, rounds: int = 20) -> int:
    """Returns how much was lost or wrong."""
    context, stop = _context(), _context().Event()
    ours, theirs = context.Pipe(duplex=False)
    Store(folder).save("everybody's", units(7000))
    watching = context.Process(target=reader, args=(folder, stop, theirs), daemon=True)
    working = [context.Process(target=writer, args=(folder, n, rounds), daemon=True) for n in range(writers)]
    started = time.perf_counter()
    for process in [watching, *working]:
        process.start()
    for process in working:
        process.join()
    took = time.perf_counter() - started
    stop.set()
    loads, wrong = ours.recv()
    watching.join()
    wanted = {
        f"renamed {n} {i}": told(units(1000 * n + i))
        for n in range(writers) for i in range(rounds) if i % 3 != 1 or i + 1 >= rounds
    }  # fmt: skip
    found, _ = read(Store(folder))
    del found["everybody's"]
    failed = sum(process.exitcode != 0 for process in working)
    bad = len(wrong) + failed + sum(found.get(name) != value for name, value in wanted.items())
    bad += len(found.keys() - wanted.keys())
    print(f"{writers} processes writing at once: {writers * rounds * 3} changes in {took:.1f} s, {loads} loads between "
          f"them, lost or wrong: {bad} {sorted(set(wrong))[:3] if wrong else ''}")  # fmt: skip
    return bad


# Killing


def _context() -> Any:
    """Forks where it can: a child starts in no time then."""
    return multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")


def child(folder: Path, state: State, recent: State, seed: int, first: int, pipe: Connection) -> None:
    """Change presets for ever; each change is told before and after."""
    store, rng = Store(folder, HISTORY), random.Random(seed)
    fresh = iter(range(first, first + 10**6))
    while True:
        change = choose(state, recent, rng, fresh)
        if change[0] == "import":
            exported(tuple(change[1]))  # made before, not while we watch
        pipe.send(("begun", change))
        apply(store, change)
        pipe.send(("done", change))
        state, recent = after(change, state, recent)


def kill_rounds(folder: Path, kills: int, seed: int) -> int:
    """Children, one after the other, until ``kills`` have died in a change; returns whether something was lost."""
    context = _context()
    rng = random.Random(seed)
    state: State = {}
    recent: State = {}
    lost, changes, between, under_way = 0, 0, 0, collections.Counter()
    for number in itertools.count():
        if sum(under_way.values()) >= kills:
            break
        ours, theirs = context.Pipe(duplex=False)
        arguments = (folder, state, recent, rng.randrange(2**32), number * 10**6, theirs)
        process = context.Process(target=child, args=arguments, daemon=True)
        process.start()
        theirs.close()
        ours.poll(60)
        time.sleep(rng.uniform(0, 0.25))
        process.kill()
        pending = None
        with contextlib.suppress(EOFError):
            while True:
                word, change = ours.recv()
                if word == "done":
                    state, recent = after(change, state, recent)
                    changes += 1
                pending = change if word == "begun" else None
        process.join()
        if pending:
            under_way[pending[0]] += 1
        else:
            between += 1
        allowed = outcomes(pending, state, recent) if pending else [(state, recent)]
        try:
            found = read(Store(folder, HISTORY))
            kept = next((states for states in allowed if same(found, seen(states))), None)
        except IPAdapterError as error:
            print(f"kill {number + 1}: {error}", flush=True)
            kept = None
        if kept is None:
            lost += 1
            print(f"kill {number + 1}: LOST something while: {pending}", flush=True)
            break
        state, recent = kept
    print(
        f"kills: {sum(under_way.values())} at random moments of changes (and {between} between two), {changes} changes "
        f"done, something lost: {lost}"
    )
    print("under way when killed: " + ", ".join(f"{kind} {count}" for kind, count in under_way.most_common()))
    _leftovers(folder, state, recent)
    return lost


def _leftovers(folder: Path, state: State, recent: State) -> None:
    """What dead processes leave is gone a day later, and nothing else is."""
    store = Store(folder, HISTORY)
    used = {n for seed in [*state.values(), *recent.values()] for n in random.Random(seed).sample(range(POOL), 2)}
    before = _pictures(store)
    with contextlib.closing(sqlite3.connect(store.database.path)) as connection, connection:
        connection.execute("UPDATE unused SET since = since - 2 * 24 * 3600")
        [damage] = connection.execute("PRAGMA integrity_check").fetchone()
    store.save("the next change", [])
    store.delete("the next change")
    print(f"left by the dead: {before - len(used)} pictures; a day later: {_pictures(store) - len(used)}; "
          f"the database: {damage}")  # fmt: skip
    assert same(read(store), seen((state, recent)))
    assert damage == "ok"


def _pictures(store: Store) -> int:
    with contextlib.closing(sqlite3.connect(store.database.path)) as connection:
        return int(connection.execute("SELECT count(*) FROM pictures").fetchone()[0])


# Times


def _median_ms(action: Any, rounds: int = 9) -> str:
    times, busy = [], []
    for _ in range(rounds):
        started, started_busy = time.perf_counter(), time.process_time()
        action()
        times.append(1000 * (time.perf_counter() - started))
        busy.append(1000 * (time.process_time() - started_busy))
    return (
        f"{statistics.median(times):.1f} ms (best and worst of {rounds}: {min(times):.1f}, {max(times):.1f}; "
        f"of the processor {statistics.median(busy):.1f})"
    )


def fresh(image: Image.Image) -> Image.Image:
    """The picture with one pixel that it has never had."""
    image = image.copy()
    image.putpixel((0, 0), tuple(random.randbytes(3)))
    return image


def list_times(folder: Path, count: int) -> None:
    store = Store(folder)
    for number in range(count):
        store.save(f"preset {number}", units(number))
    assert len(store.names()) == count
    print(f"{count} presets, listed by a new store: {_median_ms(lambda: Store(folder).names())}")
    print(f"{count} presets, listed again: {_median_ms(store.names)}")
    numbers = iter(range(count, 10**9))
    print(f"one more saved, new name: {_median_ms(lambda: store.save(f'preset {next(numbers)}', units(1)))}")
    print(f"one overwritten: {_median_ms(lambda: store.save('preset 0', units(next(numbers)), overwrite=True))}")
    print(f"one loaded: {_median_ms(lambda: store.load('preset 0'))}")
    print(f"a generation kept: {_median_ms(lambda: store.keep('generation', units(1)))}")
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), dtype=np.uint8))
    print(f"a generation kept, new reference of 4 megapixels: "
          f"{_median_ms(lambda: store.keep('generation', [{'image': fresh(large)}]), 5)}")  # fmt: skip
    store.keep("generation", [{"image": large}])
    print(f"a generation kept, stored reference of 4 megapixels: "
          f"{_median_ms(lambda: store.keep('generation', [{'image': large}]), 5)}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", type=int, default=1000, help="0: no times")
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work, on the disk that is asked about")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.presets:
            list_times(Path(folder) / "lists", options.presets)
        lost = write_at_once(Path(folder) / "writers", options.writers) if options.writers else 0
        lost += kill_rounds(Path(folder) / "kills", options.kills, options.seed) if options.kills else 0
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
