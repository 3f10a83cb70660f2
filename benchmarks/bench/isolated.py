"""Parts that need a process of their own: what they load and start is gone afterwards, and counts for nobody else.

    python -m benchmarks.bench.isolated NAME [--small]

prints a JSON object for each row of the module ``benchmarks.bench.NAME``, whose ``measure(small)`` gives them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from ..gpu.bench import Bench
from ..gpu.measure import Row

ROOT = Path(__file__).resolve().parents[2]


def isolated(bench: Bench, name: str) -> Iterator[Row]:
    """The rows of the module of that name. Raises RuntimeError with the last words of a process that fails."""
    command = [sys.executable, "-m", __name__, name, *(["--small"] if bench.small else [])]
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryDirectory(prefix="ip-adapter-bench-") as folder:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=said, text=True,
            env={**os.environ, "DEMO_HOST_DATA": str(Path(folder) / "data"), "TMPDIR": folder},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            for line in process.stdout:
                yield Row(**json.loads(line))
            if process.wait():
                said.seek(0)
                last = [line.strip() for line in said.read().splitlines() if line.strip()][-1:]
                raise RuntimeError(last[0] if last else f"its process ended with {process.returncode}")
        finally:  # also where the time is over
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is no row
    measure = importlib.import_module(f"{__package__}.{options.name}").measure
    for row in measure(options.small):
        print(json.dumps(asdict(row)), file=rows, flush=True)


if __name__ == "__main__":
    main()
