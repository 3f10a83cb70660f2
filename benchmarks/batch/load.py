"""What a row costs beside the WebUI's own time, and what memory a long run takes."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
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
    found: dict[int, list[tuple[float, float, float]]] = {1: [], 2: [], 4: []}
    try:
        for repeat in range(repeats):
            for count, values in found.items():
                jobs, out = folder / f"{count}-{repeat}.jsonl", folder / f"out-{count}-{repeat}"
                many = (rows or 60) * count
                _write_jobs(jobs, many)
                with hosts(count, seconds) as urls:
                    Command(cluster, jobs, out, [part for url in urls for part in ("--endpoint", url)]).wait()
                values.append(_cost(out, count, seconds))
                whole, wait, steady = values[-1]
                print(f"{count} hosts, {many} rows: {wait:.1f} ms, {steady:.3f}; whole run {whole:.3f}", flush=True)
    finally:
        cluster.close()
    for count, values in found.items():
        wholes, waits, steadies = zip(*values, strict=True)
        print(
            f"{count} hosts: {_spread(waits, 1)} ms a row, efficiency {_spread(steadies, 3)}, "
            f"start and end included {_spread(wholes, 3)}"
        )


def _spread(values: Sequence[float], digits: int) -> str:
    shown = [f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def _cost(out: Path, count: int, seconds: float) -> tuple[float, float, float]:
    """Of the whole run, start and end included, the share of the hosts' time that they are at work; and how long a host
    that has work waits for each row, in milliseconds: from its first row to its last, in the mean over all hosts. Last,
    the share that follows from that."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for line in read_manifest(out):
        end = line["finished"].timestamp()
        spans.setdefault(line["endpoint"], []).append((end - line["seconds"], end))
    begun, ended = _ends([one for rows_of in spans.values() for one in rows_of])
    rows = sum(map(len, spans.values()))
    waits = [(last - first) / len(rows_of) - seconds for rows_of in spans.values() for first, last in [_ends(rows_of)]]
    wait = statistics.mean(waits)
    return rows * seconds / (count * (ended - begun)), wait * 1000, seconds / (seconds + wait)


def _ends(spans: list[tuple[float, float]]) -> tuple[float, float]:
    return min(begin for begin, _ in spans), max(end for _, end in spans)


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
