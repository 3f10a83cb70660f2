"""The table: printed line by line as figures come, and kept in ``docs/measured.md``, a block for each card or CPU."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from lib_ipadapter import __version__

from .measure import Row
from .run import MODELS, REST, Section

HEAD = ("| figure | value | spread, or beside it | pairs or runs | target |", "|---|---|---|---|---|")


@dataclass(frozen=True)
class Area:
    """A part of the document with blocks of machines of one kind; ``none_yet`` stands there before the first."""

    name: str
    none_yet: str

    @property
    def marks(self) -> tuple[str, str]:
        return f"<!-- {self.name}: begin -->", f"<!-- {self.name}: end -->"


CARDS = Area("cards", "No card's figures yet: run `python -m benchmarks.gpu --write` on a machine with a CUDA card.")
CPUS = Area("cpus", "No figures yet: run `make bench`.")


@dataclass(frozen=True)
class Machine:
    """What the figures were taken on. ``card`` and ``version`` name the block that they stand in, in ``area``."""

    card: str
    version: str  # of torch
    details: str
    area: Area = CARDS

    @classmethod
    def here(cls, device: torch.device) -> Machine:
        python = f"Python {platform.python_version()}, {platform.system()}"
        if device.type != "cuda":
            return cls(_processor(), torch.__version__, f"{_main_memory()}{python}{_packages()}", CPUS)
        found = torch.cuda.get_device_properties(device)
        memory = f"{found.total_memory / 2**30:.0f} GiB, compute capability {found.major}.{found.minor}"
        cudnn = torch.backends.cudnn.version()
        details = f"{memory}, CUDA {torch.version.cuda}, cuDNN {cudnn}, {python}{_packages()}"
        return cls(found.name, torch.__version__, details)

    @property
    def key(self) -> str:
        """What a block's marks name. A comment must not hold what would end it."""
        return f"{self.card} · torch {self.version}".replace("--", "-")


COMPARED = ("diffusers", "transformers", "open_clip_torch", "safetensors")  # beside torch


def _packages() -> str:
    """The versions of what the figures depend on, or are compared with, as far as it is there."""
    found = []
    for package in COMPARED:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f", {package.removesuffix('_torch')} {version(package)}")
    return "".join(found)


def _processor() -> str:
    """The processor's own name, where the system tells, and how many cores torch computes on."""
    name = platform.processor() or platform.machine() or "CPU"
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
        name = found[1].strip() if found else name
    cores = os.cpu_count() or 1
    return f"{name}, {cores} core{'s' if cores > 1 else ''}"


def _main_memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB, "
    except (AttributeError, ValueError, OSError):  # on Windows
        return ""


def line(row: Row) -> str:
    cells = (row.figure, row.value, row.spread, "" if row.count is None else str(row.count), row.target)
    return "| " + " | ".join(re.sub(r"\s+", " ", cell).replace("|", "\\|") for cell in cells) + " |"


def table(rows: Sequence[Row]) -> str:
    return "\n".join((*HEAD, *map(line, rows)))


def rows_of(text: str) -> list[Row]:
    """What ``table`` was made of."""
    lines = [one for one in text.splitlines() if one.startswith("| ") and one != HEAD[0]]
    cells = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", one)[1:-1]] for one in lines]
    return [
        Row(figure, value, spread, int(count) if count.isdigit() else None, target)
        for figure, value, spread, count, target in (some for some in cells if len(some) == 5)
    ]


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- begin {name} -->", f"<!-- end {name} -->"


def _inside(text: str, begin: str, end: str) -> str | None:
    """What stands between two marks; None where they are not there."""
    start = text.find(begin)
    stop = text.find(end, start)
    return None if start < 0 or stop < 0 else text[start + len(begin) : stop]


def _put(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` between the marks of ``name``, in the old one's place or, where there is none, last."""
    begin, end = _marks(name)
    old, new = _inside(text, begin, end), f"{begin}\n{content}\n{end}"
    if old is None:
        return f"{text.strip()}\n\n{new}".strip()
    return text.replace(f"{begin}{old}{end}", new)


def updated(document: str, machine: Machine, found: Mapping[Section, Sequence[Row]], command: str) -> str:
    """``document`` with these sections in the block of this machine and torch. Other machines' blocks stay, and so do
    this one's sections of which nothing was measured now, and of the others' the figures that were not measured now
    (``completed``). ``command``: what measures a section, before its name.

    Raises ValueError for a document without its marks.
    """
    begin_area, end_area = machine.area.marks
    whole = _inside(document, begin_area, end_area)
    if whole is None:
        raise ValueError(f"the marks {begin_area} and {end_area} are not there, so nothing is written.")
    measured = {section: rows for section, rows in found.items() if any(row.measured for row in rows)}
    if not measured:
        return document
    blocks = whole.replace(machine.area.none_yet, "")
    begin, end = _marks(machine.key)
    _, mark, sections = (_inside(blocks, begin, end) or "").partition(begin.removesuffix(" -->"))
    block = f"### {machine.card}, torch {machine.version}\n\n{machine.details}\n\n{mark}{sections}"
    for section, rows in measured.items():
        when, name = f"{date.today().isoformat()}, version {__version__}", f"{machine.key} · {section.name}"
        old = _inside(block, *_marks(name)) or ""
        taken = re.search(r"^([^:`|\n]+): `", old, re.MULTILINE)
        whole_table = table(completed(section, rows, rows_of(old), taken[1] if taken else "", when))
        said = f"#### {section.about}\n\n{when}: `{command} {section.name}`\n\n{whole_table}"
        block = _put(block.strip(), name, said)
    put = _put(blocks, machine.key, block.strip()).strip()
    return document.replace(f"{begin_area}{whole}{end_area}", f"{begin_area}\n{put}\n{end_area}")


def completed(section: Section, rows: Sequence[Row], old: Sequence[Row], taken: str, now: str) -> list[Row]:
    """``rows`` with those of an older run, of ``taken``, in the place of what has not been measured ``now``: of a part
    whose row says why, by its name, and where a row may stand for any others, all that there are. What was measured or
    is gone from a run that has come to its end goes; what has failed says so beside the older figure."""
    again = {row.figure for row in rows if row.measured}
    lacking = {row.figure for row in old if not row.measured}
    before = [row for row in old if row.measured]
    left = {row.figure: _dated(row, taken, now) for row in before if row.figure not in again}
    made: list[Row] = []
    cut_short = False
    for row in rows:
        if row.measured:
            made.append(row)
            continue
        mine = [left.pop(figure) for figure in [*left] if is_of(figure, row)]
        any_others = row.figure in (f"{section.about}, {REST}", f"{section.about}, {MODELS}")
        unknown = row.figure not in lacking and not any(is_of(one.figure, row) for one in before)
        cut_short |= any_others or unknown
        made += [row, *mine] if not mine or row.value.startswith("failed: ") else mine
    return [*made, *left.values()] if cut_short else made


def is_of(figure: str, row: Row) -> bool:
    """Whether a figure is one of the part that ``row`` says was not measured."""
    part = row.figure.partition(": ")[0]
    return figure == part or figure.startswith((f"{part}:", f"{part},"))


DATED = re.compile(r"(^|; )of (\d{4}-\d\d-\d\d, version .*|an earlier run)$")


def _dated(row: Row, taken: str, now: str) -> Row:
    """A row that is older than the others of its table says so."""
    if taken == now or DATED.search(row.spread):
        return row
    said = f"of {taken or 'an earlier run'}"
    return replace(row, spread=f"{row.spread}; {said}" if row.spread else said)


def write(path: Path, machine: Machine, found: Mapping[Section, Sequence[Row]], command: str) -> str | None:
    """Keep ``found`` in the document at ``path``; why that was not possible, in one sentence, or None. Who is killed
    meanwhile leaves the document as it was."""
    part = path.with_suffix(".part")
    try:
        part.write_text(updated(path.read_text("utf-8"), machine, found, command), "utf-8")
        part.replace(path)
    except (OSError, ValueError) as error:
        return f"{path} was not written: {error}"
    return None


class Kept:
    """Sections that go into the document at ``path`` as each of them is over. ``failures``: why one did not."""

    def __init__(self, path: Path, machine: Machine, command: str, printed: Printed) -> None:
        self._path, self._machine, self._command, self._printed = path, machine, command, printed
        self.failures: list[str] = []

    def __call__(self, section: Section) -> None:
        rows = self._printed.found.get(section)
        failure = write(self._path, self._machine, {section: rows}, self._command) if rows else None
        if failure is not None:
            self.failures.append(failure)
            complain(failure)


class Printed:
    """Rows on standard output, one table from first to last, each as soon as it is there."""

    def __init__(self) -> None:
        self.found: dict[Section, list[Row]] = {}
        print("\n".join(HEAD), flush=True)

    def tell(self, section: Section, row: Row) -> None:
        self.found.setdefault(section, []).append(row)
        print(line(row), flush=True)


def complain(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
