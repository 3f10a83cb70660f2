"""The rows of a jobs file, one after the other: CSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import printable
from .fields import TEXTS
from .problems import BatchError, reading

MAX_LINE = 8 << 20  # characters of one row
MAX_ROWS = 10_000_000
MAX_COLUMNS = 500
AT_A_TIME = 1000  # rows of a Parquet file that are in memory
KINDS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}

Row = dict[str, Any]


def rows(path: Path) -> Iterator[tuple[int, Row | str]]:
    """Each row with its number, from 1 on: what it asks for, or a sentence where it is no row. Fields that are empty
    are left out. Raises BatchError for a file that is none of the three kinds."""
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise BatchError(f"{path.name} is no jobs file: give one that ends with {', '.join(KINDS)}.")
    with reading(path):
        if not path.is_file():
            raise BatchError(f"there is no file {path}: name a jobs file.")
    read = {"csv": _csv, "jsonl": _json_lines, "parquet": _parquet}[kind]
    number = 0
    try:
        with reading(path):
            for number, row in enumerate(read(path), 1):
                if number > MAX_ROWS:
                    raise BatchError(f"{path.name} has more than {MAX_ROWS} rows: split it.")
                yield number, row
    except UnicodeDecodeError:
        raise BatchError(f"{path.name} is no UTF-8 some way after row {number}: save it as UTF-8.") from None


def _csv(path: Path) -> Iterator[Row | str]:
    csv.field_size_limit(MAX_LINE)
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(_bounded(file, path))
        try:
            names = [name.strip() for name in next(lines, [])]
            if len(names) > MAX_COLUMNS or len(set(names)) < len(names) or not all(names):
                raise BatchError(
                    f"the first line of {path.name} does not name its columns, each once and {MAX_COLUMNS} at most: "
                    "write prompt,seed,… there."
                )
            for cells in lines:
                if len(cells) > len(names):
                    yield f"it has {len(cells)} cells, and there are {len(names)} columns: quote cells with commas."
                elif cells:
                    pairs = zip(names, cells, strict=False)
                    yield {name: _value(name, cell) for name, cell in pairs if cell.strip()}
        except csv.Error as error:
            raise BatchError(f"{path.name} is no CSV file after line {lines.line_num} ({error}): mend it.") from None


def _bounded(file: Any, path: Path) -> Iterator[str]:
    while line := file.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise BatchError(f"{path.name} has a line of more than {MAX_LINE >> 20} million characters: mend it.")
        yield line


def _value(name: str, cell: str) -> Any:
    """A cell of a table of texts. Only a field that is a text is taken as it stands."""
    if name in TEXTS:
        return cell
    text = cell.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return cell


def _no_constant(text: str) -> Any:
    raise ValueError(text)


def _json_lines(path: Path) -> Iterator[Row | str]:
    with path.open(encoding="utf-8-sig") as file:
        for line in _bounded(file, path):
            if not line.strip():
                continue
            try:
                row = json.loads(line, parse_constant=_no_constant)
            except (ValueError, RecursionError):
                yield 'it is no JSON: write an object such as {"prompt": "a cat"} on one line.'
                continue
            yield _present(row) if isinstance(row, dict) else 'it is no object: write {"prompt": …}.'


def _parquet(path: Path) -> Iterator[Row | str]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            if len(file.schema_arrow) > MAX_COLUMNS:
                raise BatchError(f"{printable(path.name)} has more than {MAX_COLUMNS} columns: leave some out.")
            for batch in file.iter_batches(batch_size=AT_A_TIME):
                kinds = {column.name: column.type for column in batch.schema}
                for row in batch.to_pylist(maps_as_pydicts="lossy"):
                    yield {name: _nested(name, _meant(value, kinds[name])) for name, value in _present(row).items()}
    except (ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # the disk's word, and not Arrow's
            raise
        raise BatchError(
            f"{path.name} cannot be read as Parquet ({printable(str(error))[:200]}): write it anew."
        ) from None


def _meant(value: Any, kind: Any) -> Any:
    """A value of an Arrow type, with numbers as they were meant: 0.7 out of few bytes, and not 0.699999988."""
    from pyarrow import types

    if value is None:
        return None
    if types.is_decimal(kind):
        return int(value) if value == int(value) else float(value)
    if types.is_float16(kind) or types.is_float32(kind):
        return _shortest(float(value), "e" if types.is_float16(kind) else "f")
    if types.is_dictionary(kind):
        return _meant(value, kind.value_type)
    if types.is_struct(kind):
        parts = {kind.field(place).name: kind.field(place).type for place in range(kind.num_fields)}
        return {name: _meant(one, parts[name]) for name, one in value.items()}
    if types.is_map(kind):
        return {name: _meant(one, kind.item_type) for name, one in value.items()}
    return [_meant(one, kind.value_type) for one in value] if isinstance(value, list) else value


def _shortest(value: float, kind: str) -> float:
    """The number with the fewest digits that is this one in as few bytes."""
    packed = struct.pack(kind, value)
    for digits in range(1, 10):
        with suppress(OverflowError):  # rounded up, it is beyond what they hold
            if struct.pack(kind, short := float(f"{value:.{digits}g}")) == packed:
                return short
    return value


def _nested(name: str, value: Any) -> Any:
    """Objects may stand in a column as JSON; what Parquet pads them with is left out, and whole numbers of a column of
    fractions (as many tools make of one that has empty cells) are whole again."""
    if isinstance(value, str) and name not in TEXTS and value.lstrip()[:1] in ("[", "{"):
        return _value(name, value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _nested(key, one) for key, one in value.items() if one is not None}
    return [_nested("", one) for one in value] if isinstance(value, list) else value


def _present(row: dict[str, Any]) -> Row:
    return {str(name): value for name, value in row.items() if value is not None and value != ""}
