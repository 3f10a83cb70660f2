"""The manifest: a Parquet file with a line for each row of the jobs file, by its number."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from .ledger import Ledger
from .problems import writing
from .shards import shard_file

NAME = "manifest.parquet"
AT_A_TIME = 2000


def write_manifest(ledger: Ledger, folder: Path) -> Path:
    """Write it anew, a part of the rows in memory at a time; it has its name when it is whole. Raises DiskError."""
    import pyarrow as pa
    from pyarrow import parquet

    picture = pa.struct(
        [("file", pa.string()), ("sha256", pa.string()), ("bytes", pa.int64()), ("parameters", pa.string())]
    )
    schema = pa.schema([
        ("row", pa.int64()), ("id", pa.string()), ("state", pa.string()), ("sentence", pa.string()),
        ("pictures", pa.list_(picture)), ("shard", pa.string()), ("seed", pa.int64()), ("request", pa.string()),
        ("tries", pa.int32()), ("endpoint", pa.string()), ("seconds", pa.float64()),
        ("finished", pa.timestamp("ms", tz="UTC")),
    ])  # fmt: skip
    path, beside = folder / NAME, folder / f".{NAME}.{os.getpid()}"
    with writing(folder):
        try:
            with parquet.ParquetWriter(beside, schema, compression="zstd") as writer:
                lines = map(_line, ledger.every_row())
                while part := list(islice(lines, AT_A_TIME)):
                    writer.write_table(pa.Table.from_pylist(part, schema))
            os.replace(beside, path)
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
    return path


def _line(row: dict[str, Any]) -> dict[str, Any]:
    pictures = [
        {"file": one["file"], "sha256": one["sha256"], "bytes": one["size"], "parameters": one["infotext"]}
        for one in json.loads(row["pictures"])
    ]
    shard = None if row["shard"] is None else shard_file(row["shard"])
    names = ("id", "state", "sentence", "seed", "request", "tries", "endpoint", "seconds")
    kept = {name: row[name] for name in names}
    return {
        **kept,
        "row": row["number"],
        "pictures": pictures,
        "shard": shard,
        "finished": int(row["finished"] * 1000) or None,
    }


def read_manifest(folder: Path) -> Iterator[dict[str, Any]]:
    """Its lines, for those who have pyarrow."""
    from pyarrow import parquet

    with parquet.ParquetFile(folder / NAME) as file:
        for batch in file.iter_batches(batch_size=AT_A_TIME):
            yield from batch.to_pylist()
