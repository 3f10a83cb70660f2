"""Catalogues: kills, scaling, and memory. In the environment of requirements-batch.txt, on Linux:

    python -m benchmarks.batch kills --each 100        kill -9 of drivers, workers and WebUIs
    python -m benchmarks.batch together --each 5       all of them in the same runs
    python -m benchmarks.batch simulated --kills 10000
    python -m benchmarks.batch scaling                 1, 2 and 4 hosts that answer after a fixed time
    python -m benchmarks.batch memory                  100,000 rows with hosts that answer at once

Exits with 1 where a row is lost, is there twice, or is not what it is without trouble.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "together", "simulated", "scaling", "memory"))
    parser.add_argument("--each", type=int, default=100, help="kills of each kind")
    parser.add_argument("--kills", type=int, default=10_000, help="simulated ones")
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--shards", type=int, default=0, help="rows of a tar file in runs that are killed")
    parser.add_argument("--join", default="", help="for kills: 'HOST:PORT PID' of a Ray that runs, with two GPUs")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a host for a row")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-") as text:
        folder = Path(text)
        try:
            _run(given, folder)
        except AssertionError as error:
            print(f"wrong: {error}")
            return 1
    return 0


def _run(given: argparse.Namespace, folder: Path) -> None:
    if given.what == "simulated":
        from .simulated import compare

        done = compare(folder, given.rows or given.kills * 2, given.kills, given.seed)
        print(f"simulated: {dict(done)} kills, {given.rows or given.kills * 2:,} rows, all as without")
    elif given.what in ("kills", "together"):
        _kills(given, folder)
    else:
        from . import load

        getattr(load, given.what)(folder, given.rows, given.seconds, given.repeats)


def _kills(given: argparse.Namespace, folder: Path) -> None:
    from .cluster import Cluster, Joined
    from .kills import GPUS, Kills

    address, _, head = given.join.partition(" ")
    cluster = Joined(address, int(head)) if head else Cluster(folder, GPUS)
    try:
        kills = Kills(folder, cluster, given.rows or 120, given.seed, given.shards)
        print(f"without: {kills.rows} rows in {kills.calm:.1f} s", flush=True)
        if given.what == "together":
            done = kills.together(given.each)
            print(f"together: {', '.join(f'{count} {what}' for what, count in done.items())}, all as without")
            return
        print(f"drivers: {kills.drivers(given.each)} kills, all as without", flush=True)
        print(f"workers: {kills.others(given.each, 'workers')} kills, all as without", flush=True)
        print(f"WebUIs: {kills.others(given.each, 'webuis')} kills, all as without", flush=True)
    finally:
        cluster.close()


if __name__ == "__main__":
    sys.exit(main())
