"""How a run is, from its folder alone: also while it goes on, and from another computer."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from .ledger import DONE, FINAL, OPEN, REFERENCES, Ledger
from .problems import BatchError
from .progress import duration, per_time
from .say import plain

LEDGER = "run.sqlite3"
RECENT = 300  # rows of which the rate is taken
TROUBLES = 20


def status(folder: Path) -> dict[str, Any]:
    """Counts by state, of rows and references, the rate in rows a second, seconds that are left, rows by WebUI, and
    the first troubles. Raises BatchError where there is no run."""
    ledger = None
    try:
        ledger = Ledger(folder / LEDGER, reads_only=True)
        counts, latest = ledger.counts(), ledger.finished(RECENT)
        rate = 0.0
        if len(latest) > 1 and latest[0] > latest[-1] and time.time() - latest[0] < RECENT:
            rate = (len(latest) - 1) / (latest[0] - latest[-1])
        return {
            "jobs": ledger.get("name") or "", "is_planned": ledger.is_planned, "rows": counts,
            "references": ledger.counts(REFERENCES), "total": sum(counts.values()),
            "ended": sum(counts.get(state, 0) for state in FINAL), "rate": rate,
            "left": counts.get(OPEN, 0) / rate if rate and counts.get(OPEN) else None,
            "by_endpoint": {name: [rows, seconds] for name, rows, seconds in ledger.by_endpoint()},
            "troubles": ledger.troubles(TROUBLES), "shards": len(ledger.shards()),
        }  # fmt: skip
    except (sqlite3.OperationalError, BatchError) as error:
        if "locked" not in str(error):
            raise
        raise BatchError(f"the rows of {folder} are being planned right now: ask again in a while.") from None
    finally:
        if ledger is not None:
            ledger.close()


def lines(told: dict[str, Any]) -> list[str]:
    """The same for people."""
    counts, name = told["rows"], plain(told["jobs"]) or "the run"
    if not told["is_planned"]:
        return [f"{name}: its rows are not planned yet; the same command takes it up."]
    left = f", {duration(told['left'])} left" if told["left"] else ""
    found = [
        f"{name}: {told['ended']:,} of {told['total']:,} rows have ended, {per_time(told['rate'])}{left}",
        "rows: " + ", ".join(f"{counts[state]:,} {state}" for state in (DONE, *FINAL[1:], OPEN) if counts.get(state)),
    ]
    if told["references"]:
        found.append("references: " + ", ".join(f"{count:,} {state}" for state, count in told["references"].items()))
    for place, (rows, seconds) in told["by_endpoint"].items():
        found.append(f"{plain(place)}: {rows:,} rows, {seconds / rows:.2f} s each")
    found += [f"row {number} {state}: {plain(sentence)}" for number, state, sentence in told["troubles"]]
    more = counts.get("refused", 0) + counts.get("failed", 0) - len(told["troubles"])
    return [*found, f"… and {more:,} more: the manifest has them."] if more > 0 else found
