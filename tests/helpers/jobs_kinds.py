"""The same rows as Parquet, JSON lines and CSV, and what is planned of each: for the environment of catalogues, which
has pyarrow, and neither pytest nor torch.

    python -m tests.helpers.jobs_kinds FOLDER

prints, as JSON, the plans of the three files.
"""

from __future__ import annotations

import csv
import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

from lib_ipadapter.batch.facts import Facts
from lib_ipadapter.batch.given import Sources
from lib_ipadapter.batch.ledger import Ledger
from lib_ipadapter.batch.paths import Files
from lib_ipadapter.batch.plan import plan, prepare
from lib_ipadapter.batch.problems import RowError
from lib_ipadapter.batch.request import Reader
from lib_ipadapter.batch.status import LEDGER

ROWS: list[dict[str, Any]] = [
    {"id": "1", "prompt": "a cat", "seed": 7, "cfg_scale": 6.5, "denoising_strength": 0.7, "enable_hr": True},
    {"id": "2", "prompt": "12, cats", "cfg_scale": 7, "steps": 20, "eta": 1,
     "override_settings": {"CLIP_stop_at_last_layers": 2}},
    {"prompt": "猫", "unit.model": "Plus", "unit.images": ["a.png", "b.png"], "unit.weight": 0.55},
    {"units": [{"model": "Plus", "images": [{"image": "a.png", "weight": 0.3}], "weight": 0.8},
               {"model": "Plus", "images": ["b.png"], "crop": "top"}], "styles": ["one", "two"]},
    {"prompt": "img2img", "init_images": ["a.png"], "mask": "b.png", "denoising_strength": 0.25, "seed": 2**40},
    {"prompt": "what is wrong", "steps": 0, "sampler_name": 3},
    {"prompt": "of a preset", "preset": "kept", "unit.weight": 0.3},
]  # fmt: skip


ANSWERS: dict[str, Any] = {
    "/ip-adapter/models": {"adapters": [{"name": "Plus", "variant": "plus"}]},
    "/sdapi/v1/sd-models": [{"title": "sd15", "model_name": "sd15"}],
    "/sdapi/v1/options": {"sd_model_checkpoint": "sd15"},
    "/ip-adapter/presets/kept": {"units": [{"model": "Plus", "images": ["YSByZWZlcmVuY2U="], "weight": 1.0}]},
}


class Told:
    """A WebUI that says what it has."""

    def first(self) -> list[str]:
        return ["a"]

    def others(self) -> list[str]:
        return []

    def ask(self, name: str, route: str) -> Any:
        if route not in ANSWERS:
            raise RowError("there is no such thing.")
        return ANSWERS[route]


def write(folder: Path) -> list[Path]:
    """Each kind as its own tools write it. Parquet: numbers of few bytes or with a fixed point, texts that repeat as a
    dictionary, lists and objects as such, and nulls where a row has nothing."""
    import pyarrow as pa
    from pyarrow import parquet

    names = list(dict.fromkeys(name for row in ROWS for name in row))
    item = pa.struct([("image", pa.string()), ("weight", pa.float16())])
    unit = pa.struct(
        [("model", pa.string()), ("images", pa.list_(item)), ("weight", pa.float32()), ("crop", pa.string())]
    )
    kinds: dict[str, Any] = {
        "id": pa.int32(), "prompt": pa.large_string(), "seed": pa.int64(), "steps": pa.uint8(),
        "cfg_scale": pa.decimal128(12, 3), "denoising_strength": pa.float32(), "enable_hr": pa.bool_(),
        "eta": pa.float64(),
        "unit.weight": pa.float16(), "override_settings": pa.map_(pa.string(), pa.int16()),
        "unit.images": pa.list_(pa.string()), "units": pa.list_(unit), "styles": pa.large_list(pa.string()),
        "init_images": pa.list_(pa.string()), "unit.model": pa.dictionary(pa.int8(), pa.string()),
    }  # fmt: skip
    columns = {}
    for name in names:
        cells = [row.get(name) for row in ROWS]
        if name == "id":
            cells = [None if cell is None else int(cell) for cell in cells]
        if name == "units":  # a struct's parts are of one type each
            cells = [cell and [{**one, "images": list(map(_item, one["images"]))} for one in cell] for cell in cells]
        if name == "sampler_name":
            cells = [None if cell is None else str(cell) for cell in cells]
        if name == "cfg_scale":
            cells = [cell and Decimal(str(cell)) for cell in cells]
        if name == "override_settings":
            cells = [cell and list(cell.items()) for cell in cells]
        columns[name] = pa.array(cells, kinds.get(name, pa.string()))
    parquet.write_table(pa.table(columns), folder / "jobs.parquet", row_group_size=3)
    (folder / "jobs.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    with (folder / "jobs.csv").open("w", newline="", encoding="utf8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in ROWS:
            writer.writerow({name: cell if isinstance(cell, str) else json.dumps(cell) for name, cell in row.items()})
    return [folder / f"jobs.{ending}" for ending in ("parquet", "jsonl", "csv")]


def _item(given: Any) -> dict[str, Any]:
    return given if isinstance(given, dict) else {"image": given}


def planned(jobs: Path) -> list[list[Any]]:
    """Number, id, state, seed, sentence and request of each row, and the references."""
    out = jobs.with_name(f"out-{jobs.suffix[1:]}")
    ledger = Ledger(out / LEDGER, sure=False)
    prepare(ledger, jobs, "the same")
    plan(ledger, jobs, Reader(Facts(Told()), Sources(Files(jobs.parent), out / "given")), None)
    names = ("number", "id", "state", "seed", "sentence", "request")
    return [*([row[name] for name in names] for row in ledger.every_row()), sorted(ledger.reference_keys())]


def main() -> None:
    folder = Path(sys.argv[1])
    for name in "ab":
        (folder / f"{name}.png").write_bytes(name.encode())
    print(json.dumps({path.suffix: planned(path) for path in write(folder)}))


if __name__ == "__main__":
    main()
