"""What a row costs beside the WebUI's own time, and what memory a long run takes."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

from lib_ipadapter.batch.manifest import read_manifest

from .cluster import Cluster, Command, hosts


def _write_jobs(path: Path, rows: int) -> None:
    with path.open("w") as file:
        for number in range(rows):
            file.write(json.dumps({"prompt": f"cat {number}", "seed": number}) + "\n")


def scaling(folder: Path, rows: int, seconds: float, repeats: int) -> None:
    """1, 2 and 4 hosts, in turn: the share of the hosts' time that they are at work, and the rest for each row."""
    cluster = Cluster(folder, gpus=0)
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: [], 4: []}
    try:
        for repeat in range(repeats):
            for count, values in found.items():
                jobs, out = folder / f"{count}-{repeat}.jsonl", folder / f"out-{count}-{repeat}"
                many = (rows or 40) * count
                _write_jobs(jobs, many)
                with hosts(count, seconds) as urls:
                    Command(cluster, jobs, out, [part for url in urls for part in ("--endpoint", url)]).wait()
                values.append(_cost(out, count, seconds))
                print(f"{count} hosts, {many} rows: efficiency {values[-1][0]:.3f}, {values[-1][1]:.1f} ms", flush=True)
    finally:
        cluster.close()
    for count, values in found.items():
        shares, costs = zip(*values, strict=True)
        print(
            f"{count} hosts: efficiency {statistics.median(shares):.3f} ({min(shares):.3f} to {max(shares):.3f}), "
            f"{statistics.median(costs):.1f} ms a row ({min(costs):.1f} to {max(costs):.1f})"
        )


def _cost(out: Path, count: int, seconds: float) -> tuple[float, float]:
    """Efficiency; and the hosts' idle time for each row, in milliseconds."""
    lines = list(read_manifest(out))
    ends = [line["finished"].timestamp() for line in lines]
    begun = min(end - line["seconds"] for end, line in zip(ends, lines, strict=True))
    wall = max(ends) - begun
    return len(lines) * seconds / (count * wall), (wall * count / len(lines) - seconds) * 1000


def memory(folder: Path, rows: int, seconds: float, repeats: int) -> None:
    """Two hosts that answer at once; what driver and workers hold in memory after each tenth."""
    many, cluster = rows or 100_000, Cluster(folder, gpus=0)
    jobs, out = folder / "jobs.jsonl", folder / "out"
    _write_jobs(jobs, many)
    held: list[tuple[int, int, int]] = []
    try:
        with hosts(2, 0.0) as urls:
            begun = time.monotonic()
            command = Command(cluster, jobs, out, [part for url in urls for part in ("--endpoint", url)])
            step = many // 10
            while command.is_running:
                time.sleep(0.5)
                with command.log.open("rb") as log:
                    done = sum(1 for line in log if line.startswith(b"row "))
                if done >= step * (len(held) + 1):
                    workers = [_resident(pid) for pid in cluster.workers()]
                    held.append((done, _resident(command.process.pid), max(workers, default=0)))
                    rows_done, driver, worker = held[-1]
                    print(f"{rows_done:,} rows: driver {driver} MiB, largest worker {worker} MiB", flush=True)
            command.wait()
            took = time.monotonic() - begun
    finally:
        cluster.close()
    print(f"{many:,} rows in {took:.0f} s, {took / many * 1000:.2f} ms a row, start, plan, manifest included")
    if held[-1][1] > held[1][1] + 50 or held[-1][2] > held[1][2] + 50:
        sys.exit("the memory has grown by more than 50 MiB since the second tenth")


def _resident(pid: int) -> int:
    """MiB."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024
    except (OSError, StopIteration):
        return 0
