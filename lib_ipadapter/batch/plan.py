"""A jobs file -> the ledger's rows: each with its request, its seed and its place in the line."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .jobs_file import rows
from .ledger import Ledger, Planned
from .problems import BatchError, reading
from .request import Reader, Request

SHARDS_FROM = 100_000  # pictures from which on they are kept in tar files
PER_SHARD = 1000


def seed_of(salt: str, number: int, what: str = "seed") -> int:
    """A row's seed where it has none of its own: 0 to 2^32 - 1, evenly, from what is written down of the run."""
    return int.from_bytes(hashlib.sha256(f"{salt} {what} {number}".encode()).digest()[:4], "big")


def prepare(ledger: Ledger, jobs: Path, seed: str | None) -> None:
    """Make sure that the folder is this run's: write down what it belongs to, and what its seeds come from, or compare
    it. Raises BatchError."""
    with reading(jobs):
        if not jobs.is_file():
            raise BatchError(f"there is no file {jobs}: name a jobs file.")
        digest = _sha256(jobs)
    known = ledger.get("jobs")
    if known is None:
        ledger.put(jobs=digest, name=jobs.name, folder=str(jobs.resolve().parent), seed=seed or secrets.token_hex(16))
        return
    if known != digest:
        raise BatchError(
            f"the folder belongs to another jobs file ({ledger.get('name')}, or {jobs.name} has changed since): name "
            "another folder with --out."
        )
    if seed is not None and seed != ledger.get("seed"):
        raise BatchError("the folder belongs to a run with another --seed: leave it out, or name another folder.")


def plan(ledger: Ledger, jobs: Path, reader: Reader, rows_of_one: int | None) -> None:
    """Write down all rows. ``rows_of_one``: rows of a tar file, 0 for none; None goes by how many rows there are."""
    salt = ledger.get("seed") or ""
    count = 0

    def planned() -> Iterator[tuple[Planned, dict[str, Any]]]:
        nonlocal count
        for number, row in rows(jobs):
            count += 1
            request, problems = (Request("txt2img", {}), [row]) if isinstance(row, str) else reader.read(row)
            yield _planned(number, request, problems, salt), {} if problems else request.references

    ledger.plan(planned())
    if not count:
        raise BatchError(f"{jobs.name} has no rows: write some.")
    shards = (PER_SHARD if count >= SHARDS_FROM else 0) if rows_of_one is None else rows_of_one
    ledger.put(planned="1", shards=str(shards))


def per_shard(ledger: Ledger) -> int:
    """Rows of a tar file; 0: there are none."""
    return int(ledger.get("shards") or 0)


def settle_shards(ledger: Ledger, asked: int | None) -> None:
    """What a command says of tar files counts as long as none has been written. Raises BatchError where it is not how
    those are that have: a run never has two kinds."""
    if asked is None or not ledger.is_planned or asked == (known := per_shard(ledger)):
        return
    if ledger.shards():
        raise BatchError(f"the folder has tar files of {known} rows: leave --shards out, or name another folder.")
    ledger.put(shards=str(asked))


def plan_again(ledger: Ledger, jobs: Path, reader: Reader) -> None:
    """Read the refused rows anew: files and adapters may be there by now. All others stay as they are."""
    salt, refused = ledger.get("seed") or "", ledger.refused()

    def planned() -> Iterator[tuple[Planned, dict[str, Any]]]:
        for number, row in rows(jobs):
            if number in refused and not isinstance(row, str):
                request, problems = reader.read(row)
                yield _planned(number, request, problems, salt), {} if problems else request.references

    ledger.plan_again(planned(), per_shard(ledger))


def _planned(number: int, request: Request, problems: list[str], salt: str) -> Planned:
    body = request.body
    if body.get("subseed_strength") and body.get("subseed", -1) < 0:
        body["subseed"] = seed_of(salt, number, "subseed")
    seed = seed_of(salt, number) if request.seed is None else request.seed
    sentence = " ".join(problems)
    return Planned(
        number,
        request.id,
        request.checkpoint,
        request.group,
        request.stored(),
        seed,
        sentence,
        ",".join(sorted(request.models)),
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
