"""``kill -9`` of the driver, of workers and of WebUIs at random moments, and what is there in the end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import tarfile
import time
from pathlib import Path

from lib_ipadapter.batch.manifest import read_manifest

from .cluster import Command, Joined, wait_for, webui_folder, webuis

GPUS = 2  # and as many WebUIs
SECONDS = 0.05  # of a WebUI for a row
SEEDS = "the same"  # what the seeds of rows without one come from


def write_jobs(path: Path, rows: int) -> None:
    """Two checkpoints, three references, rows with and without a seed, and one of 40 that is refused."""
    for name in "abc":
        (path.parent / f"{name}.png").write_bytes(f"reference {name}".encode())
    with path.open("w") as file:
        for number in range(1, rows + 1):
            what = "refuse" if number % 40 == 9 else "cat"
            row: dict[str, str | int] = {"prompt": f"{what} {number}", "checkpoint": ("one", "two")[number % 2]}
            if number % 3:
                row["seed"] = number
            if number % 4 == 0:
                row |= {"unit.model": "adapter", "unit.image": f"{'abc'[number % 3]}.png"}
            file.write(json.dumps(row) + "\n")


def result(out: Path) -> dict[int, tuple[str, int, tuple[str, ...]]]:
    """State, seed and contents of each row. Raises AssertionError where files and manifest differ."""
    found: dict[int, tuple[str, int, tuple[str, ...]]] = {}
    files = set()
    for line in read_manifest(out):
        assert line["row"] not in found, f"row {line['row']} is there twice"
        contents = []
        for picture in line["pictures"]:
            contents.append(hashlib.sha256(_content(out, line["shard"], picture["file"])).hexdigest())
            assert contents[-1] == picture["sha256"], f"row {line['row']}: its file is not the one of the manifest"
            if line["shard"] is None:
                files.add(picture["file"])
        found[line["row"]] = line["state"], line["seed"], tuple(contents)
    on_disk = {str(path.relative_to(out)) for path in (out / "pictures").rglob("*") if path.is_file()}
    assert on_disk == files, f"{len(on_disk ^ files)} files are not the manifest's"
    return found


def _content(out: Path, shard: str | None, file: str) -> bytes:
    if shard is None:
        return (out / file).read_bytes()
    with tarfile.open(out / shard) as opened:
        found = opened.extractfile(Path(file).name)
        assert found is not None, f"{shard} lacks {file}"
        return found.read()


def listing(out: Path) -> set[str]:
    """All that is in the folder, besides what WebUIs have written."""
    names = {str(path.relative_to(out)) for path in out.rglob("*")}
    return {name for name in names if name.split("/")[0] != "logs"}


class Kills:
    """Runs with kills, each compared with one without."""

    def __init__(self, folder: Path, cluster: Joined, rows: int, seed: int = 1, shards: int = 0) -> None:
        self.folder, self.random, self.shards = folder, random.Random(seed), shards
        self.webui, self.log = webui_folder(folder, SECONDS)
        self.jobs, self.rows = folder / "jobs.jsonl", rows
        write_jobs(self.jobs, rows)
        self.cluster = cluster
        started = time.monotonic()
        self._start("calm").wait()
        self.calm = time.monotonic() - started
        self.want = result(folder / "calm")
        self.listing = listing(folder / "calm")
        assert sorted(self.want) == list(range(1, rows + 1))

    def _start(self, name: str) -> Command:
        more = ["--webui", str(self.webui), "--seed", SEEDS, "--patience", "280"]
        more += ["--shards", str(self.shards)]
        return Command(self.cluster, self.jobs, self.folder / name, more)

    def _same(self, name: str) -> None:
        got = result(self.folder / name)
        differs = [number for number in self.want if self.want[number] != got.get(number)]
        assert got.keys() == self.want.keys() and not differs, f"{name}: {len(differs)} rows differ: {differs[:5]}"
        left = sorted(listing(self.folder / name) ^ self.listing)
        assert not left, f"{name}: the folder differs: {left[:5]}"
        wait_for("the end of all WebUIs", lambda: not webuis(self.log), limit=30)

    def drivers(self, count: int) -> int:
        """The command is killed and given again."""
        done, runs = 0, 0
        while done < count:
            name = f"drivers-{runs}"
            runs += 1
            while (command := self._start(name)).is_running and done < count:
                if self.random.random() < 0.7:  # else while it begins
                    command.wait_for_rows()
                time.sleep(self.random.random() * 0.6)
                if not command.is_running:
                    break
                command.kill()
                done += 1
            command.wait()
            self._same(name)
        return done

    def others(self, count: int, what: str) -> int:
        """Workers, or WebUIs, are killed while one command goes on."""
        done, runs = 0, 0
        while done < count:
            name = f"{what}-{runs}"
            runs += 1
            command = self._start(name)
            command.wait_for_rows()
            while command.is_running and done < count:
                time.sleep(self.random.random() * 0.5)
                pids = self.cluster.workers() if what == "workers" else webuis(self.log)
                if pids and command.is_running:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self.random.choice(pids), signal.SIGKILL)
                        done += 1
            (self._start(name) if command.was_given_up else command).wait()
            self._same(name)
        return done

    def together(self, count: int) -> dict[str, int]:
        """The command, workers and WebUIs are killed in the same runs, each so often: most commands while they
        begin, the others while rows are made."""
        done, runs = {"drivers": 0, "workers": 0, "WebUIs": 0}, 0
        while min(done.values()) < count and runs < 20 * count:
            name = f"together-{runs}"
            runs += 1
            while (command := self._start(name)).is_running:
                is_last = done["drivers"] == count
                if done["drivers"] % 4 and not is_last:
                    time.sleep(self.random.random() * 2)
                else:
                    command.wait_for_rows()
                self._strike(done, count, command, rounds=100 * count if is_last else 1)
                if is_last or not command.is_running:
                    break
                command.kill()
                done["drivers"] += 1
            command.wait()
            self._same(name)
        return done

    def _strike(self, done: dict[str, int], count: int, command: Command, rounds: int) -> None:
        """Kill a worker and a WebUI, ``rounds`` times where as many are left to be killed."""
        for _ in range(rounds):
            for what, pids in (("workers", self.cluster.workers), ("WebUIs", lambda: webuis(self.log))):
                if done[what] < count and (found := pids()) and command.is_running:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self.random.choice(found), signal.SIGKILL)
                        done[what] += 1
                time.sleep(self.random.random() * 0.2)
            if not command.is_running or min(done["workers"], done["WebUIs"]) == count:
                return
