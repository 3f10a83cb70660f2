"""A Ray of the benchmark's own, on loopback, with a token of its own; WebUIs that answer after a fixed time; and the
command, as a process that can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lib_ipadapter.batch.ray_crew import ONLY_HERE

ROOT = Path(__file__).parents[2]
HOST = ROOT / "tests" / "helpers" / "fixed_host.py"
LIMIT = 300.0  # seconds for anything
STARTS = 3


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_for(what: str, found: object, limit: float = LIMIT) -> None:
    """Waits until ``found()`` is true. Raises TimeoutError."""
    end = time.monotonic() + limit
    while not found():  # type: ignore[operator]
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {limit:.0f} s")
        time.sleep(0.02)


class Joined:
    """A Ray that somebody else has started in the process ``head``. ``address`` for the command, ``environment`` with
    what it needs to be let in."""

    def __init__(self, address: str, head: int) -> None:
        self.address, self.head = address, head
        self.environment = dict(os.environ)

    def workers(self) -> list[int]:
        """The processes in which this Ray drives WebUIs."""
        return [pid for pid in descendants(self.head) if _title(pid).startswith("ray::RayWorker")]

    def close(self) -> None:
        pass


class Cluster(Joined):
    """One of the benchmark's own, by the Ray that ``python`` has."""

    def __init__(self, folder: Path, gpus: int, python: str = sys.executable) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        places = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.environment = {
            **os.environ, **ONLY_HERE, "RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONPATH": places,
            "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip
        command = [
            str(Path(python).with_name("ray")), "start", "--head", "--block", "--port", str(self.port),
            "--node-ip-address", "127.0.0.1", "--include-dashboard=false", "--disable-usage-stats", "--num-cpus", "0",
            "--num-gpus", str(gpus), "--object-store-memory", "300000000",
        ]  # fmt: skip
        self.log = folder / "ray.log"
        for attempt in range(STARTS):  # a machine that is busy with other things has Ray give up its start
            with self.log.open("wb") as log:
                self._head = subprocess.Popen(
                    command, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            self.head = self._head.pid
            wait_for("Ray", lambda: self._runs() or self._head.poll() is not None)
            if self._runs():
                return
            self.close()
            if attempt == STARTS - 1:
                raise RuntimeError(self.log.read_text(errors="replace")[-2000:])

    def _runs(self) -> bool:
        return b"Ray runtime started" in self.log.read_bytes()

    def close(self) -> None:
        """At once: asked politely, it takes 20 seconds."""
        for pid in [self._head.pid, *descendants(self._head.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._head.wait()


def descendants(root: int) -> list[int]:
    """The processes below one, by Linux' own table."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, left = [], [root]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


class Command:
    """``python -m lib_ipadapter.batch run`` as a process."""

    def __init__(self, cluster: Joined, jobs: Path, out: Path, more: Sequence[str]) -> None:
        self.log = out.with_name(f"{out.name}.log")
        self._before = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, "-m", "lib_ipadapter.batch", "run", str(jobs), "--out", str(out)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--address", cluster.address, *more],
                cwd=ROOT, env=cluster.environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def said(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._before)
            return log.read().decode(errors="replace")

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def wait_for_rows(self) -> None:
        """Until it is at work, or done."""
        wait_for("the first row", lambda: "\nrow " in f"\n{self.said()}" or not self.is_running)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait(self) -> int:
        """Its exit status. Raises RuntimeError where it could not go on."""
        code = self.process.wait(LIMIT)
        if code not in (0, 3):
            raise RuntimeError(self.said()[-3000:])
        return code

    @property
    def was_given_up(self) -> bool:
        """Whether it has ended because no WebUI came back to it for too long: the same command goes on then."""
        return self.process.wait(LIMIT) == 1 and "no WebUI is left" in self.said()


def webui_folder(folder: Path, seconds: float) -> tuple[Path, Path]:
    """A folder whose launch.py is a WebUI that answers after a fixed time; and its log."""
    home, log = folder / "webui", folder / "webui.log"
    home.mkdir()
    (home / "launch.py").write_text(
        f"import runpy, sys\nsys.argv += ['--seconds', '{seconds}', '--log', {str(log)!r}]\n"
        f"runpy.run_path({str(HOST)!r}, run_name='__main__')\n"
    )
    return home, log


def webuis(log: Path) -> list[int]:
    """Those that have been started and are alive."""
    if not log.exists():
        return []
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"started"' in line]
    return [line["pid"] for line in lines if "launch.py" in _title(line["pid"])]


@contextlib.contextmanager
def hosts(count: int, seconds: float, log: str = "") -> Iterator[list[str]]:
    """So many hosts that answer after a fixed time; their addresses."""
    ports = [free_port() for _ in range(count)]
    command = [sys.executable, str(HOST), "--seconds", str(seconds), "--log", log]
    started = [subprocess.Popen([*command, "--port", str(port)]) for port in ports]
    try:
        for port in ports:
            wait_for("a host", lambda port=port: _listens(port))
        yield [f"http://127.0.0.1:{port}" for port in ports]
    finally:
        for process in started:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
