"""Catalogues as users run them: the command in its own environment, on Ray, over two miniature WebUIs, and killed."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from benchmarks.batch.cluster import Cluster, descendants
from benchmarks.batch.kills import GPUS
from tests.helpers.files import base64_of, picture
from tests.helpers.host import SAME, Hosts
from tests.helpers.paths import ROOT
from tests.setup.batch import ready

pytestmark = pytest.mark.downloads

LIMIT = 300
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
SMALL = {"width": 128, "height": 128, "steps": 4, "sampler_name": "Euler"}
# What a run of this kind leaves in its folder, as docs/batch.md has it.
LEFT = {"pictures", "references", "manifest.parquet", "sheet.html", "run.sqlite3", "run.id", "run.lock"}
SERVE = """
import sys, time
from demo.start import host_start
host_start([sys.argv[1]], {"sd_model_checkpoint": "demo-sd15", "live_previews_enable": False},
           ["--ip-adapter-dir", sys.argv[2], "--api-auth", "anna:secret"], data_dir=sys.argv[3], port=int(sys.argv[4]))
print("ready", flush=True)
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def endpoints(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two miniature WebUIs in processes of their own, with a password."""
    started = []
    for number in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        places = [str(ROOT), str(hosts.adapters()), str(tmp_path_factory.mktemp(f"host-{number}")), str(port)]
        command = [sys.executable, "-c", SERVE, *places]
        started.append((port, subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)))
    try:
        for _, process in started:
            assert process.stdout is not None
            assert any(line.strip() == "ready" for line in process.stdout)
        yield [f"http://127.0.0.1:{port}" for port, _ in started]
    finally:
        for _, process in started:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One Ray for all tests that need none of their own."""
    made = Cluster(tmp_path_factory.mktemp("ray"), GPUS, str(ready()))
    yield made
    made.close()


class Done(NamedTuple):
    """How a command has ended; ``places``: the addresses at which it has listened meanwhile."""

    returncode: int
    stdout: str
    stderr: str
    places: set[str]


def listening(pids: Iterable[int]) -> set[str]:
    """The addresses at which these processes listen, as Linux writes them."""
    sockets = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(entry))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            cells = line.split()
            if cells[3] == "0A" and f"socket:[{cells[9]}]" in sockets:
                found.add(cells[1].partition(":")[0])
    return found


def batch(*arguments: object, **environment: str) -> Done:
    """The command; while it runs, nothing of it may listen elsewhere than on loopback."""
    command = [str(ready()), "-m", "lib_ipadapter.batch", *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            end, places = time.monotonic() + LIMIT, set[str]()
            while True:
                try:
                    out, error = process.communicate(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    assert time.monotonic() < end, command
                    places |= listening([process.pid, *descendants(process.pid)])
        finally:
            process.kill()
    assert places <= LOOPBACK, places
    return Done(process.returncode, out, error, places)


def manifest(out: Path) -> list[dict[str, Any]]:
    code = (
        "import json, sys; from pathlib import Path; from lib_ipadapter.batch.manifest import read_manifest; "
        "print(json.dumps(list(read_manifest(Path(sys.argv[1]))), default=str))"
    )
    done = subprocess.run([str(ready()), "-c", code, str(out)], cwd=ROOT, capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def ask(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    import requests

    answer = requests.post(url + path, json=body, auth=("anna", "secret"), timeout=LIMIT)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_a_catalogue_over_two_webuis(endpoints: list[str], tmp_path: Path) -> None:
    jobs, out = tmp_path / "jobs.jsonl", tmp_path / "out"
    for name, seed in (("a", 1), ("b", 2)):
        picture(seed).save(tmp_path / f"{name}.png")
    rows: list[dict[str, Any]] = [
        {**SMALL, "prompt": "cat", "seed": number, "unit.model": "base", "unit.image": f"{'ab'[number % 2]}.png"}
        for number in range(6)
    ]
    rows.append({**SMALL, "prompt": "cat"})
    rows.append({**rows[0], "unit.acts_in": "detailer"})
    rows.append({**SMALL, "prompt": "cat", "seed": 3, "init_images": "a.png", "denoising_strength": 0.5})
    jobs.write_text("\n".join(map(json.dumps, rows)))
    places = [part for url in endpoints for part in ("--endpoint", url)]

    done = batch("run", jobs, "--out", out, *places, "--seed", "x", IP_ADAPTER_BATCH_AUTH="anna:secret")
    assert done.returncode == 3, done.stdout + done.stderr  # one row cannot be done
    assert done.places  # Ray has been seen to listen, on loopback
    found = manifest(out)

    assert [line["row"] for line in found] == list(range(1, 10))
    assert [line["state"] for line in found] == ["done"] * 7 + ["refused", "done"]
    assert "ADetailer" in found[7]["sentence"] and "unit 1" in found[7]["sentence"]
    assert {line["endpoint"] for line in found if line["endpoint"]} == set(endpoints)
    assert "secret" not in json.dumps(found) + done.stdout + done.stderr
    assert len(list((out / "references").rglob("*.safetensors"))) == 2
    for line in found[:6]:
        (one,) = line["pictures"]
        made = Image.open(out / one["file"])
        assert made.info["parameters"] == one["parameters"] and "IP-Adapter 1" in one["parameters"]
    unit = {"model": "base", "images": [base64_of(picture(1))]}
    want = ask(
        endpoints[0], "/sdapi/v1/txt2img",
        {**SMALL, "prompt": "cat", "seed": 2, "alwayson_scripts": {"IP-Adapter": {"args": [unit]}}},
    )  # fmt: skip
    pictures = (base64.b64decode(want["images"][0]), (out / found[2]["pictures"][0]["file"]).read_bytes())
    expected, got = (np.asarray(Image.open(io.BytesIO(data)), float) for data in pictures)
    assert np.abs(expected - got).mean() <= SAME
    assert "8 done" in batch("status", out).stdout
    assert {path.name for path in out.iterdir()} == LEFT
    assert (out / "sheet.html").read_text().count('src="data:image/jpeg;base64,') == 8


def test_a_dry_run_says_all_that_is_wrong_and_makes_nothing(
    endpoints: list[str], cluster: Cluster, tmp_path: Path
) -> None:
    picture(1).save(tmp_path / "a.png")
    jobs = tmp_path / "jobs.jsonl"
    rows = [
        {"promt": "x"},
        {"unit.model": "wide", "unit.image": "a.png"},
        {"unit.model": "base", "unit.image": "b.png"},
    ]
    jobs.write_text("\n".join(map(json.dumps, rows)))
    arguments = ("--dry-run", "--address", cluster.address, "--endpoint", endpoints[0])
    environment = {**cluster.environment, "IP_ADAPTER_BATCH_AUTH": "anna:secret"}
    done = batch("run", jobs, "--out", tmp_path / "out", *arguments, **environment)
    assert done.returncode == 3, done.stdout + done.stderr
    unit = "IP-Adapter unit 1:"
    for part in ("row 1: unknown field 'promt'", f"row 2: {unit} ", f"row 3: {unit} there is no file"):
        assert part in done.stdout
    assert "SDXL" in done.stdout
    assert not (tmp_path / "out" / "pictures").exists()


def test_runs_that_are_killed_end_as_one_that_is_not(cluster: Cluster) -> None:
    """Five real kills of each kind, in the same runs: the benchmark exits with 1 where a row is lost or twice, or files
    are left."""
    command = [str(ready()), "-m", "benchmarks.batch", "together", "--each", "5", "--shards", "40"]
    command += ["--join", f"{cluster.address} {cluster.head}"]
    done = subprocess.run(
        command, cwd=ROOT, env=cluster.environment, capture_output=True, text=True, timeout=LIMIT
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "together: 5 drivers, 5 workers, 5 WebUIs, all as without" in done.stdout


def test_a_parquet_file_is_planned_as_the_same_rows_in_text(tmp_path: Path) -> None:
    command = [str(ready()), "-m", "tests.helpers.jobs_kinds", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plans = json.loads(done.stdout)
    *rows, references = plans[".parquet"]
    assert [row[2] for row in rows] == ["open"] * 5 + ["refused", "open"] and len(references) == 4
    assert plans[".parquet"] == plans[".jsonl"] == plans[".csv"]
