"""The command: which sections, within what time, written or not; then the card's, where there is one."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..gpu import report
from ..gpu.__main__ import MEASURED
from ..gpu.bench import Bench
from ..gpu.run import Section, run
from . import __doc__ as about
from . import webui
from .sections import SECTIONS

COMMAND = "python -m benchmarks.bench --write --only"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when the run came to its end, whatever it found; 2 where the document could not be written."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [section.name for section in SECTIONS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="SECTION", help=f"of {', '.join(names)}")
    parser.add_argument("--minutes", type=float, default=40.0, help="for all of the CPU's figures (40)")
    parser.add_argument("--webui", help="address or folder of a WebUI with the extension")
    parser.add_argument("--small", action="store_true", help="narrow models: tests the run, measures nothing")
    parser.add_argument("--write", action="store_true", help=f"keep the figures in docs/{MEASURED.name}")
    parser.add_argument("--no-card", action="store_true", help="leave the card's figures out")
    options = parser.parse_args(arguments)
    if options.write and options.small:
        report.complain("--write is for whole models: leave it out, or leave out --small.")
        return 2
    chosen = [one for one in SECTIONS if options.only is None or one.name in options.only]
    if options.webui is None and options.only is None:
        chosen = [one for one in chosen if one.name != "webui"]
    failure = cpu(*with_time(chosen, 60 * options.minutes, options.webui), options)
    if torch.cuda.is_available() and not options.small and not options.no_card and options.only is None:
        wanted = ["--write"] if options.write else []
        failure |= subprocess.run([sys.executable, "-m", "benchmarks.gpu", *wanted]).returncode
    return 2 if failure else 0


def with_time(chosen: Sequence[Section], budget: float, asked: str | None) -> tuple[list[Section], float]:
    """The sections with their time. Requests in a WebUI, which has to be named, have theirs beside that of the others,
    and as it is set aside in shares of the whole, theirs is such a share."""
    others = sum(section.seconds for section in chosen if section.name != "webui")
    if asked is None or len(chosen) == 1:
        return [*chosen], budget
    share = webui.TIME * others / budget
    return [replace(one, seconds=share) if one.name == "webui" else one for one in chosen], budget + webui.TIME


def cpu(chosen: Sequence[Section], budget: float, options: argparse.Namespace) -> int:
    """Run the sections; each is written as soon as it is over. 1 where the document could not be written."""
    torch.set_num_threads(1 if options.small else os.cpu_count() or 1)
    bench = Bench(torch.device("cpu"), small=options.small, budget=budget)
    bench.webui = options.webui
    machine = report.Machine.here(bench.device)
    print(f"{machine.card}, torch {machine.version}, {machine.details}\n")
    printed = report.Printed()
    kept = report.Kept(MEASURED, machine, COMMAND, printed)
    try:
        with bench:
            run(bench, chosen, budget, printed.tell, kept if options.write else lambda section: None)
    except KeyboardInterrupt:
        report.complain("Stopped; what was measured until then counts.")
    return int(bool(kept.failures))


if __name__ == "__main__":
    sys.exit(main())
