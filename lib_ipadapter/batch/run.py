"""One command from begin to end: the folder, the WebUIs, the plan, the references, the rows, the manifest."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..replace_file import replace_file
from .check import Check
from .client import auth_of, checked_url
from .drive import Drive
from .everybody import Everybody
from .facts import Facts
from .given import Sources
from .jobs_file import rows
from .keep import Keep
from .ledger import DONE, FINAL, OPEN, REFERENCES, REFUSED, ROWS, Ledger
from .lock import alone
from .manifest import write_manifest
from .packing import packing
from .paths import Files
from .plan import per_shard, plan, plan_again, prepare, settle_shards
from .problems import BatchError, DiskError, disk_error, writing
from .progress import Progress
from .ray_crew import RayCrew, begin
from .request import Reader
from .say import plain, say
from .shards import Packer
from .sheet import Sheet, showing
from .status import LEDGER
from .tasks import ReferenceTasks, RowTasks
from .tidy import tidied
from .webui import Start
from .worker import RUN_ID, Config

FOUND = "http://127.0.0.1:7860"  # where a WebUI is looked for if nothing is said


@dataclass(frozen=True)
class Asked:
    """The command line. ``webuis``: folders of WebUIs that are started here, or on a cluster's nodes."""

    jobs: Path
    out: Path
    endpoints: tuple[str, ...] = ()
    webuis: tuple[str, ...] = ()
    webui_python: str = ""
    webui_args: tuple[str, ...] = ()
    address: str | None = None
    dashboard: bool = True
    outside: bool = False
    seed: str | None = None
    shards: int | None = None
    references: Path | None = None
    timeout: float = 1800.0
    patience: float = 600.0
    again: bool = False


class Run:
    """Raises BatchError from every method where a person has to put something right."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._folder = asked.out
        self._files = Files(asked.jobs.resolve().parent, asked.outside)
        self._sources = Sources(self._files, self._folder / "given")
        self._sheet = Sheet(self._folder)

    def run(self) -> int:
        """How many rows could not be done."""
        with self._begun() as (ledger, keep):
            prepare(ledger, self._asked.jobs, self._asked.seed)
            settle_shards(ledger, self._asked.shards)
            with self._crew(keep) as crew:
                up: list[str] = []
                if not ledger.is_planned:
                    everybody = Everybody(crew, say)
                    plan(ledger, self._asked.jobs, Reader(Facts(everybody), self._sources), self._asked.shards)
                    up = everybody.up
                elif self._asked.again:
                    everybody = Everybody(crew, say)
                    plan_again(ledger, self._asked.jobs, Reader(Facts(everybody), self._sources))
                    up = everybody.up
                ledger.reopen()
                with self._manifest_anyway(ledger), packing(self._folder / LEDGER, per_shard(ledger)):
                    self._drive(ledger, keep, crew, up)
            with self._manifest_anyway(ledger), writing(self._folder):
                Packer(ledger, self._folder, per_shard(ledger)).pack(sys.maxsize, is_last=True)
            return self._end(ledger)

    def check(self) -> list[str]:
        """All that is wrong with the jobs file, a line each."""
        with self._begun() as (ledger, keep):
            with self._crew(keep) as crew:
                everybody = Everybody(crew, say)
                check = Check(Reader(Facts(everybody), self._sources))
                for number, row in rows(self._asked.jobs):
                    check.read(number, row)
                check.probe(everybody.made, self._sources.read)
            return check.lines()

    # what they consist of

    @contextlib.contextmanager
    def _begun(self) -> Iterator[tuple[Ledger, Keep]]:
        """The folder is this command's, and as tidy in the end as if no other had been killed in it."""
        with alone(self._folder), contextlib.closing(Ledger(self._folder / LEDGER)) as ledger:
            keep = Keep(self._folder, ledger, references=self._asked.references)
            with tidied(self._folder, ledger, keep):
                yield ledger, keep

    def _drive(self, ledger: Ledger, keep: Keep, crew: RayCrew, up: list[str]) -> None:
        keep.look_at_references()
        drive = None
        for table, tasks in (
            (REFERENCES, ReferenceTasks(ledger, keep, self._sources)),
            (ROWS, RowTasks(ledger, keep, self._sources)),
        ):
            counts = ledger.counts(table)
            progress = Progress(table, sum(counts.values()), sum(counts.get(state, 0) for state in FINAL))
            ready = up if drive is None else sorted(drive.up)
            drive = Drive(ledger, keep, crew, tasks, progress, ready, self._asked.patience)
            with showing(self._sheet, self._folder / LEDGER, progress.line):
                drive.run()
            progress.close()

    @contextlib.contextmanager
    def _manifest_anyway(self, ledger: Ledger) -> Iterator[None]:
        """Also a run that something ends leaves a manifest."""
        try:
            yield
        except (BatchError, OSError, sqlite3.Error, KeyboardInterrupt):
            with contextlib.suppress(DiskError):  # what has ended the run is told, and not this
                write_manifest(ledger, self._folder)
            raise

    def _end(self, ledger: Ledger) -> int:
        counts = ledger.counts()
        line = ", ".join(f"{count:,} {state}" for state, count in sorted(counts.items()))
        say(f"{line}; {plain(str(write_manifest(ledger, self._folder)))}")
        try:
            self._sheet.write(ledger, line)
        except OSError as error:  # whoever looks at it holds it open, for instance: all else is there
            say(disk_error(self._folder, error).detail)
        if counts.get(OPEN):
            say("open rows: their pictures have gone from the folder, and the same command makes them again.")
        if counts.get(REFUSED):
            say("refused rows: put right what their sentences name, and add --again to the command.")
        return sum(count for state, count in counts.items() if state != DONE)

    @contextlib.contextmanager
    def _crew(self, keep: Keep) -> Iterator[RayCrew]:
        dashboard = begin(self._asked.address, self._asked.dashboard)
        if dashboard:
            say(f"Ray's dashboard: http://{dashboard}")
        crew = None
        try:
            configs, own = self._configs()
            crew = RayCrew(configs, lambda key: keep.reference_file(key).read_bytes(), own)
            if not crew.names():
                raise BatchError("the cluster has no node with a GPU: name WebUIs with --endpoint.")
            yield crew
        finally:
            if crew is not None:
                crew.close()

    def _configs(self) -> tuple[list[tuple[Config, dict[str, Any]]], tuple[Config, Start] | None]:
        asked = self._asked
        common: dict[str, Any] = {
            "folder": str(self._folder.resolve()), "run_id": _run_id(self._folder), "timeout": asked.timeout,
            "patience": asked.patience,
        }  # fmt: skip
        urls = [checked_url(url) for url in asked.endpoints]
        if not urls and not asked.webuis:
            urls = [FOUND]
        if len(set(urls)) < len(urls):
            raise BatchError("an --endpoint is named twice: name each once.")
        configs: list[tuple[Config, dict[str, Any]]] = [
            (Config(url, url, auth_of(url), **common), {}) for url in urls
        ]  # fmt: skip
        threads = os.environ.get("OMP_NUM_THREADS", "")
        starts = [
            Start(str(Path(path).resolve()), asked.webui_python, asked.webui_args, threads) for path in asked.webuis
        ]
        if asked.address is not None and len(starts) > 1:
            raise BatchError("on a cluster each GPU gets the same WebUI: name one --webui.")
        if asked.address is not None and starts:
            return configs, (Config("", **common), starts[0])
        for number, start in enumerate(starts, 1):
            if not (Path(start.folder) / "launch.py").is_file():
                raise BatchError(f"--webui {start.folder} has no launch.py: name a WebUI's folder.")
            configs.append((Config(f"WebUI {number}", start=start, **common), _gpu_of(len(starts))))
        return configs, None


def _run_id(folder: Path) -> str:
    path = folder / RUN_ID
    if not path.is_file():
        with writing(folder):
            replace_file(path, secrets.token_hex(16))
    return path.read_text(encoding="utf8")


def _gpu_of(webuis: int) -> dict[str, Any]:
    """What of this computer's GPUs a WebUI that is started here is given: without asking for one, Ray hides them."""
    import ray

    return share_of(int(ray.cluster_resources().get("GPU", 0)), webuis)


def share_of(gpus: int, webuis: int) -> dict[str, Any]:
    """A part of a GPU lies on one of them, so the fullest one decides; Ray counts in ten-thousandths."""
    if not gpus:
        return {}
    return {"num_gpus": 10_000 // -(-webuis // gpus) / 10_000}
