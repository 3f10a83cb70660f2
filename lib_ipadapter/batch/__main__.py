"""Catalogues of pictures over many WebUIs.

python -m lib_ipadapter.batch run JOBS --out FOLDER      makes them, or goes on where it was ended
python -m lib_ipadapter.batch run JOBS --out FOLDER --dry-run
python -m lib_ipadapter.batch status FOLDER              how far it is
"""

from __future__ import annotations

import argparse
import shlex
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from .problems import BatchError, disk_error
from .say import any_text, plain, say

NOT_ALL = 3  # exit status: the run has ended, and not all rows could be done
INTERRUPTED = 130
LONGEST = 100_000_000  # seconds, three years


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m lib_ipadapter.batch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="make all rows of a jobs file, or go on with it")
    run.add_argument("jobs", type=Path, metavar="JOBS", help="a .csv, .jsonl or .parquet file: a row is a request")
    run.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where all goes, one for each JOBS")
    run.add_argument("--dry-run", action="store_true", help="say all that is wrong with the rows, and make none")
    run.add_argument("--endpoint", action="append", default=[], metavar="URL", help="a WebUI that runs; repeatable")
    run.add_argument("--webui", action="append", default=[], metavar="PATH", help="a WebUI to start; repeatable")
    run.add_argument("--webui-python", default="", metavar="PATH", help="its Python; else that of its venv")
    run.add_argument("--webui-args", default="", metavar="TEXT", help="further flags for it, in one text")
    run.add_argument("--address", metavar="HOST:PORT", help="a Ray cluster; each GPU of it gets a WebUI with --webui")
    run.add_argument("--no-dashboard", action="store_true", help="a local Ray without its dashboard")
    run.add_argument("--allow-outside", action="store_true", help="paths may lead out of the folder of JOBS")
    run.add_argument("--seed", metavar="TEXT", help="what the seeds of rows without one come from; else by chance")
    run.add_argument(
        "--shards", type=int, metavar="N", help="tar files of N rows, 0: none; else 1000 from 10^5 rows on"
    )
    run.add_argument("--references", type=Path, metavar="FOLDER", help="encoded references of earlier runs")
    run.add_argument("--again", action="store_true", help="read refused rows anew, with the seeds that they have")
    run.add_argument("--timeout", type=float, default=1800.0, metavar="SECONDS", help="for one row (default 1800)")
    run.add_argument("--patience", type=float, default=600.0, metavar="SECONDS", help="for a WebUI that is away (600)")
    status = commands.add_parser("status", help="how far a run is")
    status.add_argument("folder", type=Path, metavar="FOLDER")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    any_text()
    given = _parser().parse_args(arguments)
    try:
        if given.command == "status":
            from .status import lines, status

            say("\n".join(lines(status(given.folder))), sys.stdout)
            return 0
        return _run(given)
    except BatchError as error:
        say(error.detail)
        return 1
    except ConnectionError as error:
        say(f"a connection is gone ({plain(str(error)) or type(error).__name__}): give the same command again.")
        return 1
    except (OSError, sqlite3.Error) as error:
        say(disk_error(given.folder if given.command == "status" else given.out, error).detail)
        return 1
    except KeyboardInterrupt:
        say("stopped: the same command goes on with it.")
        return INTERRUPTED


def _run(given: argparse.Namespace) -> int:
    from .run import Asked, Run

    if given.shards is not None and given.shards < 0:
        raise BatchError("--shards is negative: give a number of rows, or 0 for no tar files.")
    if not all(0 < seconds <= LONGEST for seconds in (given.timeout, given.patience)):  # nor what is no number
        raise BatchError(f"--timeout and --patience are times in seconds: give more than 0, and {LONGEST:,} at most.")
    try:
        webui_args = tuple(shlex.split(given.webui_args))
    except ValueError as error:
        raise BatchError(f"--webui-args cannot be read ({error}): close what is opened there.") from None
    run = Run(
        Asked(
            given.jobs, given.out, tuple(given.endpoint), tuple(given.webui), given.webui_python,
            webui_args, given.address, not given.no_dashboard, given.allow_outside,
            given.seed, given.shards, given.references, given.timeout, given.patience, given.again,
        )
    )  # fmt: skip
    if given.dry_run:
        lines = run.check()
        say("\n".join(map(plain, lines)) if lines else "nothing is wrong.", sys.stdout)
        return NOT_ALL if lines else 0
    return NOT_ALL if run.run() else 0


if __name__ == "__main__":
    sys.exit(main())
