"""A contact sheet of the latest pictures, as a page that any browser opens from the folder."""

from __future__ import annotations

import base64
import html
import json
import tarfile
from pathlib import Path
from typing import Any

from ..replace_file import replace_file
from .ledger import Ledger
from .shards import shard_file

NAME = "sheet.html"
LATEST = 48
TYPES = {"jpg": "jpeg"}
STYLE = (
    "body{font:14px system-ui,sans-serif;margin:16px;background:Canvas;color:CanvasText;color-scheme:light dark}"
    "main{display:grid;gap:12px;grid-template-columns:repeat(auto-fill,minmax(180px,1fr))}"
    "figure{margin:0}img{width:100%;height:180px;object-fit:contain;background:#8883}"
    "figcaption{overflow-wrap:anywhere}"
)


def write_sheet(ledger: Ledger, folder: Path, line: str) -> Path:
    """Write the page anew; ``line`` says how far the run is. Pictures are linked, those in a tar file are put in."""
    figures = "\n".join(_figure(row, folder) for row in ledger.latest(LATEST))
    page = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="10">\n'
        f"<title>{html.escape(folder.name)}</title><style>{STYLE}</style>\n"
        f"<h1>{html.escape(folder.name)}</h1><p>{html.escape(line)}</p>\n<main>\n{figures}\n</main></html>\n"
    )
    replace_file(folder / NAME, page)
    return folder / NAME


def _figure(row: dict[str, Any], folder: Path) -> str:
    pictures = json.loads(row["pictures"])
    if not pictures:
        return ""
    first = pictures[0]
    source = first["file"] if row["shard"] is None else _inside(folder / shard_file(row["shard"]), first["file"])
    name = f"row {row['number']}" + (f" · {row['id']}" if row["id"] else "")
    words = first["infotext"].partition("\n")[0][:300]
    return (
        f'<figure><a href="{html.escape(source)}"><img src="{html.escape(source)}" alt="{html.escape(name)}" '
        f'loading="lazy" title="{html.escape(words)}"></a><figcaption>{html.escape(name)}<br>'
        f"seed {row['seed']}</figcaption></figure>"
    )


def _inside(shard: Path, file: str) -> str:
    """A picture of a tar file as an address of its own."""
    name = Path(file).name
    try:
        with tarfile.open(shard) as opened:
            found = opened.extractfile(name)
            data = b"" if found is None else found.read()
    except (OSError, KeyError, tarfile.TarError):
        return ""
    kind = Path(name).suffix[1:]
    return f"data:image/{TYPES.get(kind, kind)};base64,{base64.b64encode(data).decode()}"
