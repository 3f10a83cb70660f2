"""The command: which sections, on what, within what time, written or not."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __doc__ as about

MEASURED = Path(__file__).parents[2] / "docs" / "measured.md"
BUDGET = 480.0  # seconds
PACKAGES = {"numpy": "numpy", "PIL": "pillow"}  # what the library imports beside torch, by their packages
COMMAND = "python -m benchmarks.gpu --write --only"
NO_CARD = (
    "No CUDA card was found by torch, so there is nothing to measure: run this on a machine with one and a CUDA build "
    "of torch, or test the run itself with --device cpu --small."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when the run came to its end, whatever it found; 2 where it could not begin or not be written."""
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed: python -m pip install torch numpy pillow", file=sys.stderr)
        return 2
    import torch

    from . import report
    from .bench import Bench
    from .run import run
    from .sections import SECTIONS

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [section.name for section in SECTIONS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="SECTION", help=f"of {', '.join(names)}")
    parser.add_argument("--budget", type=float, default=BUDGET, help=f"seconds for all of it ({BUDGET:.0f})")
    parser.add_argument("--device", help="cuda, cuda:1, … or cpu")
    parser.add_argument("--small", action="store_true", help="narrow models: tests the run, measures nothing")
    parser.add_argument("--write", action="store_true", help=f"keep the figures in docs/{MEASURED.name}")
    options = parser.parse_args(arguments)
    if options.device is None and not torch.cuda.is_available():
        report.complain(NO_CARD)
        return 2
    device = torch.device(options.device or "cuda")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if options.write and (options.small or device.type != "cuda"):
        report.complain("--write is for whole models on a card: leave it out, or leave out --small and --device cpu.")
        return 2
    lacking = [package for name, package in PACKAGES.items() if importlib.util.find_spec(name) is None]
    if lacking:
        some = " ".join(lacking)
        report.complain(f"{some} not installed, so what needs pictures fails: python -m pip install {some}")
    if device.type == "cpu":
        torch.set_num_threads(1)  # narrow models are too small for threads, which only wait for each other
    bench = Bench(device, small=options.small, budget=options.budget)
    machine = report.Machine.here(device)
    print(f"{machine.card}, torch {machine.version}, {machine.details}\n")
    printed = report.Printed()
    kept = report.Kept(MEASURED, machine, COMMAND, printed)
    chosen = [section for section in SECTIONS if options.only is None or section.name in options.only]
    try:
        with bench:
            run(bench, chosen, options.budget, printed.tell, kept if options.write else lambda section: None)
    except KeyboardInterrupt:
        report.complain("Stopped; what was measured until then counts.")
    return 2 if kept.failures else 0


if __name__ == "__main__":
    sys.exit(main())
