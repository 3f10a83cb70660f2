"""The table: printed line by line as figures come, and kept in ``docs/measured.md``, a block for each card."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import torch

from lib_ipadapter import __version__

from .measure import Row
from .run import Section

HEAD = ("| figure | value | spread, or beside it | pairs or runs |", "|---|---|---|---|")
BEGIN, END = "<!-- cards: begin -->", "<!-- cards: end -->"
NONE_YET = "No card's figures yet: run `python -m benchmarks.gpu --write` on a machine with a CUDA card."


@dataclass(frozen=True)
class Machine:
    """What the figures were taken on. ``card`` and ``version`` name the block that they stand in."""

    card: str
    version: str  # of torch
    details: str

    @classmethod
    def here(cls, device: torch.device) -> Machine:
        python = f"Python {platform.python_version()}, {platform.system()}"
        if device.type != "cuda":
            return cls("CPU", torch.__version__, f"{python}, {torch.get_num_threads()} threads")
        found = torch.cuda.get_device_properties(device)
        memory = f"{found.total_memory / 2**30:.0f} GiB, compute capability {found.major}.{found.minor}"
        cudnn = torch.backends.cudnn.version()
        return cls(found.name, torch.__version__, f"{memory}, CUDA {torch.version.cuda}, cuDNN {cudnn}, {python}")

    @property
    def key(self) -> str:
        """What a block's marks name. A comment must not hold what would end it."""
        return f"{self.card} · torch {self.version}".replace("--", "-")


def line(row: Row) -> str:
    cells = (row.figure, row.value, row.spread, "" if row.count is None else str(row.count))
    return "| " + " | ".join(re.sub(r"\s+", " ", cell).replace("|", "\\|") for cell in cells) + " |"


def table(rows: Sequence[Row]) -> str:
    return "\n".join((*HEAD, *map(line, rows)))


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


def updated(document: str, machine: Machine, found: Mapping[Section, Sequence[Row]]) -> str:
    """``document`` with these sections in the block of this card and torch. Other cards' blocks stay, and so do this
    card's sections of which nothing was measured now.

    Raises ValueError for a document without its marks, and for figures of a CPU, which are no measurement.
    """
    if machine.card == "CPU":
        raise ValueError("figures of the CPU only test this run, so they are not written: run it on a card.")
    whole = _inside(document, BEGIN, END)
    if whole is None:
        raise ValueError(f"the marks {BEGIN} and {END} are not there, so nothing is written.")
    cards = whole.replace(NONE_YET, "")
    begin, end = _marks(machine.key)
    block = _inside(cards, begin, end) or f"\n### {machine.card}, torch {machine.version}\n\n{machine.details}\n"
    for section, rows in found.items():
        if any(row.measured for row in rows):
            said = f"#### {section.about}, {date.today().isoformat()}, version {__version__}\n\n{table(rows)}"
            block = _put(block.strip(), f"{machine.key} · {section.name}", said)
    return document.replace(
        f"{BEGIN}{whole}{END}", f"{BEGIN}\n{_put(cards, machine.key, block.strip()).strip()}\n{END}"
    )


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
